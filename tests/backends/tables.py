"""The conformance table and the fault table, from the outcomes of a run. Owns the reading of test ids."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Final

_PASSING: Final = "test_a_fault_that_passes_is_not_seen_by_the_caller"
_CLAIMS: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
_FAULTS: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))


def note(nodeid: str, outcome: str) -> None:
    """Take in one outcome; tests that belong to neither table are ignored."""
    path, _, test = nodeid.partition("::")
    name, _, parameters = test.partition("[")
    backend, _, rest = parameters.rstrip("]").partition("-")
    if path.endswith("test_contract.py"):
        _CLAIMS[name.removeprefix("test_")][backend][outcome] += 1
    elif path.endswith("test_faults.py") and name == _PASSING:
        operation, _, fault = rest.rpartition("-")
        _FAULTS[fault][operation][outcome] += 1
    elif path.endswith("test_faults.py"):
        _FAULTS[name.removeprefix("test_")]["all"][outcome] += 1


def drawn() -> Iterator[tuple[str, list[str]]]:
    """Titles and lines; a table with a single column says nothing and is left out."""
    yield from _table("conformance: claim by backend", _CLAIMS, _yes_or_no)
    whole = {fault: row for fault, row in _FAULTS.items() if "all" not in row}
    yield from _table("faults that pass: fault by operation, right outcomes over the backends", whole, _share)
    lasting = {claim: row for claim, row in _FAULTS.items() if "all" in row}
    if lasting:
        yield "faults that last", [f"{claim:82}{_share(row['all']):>8}" for claim, row in lasting.items()]


def _table(
    title: str, rows: dict[str, dict[str, Counter[str]]], cell: Callable[[Counter[str]], str]
) -> Iterator[tuple[str, list[str]]]:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    if len(columns) < 2:
        return
    width = max(map(len, rows)) + 2
    lines = [" " * width + "".join(f"{column:>14}" for column in columns)]
    lines += [
        f"{name:{width}}" + "".join(f"{cell(row.get(column, Counter())):>14}" for column in columns)
        for name, row in rows.items()
    ]
    yield title, lines


def _yes_or_no(outcomes: Counter[str]) -> str:
    if outcomes["failed"]:
        return "NO"
    if outcomes["skipped"]:
        return "partly" if outcomes["passed"] else "n/a"
    return "yes" if outcomes["passed"] else "-"


def _share(outcomes: Counter[str]) -> str:
    judged = outcomes["passed"] + outcomes["failed"]
    return f"{outcomes['passed']}/{judged}" if judged else "TLS"
