"""Command line of scripts/bench. Owns the order of a run and its clean-up; measures through workloads only."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.targets import Gsfs, Null, Peer, Target
from benchmarks.workloads import WORKLOADS, Inputs, Session, Workload

BUILT_IN = ("ext4", "null", "null-stock", "gsfs")
DEFAULT = "ext4,null,gsfs"
Say = Callable[[str], None]
EPILOG = """\
The columns are medians over the rounds (with --best, the fastest); the targets take turns at each workload.
Needs root (kernel caches are dropped) and /dev/fuse. "ext4" is a plain directory below --dir, whatever file
system that is on: put --dir on the disk to compare with. Exit code 1 when a limit is exceeded.

example:
  sudo scripts/bench --rounds 3 --markdown
  sudo scripts/bench --only ext4,null --workload untar --workload rm
  sudo scripts/bench --peer juicefs=/mnt/jfs --json results.json
"""


def main() -> None:
    args = _arguments()
    if os.geteuid() != 0:
        sys.exit("bench: needs root: it drops the kernel's caches and sets the read-ahead of its mounts")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))  # so that clean-up runs
    workloads = [workload for workload in WORKLOADS if not args.workload or workload.name in args.workload]
    base = Path(tempfile.mkdtemp(prefix="gsfs-bench-", dir=args.dir))
    try:
        results = _run(args, workloads, base)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    table = report.rows(workloads, results)
    print(report.as_markdown(table) if args.markdown else report.as_text(table))
    if args.json:
        args.json.write_text(json.dumps(_record(args, results), indent=1) + "\n")
    failed = report.failures(workloads, results)
    if failed:
        sys.exit(f"bench: over the limit: {', '.join(failed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Compare gsfs with ext4 and with an empty pyfuse3 file system, on one disk, in one run.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument(
        "--only", default=DEFAULT, metavar="TARGETS", help=f"of {', '.join(BUILT_IN)}; default {DEFAULT}"
    )
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=DIR", help="also a mounted file system"
    )
    parser.add_argument("--workload", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--best", action="store_true", help="fastest round instead of the median")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where to work; default /var/tmp")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value that was measured")
    parser.add_argument("--markdown", action="store_true", help="print the table as the docs have it")
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - set(BUILT_IN)
    if unknown:
        parser.error(f"--only takes {', '.join(BUILT_IN)}; got {', '.join(sorted(unknown))}")
    for peer in args.peer:
        if "=" not in peer or not Path(peer.partition("=")[2]).is_dir():
            parser.error(f"--peer takes NAME=DIR with a mounted directory; got {peer}")
    return args


def _targets(args: argparse.Namespace, base: Path) -> list[Target]:
    made: list[Target] = []
    for name in args.only.split(","):
        if name.startswith("null"):
            made.append(Null(name, base / name, stock_loop=name == "null-stock"))
        else:
            made.append((Gsfs if name == "gsfs" else Target)(name, base / name))
    for peer in args.peer:
        name, _, mounted = peer.partition("=")
        made.append(Peer(name, Path(mounted)))
    return made


def _run(args: argparse.Namespace, workloads: list[Workload], base: Path) -> report.Results:
    targets = _targets(args, base)
    results = report.Results([target.name for target in targets], best=args.best)
    with _progress() as say, contextlib.ExitStack() as stack:
        say("making the inputs")
        inputs = Inputs.make(base)
        for target in targets:
            stack.callback(target.stop)
            target.start()
        for number in range(1, args.rounds + 1):
            sessions = [Session(target, inputs) for target in targets]
            for workload in workloads:
                say(f"round {number} of {args.rounds}: {workload.name}")
                _measure(workload, sessions, results)
            for session in sessions:
                session.finish()
    return results


def _measure(workload: Workload, sessions: list[Session], results: report.Results) -> None:
    """One workload on each target in turn: what else the machine does now, it does to all of them."""
    for session in sessions:
        if not workload.is_cpu or session.target.pids:
            results.add(workload.name, session.target.name, workload.measure(session))


@contextlib.contextmanager
def _progress() -> Iterator[Say]:
    """What is going on now, on standard error: rewritten in place on a terminal, a line each elsewhere."""
    in_place = sys.stderr.isatty()

    def say(text: str) -> None:
        print(
            f"\r\033[K{text}" if in_place else text, end="" if in_place else "\n", file=sys.stderr, flush=True
        )

    yield say
    if in_place:
        print("\r\033[K", end="", file=sys.stderr)


def _record(args: argparse.Namespace, results: report.Results) -> dict[str, object]:
    return {
        "machine": {
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rounds": args.rounds,
        "unit": "seconds; cpu-*: microseconds of daemon CPU per operation",
        "values": results.values,
    }


if __name__ == "__main__":
    main()
