"""Claims about reading from several replicas, in virtual time: failing over, hedging, waiting an outage out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from gsfs.errors import BackendPermission, Unavailable
from gsfs.model import LocationId, ObjectId, ReplicaState
from gsfs.namespace.objects import Replica
from gsfs.transfer.sources import FAILOVER_S, HEDGE_SAMPLES_LEAST, Sources

NEAR, FAR = LocationId("near"), LocationId("far")


class Places:
    """Locations that take as long as they are told and fail when they are down; keeps who was asked, and when."""

    def __init__(self) -> None:
        self.takes_s = {NEAR: 0.1, FAR: 0.1}
        self.down: set[LocationId] = set()
        self.back_at = 0.0
        self.asked: list[LocationId] = []

    async def ask(self, replica: Replica, deadline_s: float, patient: bool) -> bytes:
        self.asked.append(replica.location)
        if replica.location in self.down:
            if not patient or trio.current_time() + deadline_s < self.back_at:
                raise Unavailable(f"{replica.location}: down")
            await trio.sleep_until(self.back_at)
        await trio.sleep(self.takes_s[replica.location])
        return replica.location.encode()


def replica(location: LocationId) -> Replica:
    return Replica(ObjectId(1), location, ReplicaState.AVAILABLE, None, None, 0, None)


BOTH = [replica(NEAR), replica(FAR)]


def virtually(work: Callable[[], Any]) -> Any:
    return trio.run(work, clock=trio.testing.MockClock(autojump_threshold=0))


async def practised(sources: Sources, places: Places) -> None:
    """Enough reads of the near location for it to be known."""
    for _ in range(HEDGE_SAMPLES_LEAST):
        await sources.read(BOTH, places.ask, patient=True)
    places.asked.clear()


@pytest.mark.parametrize(("hedged", "answer", "asked"), [(True, b"far", 2), (False, b"near", 1)])
def test_a_slow_read_is_hedged_only_where_that_is_allowed(hedged: bool, answer: bytes, asked: int) -> None:
    places, sources = Places(), Sources(lambda _location: hedged)

    async def story() -> None:
        await practised(sources, places)
        places.takes_s[NEAR] = 3.0
        assert await sources.read(BOTH, places.ask, patient=True) == answer
        assert len(places.asked) == asked
        assert sources.hedged_reads == (1 if hedged else 0)

    virtually(story)


def test_a_location_that_answers_as_usual_is_not_hedged() -> None:
    places, sources = Places(), Sources(lambda _location: True)

    async def story() -> None:
        places.takes_s[NEAR] = 2.0  # slow, and always was
        await practised(sources, places)
        places.takes_s[NEAR] = 1.9
        await sources.read(BOTH, places.ask, patient=True)
        assert places.asked == [NEAR]

    virtually(story)


def test_nobody_is_called_slow_sooner_than_a_quarter_of_a_second() -> None:
    places, sources = Places(), Sources(lambda _location: True)

    async def story() -> None:
        places.takes_s[NEAR] = 0.01
        await practised(sources, places)
        assert sources.slow_s(NEAR) == 0.25

    virtually(story)


def test_a_silent_location_is_given_up_for_the_next_whatever_that_costs() -> None:
    places, sources = Places(), Sources(lambda _location: False)

    async def story() -> None:
        places.takes_s[NEAR] = 1e6
        with trio.fail_after(60):
            assert await sources.read(BOTH, places.ask, patient=True) == b"far"
        assert trio.current_time() == pytest.approx(FAILOVER_S + 0.1)

    virtually(story)


def test_with_a_short_deadline_each_replica_has_its_share() -> None:
    places, sources = Places(), Sources(lambda _location: False)

    async def story() -> None:
        places.takes_s[NEAR] = 1e6
        with trio.fail_after(2):
            assert await sources.read(BOTH, places.ask, patient=True) == b"far"
        assert trio.current_time() < 1.2

    virtually(story)


def test_a_location_that_is_down_is_passed_over_at_once() -> None:
    places, sources = Places(), Sources(lambda _location: False)

    async def story() -> None:
        places.down, places.back_at = {NEAR}, 1e6
        assert await sources.read(BOTH, places.ask, patient=True) == b"far"
        assert trio.current_time() == pytest.approx(0.1)

    virtually(story)


@pytest.mark.parametrize("ranked", [BOTH, BOTH[:1]], ids=["two replicas", "a sole replica"])
def test_an_outage_of_every_replica_is_waited_out_within_the_deadline(ranked: list[Replica]) -> None:
    places, sources = Places(), Sources(lambda _location: False)

    async def story() -> None:
        places.down, places.back_at = {NEAR, FAR}, 20.0
        with trio.fail_after(60):
            assert await sources.read(ranked, places.ask, patient=True) in (b"near", b"far")
        assert trio.current_time() == pytest.approx(20.1)

    virtually(story)


def test_a_fetch_ahead_waits_for_nobody() -> None:
    places, sources = Places(), Sources(lambda _location: False)

    async def story() -> None:
        places.down, places.back_at = {NEAR, FAR}, 20.0
        with pytest.raises(Unavailable):
            await sources.read(BOTH, places.ask, patient=False)
        assert trio.current_time() == 0

    virtually(story)


def test_a_refusal_is_told_and_not_waited_for() -> None:
    async def refuse(_replica: Replica, _deadline_s: float, _patient: bool) -> bytes:
        raise BackendPermission("no")

    async def story() -> None:
        with pytest.raises(BackendPermission):
            await Sources(lambda _location: False).read(BOTH, refuse, patient=True)
        assert trio.current_time() == 0

    virtually(story)
