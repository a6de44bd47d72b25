"""Settings of a bucket: all names are accepted, anything else is a one-line error."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsfs.errors import ConfigError
from gsfs.policy.bucket import (
    BucketPolicy,
    BudgetAction,
    OnRead,
    Placement,
    check_regions,
    parse_duration_s,
    parse_policy,
)

TTLS = ["none", "forever", "fixed:12h", "t_even", "t_even:0.5", "ewma", "ewma:4", "adaptive", "skystore"]
PLACEMENTS = ["single", "local", "push:aws:eu-west-1", "push:a+b", "all", "cheapest"]


@pytest.mark.parametrize("ttl", TTLS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_named_policy_parses_and_is_written_back_the_same(placement: str, ttl: str) -> None:
    policy = parse_policy({"placement": placement, "ttl": ttl})
    assert parse_policy(policy.to_settings()) == policy
    assert policy.to_settings()["placement"] == placement


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"placement": "everywhere"}, "placement=everywhere: takes single, local, push"),
        ({"placement": "push"}, "takes single, local, push:REGION"),
        ({"placement": "single:a"}, "placement=single:a: takes"),
        ({"ttl": "sometimes"}, "ttl=sometimes: takes none, forever, fixed:DURATION"),
        ({"ttl": "fixed"}, "ttl=fixed: takes"),
        ({"ttl": "fixed:soon"}, "got duration 'soon', takes a number and one of s, m, h, d, w"),
        ({"ttl": "t_even:2"}, "ttl=t_even:2: takes"),
        ({"ttl": "ewma:-1"}, "ttl=ewma:-1: takes"),
        ({"ttl": "adaptive:1"}, "ttl=adaptive:1: takes"),
        ({"on_read": "perhaps"}, "on_read=perhaps: takes never, always, ttl"),
        ({"on_read": "never", "ttl": "adaptive"}, "contradicts ttl=adaptive"),
        ({"on_read": "ttl", "ttl": "none"}, "contradicts ttl=none"),
        ({"budget": "lots"}, "budget=lots: takes USD per month"),
        ({"budget_warn": "140%"}, "takes a share such as 80%"),
        ({"budget_action": "cry"}, "budget_action=cry: takes warn, refuse"),
        ({"placemnt": "single"}, "placemnt=single: unknown setting, takes placement, ttl"),
    ],
)
def test_bad_setting_is_one_line_that_says_what_is_accepted(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_on_read_and_ttl_follow_each_other() -> None:
    assert parse_policy({"ttl": "none"}).on_read is OnRead.NEVER
    assert parse_policy({"ttl": "forever"}).on_read is OnRead.ALWAYS
    assert parse_policy({"on_read": "never"}).ttl.name == "none"
    assert parse_policy({"on_read": "always"}).ttl.name == "forever"
    assert parse_policy({"on_read": "ttl"}, parse_policy({"ttl": "t_even"})).ttl.name == "t_even"
    assert parse_policy({"on_read": "ttl"}, parse_policy({"ttl": "none"})).ttl.name == "adaptive"


def test_settings_change_only_what_they_name() -> None:
    base = parse_policy({"placement": "local", "budget": "25", "home": "aws:eu-west-1"})
    changed = parse_policy({"ttl": "fixed:30d", "budget_action": "refuse", "budget_warn": "50%"}, base)
    assert changed.placement is Placement.LOCAL
    assert changed.budget_usd_per_month == 25
    assert changed.budget_action is BudgetAction.REFUSE
    assert changed.budget_warn_share == Decimal("0.5")
    assert parse_policy({"budget": "none"}, changed).budget_usd_per_month is None


def test_regions_without_a_location_are_refused_by_name() -> None:
    policy = parse_policy({"placement": "push:mars"})
    with pytest.raises(ConfigError, match="no location in mars; there are locations in aws:us-east-1"):
        check_regions(policy, ("aws:us-east-1",))
    check_regions(BucketPolicy(), ("aws:us-east-1",))


@given(st.integers(1, 10_000), st.sampled_from("smhdw"))
def test_durations_are_seconds(count: int, unit: str) -> None:
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[unit]
    assert parse_duration_s(f"{count}{unit}", "x") == min(count * seconds, 3155760000.0)
