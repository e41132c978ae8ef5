"""The worker: a Faust application whose agents hand bundles to partitions, and what surrounds it.

Order at start: open the health port, reach the store and the broker (waiting with back-off, saying what for),
check them, follow `neighbors` to its end, join the group. Faust gives partitions in `on_rebalance_complete`,
which it awaits before it reads (`on_partitions_assigned` it does not): there they are taken.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.types import TP, StreamT
from mode.threads import WorkerThread

from state.keys import STORE_FORMAT, Keys
from state.redis import RedisStore
from state.store import Doubt, StoreFull
from stream.admin import BrokerError, describe, mismatch
from stream.contexts import Contexts
from stream.core.items import Items
from stream.delivery import Ports
from stream.follower import Follower
from stream.health import Health, Inside, Trouble
from stream.kafka import KafkaLog, KafkaSender
from stream.refresh import keep_fresh
from stream.runner import Precedence, Runner
from stream.settings import Settings
from stream.shelf import Shelf
from stream.shopper import Shopper
from stream.topics import CATALOG, EVENTS, INCREMENTS, TOPICS
from stream.transport import BundleTransport, StockTransport, bundle_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

WORKING = "working"
"""The state in which it does its share, be it none."""
METADATA_MS = 10_000
"""A topic deleted and made again is noticed within this time; Faust alone would take five minutes."""


def faust_app(settings: Settings) -> faust.App:
    """A Faust application as Tidewise needs it; docs/decisions/faust-settings.md says why."""
    app = faust.App(
        settings.group,
        broker=f"kafka://{settings.bootstrap}",
        datadir=Path(tempfile.gettempdir()) / f"{settings.group}-faust",
        store="memory://",
        processing_guarantee="at_least_once",
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        web_enabled=False,
        broker_commit_interval=1.0,
        broker_max_poll_records=min(settings.poll_records, settings.batch_events),
        broker_session_timeout=settings.session_timeout_s,
        broker_rebalance_timeout=settings.rebalance_timeout_s,
        broker_heartbeat_interval=settings.heartbeat_s,
        broker_request_timeout=max(90.0, settings.session_timeout_s),
        consumer_metadata_max_age_ms=METADATA_MS,
        consumer_max_fetch_size=4 * settings.max_message_bytes,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=16,
        stream_wait_empty=False,
        table_standby_replicas=1,
        value_serializer="raw",
        key_serializer="raw",
    )
    transport = BundleTransport if settings.transport == "bundles" else StockTransport
    app.transport = transport(app.conf.broker_consumer, app)
    return app


class _LetGo(WorkerThread):
    """Faust's consumer thread, but nobody waits for it in the event loop, nor when the process ends.

    It leaves the group in order when the broker answers; a silent broker may hold it for minutes.
    """

    def __init__(self, service: Any, **options: Any) -> None:
        super().__init__(service, **options)
        self.daemon = True

    def stop(self) -> None:
        """The service's own `stop` awaits its end."""


class _Client(Protocol):
    async def start(self) -> None: ...

    async def stop(self) -> None: ...


C = TypeVar("C", bound=_Client)


