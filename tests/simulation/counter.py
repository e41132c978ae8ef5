"""The small world: sides that count, on the very `Delivery` and `Runner`; tens of thousands of runs a minute.

`Counter` stands for the shopper side: a state that depends on the order of events, a count a key, messages
named by their place in the log, a view a key, mail to item partitions, and misrouted events forwarded as
mail into `events` itself. `Keeper` stands for the item side: it folds many bundles into memory, publishes
views from there, and stores at checkpoints. Both are written as their models are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import msgspec

from state.keys import Keys
from state.model import Put, View, Write, version
from stream.codec import Record
from stream.delivery import Delivery, Effects, Output, Ports
from stream.runner import Runner
from stream.settings import Settings
from stream.topics import CATALOG, DEAD_LETTERS, ENGAGEMENTS, EVENTS, INCREMENTS, RECOMMENDATIONS
from stream.transport import Bundle
from tests.simulation.world import SimWorker, World

USERS = "abcd"
SETTINGS = Settings.model_validate({"partitions": 2, "prefix": "s"})
CHECKPOINT_MS, PUBLISH_MS = 700, 100
PULSE_S = 0.8


def partition_of(key: str, partitions: int) -> int:
    return ord(key) % partitions


class Event(msgspec.Struct, array_like=True):
    """A record of `events`; with ``sender`` it is mail of that partition, and ``source`` its place there."""

    key: str
    number: int
    sender: int = -1
    source: int = -1


class Mail(msgspec.Struct, array_like=True):
    """A record of `increments`: segments (source, key, number) of one sender."""

    sender: int
    segments: list[tuple[int, str, int]]


class Meta(msgspec.Struct, array_like=True):
    """A partition's own state."""

    run: int = 0
    """Depends on every event and on their order."""
    dead: int = 0
    repeats: int = 0
    senders: dict[int, int] = {}


@dataclass(slots=True)
class Step:
    """What a batch makes; the same from the same state and records, however they are cut."""

    meta: Meta
    counts: dict[str, int]
    touched: dict[str, int] = field(default_factory=dict)
    said: list[tuple[str, bytes]] = field(default_factory=list)
    forwarded: list[tuple[int, Event]] = field(default_factory=list)
    segments: list[tuple[int, str, int]] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)


def parse(record: Record) -> Event | None:
    """An event, or None: a dead letter."""
    try:
        return msgspec.json.decode(record.value or b"", type=Event)
    except msgspec.DecodeError:
        return None


def step(
    partition: int,
    partitions: int,
    base: int,
    meta: Meta,
    counts: Mapping[str, int],
    records: Sequence[Record],
    drops: bool = True,
) -> Step:
    """The pure step. ``drops``: repeated mail does not count."""
    made = Step(Meta(meta.run, meta.dead, meta.repeats, dict(meta.senders)), dict(counts))
    for record in records:
        event, source = parse(record), base + record.offset
        if event is None:
            made.meta.dead += 1
            made.dead.append(record.offset)
        elif event.sender < 0 and partition_of(event.key, partitions) != partition:
            made.forwarded.append((source, event))
        elif drops and event.sender >= 0 and event.source <= made.meta.senders.get(event.sender, -1):
            made.meta.repeats += 1
        else:
            _count(made, partition, source, event)
    return made


def _count(made: Step, partition: int, source: int, event: Event) -> None:
    if event.sender >= 0:
        made.meta.senders[event.sender] = event.source
    made.meta.run = crc32(b"%s%d" % (event.key.encode(), event.number), made.meta.run)
    count = made.counts[event.key] = made.counts.get(event.key, 0) + 1
    made.touched[event.key] = source
    told = b"%d-%d %s %d %d %d" % (
        partition, source, event.key.encode(), event.number, count, made.meta.run,
    )  # fmt: skip
    made.said.append((event.key, told))
    made.segments.append((source, event.key, event.number))


def dead_letter(partition: int, record: Record) -> Output:
    return Output(DEAD_LETTERS.name, None, b"%d-%d %s" % (partition, record.offset, record.value or b""))


def view_of(at_version: str, content: object) -> bytes:
    return b'{"version":"%s","content":%s}' % (at_version.encode(), msgspec.json.encode(content))


