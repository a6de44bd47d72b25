"""The life of replicas: only what the table allows happens, and the last copy of live bytes stays."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsfs.model import LocationId, ReplicaState
from gsfs.namespace.fsck import check
from gsfs.namespace.objects import LastReplica
from gsfs.namespace.replicas import READABLE, TRANSITIONS, Event, step
from gsfs.namespace.store import Store
from tests.namespace import making

PLACES = [making.HERE, making.THERE, LocationId("memory:elsewhere")]
STEPS = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from([*Event, "add"])), max_size=40)


@pytest.mark.parametrize("state", ReplicaState)
@pytest.mark.parametrize("event", Event)
def test_what_the_table_does_not_name_is_refused(state: ReplicaState, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert step(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match="cannot happen"):
            step(state, event)


def test_every_state_can_come_to_its_end() -> None:
    for state in ReplicaState:
        reached = {state}
        for _ in ReplicaState:
            reached |= {after for (before, _event), after in TRANSITIONS.items() if before in reached}
        assert ReplicaState.GONE in reached


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, live=st.booleans())
def test_whatever_happens_a_live_object_keeps_a_readable_replica(
    store: Store, steps: list[tuple[LocationId, Event | str]], live: bool
) -> None:
    bucket = making.bucket(store, b"b%d" % store.last_entry_number)
    inode, id_ = making.file(store, bucket, b"f"), making.object_(store, bucket)
    if live:
        store.extents.write(inode, 0, 10, id_, 0)
        inode.size = 10
        store.inodes.touch(inode)
    states = {making.HERE: ReplicaState.AVAILABLE}
    for place, event in steps:
        if event == "add":
            if place not in states:
                store.objects.add_replica(id_, place, ReplicaState.INTENT)
                states[place] = ReplicaState.INTENT
        elif place in states:
            _advance(store, id_, states, place, Event(event), live=live)
        assert {r.location: r.state for r in store.objects.replicas(id_)} == states
    store.commit()
    assert not live or any(state in READABLE for state in states.values())
    assert check(store) == []


def _advance(
    store: Store,
    id_: int,
    states: dict[LocationId, ReplicaState],
    place: LocationId,
    event: Event,
    *,
    live: bool,
) -> None:
    after = TRANSITIONS.get((states[place], event))
    others = any(state in READABLE for where, state in states.items() if where != place)
    if after is None:
        with pytest.raises(ValueError, match="cannot happen"):
            store.objects.advance(id_, place, event)
    elif live and not others and states[place] in READABLE and after not in READABLE:
        with pytest.raises(LastReplica):
            store.objects.advance(id_, place, event)
    else:
        assert store.objects.advance(id_, place, event) is after
        states[place] = after
        if after is ReplicaState.GONE:
            del states[place]
