"""``gsfs mount`` and ``gsfs umount``. Owns daemonizing: the parent returns when the mount answers."""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

import click

from gsfs import failpoints, mounts, notify
from gsfs.cli.shell import (
    Command,
    RemoteError,
    ask,
    ask_with_progress,
    explained,
    fail,
    human,
    printable,
    read_config,
    say,
    unforeseen,
    waiting,
)
from gsfs.config import Config
from gsfs.errors import (
    ConfigError,
    ExitCode,
    GsfsError,
    Incomplete,
    NotAnswering,
    NotFoundError,
    PermissionRefused,
)

PASSED = ("ro", "noatime", "nodev", "nosuid", "noexec", "dev", "suid", "exec", "auto_unmount")
"""Mount options handed to the kernel."""
IGNORED = (
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nofail",
    "_netdev",
    "async",
    "relatime",
    "fg",
)
"""Options of fstab lines that mean nothing here, or what is done anyway."""


@click.command(
    cls=Command,
    example="gsfs mount demo.toml /mnt/demo\ngsfs mount -f demo.toml /mnt/demo   (stays in the foreground)",
)
@click.argument("config", type=click.Path(readable=False))
@click.argument("mountpoint", type=click.Path(readable=False))
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C drains and unmounts.")
@click.option("-o", "options", multiple=True, help="Mount options, as in fstab (ro, noexec, ...).")
@click.option(
    "-s", "--sloppy", is_flag=True, help="Ignore mount options that nobody knows, as mount(8) -s does."
)
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Mount although bytes that were never uploaded are in another cache.",
)
def mount(
    config: str,
    mountpoint: str,
    foreground: bool,
    options: tuple[str, ...],
    sloppy: bool,
    allow_missing: bool,
) -> None:
    """Mount the namespace that CONFIG describes at MOUNTPOINT, an empty directory.

    Returns when the mount answers. A namespace that was not stopped cleanly is recovered first. In the
    foreground SIGTERM and Ctrl-C upload what waits, for at most mount.drain_timeout_s, and unmount; a second
    one unmounts at once, and the next mount goes on with what was left (exit code 7).
    """
    settings = read_config(config)
    passed = _options(options, sloppy)
    mounts.check_fuse_device()
    if settings.mount.allow_other and not mounts.may_allow_other():
        raise PermissionRefused(
            f"{settings.path}: mount.allow_other = true needs root, or the line user_allow_other in /etc/fuse.conf; "
            "or set it to false, and only you can use the mount"
        )
    real = mounts.prepare(Path(mountpoint))
    _check_apart(settings, real)
    if foreground:
        _configure_log(settings, foreground=True)
        _serve(
            settings,
            real,
            passed,
            allow_missing,
            lambda: click.echo(f"mounted at {real}; Ctrl-C unmounts", err=True),
        )
    else:
        _in_background(settings, real, passed, allow_missing)


def _check_apart(config: Config, mountpoint: Path) -> None:
    """What the mount itself needs must not lie below it, nor the mount among the files of the cache or a store."""
    own = [("cache.path", config.cache.path)]
    own += [(f"location {spec.id!r}", spec.path) for spec in config.location if spec.kind == "local"]
    for key, place in own:
        real = Path(os.path.realpath(place))
        if real == mountpoint or real in mountpoint.parents or mountpoint in real.parents:
            raise ConfigError(
                f"{mountpoint}: lies in {key} ({place}), or that in it; takes a directory apart"
            )


def _warn_of_space(config: Config) -> None:
    """A mount without room is of use to read, but whoever writes should know why that fails."""
    try:
        status = os.statvfs(config.cache_dir)
    except OSError:
        return
    free = status.f_bavail * status.f_frsize
    if free <= config.min_free_bytes:
        click.echo(
            f"gsfs: {config.cache_dir}: {human(free)} are free there, and cache.min_free keeps "
            f"{human(config.min_free_bytes)}: writes will fail; free some space, or lower it and mount again",
            err=True,
        )


def _options(given: tuple[str, ...], sloppy: bool) -> list[str]:
    """The options for the kernel. Raises ConfigError for what nobody knows."""
    passed = []
    for option in (o for group in given for o in group.split(",") if o):
        if option in PASSED:
            if option != "exec":
                passed.append(option)
        elif not sloppy and option not in IGNORED and not option.startswith(("x-", "comment=", "context=")):
            raise ConfigError(f"-o {option}: unknown option; takes {', '.join(PASSED)}")
    return passed


def _serve(
    config: Config, mountpoint: Path, options: list[str], allow_missing: bool, ready: Callable[[], None]
) -> None:
    """Run the daemon in this process. Exits with INCOMPLETE where bytes were left."""
    from gsfs.daemon import MountRequest, run

    if "GSFS_FAILPOINT" in os.environ:
        failpoints.arm(os.environ["GSFS_FAILPOINT"])
    notify.configure(os.environ.pop("NOTIFY_SOCKET", None))
    left = run(MountRequest(config, mountpoint, options, allow_missing), ready)
    if left:
        raise Incomplete(f"{human(left)} were not uploaded; the next mount goes on with them")