class Counter:
    """The shopper side's model."""

    drops = True
    """Whether it drops repeated mail; planted bugs change these two."""
    early = False
    """Whether results enter the memory before the transaction, and stay there after a failure."""

    def __init__(self, partition: int, partitions: int, ports: Ports, keys: Keys) -> None:
        self.partition = partition
        self.partitions = partitions
        self.ports = ports
        self.keys = keys
        self.delivery = Delivery(f"u{partition}", partition, (EVENTS.name,), ports, keys)
        self.meta = Meta()
        self.counts: dict[str, int] = {}

    async def take(self) -> None:
        await self.delivery.take()
        if self.early and self.counts:
            return
        self.counts = {}
        (stored,) = await self.delivery.session.get([self.keys.meta(self.delivery.part)])
        self.meta = msgspec.msgpack.decode(stored, type=Meta) if stored else Meta()

    async def handle(self, bundles: Sequence[Bundle]) -> None:
        records = [record for _, some in await self.delivery.unread(bundles) for record in some]
        if not records:
            return
        await self._load({event.key for record in records if (event := parse(record)) is not None})
        base = self.delivery.base(EVENTS.name)
        made = step(self.partition, self.partitions, base, self.meta, self.counts, records, self.drops)
        new = self.delivery.advanced()
        effects = self._effects(made, records, version(new.epoch.term, new.n))
        if self.early:
            self.meta, self.counts = made.meta, made.counts
        await self.delivery.transact(new, effects)
        self.meta, self.counts = made.meta, made.counts
        await self.delivery.publish(effects)

    async def _load(self, names: set[str]) -> None:
        missing = sorted(names - self.counts.keys())
        if missing:
            found = await self.delivery.session.get([self.keys.user(self.delivery.part, n) for n in missing])
            self.counts.update((n, int(blob)) for n, blob in zip(missing, found, strict=True) if blob)

    def _effects(self, made: Step, records: Sequence[Record], at_version: str) -> Effects:
        keys, part = self.keys, self.delivery.part
        writes: list[Write] = [
            Put(keys.user(part, key), b"%d" % made.counts[key]) for key in sorted(made.touched)
        ]
        views = [
            Output(RECOMMENDATIONS.name, None, view_of(at_version, made.counts[key]), view=keys.recs(key))
            for key in sorted(made.touched)
        ]
        return Effects(
            writes=[*writes, Put(keys.meta(part), msgspec.msgpack.encode(made.meta))],
            outputs=[*views, *(Output(ENGAGEMENTS.name, key.encode(), told) for key, told in made.said)],
            mail=self._mail(made),
            dead=[(EVENTS.name, offset) for offset in made.dead],
            dead_letters=[dead_letter(self.partition, r) for r in records if r.offset in made.dead],
        )

    def _mail(self, made: Step) -> list[tuple[int, Output]]:
        """Segments go to the item partition of their number; a misrouted event to its user's partition."""
        mail: list[tuple[int, Output]] = []
        for target in range(self.partitions):
            if some := [each for each in made.segments if each[2] % self.partitions == target]:
                value = msgspec.json.encode(Mail(self.partition, some))
                mail.append((target, Output(INCREMENTS.name, None, value)))
        for source, event in made.forwarded:
            value = msgspec.json.encode(Event(event.key, event.number, self.partition, source))
            mail.append((partition_of(event.key, self.partitions), Output(EVENTS.name, None, value)))
        return mail

    async def pulse(self, busy: bool) -> bool:
        return True


