"""Fits models from what the store keeps of users, and publishes them: `tidewise refresh`, and on a schedule.

The models see each user's interest (`stream.core.interest`): which items he had to do with and in how many
events; test accounts are left out. A user who was erased is no longer in the store: the next refresh knows
nothing of him, but until then the models still hold his share.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from state.keys import Keys
from state.packing import unpack_users
from state.store import Store
from stream.core.models import ease
from stream.core.models.gathered import Models
from stream.core.models.matrix import matrix
from stream.core.models.model import NAMES, Fitting, Model, chunks, fit
from stream.core.noise import Noise
from stream.delivery import Output, Ports
from stream.settings import Settings
from stream.topics import MODELS

log = structlog.get_logger(__name__)

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
T = TypeVar("T")
Publish = Callable[[Sequence[Output]], Awaitable[None]]
Interests = tuple[I64, U64, U32]
"""Entries a user [U], and of all entries item hashes [M] and counts of events [M]."""

PORTION = 1000
"""Users read in one trip."""
PARTITION = 0
"""All chunks go to one partition, so that they keep their order."""
CHUNK_SHARE = 0.5
"""Numbers in a chunk, as a share of the largest message."""
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did."""

    model: str
    version: int
    users: int
    items: int
    chunks: int
    seconds: float


def configured(settings: Settings) -> list[str]:
    """The models that lists are made from."""
    return [name for name in NAMES if name in settings.components]


async def refresh(
    store: Store, settings: Settings, names: Sequence[str], version: int, publish: Publish
) -> list[Refreshed]:
    """Read what users did, fit models of `NAMES`, and hand their records to ``publish``.

    Fitting runs in a thread of its own. Raises ValueError for a name that is none.
    """
    if strange := set(names) - set(NAMES):
        raise ValueError(f"{min(strange)} is no model: {', '.join(NAMES)} are")
    data = await interests(store, settings)
    done = []
    for name in names:
        started = time.monotonic()
        model = await aside(partial(fitted, name, data, settings))
        sent = outputs(model, version, settings)
        await publish(sent)
        took = round(time.monotonic() - started, 3)
        done.append(Refreshed(name, version, len(data[0]), len(model.hashes), len(sent), took))
    return done


async def interests(store: Store, settings: Settings) -> Interests:
    """The interests of all users in the store, read some at a time with SCAN and MGET.

    About 5 µs a user and 16 bytes an entry here. Users who come or go meanwhile may be missed.
    """
    found = [_part(blobs) async for blobs in _blobs(store, settings)]
    parts = [np.concatenate(part) for part in zip(_NOBODY, *found, strict=True)]
    return parts[0], parts[1], parts[2]


_NOBODY: Interests = (np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint32))


def _part(blobs: Sequence[bytes]) -> Interests:
    users = unpack_users(blobs)
    return users.n_interest, users.interest, users.counts


async def _blobs(store: Store, settings: Settings) -> AsyncIterator[list[bytes]]:
    """Packed users, some at a time; each once, however often the scan meets him."""
    wanted: list[str] = []
    seen: set[str] = set()
    begin, tests = re.compile(re.escape(settings.prefix) + r":\{u\d+\}:user:"), Noise.of(settings).tests
    async for key in store.scan(Keys(settings.prefix).user("u*", "*")):
        if key not in seen and _counts(key, begin, tests):
            seen.add(key)
            wanted.append(key)
        if len(wanted) == PORTION:
            yield [blob for blob in await store.get(wanted) if blob]
            wanted = []
    if wanted:
        yield [blob for blob in await store.get(wanted) if blob]


def _counts(key: str, begin: re.Pattern[str], tests: re.Pattern[str] | None) -> bool:
    """Whether it is the key of a user (a glob says no more than roughly), and of no test account. ~1 µs."""
    found = begin.match(key)
    return found is not None and (tests is None or tests.match(key[found.end() :]) is None)


def fitted(name: str, data: Interests, settings: Settings) -> Model:
    """Fit one model by the settings."""
    most = settings.autoencoder_items if name == ease.NAME else settings.factor_items
    how = Fitting(settings.factors, settings.autoencoder_penalty)
    return fit(name, matrix(*data, most), how)


def outputs(model: Model, version: int, settings: Settings) -> list[Output]:
    """The records of a model. Keys repeat from version to version, so that compaction drops old ones."""
    made = chunks(model, version, int(CHUNK_SHARE * settings.max_message_bytes))
    return [
        Output(MODELS.name, b"%s/%d" % (chunk.model.encode(), chunk.number), msgspec.msgpack.encode(chunk))
        for chunk in made
    ]


async def keep_fresh(settings: Settings, models: Models, ports: Ports, mine: Callable[[], bool]) -> None:
    """Refresh the configured models every ``refresh_every_s`` while ``mine``; never ends, never raises.

    The version of a model is when it was made, so a worker that takes over goes on from there.
    """
    names, every_ms = configured(settings), settings.refresh_every_s * 1000
    tried = 0
    while names and every_ms:
        await asyncio.sleep(_LOOK_S)
        made = min(models.versions.get(name, 0) for name in names)
        now = ports.now_ms()
        if not mine() or now < max(made, tried) + every_ms:
            continue
        tried = now
        try:
            done = await refresh(ports.store, settings, names, now, lambda sent: _send(ports, sent))
            log.info("models refreshed", models=[msgspec.to_builtins(each) for each in done])
        except Exception as error:
            log.warning("models could not be refreshed", error=repr(error))


async def _send(ports: Ports, sent: Sequence[Output]) -> None:
    await ports.sender.publish(PARTITION, sent)


async def aside(work: Callable[[], T]) -> T:
    """Run in a thread that nobody waits for when the process ends (the loop's own pool is waited for)."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def answer(found: list[T], error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(found[0])
        else:
            done.set_exception(error)

    def run() -> None:
        found, failed = [], None
        try:
            found.append(work())
        except Exception as error:
            failed = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(answer, found, failed)

    threading.Thread(target=run, daemon=True, name="refresh").start()
    return await done
