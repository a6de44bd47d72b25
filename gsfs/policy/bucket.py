"""The policy settings of a bucket, as ``gsfs bucket set`` takes them. Owns their parsing; decides nothing.

Keys: placement, ttl, on_read, home, budget, budget_warn, budget_action.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation

from gsfs.errors import ConfigError
from gsfs.policy.prices import FOREVER_S
from gsfs.policy.skystore import SkyStoreTtl
from gsfs.policy.ttl import FOREVER, NONE, AdaptiveTtl, BreakEvenTtl, EwmaTtl, FixedTtl, TtlRule

TTL_SYNTAX = (
    "none, forever, fixed:DURATION (such as 12h, 30d), t_even[:SHARE], ewma[:FACTOR], adaptive, skystore"
)
PLACEMENT_SYNTAX = "single, local, push:REGION[+REGION...], all, cheapest"
DURATION_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

ADAPTIVE = AdaptiveTtl()


class Placement(enum.StrEnum):
    """Where a new object is put, for good."""

    SINGLE = "single"
    """At the home location only."""
    LOCAL = "local"
    """In the region of the writer, which becomes the object's home."""
    PUSH = "push"
    """At home, and in named regions in the background."""
    ALL = "all"
    CHEAPEST = "cheapest"
    """Where storage and the reads seen so far cost least."""


class OnRead(enum.StrEnum):
    """Whether a read from a region without a replica leaves one there."""

    NEVER = "never"
    ALWAYS = "always"
    TTL = "ttl"


class BudgetAction(enum.StrEnum):
    """What happens when a bucket's budget is spent."""

    WARN = "warn"
    REFUSE = "refuse"
    """Reads that would leave the region fail with EDQUOT."""


@dataclass(frozen=True, slots=True)
class BucketPolicy:
    """Parsed and consistent. The defaults are those of a new bucket."""

    placement: Placement = Placement.SINGLE
    push_to: tuple[str, ...] = ()
    on_read: OnRead = OnRead.TTL
    ttl: TtlRule = ADAPTIVE
    home: str | None = None
    """Region of the home location; None: the mount's first location."""
    budget_usd_per_month: Decimal | None = None
    budget_warn_share: Decimal = Decimal("0.8")
    budget_action: BudgetAction = BudgetAction.WARN

    def to_settings(self) -> dict[str, str]:
        """The settings that parse to this policy; what the namespace stores and ``bucket get`` prints."""
        settings = {
            "placement": ":".join(filter(None, (self.placement.value, "+".join(self.push_to)))),
            "on_read": self.on_read.value,
            "ttl": self.ttl.name,
            "budget_warn": f"{self.budget_warn_share * 100:f}%",
            "budget_action": self.budget_action.value,
        }
        optional = {
            "home": self.home,
            "budget": None if self.budget_usd_per_month is None else f"{self.budget_usd_per_month:f}",
        }
        return settings | {key: str(value) for key, value in optional.items() if value is not None}


def parse_ttl(text: str) -> TtlRule:
    """A TTL rule by its name. Raises ConfigError with what is accepted."""
    name, _, argument = text.strip().partition(":")
    if name in PLAIN_RULES and not argument:
        return PLAIN_RULES[name]
    if name == "fixed" and argument:
        return FixedTtl(f"fixed:{argument}", parse_duration_s(argument, f"ttl={text}"))
    if name == "t_even" and (share := _number(argument)) is not None and share <= 1:
        return BreakEvenTtl(text.strip(), share)
    if name == "ewma" and (factor := _number(argument)) is not None:
        return EwmaTtl(factor)
    raise ConfigError(f"ttl={text}: takes {TTL_SYNTAX}")


