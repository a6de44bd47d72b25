"""Ways to end a mount: signals, unmounting, and what systemd is told meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gsfs import asking, mounts
from gsfs.config import load
from gsfs.errors import ExitCode
from tests.cli.saying import assert_refused
from tests.mount.conftest import MakeMount
from tests.support.mounting import GSFS, Mount
from tests.support.notified import Notified, notification_socket
from tests.support.waiting import eventually, has_ended

MIB = 1 << 20
SLOW = {"location": {"bandwidth_up_bytes_per_s": MIB}, "transfer": {"segment_size": "1MiB"}}
"""Uploads so slow that a stop finds them at work."""
HELD = {"transfer": {"upload": "held"}}


@contextmanager
def foreground(mount: Mount, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """``gsfs mount --foreground``, serving; killed if the test leaves it running."""
    process = subprocess.Popen(
        [*GSFS, "mount", "--foreground", str(mount.config), str(mount.root)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: mounts.at(mount.root) or process.poll() is not None, "it is mounted")
        assert process.poll() is None, process.communicate()
        eventually(lambda: mount.run("status", str(mount.config), check=False).returncode == 0, "it answers")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, standard error)."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def uploaded_bytes(mount: Mount) -> int:
    """Of files; the copies of the namespace that are shipped beside them do not count."""
    store = mount.home / "store"
    return sum(
        p.stat().st_size for p in store.rglob("*") if p.is_file() and p.relative_to(store).parts[0] != "meta"
    )


def content(size: int) -> bytes:
    return os.urandom(size)


@pytest.fixture
def slow(make_mount: MakeMount) -> Mount:
    """Unmounted; uploads take a second for each MiB."""
    mount = make_mount(SLOW)
    mount.unmount()
    return mount


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_uploads_what_waits_and_unmounts(make_mount: MakeMount, number: signal.Signals) -> None:
    mount = make_mount(HELD)
    mount.unmount()
    with foreground(mount) as process:
        (mount.bucket / "file").write_bytes(content(2 * MIB))
        assert uploaded_bytes(mount) == 0
        process.send_signal(number)
        assert ended(process)[0] == ExitCode.OK
    assert mounts.at(mount.root) is None
    assert uploaded_bytes(mount) == 2 * MIB


def test_a_second_signal_stops_at_once_and_the_next_mount_goes_on(slow: Mount) -> None:
    data = content(60 * MIB)
    with notification_socket() as notified, foreground(slow, NOTIFY_SOCKET=str(notified.path)) as process:
        (slow.bucket / "file").write_bytes(data)
        process.send_signal(signal.SIGINT)
        notified.until("STOPPING=1")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, errors = ended(process)
    assert time.monotonic() - began < 20, "sixty seconds are what the upload would take"
    assert code == ExitCode.INCOMPLETE
    assert "the next mount goes on" in errors
    assert "Traceback" not in errors
    assert mounts.at(slow.root) is None
    slow.mount()
    assert (slow.bucket / "file").read_bytes() == data
    assert slow.status()["dirty_bytes"] > 0


def test_the_drain_has_a_deadline(make_mount: MakeMount) -> None:
    mount = make_mount({**SLOW, "mount": {"drain_timeout_s": 1.0}})
    mount.unmount()
    data = content(60 * MIB)
    with foreground(mount) as process:
        (mount.bucket / "file").write_bytes(data)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code, _ = ended(process)
    assert time.monotonic() - began < 25
    assert code == ExitCode.INCOMPLETE
    mount.mount()
    assert (mount.bucket / "file").read_bytes() == data


def test_a_mount_that_drains_still_serves(slow: Mount) -> None:
    with notification_socket() as notified, foreground(slow, NOTIFY_SOCKET=str(notified.path)) as process:
        (slow.bucket / "file").write_bytes(content(30 * MIB))
        process.send_signal(signal.SIGTERM)
        notified.until("STOPPING=1")
        (slow.bucket / "late").write_text("late")
        assert (slow.bucket / "late").read_text() == "late"
        process.send_signal(signal.SIGTERM)
        ended(process)
    slow.mount()
    assert (slow.bucket / "late").read_text() == "late"


def test_signals_while_an_external_umount_drains_end_it_at_once(slow: Mount) -> None:
    """The session is given back by then: stopping it again crashed the daemon."""
    with notification_socket() as notified, foreground(slow, NOTIFY_SOCKET=str(notified.path)) as process:
        (slow.bucket / "file").write_bytes(content(60 * MIB))
        mounts.unmount(slow.root)
        notified.until("STOPPING=1")
        process.send_signal(signal.SIGTERM)
        code, errors = ended(process)
    assert code == ExitCode.INCOMPLETE, errors
    assert "Traceback" not in errors


# --- systemd


def stopped_under(notified: Notified, mount: Mount) -> int:
    with foreground(mount, NOTIFY_SOCKET=str(notified.path)) as process:
        notified.until("READY=1")
        (mount.bucket / "file").write_bytes(content(6 * MIB))
        process.send_signal(signal.SIGTERM)
        notified.until("STOPPING=1")
        code, _ = ended(process)
    notified.drain()
    return code


def test_systemd_is_told_ready_stopping_and_how_far_the_drain_is(slow: Mount) -> None:
    with notification_socket() as notified:
        assert stopped_under(notified, slow) == ExitCode.OK
    assert notified.index("READY=1") < notified.index("STOPPING=1")
    after = notified.lines[notified.index("STOPPING=1") :]
    left = [float(m[1]) for line in after if (m := re.match(r"STATUS=Draining: ([0-9.]+) MiB left", line))]
    assert len(left) >= 3 and left == sorted(left, reverse=True) and left[0] > left[-1]
    extensions = [int(line.partition("=")[2]) for line in after if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert len(extensions) >= len(left)
    assert min(extensions) >= 10_000_000, "each says: wait ten seconds and more for the next"


def test_ready_is_told_only_when_the_mount_answers(slow: Mount) -> None:
    with notification_socket() as notified, foreground(slow, NOTIFY_SOCKET=str(notified.path)) as process:
        notified.until("READY=1")
        assert os.listdir(slow.root) == ["bucket"]
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == ExitCode.OK


# --- gsfs umount


def test_umount_while_busy_names_the_process_and_changes_nothing(mount: Mount) -> None:
    with open(mount.bucket / "open", "w") as file:
        refused = mount.run("umount", str(mount.root), check=False)
        assert_refused(refused, ExitCode.BUSY, str(mount.root), f"used by process {os.getpid()} (")
        file.write("still works")
    assert (mount.bucket / "open").read_text() == "still works"
    mount.unmount()


def test_umount_that_was_refused_leaves_the_drain_on(make_mount: MakeMount) -> None:
    """``--no-drain`` of a refused attempt must not be remembered."""
    mount = make_mount(HELD)
    (mount.bucket / "file").write_bytes(content(MIB))
    with open(mount.bucket / "file"):
        refused = mount.run("umount", "--no-drain", str(mount.root), check=False)
        assert_refused(refused, ExitCode.BUSY, "busy")
    pid = mount.pid
    mounts.unmount(mount.root)
    eventually(lambda: has_ended(pid), "the daemon has ended")
    assert uploaded_bytes(mount) == MIB


def test_umount_names_a_mount_below(mount: Mount) -> None:
    below = mount.bucket / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        refused = mount.run("umount", str(mount.root), check=False)
        assert_refused(refused, ExitCode.BUSY, f"{below} is mounted in it")
    finally:
        subprocess.run(["umount", below], check=True)


def test_umount_returns_when_everything_is_uploaded_and_the_daemon_has_ended(make_mount: MakeMount) -> None:
    mount = make_mount(HELD)
    (mount.bucket / "file").write_bytes(content(3 * MIB))
    pid = mount.pid
    mount.unmount()
    assert has_ended(pid)
    assert uploaded_bytes(mount) == 3 * MIB


def test_umount_without_drain_is_quick_and_the_next_mount_goes_on(make_mount: MakeMount) -> None:
    mount = make_mount(SLOW)
    data = content(60 * MIB)
    (mount.bucket / "file").write_bytes(data)
    began = time.monotonic()
    mount.unmount("--no-drain")
    assert time.monotonic() - began < 20
    assert uploaded_bytes(mount) < 60 * MIB
    mount.mount()
    assert (mount.bucket / "file").read_bytes() == data


def test_umount_with_a_time_out_unmounts_and_tells_what_is_left(make_mount: MakeMount) -> None:
    mount = make_mount(SLOW)
    data = content(60 * MIB)
    (mount.bucket / "file").write_bytes(data)
    done = mount.run("umount", "--timeout", "1", str(mount.root), check=False)
    assert_refused(done, ExitCode.INCOMPLETE, "not uploaded yet")
    assert mounts.at(mount.root) is None
    mount.mount()
    assert (mount.bucket / "file").read_bytes() == data


def test_umount_takes_the_configuration_for_the_mount(mount: Mount) -> None:
    mount.run("umount", str(mount.config))
    assert mounts.at(mount.root) is None


def test_umount_through_a_symbolic_link_finds_the_mount(mount: Mount) -> None:
    link = mount.home / "link"
    link.symlink_to(mount.root)
    assert json.loads(mount.run("status", "--json", str(link)).stdout)["mountpoint"] == str(mount.root)
    mount.run("umount", str(link))
    assert mounts.at(mount.root) is None


def test_a_mount_without_its_control_socket_can_be_unmounted(make_mount: MakeMount) -> None:
    mount = make_mount(HELD)
    (mount.bucket / "file").write_bytes(content(MIB))
    pid = mount.pid
    (mount.home / "cache" / asking.NAME).unlink()
    done = mount.run("umount", str(mount.root))
    assert "unmounting without it" in done.stderr
    eventually(lambda: has_ended(pid), "the daemon has ended")
    assert uploaded_bytes(mount) == MIB


# --- the control socket


def test_a_client_that_goes_away_in_the_middle_does_not_end_the_daemon(make_mount: MakeMount) -> None:
    """Its progress could not be told any more, and that error ended the whole mount."""
    mount = make_mount(SLOW)
    (mount.bucket / "file").write_bytes(content(20 * MIB))
    answers = asking.ask(load(mount.config, {}).cache_dir, "flush", ino=1)
    assert "progress" in next(answers)
    answers.close()
    assert mount.status()["dirty_bytes"] >= 0, "the daemon answers"
    (mount.bucket / "after").write_text("after")
    assert (mount.bucket / "after").read_text() == "after"


def test_nonsense_on_the_control_socket_is_answered_or_dropped(mount: Mount) -> None:
    cache = load(mount.config, {}).cache_dir
    assert next(asking.ask(cache, "no such command"))["exit_code"] == ExitCode.UNAVAILABLE
    assert next(asking.ask(cache, "bucket_show"))["exit_code"] == ExitCode.INTERNAL
    assert next(asking.ask(cache, "flush", ino="x"))["exit_code"] != ExitCode.OK
    for line in (b"\n", b"[]\n", b"null\n", b"{\n", b"\xff\xfe\n", b""):
        with asking.connected(cache) as sock:
            sock.sendall(line)
    assert mount.status()["pid"] == mount.pid


def test_a_bucket_made_by_command_is_seen_where_its_name_was_looked_up_before(mount: Mount) -> None:
    """The kernel keeps "no such name" for a day unless it is told."""
    new = mount.root / "new"
    assert not new.exists()
    mount.run("bucket", "create", str(new))
    assert new.is_dir()
    (new / "file").touch()
    (new / "file").unlink()
    mount.run("bucket", "rm", str(new))
    assert not new.exists()


def test_a_daemon_that_is_stopped_is_told_apart_from_one_that_ended(mount: Mount) -> None:
    pid = mount.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(asking.NotResponding, match="said nothing"):
            list(asking.ask(load(mount.config, {}).cache_dir, "status", silence_s=0.5))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert mount.status()["pid"] == pid


def test_sigusr1_writes_stack_traces_to_the_log(mount: Mount) -> None:
    os.kill(mount.pid, signal.SIGUSR1)
    eventually(lambda: "Current thread" in mount.log.read_text(), "the stacks are in the log")
