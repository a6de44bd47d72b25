"""Looking at what is imported: by listing it, or by a queue that tells of changes. Owns requests; ``importing`` decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
import trio.lowlevel

from gsfs.backends.location import Location
from gsfs.backends.spec import LocationSpec
from gsfs.errors import ObjectNotFound
from gsfs.exchange.importing import Importer
from gsfs.exchange.keys import Report
from gsfs.namespace.follows import Place
from gsfs.namespace.store import Store
from gsfs.transfer.accounts import pays
from gsfs.transfer.committer import Committer

AT_ONCE = 50
"""Objects taken before anything else may run: some milliseconds."""
Tell = Callable[[int], Awaitable[None]]
"""Told now and then how many objects have been looked at."""


async def list_all(
    store: Store,
    importer: Importer,
    location: Location,
    place: Place,
    *,
    remove: bool,
    tell: Tell | None = None,
) -> Report:
    """One request for each 1000 objects. Nothing is removed unless the listing came to its end."""
    report, count = Report(), 0
    seen: set[bytes] = set()
    with pays(place.bucket):
        async for info in location.list(place.prefix):
            importer.take(info, report)
            if remove:
                seen.add(info.key.removeprefix(place.prefix).encode())
            count += 1
            if count % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
                if tell is not None and count % 1000 == 0:
                    await tell(count)
    if remove:
        if not seen:
            await location.check()  # a directory that is not mounted lists nothing, too
        # Deepest first: a directory's marker goes after what lies in it.
        for at, key in enumerate(sorted(set(store.imported.keys(place.bucket)) - seen, reverse=True)):
            importer.gone(key, report)
            if at % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
    return report


async def listen(
    spec: LocationSpec,
    url: str,
    importer: Importer,
    location: Location,
    place: Place,
    committer: Committer,
    heard: Callable[[Report], None],
) -> None:
    """Follow a queue until cancelled: a HEAD for each key it names tells what is true now. Raises BackendError.

    A message is taken from the queue only when what it led to is durable.
    """
    from gsfs.backends.sqs import EventQueue

    queue = await trio.to_thread.run_sync(EventQueue, spec, url)
    try:
        while True:
            keys, receipts = await trio.to_thread.run_sync(queue.receive, abandon_on_cancel=True)
            report = Report()
            with pays(place.bucket):
                for key in sorted(keys):
                    if key.startswith(place.prefix):
                        await look_at(importer, location, place, key, report)
            await committer.durable()
            heard(report)
            await trio.to_thread.run_sync(queue.done, receipts, abandon_on_cancel=True)
    finally:
        queue.close()


async def look_at(importer: Importer, location: Location, place: Place, key: str, report: Report) -> None:
    """One key: as it is now, whatever was told of it."""
    try:
        importer.take(await location.head(key), report)
    except ObjectNotFound:
        importer.gone(key.removeprefix(place.prefix).encode(), report)
