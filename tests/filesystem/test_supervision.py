"""An error that nobody foresaw in a background task ends neither the others nor the mount."""

from __future__ import annotations

import logging

import pytest
import trio

import gsfs.volume
from gsfs.model import Ino
from gsfs.volume import Volume
from tests.support.volumes import read_file, write_file


def test_a_mover_that_fails_starts_again_and_the_rest_goes_on(
    volume: Volume, bucket: Ino, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls, twice = 0, trio.Event()

    async def broken() -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            twice.set()
        raise ArithmeticError("nobody foresaw this")

    monkeypatch.setattr(gsfs.volume, "RESTART_S", 0.01)
    monkeypatch.setattr("gsfs.transfer.garbage.INTERVAL_S", 0.01)
    monkeypatch.setattr(volume.garbage, "collect", broken)
    ino = write_file(volume, bucket, b"f", b"content")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(volume.run)
            with trio.fail_after(30):
                await twice.wait()
                await volume.flush()
            nursery.cancel_scope.cancel()

    with caplog.at_level(logging.ERROR):
        trio.run(main)
    assert "a background task failed" in caplog.text
    assert not volume.uploads.pending
    assert read_file(volume, ino) == b"content"


def test_an_upload_that_fails_in_an_unforeseen_way_is_tried_again(
    volume: Volume, bucket: Ino, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = 0, volume.uploads._put

    async def once_broken(*arguments: object) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ArithmeticError("nobody foresaw this")
        return await real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(volume.uploads, "_put", once_broken)
    monkeypatch.setattr("gsfs.transfer.uploads.RETRY_FIRST_S", 0.01)
    write_file(volume, bucket, b"f", b"content")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(volume.run)
            with trio.fail_after(30):
                await volume.flush()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert calls == 2