class Worker:
    """One worker process. `run` returns when `stop` is called; it raises what made going on impossible.

    ``state`` says what it does now. Of ``stop_within_s`` the batches at hand get the first 40 %, the group
    and the connections the next 40 %; what has not ended then is left to the end of the process.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runners: dict[str, Runner] = {}
        self.ready = asyncio.Event()
        self.state = "starting"
        self._taking: Runner | None = None
        self._precedence = Precedence()
        self._lists: Callable[[], Mapping[str, Any]] = dict
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._endings: list[Callable[[], Awaitable[object]]] = []
        self._stopped = asyncio.Event()
        self._error: BaseException | None = None
        self._app = faust_app(settings)

    # Life

    async def run(self) -> None:
        """Start, work, stop."""
        work = asyncio.create_task(self._work())
        work.add_done_callback(lambda _: self._stopped.set())
        try:
            await self._stopped.wait()
        finally:
            await self._end(work)
        if work.done() and not work.cancelled():
            work.result()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End soon, in whatever state. The process may be killed at any time, too."""
        self._stopped.set()

    def fail(self, error: BaseException) -> None:
        """End with an error."""
        self._error = self._error or error
        self.stop()

    def inside(self) -> Inside:
        """What it knows of itself."""
        positions = {
            (name, topic, delivery.partition): delivery.position(topic)
            for name, runner in self.runners.items()
            for delivery in [runner.side.delivery]
            for topic in delivery.topics
        }
        troubles = {name: Trouble.of(r.trouble) for name, r in self.runners.items() if r.trouble}
        return Inside(self.state, self.state == WORKING, positions, troubles, self._lists())

    async def _work(self) -> None:
        """Start, and follow for ever."""
        await self._open_health()
        store = await self._reach_store()
        await self._reach("the broker", self._demand_topics)
        agreed = await self._reach("the store", lambda: self._deployment(store))
        key = self.settings.signing_key or agreed["signing_key"].decode()
        items = Items()
        kafka_log = await self._open(lambda: KafkaLog(self.settings))
        # A producer has one request under way: what users wait for must not wait behind lists of items.
        senders = [await self._open(lambda: KafkaSender(self.settings)) for _ in range(2)]
        follower = await self._open(lambda: Follower(self.settings, items))
        self._contexts = Contexts(self.settings, items, follower, key.encode())
        self._shelving = replace(self._contexts.shelving, give_way=self._precedence.give_way)
        self._lists = self._contexts.shopping.lister.report
        self._ports, self._item_ports = (
            Ports(kafka_log, store, sender, _now_ms, self._contexts.dead_letters) for sender in senders
        )
        self.state = "catching up with neighbors"
        await follower.catch_up()
        await self._serve(follower)

    async def _serve(self, follower: Follower) -> None:
        # What stands now stays: the collector need not walk over it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 20, 50)
        self.state = "joining the group"
        self._wire()
        await self._app.start()
        log.info("worker started", broker=self.settings.bootstrap, group=self.settings.group)
        # Any worker could refresh the models; the owner of this partition does.
        fresh = keep_fresh(self.settings, follower.models, self._ports, lambda: "u0" in self.runners)
        await asyncio.gather(self._follow(follower), self._end_at_crash(), fresh)

    async def _end(self, work: asyncio.Task[None]) -> None:
        """In order as far as time allows: batches, the group, connections. Nothing here waits without end."""
        self.state = "stopping"
        start, share = asyncio.get_running_loop().time(), self.settings.stop_within_s / 10
        for runner in [*self.runners.values(), *([self._taking] if self._taking else [])]:
            runner.stop()
        await _within(start + 4 * share, *self._tasks.values())
        work.cancel()
        await _within(start + 5 * share, work)
        await _within(start + 7 * share, self._app.stop())
        await _within(start + 8 * share, *(end() for end in reversed(self._endings)))

    async def _end_at_crash(self) -> None:
        """A service of Faust's that crashes leaves a process that does nothing: end it."""
        await self._app._crashed.wait()
        self.fail(self._app.crash_reason or Refused("Faust stopped without a reason"))

    async def _follow(self, follower: Follower) -> None:
        """Follow for ever; changed flags, and records that another worker overwrote, go to their owners."""
        while True:
            try:
                await follower.poll()
            except KafkaError as error:
                log.warning("waiting for the broker", error=repr(error))
            except Exception as error:
                log.exception("neighbours cannot be followed")
                return self.fail(error)
            shelves = [runner.side for runner in self.runners.values() if isinstance(runner.side, Shelf)]
            kin = follower.kin.due()
            noted = [shelf.note(follower.stale, follower.flagged, kin) for shelf in shelves]
            follower.stale.difference_update(*noted)
            follower.flagged.clear()
            await asyncio.sleep(0.01)

    # What surrounds the partitions

    async def _open_health(self) -> None:
        if not self.settings.health_port:
            return
        health = Health(self.settings, self.inside)
        self._endings.append(health.stop)
        try:
            await health.start()
        except OSError as error:
            raise Refused(f"the health port cannot be opened: {error}. Set another health_port") from error

    async def _reach_store(self) -> RedisStore:
        settings = self.settings

        async def reach() -> RedisStore:
            return await RedisStore.open(settings.store_url, Keys(settings.prefix), settings.store_timeout_s)

        store = await self._reach("the store", reach)
        self._endings.append(store.close)
        return store

    async def _open(self, make: Callable[[], C]) -> C:
        """A client of the broker, started; made anew for each attempt: none can be started twice."""

        async def attempt() -> C:
            client = make()
            try:
                await client.start()
            except BaseException:
                await asyncio.gather(client.stop(), return_exceptions=True)
                raise
            return client

        client = await self._reach("the broker", attempt)
        self._endings.append(client.stop)
        return client

    async def _demand_topics(self) -> None:
        """All topics, with the partitions of the settings. Raises Missing, Refused."""
        found = (await describe(self.settings)).partitions
        for name in (topic.full(self.settings) for topic in TOPICS):
            if name not in found:
                raise Missing(f"topic {name}: run `tidewise topics create`")
            if found[name] != self.settings.partitions:
                raise Refused(mismatch(name, found[name], self.settings))

    async def _reach(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, waiting longer each time up to 5 s."""
        wait = 0.2
        self.state = f"waiting for {what}"
        while True:
            try:
                return await asyncio.wait_for(attempt(), self.settings.connect_timeout_s * 2)
            except Missing as missing:
                self.state = f"waiting for {missing}"
                log.warning(self.state, retry_in_s=wait)
            except WAITED_FOR as error:
                self.state = f"waiting for {what}"
                log.warning(self.state, error=repr(error), retry_in_s=wait)
            await asyncio.sleep(wait)
            wait = min(wait * 2, 5.0)

    async def _deployment(self, store: RedisStore) -> dict[str, bytes]:
        """What all workers of a deployment agree on; made by the first."""
        info = await store.server_info()
        if info.maxmemory_policy not in ("noeviction", ""):
            raise Refused(
                f"the store evicts keys (maxmemory-policy {info.maxmemory_policy}): state would be lost. "
                "Set maxmemory-policy to noeviction"
            )
        settings = self.settings
        key = settings.signing_key or secrets.token_hex(32)
        agreed = await store.deployment(
            {"partitions": b"%d" % settings.partitions, "signing_key": key.encode(), "format": STORE_FORMAT}
        )
        if int(agreed["partitions"]) != settings.partitions:
            made = int(agreed["partitions"])
            raise Refused(
                f"the store was made with {made} partitions, the setting `partitions` is "
                f"{settings.partitions}. Set it back, or replay the events under another `prefix`"
            )
        return agreed

    # Faust

    def _wire(self) -> None:
        """The agents: they hand bundles to partitions, which acknowledge."""
        app, settings = self._app, self.settings

        async def shopper(stream: StreamT[Any]) -> None:
            await self._feed("u", stream)

        async def item(stream: StreamT[Any]) -> None:
            await self._feed("i", stream)

        app.agent(app.topic(EVENTS.full(settings)), name="shopper")(shopper)
        app.agent(app.topic(INCREMENTS.full(settings), CATALOG.full(settings)), name="item")(item)
        app.on_rebalance_complete.connect(self._on_rebalance_complete)
        cast(Any, app.consumer)._thread.Worker = _LetGo

    async def _feed(self, side: str, stream: StreamT[Any]) -> None:
        stream.enable_acks = False
        async for event in stream.events():
            runner = self.runners.get(f"{side}{bundle_of(event).partition}")
            if runner is not None:
                if isinstance(runner.side, Shopper) and not runner.at_work:
                    runner.side.expect()
                await runner.put(event)

    async def _reread(self, runner: Runner) -> None:
        if self.settings.transport == "stock":
            # It does not tell where a message was read from: what it holds could be taken for what is due.
            raise Refused("the stock transport cannot read again; a new worker goes on from the position")
        prefix = self.settings.topic_prefix
        delivery = runner.side.delivery
        for topic in delivery.topics:
            await self._app.consumer.seek(TP(prefix + topic, delivery.partition), delivery.position(topic))

    async def _on_rebalance_complete(self, *_: Any, **__: Any) -> None:
        """Give up what is lost, keep what stays, take what is new."""
        self.state = "taking partitions"
        assigned = {(tp.topic, tp.partition) for tp in self._app.consumer.assignment()}
        parts = self._parts(assigned)
        for name in self.runners.keys() - parts:
            await self._give_up(name)
        for name in sorted(parts):
            if name not in self.runners or self._tasks[name].done():
                await self._take(name)
        if self._stopped.is_set():
            return
        log.info("partitions taken", partitions=sorted(self.runners))
        self.state = WORKING
        self.ready.set()

    def _parts(self, assigned: set[tuple[str, int]]) -> set[str]:
        settings = self.settings
        shoppers = {f"u{p}" for topic, p in assigned if topic == EVENTS.full(settings)}
        shelves = {
            f"i{p}"
            for topic, p in assigned
            if topic == INCREMENTS.full(settings) and (CATALOG.full(settings), p) in assigned
        }
        return shoppers | shelves

    async def _give_up(self, name: str) -> None:
        runner = self.runners.pop(name)
        runner.owned = False
        runner.stop()
        self._tasks.pop(name).cancel()
        if isinstance(runner.side, Shopper):
            self._contexts.shopping.lister.release(runner.side.partition)
        await runner.side.delivery.session.close()

    async def _take(self, name: str) -> None:
        partition = int(name[1:])
        side: Shopper | Shelf = (
            Shopper(partition, self._ports, self._contexts.shopping)
            if name[0] == "u"
            else Shelf(partition, self._item_ports, self._shelving)
        )
        settings = self.settings
        runner = Runner(
            name,
            side,
            batch_events=settings.batch_events,
            pulse_s=0.1 if name[0] == "u" else min(settings.publish_s, settings.checkpoint_s) / 2,
            reread=self._reread,
            fatal=self.fail,
            precedence=self._precedence,
            first=name[0] == "u",
        )
        self._taking = runner
        if await runner.retake():
            self.runners[name] = runner
            self._tasks[name] = asyncio.create_task(runner.run(), name=name)
        self._taking = None


class Refused(Exception):
    """The worker must not run like this; the message says what to do."""


class Missing(Exception):
    """Somebody has to make it; the message says what, and how."""


WAITED_FOR = (KafkaError, BrokerError, OSError, TimeoutError, Doubt, StoreFull)
"""At start: broker or store will be there some time."""


async def _within(end: float, *works: Awaitable[object]) -> None:
    """Await them until a time of the loop's clock, and cancel what is late; errors go to the log."""
    tasks = [asyncio.ensure_future(each) for each in works]
    if not tasks:
        return
    done, late = await asyncio.wait(tasks, timeout=max(0.0, end - asyncio.get_running_loop().time()))
    for task in late:
        task.cancel()
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("did not end in order", error=repr(error))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
