"""Health that tells the truth: `/live` and `/ready` on an HTTP port of the worker, and the watch behind them.

`/ready`: this worker does its share now. `/live` turns 503 only when a restart would help: some partition has
had records beyond its position for `stuck_after_s` without progress, although store and broker answer. An
outage of either is no reason to restart: live, not ready, and the answer says so.

The watch has connections of its own, so that it sees what a new worker would see, not what an old
connection remembers. Cost: one MGET and one ListOffsets request per broker node every `LOOK_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import Any, TypeVar

import orjson
import structlog
from aiohttp import web
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from state.keys import Keys
from state.redis import RedisStore
from state.store import StoreFull
from stream.settings import Settings

log = structlog.get_logger(__name__)

T = TypeVar("T")

LOOK_S = 2.0
"""The watch looks this often."""

Input = tuple[str, str, int]
"""A partition (`u0`), one of its topics, the partition's number there."""


# What is seen, and what it means: pure


@dataclass(frozen=True, slots=True)
class Sample:
    """One input of a partition. ``end`` is None while the broker does not tell.

    ``progress_s``: since its position moved. ``waiting_s``: how long records have stood beyond the position
    without progress, while store and broker answered. ``refused``: store or broker answered with a refusal.
    """

    part: str
    topic: str
    partition: int
    position: int
    end: int | None
    progress_s: float
    waiting_s: float
    error: str = ""
    refused: bool = False

    @property
    def lag(self) -> int:
        """Offsets between position and end; markers and what was compacted away are among them."""
        return max(0, (self.end or 0) - self.position)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a verdict goes by. ``store`` and ``broker`` are what went wrong there, empty when they answer;
    ``looked_s`` is the age of that, in seconds."""

    state: str
    working: bool
    store: str
    broker: str
    looked_s: float
    samples: Sequence[Sample] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """``live``: a restart would not help. ``ready``: it does its share. ``reasons``: why one is not so."""

    live: bool
    ready: bool
    reasons: list[str]


def judge(seen: Seen, stuck_after_s: float) -> Verdict:
    """What the samples mean. An outage of store or broker takes readiness, never life."""
    away = [
        f"the {name} does not answer: {error}"
        for name, error in (("store", seen.store), ("broker", seen.broker))
        if error
    ]
    refused = [f"{each.part} cannot go on: {each.error}" for each in seen.samples if each.refused]
    stuck = [_said(each) for each in seen.samples if not away and each.waiting_s >= stuck_after_s]
    if seen.looked_s >= stuck_after_s:
        stuck.append(f"the watch has seen nothing for {seen.looked_s:.0f} s")
    state = [] if seen.working else [seen.state]
    reasons = [*state, *away, *refused, *stuck]
    return Verdict(live=not stuck, ready=not reasons, reasons=reasons)


def _said(each: Sample) -> str:
    said = f"{each.part} has not moved from {each.position} in {each.topic} for {each.waiting_s:.0f} s"
    return f"{said}; the log ends at {each.end}" + (f"; last error: {each.error}" if each.error else "")


@dataclass(frozen=True, slots=True)
class Trouble:
    """The newest error of a partition; ``refused``: by a store that is full, or by the broker."""

    text: str
    refused: bool

    @classmethod
    def of(cls, error: BaseException) -> Trouble:
        """From the error."""
        return cls(repr(error), isinstance(error, StoreFull | KafkaError))


@dataclass(frozen=True, slots=True)
class Inside:
    """What a worker says of itself at this moment; ``lists`` is `Shaper.report`, empty while it starts."""

    state: str
    working: bool
    positions: Mapping[Input, int] = field(default_factory=dict)
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    lists: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Mark:
    position: int
    moved_at: float
    waits_since: float | None


class Tracker:
    """Makes samples of successive looks: seconds come from comparing them."""

    def __init__(self) -> None:
        self._marks: dict[Input, _Mark] = {}
        self._checked: dict[Input, tuple[int, int]] = {}
        self._empty: set[Input] = set()

    def look(self, now: float, inside: Inside, ends: Mapping[Input, int], answered: bool) -> list[Sample]:
        """The samples now; while store or broker is away, or refuses, nobody waits for us."""
        marks, samples = {}, []
        for key, position in inside.positions.items():
            trouble = inside.troubles.get(key[0], Trouble("", False))
            end = ends.get(key)
            waits = answered and not trouble.refused and self._waits(key, position, end)
            marks[key] = mark = self._mark(now, key, position, waits)
            waiting_s = now - mark.waits_since if mark.waits_since is not None else 0.0
            samples.append(
                Sample(
                    *key,
                    position,
                    end,
                    round(now - mark.moved_at, 3),
                    round(waiting_s, 3),
                    trouble.text,
                    trouble.refused,
                )
            )
        self._marks = marks
        return samples

    def _waits(self, key: Input, position: int, end: int | None) -> bool:
        nothing = key in self._empty and self._checked.get(key) == (position, end)
        return end is not None and end > position and not nothing

    def _mark(self, now: float, key: Input, position: int, waits: bool) -> _Mark:
        old = self._marks.get(key)
        if old is None or old.position != position:
            return _Mark(position, now, now if waits else None)
        since = now if old.waits_since is None else old.waits_since
        return _Mark(position, old.moved_at, since if waits else None)

    def unchecked(self, sample: Sample) -> bool:
        """Whether nobody has looked yet if records stand between this position and this end."""
        return self._checked.get(_key(sample)) != (sample.position, sample.end)

    def checked(self, sample: Sample, any_record: bool) -> None:
        """Remember it: transaction markers and compacted-away records leave an end that nobody reaches."""
        key = _key(sample)
        self._checked[key] = (sample.position, sample.end or 0)
        (self._empty.discard if any_record else self._empty.add)(key)


def _key(sample: Sample) -> Input:
    return sample.part, sample.topic, sample.partition


# The watch


class Ends:
    """Ends of logs, by a client of its own; a client that failed is replaced."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: Any = None

    async def ask(self, inputs: Collection[Input]) -> dict[Input, int]:
        """The ends, in one request a node; without inputs only whether the broker answers."""
        consumer = await self._connected()
        tps = {key: TopicPartition(self._settings.topic_prefix + key[1], key[2]) for key in inputs}
        if not tps:
            await consumer.topics()
            return {}
        ends = await consumer.end_offsets(list(tps.values()))
        return {key: ends[tp] for key, tp in tps.items()}

    async def any_record(self, topic: str, partition: int, offset: int) -> bool:
        """Whether a record stands at an offset or after it."""
        consumer = await self._connected()
        tp = TopicPartition(self._settings.topic_prefix + topic, partition)
        consumer.assign([tp])
        consumer.seek(tp, offset)
        return bool(await consumer.getmany(tp, timeout_ms=1000, max_records=1))

    async def close(self) -> None:
        """Disconnect; the next question connects again."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            # aiokafka raises CancelledError from stopping a consumer that has done nothing yet.
            await asyncio.gather(consumer.stop(), return_exceptions=True)

    async def _connected(self) -> Any:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._settings.bootstrap,
                enable_auto_commit=False,
                isolation_level="read_committed",
                request_timeout_ms=int(self._settings.connect_timeout_s * 1000),
            )
            await self._consumer.start()
        return self._consumer


class Health:
    """The watch and the port. ``inside`` says at any time what the worker knows of itself."""

    def __init__(self, settings: Settings, inside: Callable[[], Inside]) -> None:
        self._settings = settings
        self._inside = inside
        self._ends = Ends(settings)
        self._keys = Keys(settings.prefix)
        self._store = RedisStore(settings.store_url, self._keys, settings.store_timeout_s)
        self._tracker = Tracker()
        self._said = {"store": "not asked yet", "broker": "not asked yet"}
        self._samples: list[Sample] = []
        self._looked_at = monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen, and watch from now on. Raises OSError when the port cannot be had."""
        app = web.Application()
        app.add_routes([web.get("/live", self._live), web.get("/ready", self._ready)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._settings.health_host, self._settings.health_port).start()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop both."""
        if self._watching is not None:
            self._watching.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.gather(self._ends.close(), self._store.close())

    async def _live(self, _: web.Request) -> web.Response:
        verdict, document = self.report()
        return _answer(verdict.live, document)

    async def _ready(self, _: web.Request) -> web.Response:
        verdict, document = self.report()
        return _answer(verdict.ready, document)

    def report(self) -> tuple[Verdict, dict[str, Any]]:
        """The verdict now, and the whole truth as JSON has it."""
        inside = self._inside()
        samples = [each for each in self._samples if _key(each) in inside.positions]
        looked_s = monotonic() - self._looked_at
        store, broker = self._said["store"], self._said["broker"]
        seen = Seen(inside.state, inside.working, store, broker, looked_s, samples)
        verdict = judge(seen, self._settings.stuck_after_s)
        return verdict, {
            **asdict(verdict),
            "state": inside.state,
            "store": store or "answers",
            "broker": broker or "answers",
            "looked_s": round(looked_s, 3),
            "owned": len({part for part, _, _ in inside.positions}),
            "lag": sum(each.lag for each in samples),
            "waiting_s": max((each.waiting_s for each in samples), default=0.0),
            "lists": dict(inside.lists),
            "partitions": [asdict(each) | {"lag": each.lag} for each in samples],
        }

    async def _watch(self) -> None:
        """Look for ever; no error and no silence ends it."""
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("the watch failed; it goes on")
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        """One MGET and one ListOffsets request a node, each with a deadline."""
        before = self._inside()
        ends: dict[Input, int] = {}

        async def ask_broker() -> None:
            ends.update(await self._ends.ask(before.positions))

        self._said["store"], self._said["broker"] = await asyncio.gather(
            self._outcome(self._store.get([self._keys.head("u0")])), self._outcome(ask_broker())
        )
        if self._said["broker"]:
            await self._ends.close()
        # Ends first, positions after: work done meanwhile must not look like records that wait.
        await self._compare(ends)
        self._looked_at = monotonic()

    async def _compare(self, ends: Mapping[Input, int]) -> None:
        """Nobody is accused before what stands beyond his position was read."""
        samples = self._sampled(ends)
        suspects = [
            each
            for each in samples
            if each.waiting_s >= self._settings.stuck_after_s / 2 and self._tracker.unchecked(each)
        ]
        if suspects:
            self._said["broker"] = await self._outcome(self._check(suspects))
            samples = self._sampled(ends)
        self._samples = samples

    def _sampled(self, ends: Mapping[Input, int]) -> list[Sample]:
        return self._tracker.look(monotonic(), self._inside(), ends, not any(self._said.values()))

    async def _check(self, suspects: Sequence[Sample]) -> None:
        for each in suspects:
            found = await self._ends.any_record(each.topic, each.partition, each.position)
            self._tracker.checked(each, found)

    async def _outcome(self, question: Awaitable[object]) -> str:
        """What went wrong, or nothing."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await question
        except Exception as error:
            return str(error) or type(error).__name__
        return ""


def _answer(good: bool, document: dict[str, Any]) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    return web.Response(body=body, status=200 if good else 503, content_type="application/json")
