"""A round: a deployment of its own, a workload that plays, a fault that disturbs it, and the check.

A round's seed decides the workload and the schedule of the fault, not what the machine makes of it: a round
that failed is repeated with the same seed, several times if need be.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from state.redis import RedisStore
from stream.admin import connected, create_topics
from stream.kafka import KafkaLog
from stream.settings import Settings
from stream.status import Status, status
from stream.topics import TOPICS
from tests.e2e.harness import environment, eventually
from tests.faults.check import Verdict, check, ports
from tests.faults.proxy import Proxy
from tests.faults.servers import Cluster, Valkey
from tests.faults.workload import LAST_YEAR_MS, Kind, Message, plan, play

READY_S = 90.0
SETTLE_S = 150.0
STOP_S = 30.0
ROUND_S = 420.0
"""Deadlines: of a worker's start, of all work being done, of a stop, of a whole round."""

WORKER = [sys.executable, "-m", "tests.faults.worker"]


@dataclass
class Bench:
    """The servers that rounds share. Workers may reach them through proxies, checks never do."""

    broker_url: str
    store_url: str
    worker_broker_url: str
    worker_store_url: str
    folder: Path
    partitions: int = 4
    replication: int = 1
    session_timeout_s: float = 6.0
    heartbeat_s: float = 1.0
    cluster: Cluster | None = None
    valkey: Valkey | None = None
    store_proxy: Proxy | None = None
    node_proxies: list[Proxy] = field(default_factory=list)

    async def mend(self) -> None:
        """Start what a round that failed left dead, and give memory back."""
        down = [node for node in self.the_cluster.nodes.values() if node.pid is None]
        for server in (*down, *([self.the_valkey] if self.the_valkey.pid is None else [])):
            await asyncio.to_thread(server.start)
        await asyncio.to_thread(self.the_valkey.config, "maxmemory", 0)

    @property
    def the_cluster(self) -> Cluster:
        """The cluster, where the fault needs one."""
        assert self.cluster is not None
        return self.cluster

    @property
    def the_valkey(self) -> Valkey:
        """A store that can die."""
        assert self.valkey is not None
        return self.valkey

    @property
    def the_store_proxy(self) -> Proxy:
        """What stands between workers and store."""
        assert self.store_proxy is not None
        return self.store_proxy


@asynccontextmanager
async def whole_bench(folder: Path, nodes: int = 3) -> AsyncIterator[Bench]:
    """Nodes of Apache Kafka and a Valkey, all with a proxy in front."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(0)) for _ in range(nodes)]
        cluster = Cluster(nodes, [proxy.port for proxy in proxies])
        for proxy, port in zip(proxies, cluster.behind, strict=True):
            proxy.target_port = port
        await stack.enter_async_context(cluster)
        valkey = await stack.enter_async_context(Valkey())
        store = await stack.enter_async_context(Proxy(valkey.port))
        yield Bench(
            broker_url=cluster.url,
            store_url=valkey.url,
            worker_broker_url=cluster.proxied_url,
            worker_store_url=f"redis://127.0.0.1:{store.port}/0",
            folder=folder,
            replication=nodes,
            session_timeout_s=2.0,
            heartbeat_s=0.4,
            cluster=cluster,
            valkey=valkey,
            store_proxy=store,
            node_proxies=proxies,
        )


class Hand:
    """A worker process; with ``kill`` (``point:count``) it kills itself there."""

    def __init__(self, settings: Settings, folder: Path, kill: str = "") -> None:
        self.kill_at = kill
        self.expected: set[int] = {-signal.SIGKILL} if kill else set()
        """Exit codes that are no surprise."""
        self.path = folder / f"worker-{time.monotonic_ns()}{'-' + kill.replace(':', '-') if kill else ''}.log"
        command = [*WORKER, *(["--kill", kill] if kill else [])]
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)

    @property
    def log(self) -> str:
        """What it has said."""
        return self.path.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it runs, or is stopped by a signal."""
        return self.process.poll() is None

    async def ready(self) -> None:
        """Until it has partitions. Raises AssertionError when it ends before."""

        async def owned() -> bool:
            assert self.alive, f"worker ended with {self.process.returncode}, see {self.path}"
            return "partitions taken" in self.log

        await eventually(owned, READY_S, lambda: f"see {self.path}")

    async def ended(self, within_s: float) -> int | None:
        """The exit code, or None while it still runs after the time."""
        deadline = time.monotonic() + within_s
        while self.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return self.process.poll()

    def signal(self, number: int) -> None:
        """Send a signal; to one that is gone, nothing."""
        if self.alive:
            self.process.send_signal(number)

    def kill(self) -> None:
        """kill −9, expected."""
        self.expected.add(-signal.SIGKILL)
        if self.alive:
            self.process.kill()
            self.process.wait(10)

    async def stop(self) -> int | None:
        """SIGTERM; the exit code, None when it does not end in time."""
        self.expected.add(0)
        self.signal(signal.SIGTERM)
        return await self.ended(STOP_S)