def _in_background(config: Config, mountpoint: Path, options: list[str], allow_missing: bool) -> None:
    """Fork; the child tells through a pipe that it serves, or why not."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os.setsid()
        _become_daemon(config, mountpoint, options, allow_missing, writing)
    os.close(writing)
    message = b""
    with waiting("starting; after a crash or a power cut the namespace is recovered first"):
        while part := os.read(reading, 65536):
            message += part
    if not message:
        raise NotAnswering(f"the daemon ended without a word; see its log: {_log_file(config)}")
    answer = json.loads(message)
    if answer["exit_code"]:
        fail(RemoteError(answer["error"], answer["exit_code"]))
    os.stat(mountpoint)
    _warn_of_space(config)


def _become_daemon(
    config: Config, mountpoint: Path, options: list[str], allow_missing: bool, pipe: int
) -> None:
    """The child: never returns."""
    os.set_inheritable(pipe, False)
    told = False

    def tell(exit_code: int, error: str = "") -> None:
        nonlocal told
        if not told:
            told = True
            os.write(pipe, json.dumps({"exit_code": exit_code, "error": error}).encode())
            os.close(pipe)

    code = int(ExitCode.INTERNAL)
    try:
        _configure_log(config, foreground=False)
        _detach_streams(_log_file(config))
        _serve(config, mountpoint, options, allow_missing, lambda: tell(0))
        code = 0
    except (GsfsError, OSError) as error:
        known = explained(error, config.path) if isinstance(error, OSError) else error
        if logging.root.handlers:  # otherwise the log is what could not be opened
            logging.getLogger("gsfs").error("%s", known, exc_info=known is not error)
        code = int(known.exit_code)
        tell(code, str(known))
    except BaseException as error:
        logging.getLogger("gsfs").exception("the daemon failed")
        known = unforeseen(error)
        code = int(known.exit_code)
        tell(code, f"{known}; see {_log_file(config)}")
    finally:
        logging.shutdown()
        os._exit(code)


def _detach_streams(log_file: str) -> None:
    """No terminal; what libraries print, and the stack dump on SIGUSR1, goes to the log."""
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for fd, target in ((0, null), (1, log), (2, log)):
        os.dup2(target, fd)
    os.close(null)
    os.close(log)
    os.chdir("/")


def _log_file(config: Config) -> str:
    return config.log.file or str(config.cache_dir / "gsfs.log")


def _configure_log(config: Config, *, foreground: bool) -> None:
    """Standard error in the foreground (systemd adds the time), a file in the background."""
    level = config.log.level.upper()
    if foreground and not config.log.file:
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
        return
    path = Path(_log_file(config))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        logging.basicConfig(
            level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", filename=path
        )
    except OSError as error:
        raise explained(error, str(path)) from None


@click.command(cls=Command, example="gsfs umount /mnt/demo")
@click.argument("mountpoint", type=click.Path(readable=False))
@click.option("--no-drain", is_flag=True, help="Do not wait for uploads: the next mount goes on with them.")
@click.option("--timeout", type=float, help="Seconds to wait for uploads, then unmount anyway (exit code 7).")
def umount(mountpoint: str, no_drain: bool, timeout: float | None) -> None:
    """Upload what waits, unmount MOUNTPOINT (or the mount of a configuration file), wait for the daemon's end.

    While files in it are open nothing is changed: exit code 4, and the processes that have them open are named.
    Ctrl-C while it uploads leaves everything mounted.
    """
    entry = _entry_of(mountpoint)
    if mounts.is_dead(entry):
        mounts.unmount(entry.mountpoint, lazy=True)
        say("unmounted ", f"{entry.mountpoint}; its daemon had ended before, the next mount recovers")
        return
    config = read_config(entry.source)
    left = None
    try:
        left = None if no_drain else _drain(config, timeout)
        pid = ask(config, "prepare_stop", drain=not no_drain and not left)["pid"]
    except NotAnswering as error:
        click.echo(f"gsfs: {printable(error)}; unmounting without it", err=True)
        mounts.unmount(entry.mountpoint)
        return
    watch = _watch(pid)
    try:
        mounts.unmount(entry.mountpoint)
    except GsfsError:
        ask(config, "prepare_stop", drain=True)
        raise
    _wait_for_end(watch)
    if left:
        raise left
    say("unmounted ", f"{entry.mountpoint}" + ("; uploads go on at the next mount" if no_drain else ""))


def _entry_of(target: str) -> mounts.MountEntry:
    """The mount that ``gsfs umount`` means: its mount point or its configuration file, never a path inside."""
    path = Path(os.path.realpath(target))
    found = [
        e for e in mounts.table() if e.fstype == mounts.FSTYPE and str(path) in (str(e.mountpoint), e.source)
    ]
    if not found:
        inside = mounts.containing(path)
        hint = f"; it lies in the mount {inside.mountpoint}" if inside else ""
        raise NotFoundError(f"{target}: no gsfs is mounted there{hint}")
    return found[-1]


def _drain(config: Config, timeout_s: float | None) -> RemoteError | None:
    """Upload what waits; what the daemon said where the time was too short."""
    try:
        ask_with_progress(config, "uploading", "flush", timeout_s=timeout_s)
    except RemoteError as error:
        if error.exit_code is not ExitCode.INCOMPLETE:
            raise
        return error
    return None


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def _wait_for_end(watch: int | None) -> None:
    if watch is not None:
        select.select([watch], [], [])
        os.close(watch)
