"""Recording requests: what counts as one, what a sample is, and that nobody waits for the disk."""

from __future__ import annotations

import os
import queue
from pathlib import Path

from gsfs.filesystem.recording import LINES_AT_ONCE, Recorder
from gsfs.sim.formats import open_trace
from gsfs.sim.requests import DELETE, GET, PUT
from tests.support.volumes import make_bucket, make_namespace, opened, read_file, settings, write_file


def test_a_write_its_reads_and_the_removal_are_one_request_each_and_the_trace_is_readable(
    tmp_path: Path,
) -> None:
    chosen = settings(tmp_path)
    make_namespace(chosen)
    with opened(chosen) as volume:
        bucket = make_bucket(volume)
        recorder = volume.core.recorder = Recorder(tmp_path / "trace", "aws:us-west-2", clock=lambda: 12.5)
        ino = write_file(volume, bucket, b"file", b"x" * 5000)
        for _ in range(2):
            read_file(volume, ino)
        handle, _keep = volume.content.open(ino, 2)
        volume.content.release(handle)
        volume.names.unlink(bucket, b"file")
    with open_trace(tmp_path / "trace") as trace:
        rows = list(trace.rows)
    assert [row[1] for row in rows] == [PUT, GET, GET, DELETE]
    assert {row[2] for row in rows} == {rows[0][2]}
    assert rows[1] == (12_500, GET, rows[0][2], 5000, 5000, "aws:us-west-2")
    assert recorder.requests == 4


def test_a_sample_has_all_requests_of_a_file_or_none(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    make_namespace(chosen)
    with opened(chosen) as volume:
        bucket = make_bucket(volume)
        volume.core.recorder = Recorder(tmp_path / "trace", "", 0.5)
        for number in range(60):
            read_file(volume, write_file(volume, bucket, b"%d" % number, b"x"))
    with open_trace(tmp_path / "trace") as trace:
        rows = list(trace.rows)
    by_key = {key: [row[1] for row in rows if row[2] == key] for key in {row[2] for row in rows}}
    assert 10 < len(by_key) < 50
    assert all(ops == [PUT, GET] for ops in by_key.values())


def test_a_disk_that_cannot_keep_up_costs_requests_of_the_trace_and_no_time(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    make_namespace(chosen)
    with opened(chosen) as volume:
        inode = volume.core.inode(make_bucket(volume))
        recorder = Recorder(tmp_path / "trace", "")
        recorder.hand_over()
        waiting, recorder._chunks = recorder._chunks, queue.Queue(1)
        for _ in range(3 * LINES_AT_ONCE):
            recorder.written(inode)
        assert (recorder.requests, recorder.dropped) == (LINES_AT_ONCE, 2 * LINES_AT_ONCE)
        recorder._chunks = waiting
        recorder.stop()


def test_a_full_disk_ends_the_recording_and_is_told(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    make_namespace(chosen)
    with opened(chosen) as volume:
        inode = volume.core.inode(make_bucket(volume))
        recorder = Recorder(tmp_path / "trace", "")
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), recorder._fd)
        recorder.written(inode)
        recorder.stop()
        assert "No space" in str(recorder.to_json()["failure"])
