"""The deterministic replay in memory: its digest is the one that live workers reach, however many."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from producers.simulator import Shop
from stream.admin import create_topics
from stream.settings import Settings
from stream.times import time_text
from stream.topics import CATALOG, EVENTS, Topic
from tests.e2e.harness import WorkerProcess, environment

START_MS = 1_767_225_600_000


def command(settings: Settings, *arguments: str) -> Any:
    """A command of `tidewise`, as an operator runs it; what it prints as JSON."""
    ended = subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments, "--json"],
        env=environment(settings),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return orjson.loads(ended.stdout)


async def fill(settings: Settings, messages: list[tuple[Topic, str, bytes]]) -> None:
    """The log, with the header of a replay, so that the time of the run is of no account."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, linger_ms=10)
    await producer.start()
    for n, (topic, key, value) in enumerate(messages):
        headers = [("received", b"%d" % (START_MS + n * 200))]
        await producer.send(topic.full(settings), value, key=key.encode(), headers=headers)
    await producer.stop()


def workload() -> list[tuple[Topic, str, bytes]]:
    """A simulated shop's traffic, its catalogue, events sent twice, and what cannot be read."""
    shop = Shop(7, users=300, items=120)
    messages = [(CATALOG, item["item"], orjson.dumps(item)) for item in shop.catalog(START_MS)]
    for n, event in enumerate(shop.events(4000, START_MS, 5.0)):
        key = event.get("user") or event["anonymous"]
        message = (EVENTS, key, orjson.dumps({"id": f"e{n}", **event}))
        messages += [message, message] if n % 50 == 0 else [message]
        if n % 400 == 0:
            messages.append((EVENTS, key, b'{"type": "view_item", "item": 7, "user": "x", "n": %d}' % n))
    forget = {"type": "forget", "user": "u3", "time": time_text(START_MS + 900_000)}
    return [*messages, (EVENTS, "u3", orjson.dumps(forget))]


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.kafka), 2, pytest.param(3, marks=pytest.mark.kafka)]
)
async def test_workers_and_the_replay_reach_one_digest(
    make_settings: Callable[..., Settings], tmp_path: Path, workers: int
) -> None:
    settings = make_settings()
    await create_topics(settings)
    await fill(settings, workload())
    started = [WorkerProcess(settings, tmp_path) for _ in range(workers)]
    try:
        for worker in started:
            await worker.ready()
        live = await asyncio.to_thread(command, settings, "digest", "--wait", "90")
    finally:
        for worker in started:
            worker.kill()
    replayed = await asyncio.to_thread(command, settings, "replay", "--into", "memory", "--digest")
    assert live == replayed
    assert (live["events"], live["repeats"], live["dead_letters"]) == (4001, 80, 10)
    assert live["users"] and live["engaged"] and live["items"] == 120
