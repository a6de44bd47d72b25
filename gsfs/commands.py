"""What the daemon answers about policies and locations: one function for each command of the control socket.

Owns nothing but the translation of arguments; the answers are made in ``answers``, ``planning`` and ``admin``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gsfs import admin, answers, keeping, leaving, planning
from gsfs.config import load
from gsfs.errors import Busy, EntryExists, InvalidArgument, NotFoundError, PermissionRefused
from gsfs.exchange.keys import parse_place
from gsfs.filesystem.recording import Recorder
from gsfs.namespace.follows import Settings
from gsfs.policy.bucket import BucketPolicy, parse_policy
from gsfs.volume import Volume

Tell = Callable[[dict[str, Any]], Awaitable[None]]
Command = Callable[[Volume, dict[str, Any], Tell], Awaitable[Any]]


async def where(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """Replicas of a file's objects."""
    return answers.where(volume, arguments["ino"])


async def explain(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """Why a file is where it is."""
    return answers.explain(volume, arguments["ino"])


async def cost(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """What the ledger says."""
    return await answers.cost(
        volume, arguments["by"], arguments.get("forecast_days"), arguments.get("since_days", 31)
    )


async def plan(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """What other settings of a bucket would move and cost; nothing changes."""
    bucket = admin.find_bucket(volume.store, arguments["name"])
    checked = admin.check_settings(
        arguments["settings"], list(map(str, volume.locations)), volume.steward.region
    )
    return await planning.show(volume, bucket, _policy_with(admin.policy_of(bucket), checked))


async def apply(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Change a bucket's settings and bring what it holds in line."""
    name = arguments["name"]
    bucket = admin.find_bucket(volume.store, name)
    answers.prices_of(volume)
    checked = admin.check_settings(
        arguments["settings"], list(map(str, volume.locations)), volume.steward.region
    )
    admin.apply_settings(volume.store, bucket, name, checked)
    return await planning.apply(volume, bucket, tell)


async def pin(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Keep files in the cache, or no longer."""
    return await keeping.pin(volume, arguments["ino"], arguments["off"], tell)


async def warm(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Fetch files into the cache."""
    return await keeping.warm(volume, arguments["ino"], tell)


async def evict(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Let local copies go."""
    return await keeping.evict(volume, arguments["ino"], tell)


async def trace_start(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """Record requests in a new file."""
    path = Path(arguments["file"])
    running = volume.core.recorder
    if running is not None:
        raise Busy(f"requests are being recorded in {running.path}; gsfs trace stop ends it")
    try:
        volume.core.recorder = Recorder(path, volume.steward.region, arguments["share"], volume.steward.clock)
    except FileExistsError:
        raise EntryExists(f"{path}: exists already; takes the name of a new file") from None
    except OSError as error:
        raise PermissionRefused(f"{path}: cannot be made: {error.strerror}") from None
    return volume.core.recorder.to_json()


async def trace_stop(volume: Volume, _arguments: dict[str, Any], _tell: Tell) -> Any:
    """Stop recording; what was recorded is on the disk then."""
    recorder = await volume.stop_recording()
    if recorder is None:
        raise NotFoundError("nothing is being recorded; gsfs trace start begins it")
    return recorder.to_json()


async def location_survey(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """What leaving a location would move, and cost."""
    return (await leaving.survey(volume, arguments["name"], arguments.get("to"))).to_json()


async def location_leave(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Leave a location."""
    return await leaving.leave(volume, arguments["name"], arguments.get("to"), tell)


async def location_stay(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """Use a location again that was being left."""
    return leaving.stay(volume, arguments["name"])


async def location_forget(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """The location is going to be removed from the configuration."""
    return leaving.check_left(volume, arguments["name"])


async def location_add(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """A location was added to the configuration file."""
    config = load(Path(volume.config.path), os.environ)
    spec = next((spec for spec in config.location if spec.id == arguments["id"]), None)
    if spec is None:
        raise NotFoundError(f"{arguments['id']}: is not in {volume.config.path}")
    await volume.add_location(spec)
    return {"added": spec.id}


async def import_(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Register foreign objects as files."""
    location, prefix = parse_place(arguments["source"], volume.locations)
    settings = Settings(
        follows=bool(arguments.get("follows")),
        owned=bool(arguments.get("owned")),
        interval_s=float(arguments.get("interval_s", 30.0)),
        queue_url=arguments.get("queue") or "",
        uid=int(arguments.get("uid", 0)),
        gid=int(arguments.get("gid", 0)),
    )
    return await volume.following.import_(arguments["bucket"], location, prefix, settings, tell)


async def export(volume: Volume, arguments: dict[str, Any], tell: Tell) -> Any:
    """Write files as plain objects."""
    location, prefix = parse_place(arguments["target"], volume.locations)
    settings = Settings(follows=bool(arguments.get("follows")))
    return await volume.following.export(arguments["bucket"], location, prefix, settings, tell)


async def follow_stop(volume: Volume, arguments: dict[str, Any], _tell: Tell) -> Any:
    """Let an import or export not go on."""
    return await volume.following.stop(arguments["bucket"], arguments["kind"])


def _policy_with(policy: BucketPolicy, checked: dict[str, Any]) -> BucketPolicy:
    """The policy with settings changed that are only asked about."""
    others = [key for key in checked if key not in ("policy", "home")]
    if others:
        raise InvalidArgument(f"{others[0]}: moves nothing; set it with gsfs bucket set")
    changed = parse_policy(checked.get("policy", {}), policy)
    return replace(changed, home=str(checked["home"])) if "home" in checked else changed


COMMANDS: dict[str, Command] = {
    "where": where,
    "explain": explain,
    "cost": cost,
    "plan": plan,
    "apply": apply,
    "pin": pin,
    "warm": warm,
    "evict": evict,
    "trace_start": trace_start,
    "trace_stop": trace_stop,
    "location_survey": location_survey,
    "location_leave": location_leave,
    "location_stay": location_stay,
    "location_forget": location_forget,
    "location_add": location_add,
    "import": import_,
    "export": export,
    "follow_stop": follow_stop,
}
