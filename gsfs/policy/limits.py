"""Budgets and quotas of a bucket. Owns the verdicts and their wording; counts nothing."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal

from gsfs.policy.bucket import BucketPolicy, BudgetAction


class Verdict(enum.Enum):
    """Whether to go on."""

    GO = "go"
    WARN = "warn"
    """Go on; log the message once."""
    REFUSE = "refuse"
    """EDQUOT; log the message."""


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    message: str = ""
    """One line, empty for GO: what is spent of what, and how to lift it."""


GO = Judgement(Verdict.GO)


def told(usd: Decimal) -> str:
    """Cents, and of less than a dollar four digits that mean something."""
    return f"{usd:.2f}" if usd >= 1 or not usd else f"{usd:.{max(2, 3 - usd.adjusted())}f}"


def judge_budget(
    bucket: str, policy: BucketPolicy, spent_usd: Decimal, leaves_region: bool, next_usd: Decimal = Decimal(0)
) -> Judgement:
    """Judge a read that costs ``next_usd`` when ``spent_usd`` of this month's budget is spent.

    Only reads that leave the region are ever refused: local data stays readable.
    """
    budget = policy.budget_usd_per_month
    if budget is None:
        return GO
    lift = f"to lift it: gsfs bucket set {bucket} budget=AMOUNT, or budget_action=warn"
    spent = f"bucket {bucket}: {told(spent_usd)} of {told(budget)} USD of this month's budget spent"
    if leaves_region and policy.budget_action is BudgetAction.REFUSE and spent_usd + next_usd > budget:
        return Judgement(Verdict.REFUSE, f"{spent}; reads that leave the region are refused; {lift}")
    if spent_usd >= budget * policy.budget_warn_share:
        return Judgement(Verdict.WARN, spent)
    return GO


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit of a bucket's growth."""

    key: str
    """The setting."""
    limit: int | None
    used: int
    unit: str

    def allows(self, more: int) -> bool:
        """Whether it may grow by so much. What shrinks, or stays as it is, is never refused."""
        return self.limit is None or more <= 0 or self.used + more <= self.limit

    def refusal(self, bucket: str) -> str:
        """One line: what is used of what, and how to lift it."""
        return (
            f"bucket {bucket}: {self.used} of {self.limit} {self.unit} used; "
            f"to lift it: gsfs bucket set {bucket} {self.key}=N (or none)"
        )