PLAIN_RULES: dict[str, TtlRule] = {
    "none": NONE,
    "forever": FOREVER,
    "t_even": BreakEvenTtl(),
    "ewma": EwmaTtl(),
    "adaptive": ADAPTIVE,
    "skystore": SkyStoreTtl(),
}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def parse_duration_s(text: str, where: str) -> float:
    """``90s``, ``15m``, ``12h``, ``30d``, ``2w`` in seconds. Raises ConfigError naming ``where``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if found is None:
        raise ConfigError(
            f"{where}: got duration {text!r}, takes a number and one of s, m, h, d, w (such as 12h)"
        )
    return min(float(found[1]) * DURATION_S[found[2]], FOREVER_S)


def _parse_placement(policy: BucketPolicy, text: str) -> BucketPolicy:
    name, _, argument = text.partition(":")
    targets = tuple(region for region in argument.split("+") if region)
    if name not in set(Placement) or bool(targets) != (name == Placement.PUSH):
        raise ConfigError(f"placement={text}: takes {PLACEMENT_SYNTAX}")
    return replace(policy, placement=Placement(name), push_to=targets)


def _parse_ttl(policy: BucketPolicy, text: str) -> BucketPolicy:
    rule = parse_ttl(text)
    follows = {"none": OnRead.NEVER, "forever": OnRead.ALWAYS}.get(rule.name, OnRead.TTL)
    return replace(policy, ttl=rule, on_read=follows)


def _parse_on_read(policy: BucketPolicy, text: str) -> BucketPolicy:
    if text not in set(OnRead):
        raise ConfigError(f"on_read={text}: takes {', '.join(OnRead)}")
    rule: dict[str, TtlRule] = {"never": NONE, "always": FOREVER}
    keep = policy.ttl if policy.ttl.name not in ("none", "forever") else ADAPTIVE
    return replace(policy, on_read=OnRead(text), ttl=rule.get(text, keep))


def _parse_budget(policy: BucketPolicy, text: str) -> BucketPolicy:
    if text == "none":
        return replace(policy, budget_usd_per_month=None)
    return replace(
        policy, budget_usd_per_month=_decimal(text, "budget", "USD per month, such as 25.00, or none")
    )


def _parse_warn(policy: BucketPolicy, text: str) -> BucketPolicy:
    takes = "a share such as 80%"
    share = _decimal(text.removesuffix("%"), "budget_warn", takes) / (100 if text.endswith("%") else 1)
    if share > 1:
        raise ConfigError(f"budget_warn={text}: takes {takes}")
    return replace(policy, budget_warn_share=share)


def _parse_action(policy: BucketPolicy, text: str) -> BucketPolicy:
    if text not in set(BudgetAction):
        raise ConfigError(f"budget_action={text}: takes {', '.join(BudgetAction)}")
    return replace(policy, budget_action=BudgetAction(text))


def _decimal(text: str, key: str, takes: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise ConfigError(f"{key}={text}: takes {takes}")
    return value


PARSERS: dict[str, Callable[[BucketPolicy, str], BucketPolicy]] = {
    "placement": _parse_placement,
    "ttl": _parse_ttl,
    "on_read": _parse_on_read,
    "home": lambda policy, text: replace(policy, home=text or None),
    "budget": _parse_budget,
    "budget_warn": _parse_warn,
    "budget_action": _parse_action,
}


def parse_policy(settings: Mapping[str, str], base: BucketPolicy | None = None) -> BucketPolicy:
    """``base`` (a new bucket's policy) with the given settings changed, in any order.

    Raises ConfigError (one line: the setting, and what is accepted) for an unknown key, a value that does not
    parse, and for an ``on_read`` that contradicts a ``ttl`` given with it.
    """
    policy = base or BucketPolicy()
    unknown = [key for key in settings if key not in PARSERS]
    if unknown:
        raise ConfigError(f"{unknown[0]}={settings[unknown[0]]}: unknown setting, takes {', '.join(PARSERS)}")
    for key in sorted(settings, key=list(PARSERS).index):
        before = policy
        policy = PARSERS[key](policy, settings[key].strip())
        if key == "on_read" and "ttl" in settings and policy.ttl.name != before.ttl.name:
            raise ConfigError(
                f"on_read={settings[key]}: contradicts ttl={settings['ttl']};"
                " never goes with ttl=none, always with ttl=forever, ttl with every other rule"
            )
    return policy


def check_regions(policy: BucketPolicy, regions: tuple[str, ...]) -> None:
    """Raise ConfigError when the policy names a region in which the mount has no location."""
    for key, region in [("home", policy.home), *(("placement=push", region) for region in policy.push_to)]:
        if region is not None and region not in regions:
            raise ConfigError(f"{key}: no location in {region}; there are locations in {', '.join(regions)}")
