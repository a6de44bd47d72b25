"""What scripts/demo-clouds shows. Owns the story; the servers and the mount are those of the tests."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support import servers
from tests.support.clouds import AZURE, ENVIRONMENT, GCS, S3, Clouds, Provider, provider, same
from tests.support.servers import ROOT
from tests.support.waiting import eventually


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m", flush=True)


def show(cloud: Clouds) -> None:
    print(cloud.run("status", str(cloud.config)).stdout, flush=True)


class Demo:
    """Three providers, one of which (SeaweedFS, whose data survives on its disk) is killed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.port = servers.free_port()
        self._stack = stack
        self._weed = ExitStack()
        stack.callback(self._weed.close)
        urls = {
            S3: self.start(),
            AZURE: self._azurite(),
            GCS: stack.enter_context(servers.fake_gcs(folder)).url,
        }
        self.providers: list[Provider] = [stack.enter_context(provider(*item)) for item in urls.items()]

    def start(self) -> str:
        """SeaweedFS, on the port and with the data that it had."""
        return self._weed.enter_context(servers.seaweedfs(self.folder / "seaweedfs", self.port)).url

    def stop(self) -> None:
        """Killed, as by a crash of its machine."""
        self._weed.close()
        self._weed = ExitStack()
        self._stack.callback(self._weed.close)

    def _azurite(self) -> str:
        return self._stack.enter_context(servers.azurite(self.folder)).url

    def mount(self) -> Clouds:
        patience: dict[str, Any] = {"breaker_failures": 3, "breaker_longest_pause_s": 2.0, "timeout_s": 5.0}
        cloud = Clouds(self.folder / "gsfs", (), ENVIRONMENT, self.providers, patience)
        cloud.home.mkdir()
        self._stack.callback(cloud.end)
        cloud.create({})
        cloud.mount()
        return cloud


def make_tree(folder: Path) -> Path:
    """This project's own sources, three times, and something larger."""
    tree = folder / "tree"
    for copy in range(3):
        for name in ("gsfs", "tests", "docs"):
            shutil.copytree(
                ROOT / name, tree / f"{copy}" / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    (tree / "large").write_bytes(bytes(range(256)) * (32 << 12))
    return tree


def run(folder: Path, stack: ExitStack) -> None:
    demo = Demo(folder, stack)
    cloud = demo.mount()
    buckets = cloud.make_buckets()
    say(f"One file system over three providers at {cloud.root}: a bucket at home at each")
    show(cloud)
    tree = make_tree(folder)
    files = sum(path.is_file() for path in tree.rglob("*"))
    say(f"rsync of {files} files into each bucket; SeaweedFS (the S3 provider) is killed meanwhile")
    copies = [subprocess.Popen(["rsync", "-a", f"{tree}/", str(path)]) for path in buckets.values()]
    demo.stop()
    codes = [copy.wait() for copy in copies]
    if any(codes):
        raise SystemExit("scripts/demo-clouds: an rsync failed")
    eventually(lambda: cloud.state(S3)["state"] != "ok", "the outage in gsfs status")
    cloud.run("flush", str(buckets[AZURE]))
    cloud.run("flush", str(buckets[GCS]))
    say("All three are complete; two are uploaded, the third waits on the local disk. gsfs status:")
    show(cloud)
    say("SeaweedFS is started again: the work resumes by itself")
    demo.start()
    eventually(lambda: cloud.status()["dirty_bytes"] == 0, "everything at its location", 120)
    show(cloud)
    say("Verified: nothing is kept on the local disk, every byte is read back from its provider")
    cloud.cool_down()
    for name, path in buckets.items():
        if difference := same(tree, path):
            raise SystemExit(f"scripts/demo-clouds: {name} differs:\n{difference}")
        print(f"{name}: diff -r finds no difference in {files} files")
    print(cloud.run("fsck", str(cloud.root)).stdout.strip())
    cloud.unmount()
    named = cloud.named()
    for each in demo.providers:
        keys = each.keys()
        if keys != named[each.id]:
            raise SystemExit(
                f"scripts/demo-clouds: {each.id} holds {len(keys)} objects, {len(named[each.id])} are named"
            )
        print(f"{each.id}: holds the {len(keys)} objects that the namespace names, and no other")


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gsfs-demo-clouds-"))
    try:
        with ExitStack() as stack:
            run(folder, stack)
        say("Everything is intact. The mount, the servers and their data are gone again.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
