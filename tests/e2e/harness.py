"""A worker process, and what an outsider has: plain aiokafka and plain redis-py."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from stream.settings import Settings
from stream.topics import EVENTS, Topic

T = TypeVar("T")
START_S = 45.0


def environment(settings: Settings) -> dict[str, str]:
    """Settings that differ from the defaults, as a worker's environment."""
    given = settings.model_dump(exclude_defaults=True)
    texts = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in given.items()
    }
    return os.environ | {f"TIDEWISE_{name.upper()}": value for name, value in texts.items()}


class WorkerProcess:
    """`tidewise worker` in a process of its own; its log goes to a file that a failing test shows."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "stream.cli", "worker"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """kill −9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, within_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(within_s)

    async def ready(self) -> None:
        """Wait until it has taken its partitions."""

        async def owned() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log}")
            return "partitions taken" in self.log

        await eventually(owned, START_S, lambda: self.log)


async def eventually(
    check: Callable[[], Awaitable[T]], within_s: float, explain: Callable[[], str] = str
) -> T:
    """The first truthy answer of a check, asked every 10 ms. Fails after ``within_s``."""
    deadline = time.monotonic() + within_s
    while not (answer := await check()):
        assert time.monotonic() < deadline, f"nothing after {within_s} s\n{explain()}"
        await asyncio.sleep(0.01)
    return answer


class Outside:
    """A web team's means: a producer, a store connection, a way to read a topic whole."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, redis: Redis) -> None:
        self.settings = settings
        self.producer = producer
        self.redis = redis
        self.worker: WorkerProcess

    async def send(self, *events: dict[str, Any], topic: Topic = EVENTS) -> None:
        """One message an event, keyed as documented, waited for."""
        for event in events:
            key = (event.get("user") or event.get("anonymous") or event["item"]).encode()
            await self.producer.send_and_wait(topic.full(self.settings), orjson.dumps(event), key=key)

    async def view(self, name: str) -> dict[str, Any] | None:
        """The JSON of a public key."""
        found = await self.redis.get(f"{self.settings.prefix}:{name}")
        return orjson.loads(found) if found else None

    async def items(self, name: str) -> list[str]:
        """The items of a public list."""
        view = await self.view(name)
        return [line["item"] for line in view["items"]] if view else []

    async def records(self, topic: Topic) -> Sequence[Any]:
        """Everything in a topic, now."""
        name = topic.full(self.settings)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.bootstrap, max_partition_fetch_bytes=8_388_608
        )
        await consumer.start()
        try:
            parts = [TopicPartition(name, p) for p in range(self.settings.partitions)]
            consumer.assign(parts)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(parts)
            records: list[Any] = []
            while any([await consumer.position(at) < end for at, end in ends.items()]):
                for found in (await consumer.getmany(timeout_ms=200)).values():
                    records += found
            return records
        finally:
            await consumer.stop()

    async def messages(self, topic: Topic) -> list[dict[str, Any]]:
        """Everything in a topic, as JSON."""
        return [orjson.loads(record.value) for record in await self.records(topic)]


@asynccontextmanager
async def outside(settings: Settings) -> AsyncIterator[Outside]:
    """Connect, and disconnect."""
    # The default, acks=1, loses what the leader alone had when its node is killed.
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, max_request_size=4_194_304, acks="all")
    redis = Redis.from_url(settings.store_url)
    await producer.start()
    try:
        yield Outside(settings, producer, redis)
    finally:
        await producer.stop()
        await redis.aclose()


def stamp(seconds_from_now: float = 0.0) -> str:
    """RFC 3339."""
    return datetime.fromtimestamp(time.time() + seconds_from_now, UTC).isoformat().replace("+00:00", "Z")
