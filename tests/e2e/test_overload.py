"""A burst far beyond what a worker can take ends in lag, not in memory: what it holds keeps a stated bound.

With P partitions a topic a worker holds at most, in bytes of values,

    fetched   3·P · F      by aiokafka, for each partition of three topics (F = 4 · max_message_bytes)
    polled    2 · POLL     the poll under way and the one before it (POLL_BYTES)
    queued    2 · 16 · B   in Faust's buffers of the two agents (B = BUNDLE_BYTES)
    waiting   2·P · 8 · B  in the inboxes of the partitions
    at hand   A · 3 · B    what a batch, of three bundles at most, becomes until it is stored and sent

beside itself and the state of its users and items, which does not grow with the burst. A worker that buffers
what the broker gives needs more for this log, which is small on the wire and large when unpacked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from producers.simulator import Shop
from stream.admin import create_topics
from stream.digest import digest
from stream.ownership import partition_of
from stream.settings import Settings
from stream.topics import EVENTS
from stream.transport import BATCH_BYTES, BUNDLE_BYTES, POLL_BYTES
from tests.e2e.harness import Outside, WorkerProcess, eventually, outside, stamp
from tests.e2e.test_kill import ports

SINGLES, ARRAYS, PER_ARRAY = 5_000, 900, 100
PAGE = "x" * 1000
"""What every event carries: easy to compress, as the texts of real events are."""
AT_HAND = 80
"""A: columns, objects and results of the batches at hand against the bytes of one, with short events."""
MB = 1_048_576
IDLE = 150 * MB
"""A worker that has nothing to do: measured 105 to 135 MB."""


def bound_bytes(settings: Settings) -> int:
    """Most that a worker holds in memory."""
    parts = settings.partitions
    fetched = 3 * parts * 4 * settings.max_message_bytes
    waiting = (2 * 16 + 2 * parts * 8) * BUNDLE_BYTES
    return IDLE + fetched + 2 * POLL_BYTES + waiting + AT_HAND * (BATCH_BYTES + BUNDLE_BYTES)


def resident(pid: int) -> int:
    """Bytes of a process in memory now."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:5] == "VmRSS")
    return int(line.split()[1]) * 1024


async def fill(settings: Settings) -> int:
    """The burst, all of it there before anybody reads: how many events."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, linger_ms=20, compression_type="gzip", max_batch_size=MB // 2
    )
    await producer.start()
    start, sent = int(time.time() * 1000) - 3_600_000, SINGLES + ARRAYS * PER_ARRAY
    arrays: dict[int, list[dict[str, Any]]] = {p: [] for p in range(settings.partitions)}
    for n, event in enumerate(Shop(1, users=2000).events(sent, start, sent / 3600)):
        event["context"] = {"page": PAGE}
        part = partition_of(event.get("user") or event["anonymous"], settings.partitions)
        arrays[part].append(event)
        if n < SINGLES or len(arrays[part]) == PER_ARRAY:
            body = arrays[part][0] if n < SINGLES else arrays[part]
            await producer.send(EVENTS.full(settings), orjson.dumps(body), partition=part)
            arrays[part] = []
    for part, rest in arrays.items():
        await producer.send(EVENTS.full(settings), orjson.dumps(rest), partition=part)
    await producer.stop()
    return sent


async def peak(worker: WorkerProcess, done: asyncio.Event) -> int:
    """The most it held, looked at every 20 ms."""
    most = 0
    while not done.is_set():
        most = max(most, resident(worker.process.pid))
        await asyncio.sleep(0.02)
    return most


async def listed(out: Outside, user: str) -> bool:
    return await out.view(f"recs:{user}") is not None


async def test_a_burst_ends_in_lag_not_in_memory(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    settings = make_settings()
    await create_topics(settings)
    sent = await fill(settings)
    worker, done = WorkerProcess(settings, tmp_path), asyncio.Event()
    watch = asyncio.create_task(peak(worker, done))
    try:
        async with ports(settings) as (store, log), outside(settings) as out:
            counted = await digest(settings, store, log, 60.0)
            assert (counted.events, counted.repeats, counted.dead_letters) == (sent, 0, 0)
            started = time.monotonic()
            await out.send({"type": "view_item", "user": "late", "item": "i1", "time": stamp()})
            await eventually(lambda: listed(out, "late"), 5.0, lambda: worker.log)
            took_s = time.monotonic() - started
    finally:
        done.set()
        most = await watch
        worker.kill()
    print(f"{sent} events, at most {most // MB} MB; then a list in {took_s:.3f} s")
    assert most < bound_bytes(settings), (
        f"{most // MB} MB held, {bound_bytes(settings) // MB} MB are the bound"
    )
