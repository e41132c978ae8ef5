"""The parts of the fault harness do what they say."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.settings import Settings
from stream.topics import EVENTS, INCREMENTS, RECOMMENDATIONS
from tests.e2e.harness import Outside, WorkerProcess, environment, eventually, outside, stamp
from tests.faults.proxy import HOST, Proxy, steady_port
from tests.faults.servers import Cluster, Valkey
from tests.faults.worker import POINTS

WITHIN_S = 20.0


class Faulty(WorkerProcess):
    """The worker with a fault."""

    def __init__(self, settings: Settings, folder: Path, *arguments: str) -> None:
        self.settings = settings
        self._log = folder / f"worker-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "tests.faults.worker", *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)


@asynccontextmanager
async def working(settings: Settings, folder: Path, *arguments: str) -> AsyncIterator[tuple[Faulty, Outside]]:
    """A worker with a fault that has taken its partitions, and someone outside."""
    async with outside(settings) as out:
        worker = Faulty(settings, folder, *arguments)
        try:
            await worker.ready()
            yield worker, out
        finally:
            worker.kill()


def view(item: str, user: str = "ann") -> dict[str, str]:
    return {"type": "view_item", "user": user, "item": item, "time": stamp()}


Make = Callable[[], Awaitable[Settings]]


@pytest.fixture
def quick(make_settings: Callable[..., Settings]) -> Make:
    """Topics of their own, and a short session: the embedded broker lets a group wait for half of it."""

    async def make() -> Settings:
        made = make_settings(session_timeout_s=2.0, rebalance_timeout_s=2.0, heartbeat_s=0.5)
        await create_topics(made)
        return made

    return make


# The worker


async def test_each_point_is_passed(quick: Make, tmp_path: Path) -> None:
    async with working(await quick(), tmp_path, "--trace") as (worker, out):
        await out.send(view("tea"))

        async def all_passed() -> bool:
            return all(f"passed {name}\n" in worker.log for name in POINTS)

        await eventually(all_passed, WITHIN_S, lambda: worker.log)


async def left_by_kill(point: str, settings: Settings, folder: Path) -> tuple[int, int]:
    """Partitions with a transaction, and topics with messages, when the worker has killed itself."""
    async with working(settings, folder, "--kill", f"{point}:1") as (worker, out):
        await out.send(view("tea"))
        assert await asyncio.to_thread(worker.process.wait, WITHIN_S) == -signal.SIGKILL, worker.log
        store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
        states = [await store.has_state(f"u{p}") for p in range(settings.partitions)]
        await store.close()
        sent = [await out.records(topic) for topic in (RECOMMENDATIONS, INCREMENTS)]
        return sum(states), sum(map(bool, sent))


async def test_the_worker_dies_at_its_point(quick: Make, tmp_path: Path) -> None:
    expected = {"batch-3-before-exec": (0, 0), "batch-3-after-exec": (1, 0), "batch-4-partly-sent": (1, 1)}
    left = await asyncio.gather(*[left_by_kill(point, await quick(), tmp_path) for point in expected])
    assert dict(zip(expected, left, strict=True)) == expected


async def test_a_wedged_worker_lives_and_reads_nothing(quick: Make, tmp_path: Path) -> None:
    async with working(await quick(), tmp_path, "--wedge", "0") as (worker, out):
        await out.send(view("tea"))
        await asyncio.sleep(1.0)
        assert worker.process.poll() is None
        assert await out.view("recs:ann") is None


# The proxy


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1024):
        writer.write(data)
    writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of an echo."""
    server = await asyncio.start_server(echo, HOST)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as one:
        yield one


async def test_the_proxy_forwards_and_counts(proxy: Proxy) -> None:
    text = secrets.token_bytes(1_000_000)
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    writer.close()
    assert (proxy.connections, proxy.sent, proxy.received) == (1, len(text), len(text))


async def test_the_end_of_a_server_is_no_reset_and_loses_nothing() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1_000_000)
        writer.close()

    server = await asyncio.start_server(greet, HOST)
    async with server, Proxy(server.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        await asyncio.sleep(0.05)
        assert len(await reader.read()) == 1_000_000
        writer.close()


async def test_a_cut_resets_and_refuses(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    cut = asyncio.create_task(proxy.cut(0.2))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, proxy.port)
    await cut
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    writer.write(b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()


async def test_a_stall_keeps_connections_and_delays(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    stall = asyncio.create_task(proxy.stall(0.3))
    await asyncio.sleep(0)
    later_reader, later = await asyncio.open_connection(HOST, proxy.port)
    for each in (writer, later):
        each.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(5), 0.2)
    assert proxy.sent == 0
    await stall
    assert await reader.readexactly(5) + await later_reader.readexactly(5) == b"hello" * 2
    writer.close()
    later.close()


async def test_a_target_that_is_away_is_a_reset() -> None:
    async with Proxy(steady_port()) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


# The store


def test_a_store_keeps_what_it_acknowledged() -> None:
    with Valkey() as store, Redis.from_url(store.url) as client:
        client.set("a", 1)
        store.snapshot()
        client.set("a", 2)
        store.kill()
        store.start()
        assert client.get("a") == b"2"
        store.kill()
        store.restore()
        store.start()
        assert client.get("a") == b"1"
    assert not store.data.exists()


def test_a_copy_taken_while_it_writes_is_a_prefix() -> None:
    """A torn end is cut off at the last whole transaction."""
    with Valkey() as store, Redis.from_url(store.url) as client:
        for n in range(100):
            client.mset({"a": n, "b": n})
        store.snapshot()
        (copy,) = store.data.glob("copy/*.incr.aof")
        os.truncate(copy, copy.stat().st_size - 7)
        store.stop()
        store.restore()
        store.start()
        assert client.mget("a", "b") == [b"98", b"98"]


def test_a_store_can_be_full() -> None:
    with Valkey() as store, Redis.from_url(store.url) as client:
        store.config("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            client.set("a", 1)
        store.config("maxmemory", 0)
        assert client.set("a", 1)


# The cluster


@pytest.mark.kafka
async def test_a_cluster_survives_its_nodes(make_settings: Callable[..., Settings]) -> None:
    ports = [steady_port() for _ in range(3)]
    async with Cluster(3, ports) as cluster, AsyncExitStack() as stack:
        pairs = zip(cluster.behind, ports, strict=True)
        proxies = [await stack.enter_async_context(Proxy(*pair)) for pair in pairs]
        settings = make_settings(broker_url=cluster.proxied_url, replication=3, connect_timeout_s=20.0)
        await create_topics(settings)
        out = await stack.enter_async_context(outside(settings))
        await out.send(view("a"))
        await asyncio.to_thread(cluster.kill, 2)
        await out.send(*(view("b", f"u{n}") for n in range(20)))
        await asyncio.to_thread(cluster.start, 2)
        await asyncio.gather(*(proxy.cut() for proxy in proxies))
        await out.send(view("c"))
        await asyncio.to_thread(cluster.stop, 1)
        await asyncio.to_thread(cluster.start, 1)
        await asyncio.to_thread(cluster.restart_all)
        await out.send(view("d"))
        assert {event["item"] for event in await out.messages(EVENTS)} == {"a", "b", "c", "d"}
        assert all(proxy.connections > 1 for proxy in proxies)
