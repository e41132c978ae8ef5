"""The same lists live: through an embedded broker, a worker process and a store, against those in process.

Everything of a data set is sent and processed. Once the stream is quiet, each of the users does something
that counts for nothing (a search), a day later, so that his list is made anew; what then stands in the store
must be what this process makes of the same events with what the worker's mixture learned.

Rows that were ever cut are taken from the worker: which pairs such a row holds depends on how the log was cut
into batches (docs/decisions/rows-cut-by-size.md). All other rows, users and lists are this process's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from producers.client import EventProducer
from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.cli.demo import DemoWorker
from stream.digest import settle
from stream.embedded import embedded
from stream.evaluation.engine import Engine, Lines, steps
from stream.evaluation.history import History
from stream.evaluation.protocols import Progress, settings_for
from stream.kafka import KafkaLog
from stream.settings import Settings
from stream.times import time_text
from stream.topics import NEIGHBORS

USERS = 2000
_DAY_MS = 86_400_000
_SETTLE_S = 1200.0
_EVERY, _STEP = 5000, 64
_READ_MS = 2000
"""A topic is at its end when nothing more comes within this time."""


class Lived(msgspec.Struct, frozen=True):
    """``equal`` of ``users`` lists are the same; ``differences`` tells the others."""

    users: int
    equal: int
    differences: list[str]


async def live(settings: Settings, history: History, progress: Progress) -> Lived:
    """Compare the lists of the 2,000 users with the newest events. Needs the extra `embedded`."""
    with embedded() as urls:
        deployed = settings_for(settings).model_copy(
            update={
                "broker_url": urls.broker, "store_url": urls.store, "session_timeout_s": 6.0,
                "rebalance_timeout_s": 6.0, "heartbeat_s": 1.0,
            }
        )  # fmt: skip
        await create_topics(deployed)
        with DemoWorker(deployed):
            store = await RedisStore.open(deployed.store_url, Keys(deployed.prefix), deployed.store_timeout_s)
            try:
                return await _compare(deployed, store, history, progress)
            finally:
                await store.close()


async def _compare(settings: Settings, store: RedisStore, history: History, progress: Progress) -> Lived:
    users, time_ms = _newest(history), int(history.time_ms.max()) + _DAY_MS
    async with EventProducer(settings) as producer:
        for event in history.catalog:
            await producer.send(event)
        await producer.flush()
        await _quiet(settings, store)
        await _send(producer, history, progress)
        await _quiet(settings, store)
        for user in users:
            search = {"type": "search", "time": time_text(time_ms), "user": history.users[user], "query": "?"}
            await producer.send(msgspec.json.encode(search), received=time_ms)
        await producer.flush()
    await _quiet(settings, store)
    return await _differences(settings, store, history, users, time_ms)


async def _quiet(settings: Settings, store: RedisStore) -> None:
    """Wait until everything is processed, and every worker has every list."""
    log = KafkaLog(settings)
    await log.start()
    try:
        await settle(settings, store, log, _SETTLE_S)
    finally:
        await log.stop()
    await asyncio.sleep(3 * (settings.publish_s + settings.trending_s))


async def _send(producer: EventProducer, history: History, progress: Progress) -> None:
    """All events, each received at its own time."""
    for at, event in events_of(history):
        await producer.send(event, received=int(history.time_ms[at]))
        if at % _EVERY < 2:
            progress(at, len(history))
    await producer.flush()


def events_of(history: History) -> Iterator[tuple[int, bytes]]:
    """First line and JSON of each event."""
    begins = history.begins.tolist()
    for low, high in zip(begins, [*begins[1:], len(history)], strict=True):
        items = [{"item": history.items[at]} for at in history.item[low:high].tolist()]
        user, time = history.users[int(history.user[low])], time_text(int(history.time_ms[low]))
        yield low, msgspec.json.encode({"type": history.kind, "time": time, "user": user, "items": items})


async def _differences(
    settings: Settings, store: RedisStore, history: History, users: Sequence[int], time_ms: int
) -> Lived:
    """What stands in the store against what this process makes of the same."""
    session, keys = store.session("u0"), Keys(settings.prefix)
    stored = await session.get([keys.mixture("u0")])
    views = await session.get([keys.recs(history.users[user]) for user in users])
    await session.close()
    engine = Engine(settings, history.users, history.items)
    await engine.open(history.catalog)
    for at in steps(history.user, history.event, _STEP):
        await engine.count(Lines.of(history, at), learn=False)
    cut = engine.cut()
    records = await _records(settings) if cut else {}
    engine.worker.follower.hood.apply(cut, [records[name.encode()] for name in cut])
    made = await engine.shown(users, np.full(len(users), time_ms), stored[0])
    pairs = list(zip(users, made, map(_items, views), strict=True))
    wrong = [_told(history.users[user], mine, live) for user, mine, live in pairs if mine != live]
    return Lived(len(users), len(users) - len(wrong), wrong[:20])


async def _records(settings: Settings) -> dict[bytes, bytes]:
    """The newest record of each item that the worker published."""
    found: dict[bytes, bytes] = {}
    name = NEIGHBORS.full(settings)
    parts = [TopicPartition(name, partition) for partition in range(settings.partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign(parts)
        await consumer.seek_to_beginning(*parts)
        while some := await consumer.getmany(timeout_ms=_READ_MS):
            found.update((record.key, record.value) for records in some.values() for record in records)
    finally:
        await consumer.stop()
    return found


def _items(view: bytes | None) -> list[str]:
    return [] if view is None else [entry["item"] for entry in msgspec.json.decode(view)["items"]]


def _told(user: str, mine: list[str], live: list[str]) -> str:
    at = next(n for n, (a, b) in enumerate(zip_longest(mine, live)) if a != b)
    return f"user {user} from place {at + 1}: {mine[at : at + 3]} here, {live[at : at + 3]} live"


def _newest(history: History) -> list[int]:
    """The users with the newest events."""
    _, last = np.unique(history.user[::-1], return_index=True)
    newest: list[int] = history.user[len(history) - 1 - np.sort(last)[:USERS]].tolist()
    return newest
