"""The algebra of extents against a file of bytes, each of which knows where it is stored."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsfs.model import ObjectId
from gsfs.namespace.fsck import check
from gsfs.namespace.inodes import Inode
from gsfs.namespace.store import Store
from tests.namespace import making

PLACES, LENGTHS = st.integers(0, 48), st.integers(1, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, LENGTHS),
        st.tuples(st.just("append"), PLACES, LENGTHS),
        st.tuples(st.just("punch"), PLACES, LENGTHS),
        st.tuples(st.just("cut"), PLACES, LENGTHS),
        st.tuples(st.just("repoint"), PLACES, LENGTHS),
        st.tuples(st.just("flush"), PLACES, LENGTHS),
        st.tuples(st.just("clear"), PLACES, LENGTHS),
    ),
    max_size=30,
)
Where = tuple[int, int]


class Twin:
    """A file in the store, and the same as a list: for each byte its object and place, or None."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.bucket = making.bucket(store, b"b%d" % store.last_entry_number)
        self.inode: Inode = making.file(store, self.bucket, b"f")
        self.bytes: list[Where | None] = []
        self.object = making.object_(store, self.bucket, size=10_000)
        self.used = 0

    def step(self, what: str, place: int, length: int) -> None:
        extents, inode = self.store.extents, self.inode
        if what in ("write", "append"):
            offset = len(self.bytes) if what == "append" else place
            extents.write(inode, offset, length, self.object, self.used)
            inode.size = max(inode.size, offset + length)
            self.bytes += [None] * (offset + length - len(self.bytes))
            self.bytes[offset : offset + length] = [(self.object, self.used + at) for at in range(length)]
            self.used += length
        elif what == "punch":
            extents.punch(inode, place, place + length)
            end = min(place + length, len(self.bytes))
            self.bytes[place:end] = [None] * max(0, end - place)
        elif what == "cut":
            extents.punch(inode, place)
            inode.size = min(inode.size, place)
            del self.bytes[place:]
        elif what == "repoint":
            self._repoint(place, place + length)
        elif what == "clear":
            extents.clear(inode)
            inode.size = 0
            self.bytes.clear()
        else:
            self.store.commit()
        self.store.charge(inode)
        self.store.inodes.touch(inode)

    def _repoint(self, start: int, end: int) -> None:
        for run in self.store.extents.runs(self.inode, start, end):
            whole = self.store.extents.runs(self.inode, 0, 1000)
            assert self.store.extents.repoint(self.inode, run, self.object, self.used)
            self.bytes[run.offset : run.offset + run.length] = [
                (self.object, self.used + at) for at in range(run.length)
            ]
            self.used += run.length
            assert not self.store.extents.repoint(
                self.inode, whole[0]._replace(object=ObjectId(999_999)), self.object, 0
            )

    def look(self) -> None:
        for start, end in ((0, 1000), (7, 23)):
            seen: dict[int, Where] = {}
            runs = self.store.extents.runs(self.inode, start, end)
            for run in runs:
                assert run.length > 0 and start <= run.offset and run.offset + run.length <= end
                seen.update(
                    {run.offset + at: (run.object, run.object_offset + at) for at in range(run.length)}
                )
            assert seen == {
                at: where for at, where in enumerate(self.bytes) if where is not None and start <= at < end
            }
            assert [run.offset for run in runs] == sorted(run.offset for run in runs)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_extents_are_a_file_of_bytes(store: Store, steps: list[tuple[str, int, int]]) -> None:
    twin = Twin(store)
    for what, place, length in steps:
        twin.step(what, place, length)
        twin.look()
    store.commit()
    twin.look()
    assert twin.inode.allocated == sum(where is not None for where in twin.bytes)
    assert check(store) == []


def test_truncating_a_sparse_file_of_eight_exbibytes_takes_a_few_statements(store: Store) -> None:
    bucket = making.bucket(store)
    inode, object_ = making.file(store, bucket, b"sparse"), making.object_(store, bucket)
    end = 2**63 - 1
    for number in range(3):
        store.extents.write(inode, end - (3 - number) * 2**40, 10, object_, number * 10)
    inode.size = end
    store.extents.punch(inode, 5)
    inode.size = 5
    store.charge(inode)
    store.inodes.touch(inode)
    store.commit()
    assert store.extents.runs(inode, 0, end) == []
    assert check(store) == []
