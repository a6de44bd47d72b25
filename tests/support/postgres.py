"""A PostgreSQL server of the tests' own: on a socket in a temporary directory, unsafe and fast. Owns its process."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

PLACES = (
    "/usr/lib/postgresql/17/bin",
    "/usr/lib/postgresql/16/bin",
    "/usr/lib/postgresql/15/bin",
    "/usr/lib/postgresql/14/bin",
)
START_S = 60.0
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "shared_buffers": "32MB",
    "max_connections": "20",
    "autovacuum": "off",
}


def binaries() -> Path:
    """The directory of ``initdb`` and ``postgres``. A machine without them fails the tests."""
    for place in (*PLACES, *os.environ.get("PATH", "").split(":")):
        if os.access(f"{place}/postgres", os.X_OK) and os.access(f"{place}/initdb", os.X_OK):
            return Path(place)
    raise AssertionError("PostgreSQL is not installed: apt-get install postgresql")


class Server:
    """Started, asked for databases, stopped. PostgreSQL refuses to run as root: then it runs as ``postgres``."""

    def __init__(self) -> None:
        self._bin = binaries()
        self.directory = Path(tempfile.mkdtemp(prefix="gsfs-pg-"))
        self._user: list[str] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._user = [
                "setpriv",
                f"--reuid={account.pw_uid}",
                f"--regid={account.pw_gid}",
                "--clear-groups",
            ]
        self._numbers = itertools.count(1)
        data = self.directory / "data"
        self._run(
            str(self._bin / "initdb"),
            "-D",
            str(data),
            "-U",
            "gsfs",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [
            *self._user,
            str(self._bin / "postgres"),
            "-D",
            str(data),
            "-k",
            str(self.directory),
            *options,
        ]
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        self._wait()

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            [*self._user, *command], capture_output=True, text=True, check=False, cwd=self.directory
        )
        assert done.returncode == 0, done.stderr

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self._address("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                assert self._process.poll() is None and time.monotonic() < until, f"PostgreSQL: {error}"

    def _address(self, database: str) -> str:
        return f"postgresql://gsfs@/{database}?host={self.directory}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"namespace{next(self._numbers)}"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._address(name)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast": open sessions are ended
        self._process.wait(START_S)
        shutil.rmtree(self.directory, ignore_errors=True)
