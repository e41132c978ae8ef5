"""P5: event sent → the user's new list readable in the store; → the item's neighbours readable; at a rate.

``python -m benchmarks.freshness --json [--rate 1000] [--seconds 30] [--partitions 4] [--kafka]``: broker,
store, one worker and the sender on this machine. The load is that of `benchmarks.pipeline` with carts and
purchases, one message an event, no linger; 20,000 events before. Every tenth event is followed: time runs
from right before it is handed to the producer until a reader, who looks every 2 ms, finds a list whose `id`
names it or a later event of its partition, and the item's neighbours whose `time` is not before it. p99 of
what was sent after 5 s; the reader's own turn is in it. ``lost``: not seen within 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from benchmarks.pipeline import drawn, events, followed, send
from benchmarks.processes import cpu_s
from benchmarks.report import Report, arguments, figure, repeated, tell
from benchmarks.servers import Servers, servers, worker
from state.keys import Keys
from stream.admin import create_topics
from stream.settings import Settings
from stream.times import time_text
from stream.topics import EVENTS

GOALS = {"P5 list, p99": 40.0, "P5 neighbours, p99": 250.0}
BEFORE, WARM_S, TURN_S, LOST_S = 20_000, 5.0, 0.002, 10.0
REPEAT_S = 3.0
"""Above the setting `repeat_s`, within which nothing counts twice."""
SHARE, HEAD = 10, 200
"""One event in so many is followed; bytes of a view that hold its id and time."""
WHAT = ("list", "neighbours")
_ID = re.compile(rb'"id":"(\d+)-(\d+)-')
_TIME = re.compile(rb'"time":"([^"Z]+)Z"')


@dataclass
class Sent:
    """An event that was sent at ``at`` s: of whom, with what, its ``stamp``, and its place once known."""

    at: float
    user: str
    item: str
    stamp: bytes
    place: tuple[int, int] | None = None
    had: float = 0.0

    def placed(self, sending: asyncio.Future[Any]) -> None:
        """The broker has it."""
        self.place, self.had = (sending.result().partition, sending.result().offset), time.time()

    def has_list(self, head: bytes) -> bool:
        """Whether a user's list was made from it or a later event."""
        found = _ID.search(head)
        if found is None or self.place is None:
            return False
        return int(found[1]) == self.place[0] and int(found[2]) >= self.place[1]

    def has_neighbours(self, head: bytes) -> bool:
        """Whether an item's list knows it or a later event. Times are of equal length: text order."""
        found = _TIME.search(head)
        return found is not None and found[1] >= self.stamp


@dataclass
class Waiting:
    """Events whose lists nobody saw yet; seconds of those that were seen, by when they were sent."""

    keys: Keys
    lists: list[Sent] = field(default_factory=list)
    neighbours: list[Sent] = field(default_factory=list)
    seen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    lost: int = 0

    async def look(self, redis: Redis) -> None:
        """Once at all that is waited for."""
        lists, neighbours, begun = list(self.lists), list(self.neighbours), time.time()
        pipe = redis.pipeline(transaction=False)
        for key in [self.keys.recs(one.user) for one in lists]:
            pipe.getrange(key, 0, HEAD)
        for key in [self.keys.neighbors(one.item) for one in neighbours]:
            pipe.getrange(key, 0, HEAD)
        heads, now = await pipe.execute() if lists or neighbours else [], time.time()
        has = [one.has_list(head) for one, head in zip(lists, heads, strict=False)]
        had = [one.has_neighbours(head) for one, head in zip(neighbours, heads[len(lists) :], strict=True)]
        self.seen.setdefault("reader's turn", []).append((begun, now - begun))
        self.lists = self._left("list", lists, has, now) + self.lists[len(lists) :]
        self.neighbours = self._left("neighbours", neighbours, had, now) + self.neighbours[len(neighbours) :]

    def _left(self, what: str, some: Sequence[Sent], seen: list[bool], now: float) -> list[Sent]:
        rows = list(zip(some, seen, strict=True))
        self.seen.setdefault(what, []).extend((one.at, now - one.at) for one, done in rows if done)
        if what == "list":
            at_broker = [(one.at, one.had - one.at) for one, done in rows if done]
            self.seen.setdefault("broker has it", []).extend(at_broker)
        left = [one for one, done in rows if not done and now - one.at < LOST_S]
        self.lost += len(some) - sum(seen) - len(left)
        return left


