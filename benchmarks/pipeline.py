"""Whole pipeline: events/s of one worker ÷ a bare stock Faust agent that takes the same single messages.

``python -m benchmarks.pipeline --json [--events 200000] [--kafka]``: broker, store and both consumers on this
machine, in one run. The worker does everything: decode, user state, increments through Kafka, kernel,
ranking, views, messages, exact delivery; the clock stops when every event and every increment is in the
store. The bare agent decodes JSON and acknowledges. Load: 20,000 users (Zipf 0.8), 50,000 items in sessions
by category, about 237 bytes an event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import numpy as np
import orjson
from aiokafka import AIOKafkaProducer

from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.embedded import EmbeddedBroker, EmbeddedStore
from stream.kafka import KafkaLog
from stream.ownership import partition_of
from stream.settings import Settings
from stream.status import Status, status
from stream.topics import EVENTS

USERS, ITEMS, CATEGORIES = 20_000, 50_000, 500
Message = tuple[bytes, bytes]


@dataclass(frozen=True)
class Outcome:
    """Rates in events a second; ratios to the bare agent of the same run."""

    bare_agent: float
    single: float
    arrays: float
    single_ratio: float
    arrays_ratio: float
    events: int
    array_size: int
    broker: str
    python: str
    numpy: str
    cores: int


def events(n: int, seed: int = 7) -> list[Message]:
    """(key, value) of n view events: a user stays in a category for some views, then moves on."""
    random = np.random.default_rng(seed)
    weights = np.arange(1, USERS + 1) ** -0.8
    users = random.choice(USERS, n, p=weights / weights.sum())
    sessions = random.integers(0, CATEGORIES, (USERS, n // USERS + 64))
    nth = _occurrence(users)
    category = sessions[users, np.minimum(nth // 8, sessions.shape[1] - 1)]
    within = np.minimum(random.zipf(1.3, n), ITEMS // CATEGORIES) - 1
    items = category * (ITEMS // CATEGORIES) + within
    start = int(time.time() * 1000) - 3_600_000
    times = start + np.sort(random.integers(0, 3_000_000, n))
    stamps = np.datetime_as_string(times.astype("datetime64[ms]"))
    return [
        _event(n, user, item, stamp)
        for n, (user, item, stamp) in enumerate(
            zip(users.tolist(), items.tolist(), stamps.tolist(), strict=True)
        )
    ]


def _occurrence(users: np.ndarray) -> np.ndarray:
    """How often each user occurred before."""
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users, minlength=USERS)
    nth = np.empty(len(users), dtype=np.int64)
    nth[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return nth


def _event(n: int, user: int, item: int, stamp: str) -> Message:
    name = f"user-{user:06d}"
    value = (
        f'{{"id":"{n:012d}","type":"view_item","time":"{stamp}Z","user":"{name}",'
        f'"session":"s-{user:06d}-{n // 1000:04d}",'
        f'"context":{{"device":"mobile","channel":"web","place":"DE-BE"}},'
        f'"item":"item-{item:06d}","price":19.99,"quantity":1}}'
    )
    return name.encode(), value.encode()


def arrays(singles: list[Message], partitions: int, size: int) -> Iterator[tuple[int, bytes]]:
    """A collector's batches: arrays of ``size`` events of one partition."""
    waiting: dict[int, list[bytes]] = {}
    owners = {key: partition_of(key.decode(), partitions) for key, _ in singles}
    for key, value in singles:
        batch = waiting.setdefault(owners[key], [])
        batch.append(value)
        if len(batch) == size:
            yield owners[key], b"[" + b",".join(batch) + b"]"
            batch.clear()
    for partition, batch in waiting.items():
        if batch:
            yield partition, b"[" + b",".join(batch) + b"]"


