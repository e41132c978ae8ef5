"""A worker and servers of its own: embedded ones that can be killed, silenced and started.

A server that is stopped (SIGSTOP) takes connections and stays silent, which is worse than refusing them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from stream.admin import create_topics
from stream.embedded import EmbeddedBroker, EmbeddedStore, Server, free_port
from stream.settings import Settings
from stream.topics import EVENTS
from tests.e2e.harness import START_S, WorkerProcess, environment, eventually, stamp
from tests.faults.proxy import steady_port

STOP_S = 3.0
"""`stop_within_s` of these workers."""
_MAIN = """
import sys
from stream.cli import main
sys.argv = ["tidewise", "worker"]
main()
"""


async def ask(settings: Settings, what: str) -> tuple[int, dict[str, Any]]:
    """Status and document of the health port; (0, {}) while nobody answers."""
    address = f"http://127.0.0.1:{settings.health_port}/{what}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session,
            session.get(address) as response,
        ):
            return response.status, await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return 0, {}


class PatchedWorker(WorkerProcess):
    """`tidewise worker` after some lines of Python."""

    def __init__(self, settings: Settings, folder: Path, patch: str) -> None:
        self.settings = settings
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-c", patch + _MAIN]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)


def silence(server: Server) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)


@dataclass
class Place:
    """Servers of a case's own, and its worker."""

    broker: EmbeddedBroker
    store: EmbeddedStore
    settings: Settings
    folder: Path
    worker: WorkerProcess | None = None

    def work(self, patch: str = "") -> WorkerProcess:
        self.worker = PatchedWorker(self.settings, self.folder, patch)
        return self.worker

    async def reach(self, state: str) -> None:
        """Until the worker says that it is in this state."""
        assert self.worker is not None
        worker = self.worker

        async def there() -> bool:
            if worker.process.poll() is not None:
                raise AssertionError(f"it ended with {worker.process.returncode}:\n{worker.log}")
            _, said = await ask(self.settings, "ready")
            return str(said.get("state", "")).startswith(state)

        await eventually(there, START_S, lambda: worker.log)

    async def said(self, words: str) -> None:
        """Until the worker has said it."""
        assert self.worker is not None
        worker = self.worker

        async def it_has() -> bool:
            return words in worker.log

        await eventually(it_has, START_S, lambda: worker.log)

    async def command(self, *words: str) -> None:
        """Ask something of the store."""
        client: Any = Redis.from_url(self.settings.store_url)
        async with client:
            await client.execute_command(*words)

    async def send(self, count: int) -> None:
        async with AIOKafkaProducer(bootstrap_servers=self.settings.bootstrap) as producer:
            for n in range(count):
                event = {"type": "view_item", "user": f"u{n}", "item": f"i{n}", "time": stamp()}
                key, value = b"u%d" % n, orjson.dumps(event)
                await producer.send_and_wait(EVENTS.full(self.settings), value, key=key)


@asynccontextmanager
async def place(folder: Path, *, running: bool = True, **changes: object) -> AsyncIterator[Place]:
    """Servers with all topics, or only their ports when not ``running``; keyword arguments are settings."""
    broker, store = EmbeddedBroker(steady_port()), EmbeddedStore(steady_port())
    settings = Settings.model_validate(
        {
            "broker_url": broker.url,
            "store_url": store.url,
            "partitions": 2,
            "session_timeout_s": 2.0,
            "rebalance_timeout_s": 2.0,
            "heartbeat_s": 0.5,
            "stop_within_s": STOP_S,
            "connect_timeout_s": 2.0,
            "store_timeout_s": 1.0,
            "health_port": free_port(),
        }
        | changes
    )
    here = Place(broker, store, settings, folder)
    try:
        if running:
            async with asyncio.TaskGroup() as starting:
                starting.create_task(broker.__aenter__())
                starting.create_task(store.__aenter__())
            await create_topics(settings)
        yield here
    finally:
        if here.worker is not None:
            here.worker.kill()
        for server in (broker, store):
            if server.pid is not None:
                os.kill(server.pid, signal.SIGKILL)
            server.stop()
