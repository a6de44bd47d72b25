"""A mount over emulated providers, each behind a proxy that can fail. Owns what the tests may look at past it.

Credentials reach the daemon as a user's would: by ``${VAR}`` in the configuration.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gsfs.backends.base import list_all
from gsfs.backends.registry import open_backend
from gsfs.backends.spec import LocationSpec
from gsfs.model import LocationId, ReplicaState
from gsfs.namespace.store import open_store
from tests.support import locations, servers
from tests.support.faultproxy import FaultProxy
from tests.support.mounting import Mount, _toml

S3, AZURE, GCS = "s3:test", "azure:test", "gcs:test"
HASTY: Final[Mapping[str, Any]] = {
    "timeout_s": 1.0,
    "connect_timeout_s": 1.0,
    "deadline_s": 6.0,
    "breaker_failures": 4,
    "breaker_pause_s": 0.3,
    "breaker_longest_pause_s": 1.0,
}
"""A location's patience, shortened so that the tests are."""
SECRETS: Final = (servers.SECRET_KEY, servers.AZURITE_KEY)
ENVIRONMENT: Final = {"GSFS_TEST_SECRET": servers.SECRET_KEY, "GSFS_TEST_AZURE_KEY": servers.AZURITE_KEY}


@dataclass
class Provider:
    """One emulated provider."""

    spec: LocationSpec
    """Past the proxy."""
    proxy: FaultProxy
    settings: Mapping[str, Any]
    """Through the proxy, as in the configuration."""

    @property
    def id(self) -> str:
        return self.spec.id

    def keys(self) -> set[str]:
        """Every object that is really there, the shipped namespace left out."""
        with closing(open_backend(self.spec)) as backend:
            return {info.key for info in list_all(backend, "") if not info.key.startswith("meta/")}

    def go_down(self) -> None:
        self.proxy.down = True
        self.proxy.break_connections()

    def come_back(self) -> None:
        self.proxy.down = False


@contextmanager
def provider(kind: str, url: str) -> Iterator[Provider]:
    """A fresh bucket at the emulator of that kind which answers at ``url``, behind a proxy of its own."""
    bucket = f"t-{uuid.uuid4().hex[:16]}"
    make = {S3: locations.s3_spec, AZURE: locations.azure_spec, GCS: locations.gcs_spec}[kind]
    create = {
        S3: locations.make_s3_bucket,
        AZURE: locations.make_azure_container,
        GCS: locations.make_gcs_bucket,
    }
    who: dict[str, dict[str, Any]] = {
        S3: {"kind": "s3", "access_key": servers.ACCESS_KEY, "secret_key": "${GSFS_TEST_SECRET}"},
        AZURE: {"kind": "azure", "account": servers.AZURITE_ACCOUNT, "account_key": "${GSFS_TEST_AZURE_KEY}"},
        GCS: {"kind": "gcs", "anonymous": True},
    }
    spec = make(kind, url, bucket)
    create[kind](spec)
    with FaultProxy(url) as proxy:
        settings = {"id": kind, "bucket": bucket, "endpoint": proxy.url, **who[kind]}
        yield Provider(spec, proxy, settings)


@dataclass
class Clouds(Mount):
    """One namespace over providers; the first is the home of what names no other."""

    providers: Sequence[Provider] = ()
    patience: Mapping[str, Any] = field(default_factory=lambda: HASTY)

    def create(self, knobs: Mapping[str, Mapping[str, Any]]) -> None:
        sections: dict[str, dict[str, Any]] = {
            "filesystem": {"name": "test"},
            "namespace": {"url": f"sqlite:///{self.home}/cache/namespace.db", "ship_interval_s": 3600.0},
            "cache": {"path": f"{self.home}/cache", "min_free": "64MiB"},
            "bucket_defaults": {"home": self.providers[0].id},
            "mount": {"read_deadline_s": 10.0},
            "transfer": {"segment_size": "1MiB", "seal_idle_s": 0.3, "full_wait_s": 2.0},
        }
        for section, values in knobs.items():
            sections[section] = {**sections.get(section, {}), **values}
        text = "".join(f"[{name}]\n{_toml(values)}\n" for name, values in sections.items())
        for each in self.providers:
            text += f"[[location]]\n{_toml({**each.settings, **self.patience})}\n"
        self.config.write_text(text)
        self.root.mkdir()
        (self.home / "cache").mkdir()
        self.run("init", str(self.config))

    def make_buckets(self) -> dict[str, Path]:
        """One virtual bucket at home at each provider, by the provider's id."""
        made = {}
        for each in self.providers:
            path = self.root / each.id.partition(":")[0]
            path.mkdir()
            self.run("bucket", "set", str(path), f"home={each.id}")
            made[each.id] = path
        return made

    def flush(self) -> None:
        self.run("flush", str(self.root))

    def cool_down(self) -> None:
        """Nothing is on the local disk or in the kernel: reads go to the locations."""
        self.flush()
        for path in self.root.iterdir():
            self.run("evict", str(path))

    def state(self, location: str) -> dict[str, Any]:
        """The row of the location in ``gsfs status``."""
        row: dict[str, Any] = next(row for row in self.status()["locations"] if row["id"] == location)
        return row

    def named(self) -> dict[str, set[str]]:
        """After unmounting: the keys that the namespace names, by location."""
        store = open_store(f"sqlite:///{self.home}/cache/namespace.db")
        try:
            rows = {object_.id: object_ for object_ in store.objects.all()}
            return {
                each.id: {
                    store.objects.key_of(rows[r.object], r)
                    for r in store.objects.at(LocationId(each.id))
                    if r.state is not ReplicaState.INTENT
                }
                for each in self.providers
            }
        finally:
            store.close()

    def printed(self) -> str:
        """Everything that anybody may come to see: log, answers, the title of the process."""
        pid = self.pid
        texts = [
            self.log.read_text(),
            self.run("status", str(self.config)).stdout,
            json.dumps(self.status()),
            Path(f"/proc/{pid}/cmdline").read_bytes().decode(),
            Path(f"/proc/{pid}/comm").read_text(),
            self.run("location", "list", str(self.root)).stdout,
        ]
        texts += [
            self.run("location", "show", str(self.root), each.id, "--json").stdout for each in self.providers
        ]
        return "\n".join(texts)


@contextmanager
def clouds(
    home: Path, urls: Mapping[str, str], knobs: Mapping[str, Mapping[str, Any]] | None = None, **patience: Any
) -> Iterator[Clouds]:
    """A mount over fresh buckets at these emulators ({kind: URL})."""
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        providers = [stack.enter_context(provider(kind, url)) for kind, url in urls.items()]
        mount = Clouds(home, (), ENVIRONMENT, providers, {**HASTY, **patience})
        stack.callback(mount.end)
        mount.create(knobs or {})
        mount.mount()
        yield mount


def same(left: Path, right: Path) -> str:
    """What ``diff -r`` prints; empty where every byte is the same."""
    done = subprocess.run(
        ["diff", "-r", left, right],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LC_ALL": "C"},
    )
    return done.stdout + done.stderr
