"""Decision to message: from the event that lets a nudge out to its message at a sender, at a steady rate.

``python -m benchmarks.latency --json [--rate 1000] [--seconds 30] [--partitions 4] [--kafka]``: broker, a
store, a worker, the producer and a consumer of `engagements` here. A message's id names the event that
caused it; time runs from right before that event is handed to the producer (one message an event, no linger)
until the consumer has the message. Load: 5,000 users who consent; 85 % views, 5 % each: a `signal` that sets
off ``at-once`` (0 s), carts with a reminder after 3 s, and `wants` that sets off ``coupon`` (0 s, with one).
They go out with a later event, which brings the watermark to their time: it trails the newest event by
``lateness_s``. The second run is without that: there the event that sets it off causes the message, and with
a coupon, time runs from that, as the mail that grants it is the worker's own.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.report import Figure, Report, arguments, figure, tell
from benchmarks.servers import Servers, servers, worker
from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.kafka import KafkaLog
from stream.settings import Settings
from stream.status import status
from stream.topics import ENGAGEMENTS, EVENTS

USERS, ITEMS = 5000, 10_000
WARM_S, REST_S, TURN_S = 5.0, 5.0, 0.005
FETCH_MS = 10
"""How long the consumer lets the broker wait for data: the embedded one waits also where there is some."""
CAMPAIGNS = {
    "at-once": "trigger: {type: event, event: signal, unless: null}\nsteps: [0s]\npriority: 100\n",
    "abandoned-cart": "trigger: {type: abandoned-cart}\nsteps: [3s]\n",
    "coupon": "trigger: {type: event, event: wants, unless: null}\nsteps: [0s]\npriority: 100\n"
    "coupon: {offer: ten, per_user: 32}\n",
}
Place = tuple[int, int]
"""Partition and offset of an event."""


@dataclass(frozen=True)
class Latency:
    """Of one campaign, in ms: from the event that caused a message to its arrival.

    Half of them, p50, of its parts: until the broker had the event, until the worker sent the message, until
    it came. ``since_due``: from when the message was due, by the wall clock.
    """

    messages: int
    p50: float
    p95: float
    p99: float
    greatest: float
    to_broker_p50: float
    in_worker_p50: float
    to_sender_p50: float
    since_due_p50: float


class Came(NamedTuple):
    """A message: of which campaign, caused by which event; when it was sent and came, and was due; in s."""

    campaign: str
    cause: Place
    sent: float
    arrival: float
    due: float


@dataclass
class Seen:
    """When each event was sent and when the broker had it, in s; and the messages that came."""

    sent: dict[Place, tuple[float, float]] = field(default_factory=dict)
    came: list[Came] = field(default_factory=list)

    def measured(self, begin: float, end: float) -> dict[str, Latency]:
        """Of messages caused by events that were sent within a time."""
        found: dict[str, list[tuple[float, ...]]] = {}
        for one in self.came:
            sent, had = self.sent.get(one.cause, (-1.0, -1.0))
            if one.campaign == "coupon":  # caused by the mail that grants it: asked for when it was due
                sent = had = one.due
            if begin <= sent < end:
                times = (sent, had, one.sent, one.arrival)
                row = (one.arrival - sent, *np.diff(times).tolist(), one.arrival - one.due)
                found.setdefault(one.campaign, []).append(row)
        return {campaign: _latency(np.array(rows)) for campaign, rows in sorted(found.items())}


def _latency(rows: np.ndarray) -> Latency:
    whole = np.percentile(rows[:, 0], [50, 95, 99, 100])
    p50, p95, p99, greatest, *parts = (
        (np.append(whole, np.median(rows[:, 1:], axis=0)) * 1000).round(1).tolist()
    )
    return Latency(len(rows), p50, p95, p99, greatest, *parts)


def event(random: np.random.Generator) -> tuple[bytes, bytes]:
    """(key, value) of the next event of the load, as of now."""
    user, item, kind = int(random.integers(USERS)), int(random.integers(ITEMS)), random.random()
    said: dict[str, Any] = {"type": "view_item", "item": f"item-{item:05d}", "price": 19.99}
    if kind < 0.1:
        said = {"type": "signal" if kind < 0.05 else "wants"}
    elif kind < 0.15:
        said["type"] = "add_to_cart"
    return _encoded(user, said)


def _encoded(user: int, said: dict[str, Any]) -> tuple[bytes, bytes]:
    name = f"user-{user:06d}"
    stamp = np.datetime_as_string(np.datetime64(time.time_ns() // 1_000_000, "ms"))
    return name.encode(), msgspec.json.encode({"time": f"{stamp}Z", "user": name} | said)


async def load(producer: AIOKafkaProducer, topic: str, rate: float, seconds: float, seen: Seen) -> None:
    """Send events at a rate, every few milliseconds those that are due by then."""
    random, begin, done = np.random.default_rng(7), time.time(), 0
    while (past := time.time() - begin) < seconds:
        for _ in range(int(past * rate) - done):
            key, value = event(random)
            at = time.time()
            sending = await producer.send(topic, value, key=key)
            sending.add_done_callback(lambda sent, at=at: _note(sent, at, seen))
            done += 1
        await asyncio.sleep(TURN_S)
    await producer.flush()


def _note(sent: asyncio.Future[Any], at: float, seen: Seen) -> None:
    record = sent.result()
    seen.sent[record.partition, record.offset] = at, time.time()


async def listen(consumer: AIOKafkaConsumer, seen: Seen) -> None:
    """Note the messages that come."""
    async for record in consumer:
        arrival, said = time.time(), msgspec.json.decode(record.value)
        partition, offset = map(int, said["id"].split("-")[:2])
        times = record.timestamp / 1000, arrival, said["due"] / 1000
        seen.came.append(Came(said["campaign"], (partition, offset), *times))


async def warm(producer: AIOKafkaProducer, settings: Settings) -> None:
    """Let everybody consent, and wait until the worker has seen it."""
    granted = {"channels": {"email": True}, "purposes": {"personalisation": True}}
    for user in range(USERS):
        key, value = _encoded(user, {"type": "consent"} | granted)
        await producer.send(EVENTS.full(settings), value, key=key)
    await producer.flush()
    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
    log = KafkaLog(settings)
    await log.start()
    try:
        async with asyncio.timeout(120):
            while (await status(settings, store, log)).events < USERS:
                await asyncio.sleep(0.2)
    finally:
        await log.stop()
        await store.close()


async def run(settings: Settings, rate: float, seconds: float) -> dict[str, Latency]:
    """Latencies by campaign, with a worker that runs."""
    seen = Seen()
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, linger_ms=0, acks="all")
    consumer = AIOKafkaConsumer(
        ENGAGEMENTS.full(settings),
        bootstrap_servers=settings.bootstrap,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_MS,
    )
    await producer.start()
    await consumer.start()
    listening = asyncio.create_task(listen(consumer, seen))
    try:
        await warm(producer, settings)
        begin = time.time() + WARM_S
        await load(producer, EVENTS.full(settings), rate, WARM_S + seconds + REST_S, seen)
        return seen.measured(begin, begin + seconds)
    finally:
        listening.cancel()
        await consumer.stop()
        await producer.stop()


def measured(running: Servers, lateness_s: float, given: argparse.Namespace) -> dict[str, Latency]:
    """One run."""
    told = {"lateness_s": lateness_s, "priority_window_s": 0.0}
    settings = running.settings(f"lateness-{lateness_s:g}", partitions=given.partitions, **told)
    with tempfile.TemporaryDirectory() as folder:
        for campaign, text in CAMPAIGNS.items():
            head = f"id: {campaign}\nmessage: {{template: {campaign}}}\nrest: 0s\n"
            Path(folder, f"{campaign}.yaml").write_text(head + text)
        asyncio.run(create_topics(settings))
        more = {"campaigns": folder, "cap_day": "100000", "cap_week": "100000"}
        with worker(settings, more | {name: str(value) for name, value in told.items()}, given.profile):
            return asyncio.run(run(settings, given.rate, given.seconds))


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--partitions", type=int, default=Settings().partitions)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    parser.add_argument("--profile", help="write a cProfile of the worker here (of the last run)")
    given = parser.parse_args()
    details: dict[str, Any] = {"rate": given.rate, "partitions": given.partitions}
    figures: dict[str, Figure] = {}
    with servers(given.kafka) as running:
        details["broker"] = running.kind
        for lateness_s in (2.0, 0.0):
            for campaign, each in measured(running, lateness_s, given).items():
                name = f"{campaign}, lateness {lateness_s:g} s"
                details[name] = asdict(each)
                figures |= {f"{name}, {q}": figure([getattr(each, q)], "ms") for q in ("p50", "p99")}
    tell(Report("latency", figures, details), given)


if __name__ == "__main__":
    main()
