"""`tidewise demo`: real shopping through a broker, a store and a worker of its own, and what becomes of it.

What is shown was read from the outside, as a shop would: views from the store, messages from topics.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.live import Live

from producers.client import EventProducer
from producers.replay import Progress, Summary, replay
from state.keys import Keys
from state.lookup import AsyncLookup, ViewList
from state.redis import RedisStore
from stream.admin import create_topics
from stream.cli import demo_show as show
from stream.cli.common import PROBLEM, SHORT, STOPPED, err, fail, opened, out, show_json, wait_for
from stream.cli.shopping import Shopping
from stream.embedded import EmbeddedBroker, EmbeddedStore, Server
from stream.kafka import KafkaLog
from stream.ownership import partition_of
from stream.settings import Settings
from stream.status import Status, status
from stream.times import time_text
from stream.topics import (
    CATALOG,
    DEAD_LETTERS,
    DECISIONS,
    ENGAGEMENTS,
    EVENTS,
    NEIGHBORS,
    RECOMMENDATIONS,
    Topic,
)

T = TypeVar("T")

START_S, DRAIN_S, ANSWER_S = 45.0, 120.0, 15.0
"""Deadlines: the worker's start, the replay until everything is processed, an answer to a live event."""
RATE, RATE_S = 200, 10
"""The trickle that latency is measured with: events a second, seconds."""
QUIET_S = 0.6
"""So long nothing may wait anywhere until the replay counts as processed."""
MINUTE_MS = 60_000


Waiting = dict[str, list[tuple[str, float]]]
"""By user the event times that a list must reach, and when the events were sent."""


class DemoError(RuntimeError):
    """Something that was to be seen did not happen."""


class DemoSummary(msgspec.Struct):
    """What went through. ``events`` of users and the catalogue; rates are the replay's, until processed."""

    events: int
    lines: int
    events_per_s: float
    lines_per_s: float
    recommendations: int
    neighbors: int
    engagements: int
    decisions: int
    dead_letters: int
    latency_ms: dict[str, float]
    duration_s: float
    note: str


class DemoWorker(Server):
    """`tidewise worker` as a process of its own; its settings stand in a file of its private folder."""

    name = "worker"
    scheme = "worker"

    def __init__(self, settings: Settings) -> None:
        super().__init__(start_within_s=START_S)
        self._settings = settings

    def _command(self, folder: Path) -> Sequence[str | Path]:
        given = self._settings.model_dump(exclude_defaults=True)
        lines = [f"{name} = {toml(value)}\n" for name, value in given.items()]
        (folder / "tidewise.toml").write_text("".join(lines))
        return [sys.executable, "-m", "stream.cli", "worker"]

    def _answers(self) -> bool:
        if self._output is None:
            return False
        # The worker writes through the same file offset: reading must not move it.
        return b"partitions taken" in os.pread(self._output.fileno(), 1 << 20, 0)

    def demand_running(self) -> None:
        """Raise DemoError when it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise DemoError(f"the worker has ended:\n{self._last_lines(30)}")


def toml(value: object) -> str:
    """A setting's value as TOML has it: JSON, but for tables within."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(name)} = {toml(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return orjson.dumps(value).decode()