class Keeper:
    """The item side's model: the sum of numbers a key."""

    drops = True

    def __init__(self, partition: int, ports: Ports, keys: Keys, shared: dict[str, int]) -> None:
        self.partition = partition
        self.ports = ports
        self.keys = keys
        self.delivery = Delivery(f"i{partition}", partition, (INCREMENTS.name, CATALOG.name), ports, keys)
        self.shared = shared
        """What all item partitions of a worker hold in memory: each its own names."""
        self._clear()

    def _clear(self) -> None:
        self.meta = Meta()
        self.dirty: set[str] = set()
        self.unpublished: set[str] = set()
        self.published = 0
        self._checkpoint_at = self._publish_at = 0
        for name in [name for name in self.shared if self._mine(name)]:
            del self.shared[name]

    def _mine(self, name: str) -> bool:
        return int(name[-1]) == self.partition

    async def take(self) -> None:
        self._clear()
        await self.delivery.take()
        (stored,) = await self.delivery.session.get([self.keys.meta(self.delivery.part)])
        self.meta = msgspec.msgpack.decode(stored, type=Meta) if stored else Meta()

    async def handle(self, bundles: Sequence[Bundle]) -> None:
        found: list[tuple[str, int]] = []
        for topic, records in await self.delivery.unread(bundles):
            if topic == CATALOG.name:
                for record in records:
                    found.append((f"catalog{self.partition}", int(record.value or b"0")))
            else:
                found += [each for record in records for each in self._open(record)]
        await self._load({name for name, _ in found})
        for name, number in found:
            self.shared[name] += number
        self.dirty.update(name for name, _ in found)
        self.unpublished.update(name for name, _ in found)

    def _open(self, record: Record) -> list[tuple[str, int]]:
        mail = msgspec.json.decode(record.value or b"", type=Mail)
        last = self.meta.senders.get(mail.sender, -1)
        fresh = [each for each in mail.segments if each[0] > last or not self.drops]
        if fresh:
            self.meta.senders[mail.sender] = max(last, fresh[-1][0])
        return [(f"{key}{self.partition}", number) for _, key, number in fresh]

    async def _load(self, names: set[str]) -> None:
        missing = sorted(names - self.shared.keys())
        if missing:
            found = await self.delivery.session.get([self.keys.row(self.delivery.part, n) for n in missing])
            self.shared.update((n, int(blob or b"0")) for n, blob in zip(missing, found, strict=True))

    async def pulse(self, busy: bool) -> bool:
        now_ms = self.ports.now_ms()
        if self.unpublished and now_ms >= self._publish_at:
            self._publish_at = now_ms + PUBLISH_MS
            await self._publish()
        if self._uncommitted() and now_ms >= self._checkpoint_at:
            self._checkpoint_at = now_ms + CHECKPOINT_MS
            await self._checkpoint()
            return True
        return not self._uncommitted()

    def _uncommitted(self) -> bool:
        return self.delivery.reached != self.delivery.head.positions

    async def _publish(self) -> None:
        names, self.unpublished = sorted(self.unpublished), set()
        await self._load(set(names))
        self.published += 1
        at_version = version(self.delivery.head.epoch.term, self.published)
        views = [View(self.keys.neighbors(n), view_of(at_version, self.shared[n])) for n in names]
        await self.ports.store.put_views(views)

    async def _checkpoint(self) -> None:
        if self.unpublished:
            await self._publish()
        new, part = self.delivery.advanced(), self.delivery.part
        writes = [Put(self.keys.row(part, n), b"%d" % self.shared[n]) for n in sorted(self.dirty)]
        meta = Put(self.keys.meta(part), msgspec.msgpack.encode(self.meta))
        effects = Effects(writes=[*writes, meta])
        await self.delivery.transact(new, effects)
        self.dirty.clear()
        await self.delivery.publish(effects)