async def send(settings: Settings, singles: list[Message], size: int) -> None:
    """Fill the topic `events` before anything reads it."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, max_batch_size=262_144, linger_ms=20, max_request_size=4_194_304
    )
    topic = EVENTS.full(settings)
    await producer.start()
    if size == 1:
        for key, value in singles:
            await producer.send(topic, value, key=key)
    else:
        for partition, value in arrays(singles, settings.partitions, size):
            await producer.send(topic, value, partition=partition)
    await producer.stop()


def bare(settings: Settings, messages: int) -> float:
    """Events a second of the bare agent."""
    command = [sys.executable, "-m", "benchmarks.bare_agent", settings.broker_url, EVENTS.full(settings)]
    done = subprocess.run(
        [*command, str(settings.partitions), str(messages)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return float(done.stdout.split()[-1])


async def worker(settings: Settings, n: int, profile: str | None) -> float:
    """Events a second of one worker, from its first twentieth to the last increment in the store."""
    environment = os.environ | {
        "TIDEWISE_BROKER_URL": settings.broker_url,
        "TIDEWISE_STORE_URL": settings.store_url,
        "TIDEWISE_PREFIX": settings.prefix,
        "TIDEWISE_TOPIC_PREFIX": settings.topic_prefix,
        "TIDEWISE_PARTITIONS": str(settings.partitions),
        "TIDEWISE_SESSION_TIMEOUT_S": "6",
        "TIDEWISE_REBALANCE_TIMEOUT_S": "6",
        "TIDEWISE_HEARTBEAT_S": "1",
    }
    python = [
        sys.executable,
        *(["-m", "cProfile", "-o", profile] if profile else []),
        "-m",
        "stream.cli",
        "worker",
    ]
    process = subprocess.Popen(python, env=environment)
    try:
        return await _measure(settings, n, process)
    finally:
        process.terminate()
        process.wait(30)


async def _measure(settings: Settings, n: int, process: subprocess.Popen[bytes]) -> float:
    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
    log = KafkaLog(settings)
    await log.start()
    started: tuple[float, int] | None = None
    deadline = time.perf_counter() + 600
    try:
        while time.perf_counter() < deadline and process.poll() is None:
            now, at = await status(settings, store, log), time.perf_counter()
            if started is None and now.events >= n // 20:
                started = at, now.events
            if started is not None and _finished(now, n):
                return (n - started[1]) / (at - started[0])
            await asyncio.sleep(0.05)
    finally:
        await log.stop()
        await store.close()
    raise RuntimeError("the worker did not finish")


def _finished(now: Status, n: int) -> bool:
    if now.events + now.repeats + now.dead > n:
        raise RuntimeError(f"counted {now} of {n} events")
    return now.events == n and now.settled


async def run(n: int, size: int, broker: str, store: str, kind: str, profile: str | None) -> Outcome:
    singles = events(n)
    common = {"broker_url": broker, "store_url": store}
    one = Settings.model_validate(common | {"prefix": "single", "topic_prefix": "single."})
    many = Settings.model_validate(common | {"prefix": "arrays", "topic_prefix": "arrays."})
    rates = {}
    for settings, packed in ((one, 1), (many, size)):
        await create_topics(settings)
        await send(settings, singles, packed)
    rates["bare"] = bare(one, n)
    rates["single"] = await worker(one, n, profile)
    rates["arrays"] = await worker(many, n, None)
    return Outcome(
        bare_agent=round(rates["bare"]),
        single=round(rates["single"]),
        arrays=round(rates["arrays"]),
        single_ratio=round(rates["single"] / rates["bare"], 2),
        arrays_ratio=round(rates["arrays"] / rates["bare"], 2),
        events=n,
        array_size=size,
        broker=kind,
        python=platform.python_version(),
        numpy=np.__version__,
        cores=os.cpu_count() or 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--array-size", type=int, default=100)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    parser.add_argument("--profile", help="write a cProfile of the worker on single events here")
    given = parser.parse_args()
    with ExitStack() as stack:
        if given.kafka:
            from tests.kafka import ApacheKafka

            broker: ApacheKafka | EmbeddedBroker = stack.enter_context(ApacheKafka())
        else:
            broker = stack.enter_context(EmbeddedBroker())
        store = stack.enter_context(EmbeddedStore())
        kind = "Apache Kafka" if given.kafka else "embedded"
        outcome = asyncio.run(run(given.events, given.array_size, broker.url, store.url, kind, given.profile))
    print(
        json.dumps(asdict(outcome))
        if given.json
        else orjson.dumps(asdict(outcome), option=orjson.OPT_INDENT_2).decode()
    )


if __name__ == "__main__":
    main()