def run_demo(lines: int, as_json: bool) -> None:
    """The whole show. With ``as_json`` it goes to standard error, and the summary to standard output."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the servers then, too
    console = err if as_json else out
    begin = time.monotonic()
    try:
        summary = _stage(lines, console, begin)
    except KeyboardInterrupt:
        fail("stopped", STOPPED)
    except DemoError as error:
        fail(f"the demo failed: {error}", PROBLEM)
    console.print(show.summary(summary))
    if as_json:
        show_json(summary)


def _stage(lines: int, console: Console, begin: float) -> DemoSummary:
    """Start what is needed, and stop it whatever happens."""
    shopping = Shopping(lines)
    console.print(show.title(shopping.note, shopping.lines))
    with ExitStack() as stage:
        with console.status("starting a broker, a store and a worker"):
            broker, store = (stage.enter_context(server) for server in (EmbeddedBroker(), EmbeddedStore()))
            settings = demo_settings(broker.url, store.url)
            wait_for(create_topics(settings))
            worker = stage.enter_context(DemoWorker(settings))
        console.print(show.started(broker.url, store.url, time.monotonic() - begin), soft_wrap=True)
        summary = wait_for(_play(settings, worker, shopping, console))
    summary.duration_s = round(time.monotonic() - begin, 1)
    return summary


def demo_settings(broker_url: str, store_url: str) -> Settings:
    """Settings for groceries: what was bought is bought again. Neither environment nor TOML file counts."""
    return Settings.model_construct(  # reads neither
        broker_url=broker_url, store_url=store_url, partitions=4, exclude_bought_s=0.0, **SHORT
    )


async def _play(settings: Settings, worker: DemoWorker, shopping: Shopping, console: Console) -> DemoSummary:
    async with _demo(settings, worker, shopping, console) as demo:
        replayed = await demo.replay()
        await demo.similar_items()
        await demo.household()
        await demo.carts()
        latencies = await demo.trickle()
        return await demo.summary(replayed, latencies)


@asynccontextmanager
async def _demo(
    settings: Settings, worker: DemoWorker, shopping: Shopping, console: Console
) -> AsyncIterator[Demo]:
    async with (
        opened(settings) as (store, log),
        AsyncLookup(settings.store_url, settings.prefix, timeout_s=5.0) as lookup,
        EventProducer(settings, linger_s=0.0) as producer,
    ):
        yield Demo(settings, worker, shopping, console, store, log, lookup, producer)


@dataclass
class Replayed:
    """The replay, as it went."""

    sent: Summary
    processed_s: float


@dataclass
class Demo:
    """The acts of the show, one method each."""

    settings: Settings
    worker: DemoWorker
    shopping: Shopping
    console: Console
    store: RedisStore
    log: KafkaLog
    lookup: AsyncLookup
    producer: EventProducer
    live_events: int = 0
    now_ms: int = 0
    _meter: show.Meter = field(default_factory=show.Meter)

    @property
    def _keys(self) -> Keys:
        return Keys(self.settings.prefix)

    # Replay

    async def replay(self) -> Replayed:
        """Everything through the broker, and what the worker makes of it, live."""
        self._meter.total = self.shopping.total
        begin = time.monotonic()
        sending = asyncio.create_task(replay(self.shopping, self.settings, progress=self._note))
        probing = asyncio.create_task(self._probe())
        try:
            with Live(
                console=self.console, refresh_per_second=8, get_renderable=lambda: show.live(self._meter)
            ):
                processed = await self._processed(sending, begin)
                self._meter.rate = self._meter.done / (processed - begin)
        finally:
            probing.cancel()
            sending.cancel()
        sent = await sending
        self.now_ms = sent.last_ms
        return Replayed(sent, processed - begin)

    def _note(self, progress: Progress) -> None:
        self._meter.sent, self._meter.time_ms = progress.acknowledged, progress.time_ms

    async def _processed(self, sending: asyncio.Task[Summary], begin: float) -> float:
        """When everything was processed; meanwhile, what is shown."""
        quiet: tuple[Status, float] | None = None
        while True:
            self._watch(begin + DRAIN_S, "the replay was not processed in time")
            now = await status(self.settings, self.store, self.log)
            self._meter.sample(now, time.monotonic() - begin, {EVENTS.name, CATALOG.name})
            # Counts decide, for the embedded broker understates a log's end.
            if not sending.done() or not now.settled or self._meter.done < sending.result().events:
                quiet = None
            elif quiet is None or quiet[0] != now:
                quiet = now, time.monotonic()
            elif time.monotonic() - quiet[1] >= QUIET_S:
                return quiet[1]
            await asyncio.sleep(0.2)

    async def _probe(self) -> None:
        """From an event's sending until its user's list is readable, again and again."""
        while True:
            await asyncio.sleep(0.1)
            newest = self.shopping.newest
            if newest is not None:
                user, time_ms, sent = newest
                await self._list_of(user, time_ms, DRAIN_S)
                self._meter.latency_s = time.monotonic() - sent

    def _watch(self, deadline: float, otherwise: str) -> None:
        self.worker.demand_running()
        if time.monotonic() > deadline:
            raise DemoError(otherwise)

    # Lists

    async def similar_items(self) -> None:
        """The neighbours of three well-known products."""
        columns = []
        for item in self.shopping.well_known(3):
            found = await self.lookup.neighbors(item)
            if found is None or not found.items:
                raise DemoError(f"nothing is similar to {self.shopping.name_of(item)}")
            columns.append((item, found))
        self.console.print(show.similar_items(columns, self.shopping.name_of))

    async def household(self) -> None:
        """A household's list, and the same after one more purchase."""
        user = self.shopping.household()
        await self._send({"type": "search", "user": user, "query": "dinner"})
        before = await self._list_of(user, self.now_ms, ANSWER_S)
        item = self.shopping.unlike(user)
        await self._send({"type": "purchase", "user": user, "order": "demo-1", "item": item})
        after = await self._list_of(user, self.now_ms, ANSWER_S)
        if not any(item in line.because for line in after.items):
            raise DemoError(f"nothing is recommended to {user} because of {self.shopping.name_of(item)}")
        self.console.print(show.household(user, item, before, after, self.shopping.name_of))

    async def _list_of(self, user: str, time_ms: int, within_s: float) -> ViewList:
        """The user's list, once it is of this event time or newer."""

        async def found() -> ViewList | None:
            (value,) = await self.store.get([self._keys.recs(user)])
            view = msgspec.json.decode(value, type=ViewList) if value is not None else None
            return view if view is not None and view.time >= time_text(time_ms) else None

        return await self._eventually(found, within_s, f"no list of {user} after his event")

    async def _eventually(
        self, check: Callable[[], Awaitable[T | None]], within_s: float, otherwise: str
    ) -> T:
        deadline = time.monotonic() + within_s
        while (answer := await check()) is None:
            self._watch(deadline, otherwise)
            await asyncio.sleep(0.005)
        return answer

    async def _send(self, event: dict[str, Any], later_ms: int = MINUTE_MS) -> None:
        """A live event: it continues the replay's event time, which the header `received` tells."""
        self.now_ms += later_ms
        self.live_events += 1
        await self.producer.send({"time": time_text(self.now_ms), **event}, received=self.now_ms)

    # Nudges

    async def carts(self) -> None:
        """Two carts are left; one is bought after all."""
        first, second = self.shopping.well_known(5)[3:]
        begin = self.now_ms
        await self._cart("anna", first, bought=False)
        self.now_ms = begin
        await self._cart("ben", second, bought=True)
        nudges, decisions = await self._told({("anna", "sent"), ("ben", "cancelled")})
        if [nudge["user"] for nudge in nudges] != ["anna"]:
            raise DemoError(f"one nudge, to anna, was expected, not {nudges}")
        items = {"anna": first, "ben": second}
        self.console.print(show.carts(begin, items, nudges, decisions, self.shopping.name_of))

    async def _cart(self, user: str, item: str, bought: bool) -> None:
        """Consent, a cart, perhaps an order; then somebody else in the partition lets time pass.

        All in one request: the worker sees them together, as it would see a day of a log.
        """
        agreed = {"channels": {"email": True}, "purposes": {"personalisation": True}}
        await self._send({"type": "consent", "user": user, **agreed})
        await self._send({"type": "add_to_cart", "user": user, "item": item, "price": 3.99, "quantity": 2})
        if bought:
            await self._send(
                {"type": "purchase", "user": user, "order": "demo-2", "item": item}, 20 * MINUTE_MS
            )
        await self._send(
            {"type": "view_item", "user": self._neighbour_of(user), "item": item}, 46 * MINUTE_MS
        )
        await self.producer.flush()

    def _neighbour_of(self, user: str) -> str:
        """Somebody whose events pass the same partition."""
        partitions = self.settings.partitions
        names = (f"passer-by-{n}" for n in range(1000))
        return next(n for n in names if partition_of(n, partitions) == partition_of(user, partitions))

    async def _told(self, outcomes: set[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
        """Nudges and decisions, once these outcomes are among the decisions."""
        said: dict[str, list[Any]] = {ENGAGEMENTS.full(self.settings): [], DECISIONS.full(self.settings): []}
        nudges, decisions = said.values()
        parts = [TopicPartition(topic, p) for topic in said for p in range(self.settings.partitions)]
        deadline = time.monotonic() + ANSWER_S
        async with AIOKafkaConsumer(bootstrap_servers=self.settings.bootstrap) as consumer:
            consumer.assign(parts)
            await consumer.seek_to_beginning()
            while not outcomes <= {(each["user"], each["outcome"]) for each in decisions} or not nudges:
                self._watch(
                    deadline, f"expected the decisions {outcomes} and a nudge, have {decisions}, {nudges}"
                )
                for at, records in (await consumer.getmany(timeout_ms=200)).items():
                    said[at.topic] += [orjson.loads(record.value) for record in records]
        return nudges, decisions

    # Latency

    async def trickle(self) -> list[float]:
        """Latencies in ms: from sending an event to reading its user's new list."""
        self.now_ms += 60 * MINUTE_MS
        waiting: Waiting = {}
        latencies: list[float] = []
        with self.console.status(f"{RATE} events/s for {RATE_S} s, to measure latency"):
            sending = asyncio.create_task(self._send_slowly(waiting))
            deadline = time.monotonic() + RATE_S + ANSWER_S
            while not sending.done() or waiting:
                self._watch(deadline, f"{len(waiting)} of {RATE * RATE_S} lists did not come")
                await self._collect(waiting, latencies)
                await asyncio.sleep(0.001)
            await sending
        return latencies

    async def _send_slowly(self, waiting: Waiting) -> None:
        chance = random.Random(1)
        users = self.shopping.households()
        items = self.shopping.popular(200)
        begin = time.monotonic()
        for n in range(RATE * RATE_S):
            await asyncio.sleep(max(0.0, begin + n / RATE - time.monotonic()))
            user = users[n % len(users)]
            due = time_text(self.now_ms + 1000 // RATE), time.monotonic()
            waiting.setdefault(user, []).append(due)
            await self._send({"type": "view_item", "user": user, "item": chance.choice(items)}, 1000 // RATE)

    async def _collect(self, waiting: Waiting, latencies: list[float]) -> None:
        """Note whose list has come."""
        users = list(waiting)
        found = await self.store.get([self._keys.recs(user) for user in users]) if users else []
        now = time.monotonic()
        for user, value in zip(users, found, strict=True):
            reached = msgspec.json.decode(value, type=ViewList).time if value is not None else ""
            latencies += [(now - sent) * 1000 for wanted, sent in waiting[user] if wanted <= reached]
            waiting[user] = [due for due in waiting[user] if due[0] > reached]
            if not waiting[user]:
                del waiting[user]

    # Summary

    async def summary(self, replayed: Replayed, latencies: list[float]) -> DemoSummary:
        """The figures, checked."""
        sent = replayed.sent.events - replayed.sent.items + self.live_events
        done = await self._eventually(
            lambda: self._counted(sent), ANSWER_S, f"{sent} events were not counted"
        )
        if done.events != sent or done.repeats:
            raise DemoError(
                f"{sent} events of users were sent, {done.events} were counted, {done.repeats} twice"
            )
        records = await self._records(RECOMMENDATIONS, NEIGHBORS, ENGAGEMENTS, DECISIONS, DEAD_LETTERS)
        p50, p99 = np.percentile(latencies, [50, 99]).round(1).tolist()
        found = DemoSummary(
            events=done.events + replayed.sent.items,
            lines=self.shopping.lines,
            events_per_s=round(replayed.sent.events / replayed.processed_s, 1),
            lines_per_s=round(self.shopping.lines / replayed.processed_s, 1),
            recommendations=records[RECOMMENDATIONS.name],
            neighbors=records[NEIGHBORS.name],
            engagements=records[ENGAGEMENTS.name],
            decisions=records[DECISIONS.name],
            dead_letters=records[DEAD_LETTERS.name],
            latency_ms={"p50": p50, "p99": p99},
            duration_s=0.0,
            note=self.shopping.note,
        )
        if found.dead_letters:
            raise DemoError(f"{found.dead_letters} events went to dead letters")
        return found

    async def _counted(self, events: int) -> Status | None:
        now = await status(self.settings, self.store, self.log)
        return now if now.settled and now.events >= events else None

    async def _records(self, *topics: Topic) -> dict[str, int]:
        """Messages in each topic: what stands behind the ends that the broker tells is read."""
        count = range(self.settings.partitions)
        parts = {TopicPartition(each.full(self.settings), p): each.name for each in topics for p in count}
        found = {each.name: 0 for each in topics}
        async with AIOKafkaConsumer(bootstrap_servers=self.settings.bootstrap) as consumer:
            consumer.assign(list(parts))
            await consumer.seek_to_end()
            while await consumer.getmany(timeout_ms=500):
                pass
            for at, name in parts.items():
                found[name] += await consumer.position(at)
        return found