class CounterWorker(SimWorker):
    """The worker with the small sides."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.shared: dict[str, int] = {}

    def dead_letters(self, partition: int, topic: str, record: Record) -> Sequence[Output]:
        return [dead_letter(partition, record)] if parse(record) is None else []

    async def _take(self, name: str) -> None:
        partition, keys = int(name[1:]), self.world.server.data.keys
        side: Counter | Keeper = (
            Counter(partition, self.world.partitions, self._ports, keys)
            if name[0] == "u"
            else Keeper(partition, self._ports, keys, self.shared)
        )
        runner = Runner(name, side, batch_events=4, pulse_s=PULSE_S, reread=self._reread, fatal=self.fail)
        if await runner.retake():
            self.runners[name] = runner
            self._tasks[name] = asyncio.create_task(runner.run())


class CounterWorld(World):
    """A dozen events, counted."""

    settings = SETTINGS

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.partitions = self.rng.choice((1, 2))
        self.sent: list[tuple[int, Event | None]] = []
        self.stocked = [0] * self.partitions

    def worker(self, name: str) -> SimWorker:
        return CounterWorker(self, name)

    async def produce(self) -> None:
        rng = self.rng
        for number in range(1, rng.randint(4, 12)):
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * rng.choice((0.05, 0.3, 1.0)))
            partition, what = rng.randrange(self.partitions), rng.random()
            if what < 0.15:
                self.stocked[partition] += number
                self.log.append(CATALOG.name, partition, None, b"%d" % number)
                continue
            event = None if what < 0.22 else Event(rng.choice(USERS), number)
            if event is not None and rng.random() < 0.7:
                partition = partition_of(event.key, self.partitions)
            self.sent.append((partition, event))
            value = b"poison" if event is None else msgspec.json.encode(event)
            self.log.append(EVENTS.name, partition, None, value)

    # What is true

    async def wrong(self) -> str:
        n = self.partitions
        made = [step(p, n, 0, Meta(), {}, self._records(EVENTS.name, p)) for p in range(n)]
        return (
            self._wrong_counts(made)
            or self._wrong_state(made)
            or self._wrong_sums()
            or self._wrong_views()
            or self._wrong_messages(made)
        )

    def _records(self, topic: str, partition: int) -> Sequence[Record]:
        return self.log.part(topic, partition).records

    def _blob(self, key: str) -> bytes:
        return self.server.data.strings.get(key, b"")

    def _wrong_counts(self, made: Sequence[Step]) -> str:
        """Every event sent is counted once by whoever owns its user, whatever way it went."""
        numbers = sorted(number for each in made for _, _, number in each.segments)
        sent = sorted(event.number for _, event in self.sent if event is not None)
        return "" if numbers == sent else f"the log counts {numbers}, sent were {sent}"

    def _wrong_state(self, made: Sequence[Step]) -> str:
        keys = self.server.data.keys
        for partition, each in enumerate(made):
            part = f"u{partition}"
            for name in USERS:
                count = int(self._blob(keys.user(part, name)) or b"0")
                if count != each.counts.get(name, 0):
                    return f"{part} counts {count} of {name}, true are {each.counts.get(name, 0)}"
            stored = self._blob(keys.meta(part))
            if (msgspec.msgpack.decode(stored, type=Meta) if stored else Meta()) != each.meta:
                return f"{part} has another state than a sequential run over the log"
        return ""

    def _wrong_sums(self) -> str:
        wanted: dict[str, int] = {f"catalog{p}": n for p, n in enumerate(self.stocked) if n}
        for _, event in self.sent:
            if event is not None:
                name = f"{event.key}{event.number % self.partitions}"
                wanted[name] = wanted.get(name, 0) + event.number
        keys = self.server.data.keys
        for name, true in wanted.items():
            found = int(self._blob(keys.row(f"i{name[-1]}", name)) or b"0")
            if found != true:
                return f"the sum of {name} is {found}, true is {true}"
        return ""

    def _wrong_views(self) -> str:
        """Every public answer says what the state says."""
        keys, strings = self.server.data.keys, self.server.data.strings
        for key, blob in sorted(strings.items()):
            kind, name = key.split(":")[-2:]
            if kind == "user":
                view = self._blob(keys.recs(name))
            elif kind == "row":
                view = self._blob(keys.neighbors(name))
            else:
                continue
            if not view or msgspec.json.decode(view)["content"] != int(blob):
                return f"the view of {name} is {view!r}, the state is {blob!r}"
        return ""

    def _wrong_messages(self, made: Sequence[Step]) -> str:
        """Every message at least once, all of one id equal, none unknown."""
        for partition, each in enumerate(made):
            sent = {r.value or b"" for r in self._records(ENGAGEMENTS.name, partition)}
            if sent != (wanted := {told for _, told in each.said}):
                return f"messages of {partition}: {sorted(sent)}, not {sorted(wanted)}"
            letters = {r.value for r in self._records(DEAD_LETTERS.name, partition)}
            poison = [r for r in self._records(EVENTS.name, partition) if r.offset in each.dead]
            if letters != {dead_letter(partition, r).value for r in poison}:
                return f"dead letters of {partition}: {letters}"
        return ""