class Sender:
    """Sends at a rate, as of now, and follows some."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, waiting: Waiting) -> None:
        self._producer, self._topic, self._waiting = producer, topic, waiting
        self._last: dict[str, str] = {}
        self._when: dict[tuple[str, str], float] = {}

    async def run(self, said: Sequence[tuple[str, str, str]], rate: float) -> None:
        """Every few milliseconds those that are due."""
        begin, done = time.time(), 0
        while done < len(said):
            due = min(int((time.time() - begin) * rate), len(said))
            for n in range(done, due):
                await self._send(n, *said[n])
            done = due
            await asyncio.sleep(TURN_S)
        await self._producer.flush()

    async def _send(self, n: int, kind: str, user: str, item: str) -> None:
        at = time.time()
        stamp = time_text(int(at * 1000))
        value = f'{{"type":"{kind}","time":"{stamp}","user":"{user}","item":"{item}","price":9.99}}'
        sending = await self._producer.send(self._topic, value.encode(), key=user.encode())
        before, self._last[user] = self._last.get(user), item
        since, self._when[user, item] = at - self._when.get((user, item), 0.0), at
        if n % SHARE == 0 and before not in (None, item) and since > REPEAT_S:  # else it makes no pair
            one = Sent(at, user, item, stamp.rstrip("Z").encode())
            sending.add_done_callback(one.placed)
            self._waiting.lists.append(one)
            self._waiting.neighbours.append(one)


def said(n: int, seed: int) -> list[tuple[str, str, str]]:
    """Type, user and item of n events."""
    random = np.random.default_rng(seed)
    users, items = drawn(n, random)
    kinds = random.choice(["view_item", "add_to_cart", "purchase"], n, p=[0.85, 0.1, 0.05]).tolist()
    rows = zip(kinds, users.tolist(), items.tolist(), strict=True)
    return [(kind, f"user-{user:06d}", f"item-{item:06d}") for kind, user, item in rows]


async def looking(waiting: Waiting, url: str) -> None:
    """Until cancelled."""
    async with Redis.from_url(url) as redis:
        while True:
            await waiting.look(redis)
            await asyncio.sleep(TURN_S)


async def timed(settings: Settings, rate: float, seconds: float) -> Waiting:
    """With a worker that runs, and has all that was sent before."""
    waiting = Waiting(Keys(settings.prefix))
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, linger_ms=0, acks="all")
    await producer.start()
    looks = asyncio.create_task(looking(waiting, settings.store_url))
    try:
        sender = Sender(producer, EVENTS.full(settings), waiting)
        await sender.run(said(int((WARM_S + seconds) * rate), 8), rate)
        deadline = time.time() + LOST_S
        while (waiting.lists or waiting.neighbours) and time.time() < deadline:
            await asyncio.sleep(0.1)
        return waiting
    finally:
        looks.cancel()
        await producer.stop()


def measure(running: Servers, run: int, given: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one run."""
    settings = running.settings(f"fresh{run}", partitions=given.partitions)
    asyncio.run(create_topics(settings))
    asyncio.run(send(settings, events(BEFORE), 1))
    with worker(settings) as process:
        asyncio.run(followed(settings, BEFORE, {"worker": process.pid}))
        begun, cpu = time.time(), cpu_s(process.pid)
        waiting = asyncio.run(timed(settings, given.rate, given.seconds))
        share = (cpu_s(process.pid) - cpu) / (WARM_S + given.seconds)
    found = {"lost": float(waiting.lost + len(waiting.lists) + len(waiting.neighbours)), "worker": share}
    for what, rows in waiting.seen.items():
        took = [ms * 1000 for at, ms in rows if at >= begun + WARM_S]
        for name, q in (("p50", 50), ("p95", 95), ("p99", 99)):
            found[f"{'P5 ' if what in WHAT else ''}{what}, {name}"] = float(np.percentile(took, q))
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, default=1000, help="events a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--partitions", type=int, default=Settings().partitions)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    given = parser.parse_args()
    runs = itertools.count(1)
    with servers(given.kafka) as running:
        found = repeated(lambda: measure(running, next(runs), given), given.repeats)
    lost, busy = found.pop("lost"), found.pop("worker")
    figures = {name: figure(values, "ms", most=GOALS.get(name)) for name, values in found.items()}
    figures |= {"worker's CPU": figure(busy, "of a core"), "lost": figure(lost, "lists")}
    details = {"rate": given.rate, "partitions": given.partitions, "broker": running.kind}
    tell(Report("freshness", figures, details), given)


if __name__ == "__main__":
    main()