@dataclass
class Round:
    """One deployment under one fault."""

    bench: Bench
    seed: int
    folder: Path
    seconds: float
    count: int
    kind: Kind = "live"
    trials: Counter[str] = field(default_factory=Counter)
    """What really happened while work was going on, by what it was."""
    problems: list[str] = field(default_factory=list)
    hands: list[Hand] = field(default_factory=list)
    verdict: Verdict = field(default_factory=lambda: Verdict(digest_equal=False))
    """Until there is one, nothing is proven."""
    judged: bool = False
    same_as: str = ""
    """A digest that this round must reach, too."""
    settings: Settings = field(init=False)
    worker_settings: Settings = field(init=False)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        name = f"r{self.seed}-{secrets.token_hex(3)}"
        bench = self.bench
        urls = {"broker_url": bench.broker_url, "store_url": bench.store_url}
        values = {
            "prefix": name,
            "topic_prefix": f"{name}.",
            "partitions": bench.partitions,
            "replication": bench.replication,
            "signing_key": "rounds",
            "session_timeout_s": bench.session_timeout_s,
            "rebalance_timeout_s": 2 * bench.session_timeout_s,
            "heartbeat_s": bench.heartbeat_s,
            "store_timeout_s": 1.5,
            "cart_after_s": [2.0, 5.0],
        }
        proxied = {"broker_url": bench.worker_broker_url, "store_url": bench.worker_store_url}
        self.settings = Settings.model_validate(values | urls)
        self.worker_settings = Settings.model_validate(values | proxied)

    def sibling(self) -> Round:
        """The same log under another name."""
        return replace(
            self, kind="recorded", judged=False, trials=Counter(), problems=[], hands=[], verdict=Verdict()
        )

    async def prepare(self) -> None:
        """Its topics."""
        await create_topics(self.settings)

    # The workload

    def messages(self, seed: int = 0) -> list[Message]:
        """The plan: live, or last year's."""
        now_ms = time.time_ns() // 1_000_000
        start_ms = now_ms if self.kind == "live" else LAST_YEAR_MS
        return plan(
            seed or self.seed,
            self.kind,
            seconds=self.seconds,
            count=self.count,
            start_ms=start_ms,
            partitions=self.bench.partitions,
        )

    @asynccontextmanager
    async def shopping(self, **more: Any) -> AsyncIterator[Callable[[], bool]]:
        """The plan plays while the body disturbs; gives whether it still does. Ends when it is played."""
        task = asyncio.create_task(play(self.messages(), self.settings, seed=self.seed, **more))
        try:
            yield lambda: not task.done()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def steady_shopping(self) -> AsyncIterator[Callable[[], bool]]:
        """Plans play one after the other, until the body is done."""
        done = asyncio.Event()

        async def plans() -> None:
            for more in itertools.count():
                await play(self.messages(1000 * self.seed + more), self.settings)
                if done.is_set():
                    return

        task = asyncio.create_task(plans())
        try:
            yield lambda: not task.done()
            done.set()
            await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # The workers

    async def start(self, kill: str = "", ready: bool = True) -> Hand:
        """One more worker."""
        hand = Hand(self.worker_settings, self.folder, kill)
        self.hands.append(hand)
        if ready:
            await hand.ready()
        return hand

    @property
    def alive(self) -> list[Hand]:
        """Those that run."""
        return [hand for hand in self.hands if hand.alive]

    async def someone(self, count: int = 1) -> None:
        """At least so many workers run."""
        while len(self.alive) < count:
            await self.start()

    # The end

    async def judge(self) -> None:
        """Wait until all is done, and compare."""
        self.judged = True
        self.verdict = await check(self.settings, await self.freeze())
        if self.same_as not in ("", self.verdict.digest):
            self.verdict.digest_equal = False
            self.verdict.problems.append(f"digest {self.verdict.digest}, undisturbed {self.same_as}")

    async def freeze(self) -> Status:
        """All processed, and no worker left: nothing moves while the check looks. The status then."""
        async with ports(self.settings) as (store, log):
            for _ in range(4):
                await self.someone()
                await self._quiet(store, log, SETTLE_S)
                await asyncio.gather(*(self.stop(hand) for hand in self.alive))
                # A tick may have been sent at the last moment: then somebody has to read it.
                if await self._drained(log, now := await status(self.settings, store, log)):
                    return now
        raise TimeoutError("ticks and stops chase each other")

    async def _quiet(self, store: RedisStore, log: KafkaLog, within_s: float) -> None:
        """Until nothing changed for a second, and no record can be read at any position."""
        deadline, before = time.monotonic() + within_s, None
        while (now := await status(self.settings, store, log)) != before or not await self._drained(log, now):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all is processed after {within_s:g} s: lag {now.lag}")
            before = now
            await asyncio.sleep(1.0)

    async def _drained(self, log: KafkaLog, now: Status) -> bool:
        """Whether no record stands at a position. The embedded broker understates ends; behind the last
        record on Kafka there may be markers."""
        for (topic, partition), position in now.positions.items():
            _, end = await log.bounds(topic, partition)
            at_end = self.bench.cluster is not None and position == end
            if not at_end and await log.read(topic, partition, position, 0.3) is not None:
                return False
        return True

    async def stop(self, hand: Hand) -> None:
        """SIGTERM, which a worker must follow in time."""
        if await hand.stop() is None:
            self.problems.append(f"a worker did not end {STOP_S:g} s after SIGTERM, see {hand.path}")
            hand.kill()

    def surprises(self) -> list[str]:
        """Workers that ended as nobody asked them to."""
        return [
            f"a worker ended with {code}, see {hand.path}"
            for hand in self.hands
            if (code := hand.process.poll()) is not None and code not in hand.expected
        ]

    async def tidy(self) -> None:
        """No worker, topic or key is left; what cannot be removed now stays."""
        for hand in self.alive:
            hand.signal(signal.SIGCONT)
            hand.kill()
        with contextlib.suppress(Exception):
            async with connected(self.settings) as client:
                await client.delete_topics([topic.full(self.settings) for topic in TOPICS])
            async with Redis.from_url(self.settings.store_url) as redis:
                async for key in redis.scan_iter(f"{self.settings.prefix}:*", count=1000):
                    await redis.unlink(key)


Disturb = Callable[[Round], Awaitable[None]]


@dataclass
class Result:
    """What came of a round."""

    trials: Counter[str]
    verdict: Verdict
    seconds: float
    folder: Path


async def run_round(
    bench: Bench, name: str, disturb: Disturb, seed: int, *, seconds: float, count: int
) -> Result:
    """One round from its topics to its verdict. Never raises: what went wrong is a problem of the verdict."""
    started = time.monotonic()
    folder = bench.folder / f"{name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    each = Round(bench, seed, folder, seconds, count)
    try:
        async with asyncio.timeout(ROUND_S):
            await each.prepare()
            await disturb(each)
            if not each.judged:
                await each.judge()
    except Exception as error:
        each.problems.append(f"{type(error).__name__}: {error}"[:2000])
    finally:
        await each.tidy()
    each.verdict.problems += each.problems + each.surprises()
    if each.verdict.good:
        shutil.rmtree(folder)
    return Result(each.trials, each.verdict, time.monotonic() - started, folder)
