"""Whole pipeline: events/s of one worker ÷ a bare stock Faust agent that takes the same single messages.

``python -m benchmarks.pipeline --json [--events 200000] [--kafka]``: broker, store and both consumers on this
machine, in turns. The worker does everything: decode, user state, increments through Kafka, kernel, ranking,
views, messages, exact delivery; the clock stops when every event and every increment is in the store. The
bare agent decodes JSON and acknowledges. P1: single events, P2: arrays of 100; by the default components, and
`lean`. Rates are by the clock, as what a shop gets; beside them µs of CPU an event of worker, broker and
store, which other work on the machine hardly changes. A run before them warms the broker up. Load: 20,000
users (Zipf 0.8), 50,000 items in sessions by category, about 237 bytes an event.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from aiokafka import AIOKafkaProducer

from benchmarks.processes import cpu_s
from benchmarks.report import Report, arguments, figure, repeated, tell
from benchmarks.servers import Servers, servers, worker
from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.kafka import KafkaLog
from stream.ownership import partition_of
from stream.settings import Settings
from stream.status import Status, status, tallies
from stream.topics import EVENTS

USERS, ITEMS, CATEGORIES = 20_000, 50_000, 500
PROFILES = {"default": {}, "lean": {"components": '["lean"]'}}
GOALS = {"P1 default": 2.0, "P1 lean": 3.5, "P2 default": 2.5, "P2 lean": 4.5}
Message = tuple[bytes, bytes]


@dataclass(frozen=True)
class Cost:
    """Seconds an event, from the first twentieth of a log on: by the ``clock``; of ``cpu`` by process."""

    clock: float
    cpu: Mapping[str, float]


def drawn(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Users and items [n] of views: a user stays in a category for some of them, then moves on."""
    weights = np.arange(1, USERS + 1) ** -0.8
    users = random.choice(USERS, n, p=weights / weights.sum())
    sessions = random.integers(0, CATEGORIES, (USERS, n // USERS + 64))
    nth = _occurrence(users)
    category = sessions[users, np.minimum(nth // 8, sessions.shape[1] - 1)]
    within = np.minimum(random.zipf(1.3, n), ITEMS // CATEGORIES) - 1
    return users, category * (ITEMS // CATEGORIES) + within


def events(n: int, seed: int = 7) -> list[Message]:
    """(key, value) of n view events, within the last hour."""
    random = np.random.default_rng(seed)
    users, items = drawn(n, random)
    start = int(time.time() * 1000) - 3_600_000
    times = start + np.sort(random.integers(0, 3_000_000, n))
    stamps = np.datetime_as_string(times.astype("datetime64[ms]"))
    return [
        _event(n, user, item, stamp)
        for n, (user, item, stamp) in enumerate(
            zip(users.tolist(), items.tolist(), stamps.tolist(), strict=True)
        )
    ]


def _occurrence(users: np.ndarray) -> np.ndarray:
    """How often each user occurred before."""
    order = np.argsort(users, kind="stable")
    counts = np.bincount(users, minlength=USERS)
    nth = np.empty(len(users), dtype=np.int64)
    nth[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    return nth


def _event(n: int, user: int, item: int, stamp: str) -> Message:
    name = f"user-{user:06d}"
    value = (
        f'{{"id":"{n:012d}","type":"view_item","time":"{stamp}Z","user":"{name}",'
        f'"session":"s-{user:06d}-{n // 1000:04d}",'
        f'"context":{{"device":"mobile","channel":"web","place":"DE-BE"}},'
        f'"item":"item-{item:06d}","price":19.99,"quantity":1}}'
    )
    return name.encode(), value.encode()


def arrays(singles: list[Message], partitions: int, size: int) -> Iterator[tuple[int, bytes]]:
    """A collector's batches: arrays of ``size`` events of one partition."""
    waiting: dict[int, list[bytes]] = {}
    owners = {key: partition_of(key.decode(), partitions) for key, _ in singles}
    for key, value in singles:
        batch = waiting.setdefault(owners[key], [])
        batch.append(value)
        if len(batch) == size:
            yield owners[key], b"[" + b",".join(batch) + b"]"
            batch.clear()
    for partition, batch in waiting.items():
        if batch:
            yield partition, b"[" + b",".join(batch) + b"]"


async def send(settings: Settings, singles: list[Message], size: int) -> None:
    """Fill the topic `events` before anything reads it."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap, max_batch_size=262_144, linger_ms=20, max_request_size=4_194_304
    )
    topic = EVENTS.full(settings)
    await producer.start()
    if size == 1:
        for key, value in singles:
            await producer.send(topic, value, key=key)
    else:
        for partition, value in arrays(singles, settings.partitions, size):
            await producer.send(topic, value, partition=partition)
    await producer.stop()


def bare(settings: Settings, messages: int) -> Cost:
    """What a message costs the bare agent."""
    command = [sys.executable, "-m", "benchmarks.bare_agent", settings.broker_url, EVENTS.full(settings)]
    done = subprocess.run(
        [*command, str(settings.partitions), str(messages)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    clock, cpu = map(float, done.stdout.split()[-2:])
    return Cost(clock, {"worker": cpu})


async def begun(settings: Settings, n: int) -> None:
    """Wait until so many events are in the store."""
    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
    try:
        while (await tallies(settings, store))[0].events < n:
            await asyncio.sleep(0.05)
    finally:
        await store.close()


async def followed(settings: Settings, n: int, pids: Mapping[str, int]) -> Cost:
    """What an event costs, until the last increment is in the store; a worker runs. ``pids``: by names."""
    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
    log = KafkaLog(settings)
    await log.start()
    since: tuple[float, Mapping[str, float], int] | None = None
    deadline = time.perf_counter() + 900
    try:
        while time.perf_counter() < deadline:
            now, at = await status(settings, store, log), time.perf_counter()
            if since is None and now.events >= n // 20:
                since = at, used(pids), now.events
            if since is not None and _finished(now, n):
                return _between(since, at, used(pids), n)
            await asyncio.sleep(0.05)
    finally:
        await log.stop()
        await store.close()
    raise RuntimeError("the worker did not finish")


def used(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds of processes so far."""
    return {name: cpu_s(pid) for name, pid in pids.items()}


def _between(
    since: tuple[float, Mapping[str, float], int], at: float, cpu: Mapping[str, float], n: int
) -> Cost:
    rest = n - since[2]
    return Cost((at - since[0]) / rest, {name: (cpu[name] - since[1][name]) / rest for name in cpu})


def _finished(now: Status, n: int) -> bool:
    if now.events + now.repeats + now.dead > n:
        raise RuntimeError(f"counted {now} of {n} events")
    return now.events == n and now.settled


class Pipeline:
    """Runs that each have topics of their own on the same servers."""

    def __init__(self, running: Servers, singles: list[Message], size: int, profile: str | None) -> None:
        self.running, self.singles, self.size, self.profile = running, singles, size, profile
        self._runs = 0

    def filled(self, packed: int) -> Settings:
        """Settings of new topics, with all events in them."""
        self._runs += 1
        settings = self.running.settings(f"run{self._runs}")
        asyncio.run(self._fill(settings, packed))
        return settings

    async def _fill(self, settings: Settings, packed: int) -> None:
        await create_topics(settings)
        await send(settings, self.singles, packed)

    def measure(self) -> dict[str, float]:
        """The bare agent, and every profile on single events and on arrays: ratios, rates, and µs of CPU."""
        agent = bare(self.filled(1), len(self.singles))
        found = {"bare agent": 1 / agent.clock, "bare agent, CPU": agent.cpu["worker"] * 1e6}
        for row, packed in (("P1", 1), ("P2", self.size)):
            for name, given in PROFILES.items():
                cost = self._run(packed, given, self.profile if (row, name) == ("P1", "default") else None)
                found[f"{row} {name}"] = agent.clock / cost.clock
                found[f"{row} {name}, by CPU"] = agent.cpu["worker"] / cost.cpu["worker"]
                found[f"{row} {name}, rate"] = 1 / cost.clock
                found |= {f"{row} {name}, CPU of {of}": each * 1e6 for of, each in cost.cpu.items()}
        return found

    def warm(self) -> None:
        """A run that does not count: a broker that has just begun takes three times the CPU an event."""
        self._run(1, {}, None)

    def _run(self, packed: int, given: Mapping[str, str], profile: str | None) -> Cost:
        settings = self.filled(packed)
        with worker(settings, given, profile) as process:
            pids = self.running.pids | {"worker": process.pid}
            return asyncio.run(followed(settings, len(self.singles), pids))


def unit_of(name: str) -> str:
    """The unit of a figure, told by its name."""
    if " CPU" in name and "by CPU" not in name:
        return "µs an event"
    return "events/s" if name.endswith("rate") or name == "bare agent" else "× bare agent"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--array-size", type=int, default=100)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    parser.add_argument("--profile", help="write a cProfile of the worker on single events here")
    given = parser.parse_args()
    with servers(given.kafka) as running:
        pipeline = Pipeline(running, events(given.events), given.array_size, given.profile)
        pipeline.warm()
        found = repeated(pipeline.measure, given.repeats)
    figures = {name: figure(values, unit_of(name), GOALS.get(name)) for name, values in found.items()}
    details = {"events": given.events, "array_size": given.array_size, "broker": running.kind}
    tell(Report("pipeline", figures, details), given)


if __name__ == "__main__":
    main()
