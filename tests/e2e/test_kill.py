"""kill −9 in the middle of a replay: the digest afterwards equals that of an undisturbed run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from producers.simulator import Shop
from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.digest import Digest, digest
from stream.kafka import KafkaLog
from stream.settings import Settings
from stream.status import status
from stream.topics import EVENTS
from tests.e2e.harness import WorkerProcess

EVENTS_SENT = 50_000
KILLS = (0.2, 0.5, 0.8)
START_MS = 1_767_225_600_000


@asynccontextmanager
async def ports(settings: Settings) -> AsyncIterator[tuple[RedisStore, KafkaLog]]:
    """The store, and the log for its bounds."""

    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
    log = KafkaLog(settings)
    await log.start()
    try:
        yield store, log
    finally:
        await log.stop()
        await store.close()


async def fill(settings: Settings, events: list[dict[str, Any]]) -> None:
    """The whole log, before anybody reads it; `received` makes a run of today equal one of tomorrow."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, linger_ms=10)
    await producer.start()
    for n, event in enumerate(events):
        key = (event.get("user") or event["anonymous"]).encode()
        headers = [("received", b"%d" % (START_MS + n * 100))]
        await producer.send(EVENTS.full(settings), orjson.dumps(event), key=key, headers=headers)
    await producer.stop()


async def process(settings: Settings, folder: Path, sent: int, kills: tuple[float, ...]) -> Digest:
    """Let workers process the log, each killed when it has come so far, the last one not."""
    async with ports(settings) as (store, log):
        for share in kills:
            worker = WorkerProcess(settings, folder)
            while (await status(settings, store, log)).events < share * sent:
                assert worker.process.poll() is None, worker.log
                await asyncio.sleep(0.01)
            worker.kill()
        worker = WorkerProcess(settings, folder)
        try:
            await worker.ready()
            return await digest(settings, store, log, 120.0)
        finally:
            worker.kill()


@pytest.mark.kafka
@pytest.mark.parametrize("seed", [1])
async def test_kill_nine_changes_nothing(
    make_settings: Callable[..., Settings], tmp_path: Path, seed: int
) -> None:
    events = list(Shop(seed, users=2000, items=500).events(EVENTS_SENT, START_MS, 10.0))
    digests = []
    for kills in ((), KILLS):
        settings = make_settings()
        await create_topics(settings)
        await fill(settings, events)
        digests.append(await asyncio.wait_for(process(settings, tmp_path, len(events), kills), 240))
    undisturbed, killed = digests
    assert undisturbed.events == len(events)
    assert undisturbed.items > 0 and undisturbed.users > 0 and undisturbed.engaged > 0
    # An outbox that was published twice is mail had before, which the sums tell and the state does not show.
    assert undisturbed.merging > 0 and undisturbed.mail_repeats == 0
    assert msgspec.structs.replace(killed, mail_repeats=0) == undisturbed
