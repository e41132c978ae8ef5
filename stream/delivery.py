"""The delivery protocol: each event counts exactly once. ``docs/delivery.md`` explains it; the numbers agree.

The store holds the position; Kafka's commit only shows the lag. A partition's head (epoch, transaction
number, positions), its state and its outbox change in one transaction, which a worker can make only while
the head is to the byte what it last wrote. What is lost in a failover is made again, equal, because the step
is pure. Messages to the outside go out after the transaction, from the outbox, at least once.

One module over three ports, so that a simulation can run the very same code: `Log` (the broker, reading),
`Sender` (the broker, writing) and the store's `Session` and `put_views`.
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from state.keys import Keys
from state.model import Head, Position, Put, View, Write
from state.store import Fenced, Session, Store
from stream.codec import Record
from stream.transport import Bundle

_FORMAT = 1
_THERE_S, _AHEAD_S = 5.0, 0.5
"""Waits for a record that must be there, and for one that need not be."""


class Log(Protocol):
    """Reading side of the broker."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset still there, and the end (the offset the next record gets)."""

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        """The first record at or after an offset, or None when none comes within the time."""


class Output(msgspec.Struct, frozen=True, array_like=True):
    """A message to publish. With ``view`` its value is also that key's public answer; without a topic, only.

    A ``tombstone`` goes out without its value.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    view: str = ""
    expires_s: int = 0
    tombstone: bool = False


class Sender(Protocol):
    """Writing side of the broker."""

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        """Send in order to the outputs' topics, and wait until the broker has all of them."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What a step wants done: writes of state, messages, and where dead letters stand in the log.

    ``mail`` is for other partitions: (target partition, message). ``dead`` holds (topic, offset): a dead
    letter's bytes stay in the log and are read again if the outbox has to be published twice.
    """

    writes: Sequence[Write] = ()
    outputs: Sequence[Output] = ()
    mail: Sequence[tuple[int, Output]] = ()
    dead: Sequence[tuple[str, int]] = ()
    dead_letters: Sequence[Output] = ()


class Outbox(msgspec.Struct, array_like=True):
    """The stored form of what the newest transaction publishes (MessagePack array)."""

    format: int
    outputs: Sequence[Output]
    mail: Sequence[tuple[int, Output]]
    dead: Sequence[tuple[str, int]]


class LogMismatch(Exception):
    """The store's position and the log do not belong together: going on would lose or repeat events."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a partition needs of the world."""

    log: Log
    store: Store
    sender: Sender
    now_ms: Callable[[], int]
    dead_letters: Callable[[int, str, Record], Sequence[Output]]
    """(partition, topic, record) → its dead letters, made again from the log."""


@dataclass
class Delivery:
    """One partition's side of the protocol: ``part`` is its name in the key space, ``topics`` its inputs."""

    part: str
    partition: int
    topics: tuple[str, ...]
    ports: Ports
    keys: Keys
    head: Head = field(init=False)
    """The head, with the positions that a new partition begins at; `_held` is the one in the store."""
    session: Session = field(init=False)
    _held: Head = field(init=False)
    _seen: dict[str, int] = field(default_factory=dict)
    """How far bundles reached that began beyond the position."""
    _verified: dict[str, Position] = field(default_factory=dict)

    reached: dict[str, Position] = field(init=False)
    """Where the next record of each topic is here: ahead of the head until the next transaction."""

    def __post_init__(self) -> None:
        self.session = self.ports.store.session(self.part)

    def position(self, topic: str) -> int:
        """Where the next record of a topic is."""
        return self.head.positions[topic].offset

    def base(self, topic: str) -> int:
        """What to add to a topic's offsets wherever something is named by them."""
        return self.head.positions[topic].base

    # Taking a partition

    async def take(self) -> None:
        """Become the owner. Raises LogMismatch; other errors leave the partition untaken.

        Take 1: set the head's epoch by compare-and-set. Only then read outbox and state.
        Take 2: stop when the store's positions and the log do not fit.
        Take 3: publish the outbox again, views included.
        """
        head, _ = await self.session.claim(secrets.randbits(63), self.ports.now_ms())
        # Every transaction writes positions; a claim alone does not, so that this stops every owner to come.
        if not head.positions and await self.ports.store.has_state(self.part):
            if await self.session.head() != head:
                raise Fenced(f"another took {self.part} meanwhile, and wrote its first state")
            raise LogMismatch(f"partition {self.part} has state in the store but no position. " + _RESTORE)
        self._held = head
        self.head = Head(head.epoch, head.n, {t: await self._start(t, head) for t in self.topics})
        self.reached = dict(self.head.positions)
        self._seen.clear()
        await self._publish_outbox()

    async def _start(self, topic: str, head: Head) -> Position:
        held = head.positions.get(topic)
        if held is None:
            begin, _ = await self.ports.log.bounds(topic, self.partition)
            return Position(begin)
        await self._check_log(topic, held)
        return held

    async def verify(self) -> None:
        """What silence would hide: a store that went back in time, a log made anew, records passed over.

        A few trips. Raises Fenced when the head is not what this worker wrote, LogMismatch.
        """
        if await self.session.head() != self._held:
            raise Fenced(f"the head of {self.part} is not what this worker wrote")
        for topic, reached in self.reached.items():
            await self._check_log(topic, reached)
            if self._verified.get(topic) == reached:
                await self._look_ahead(topic, reached)
        self._verified = dict(self.reached)

    async def _look_ahead(self, topic: str, reached: Position) -> None:
        """Where nothing came since the last look: does something wait at the position? Then it is a gap.

        Kafka may hold a commit above the position (the store went back in time, and the commit that said so
        failed): the group then reads from there, and in silence nobody would notice.
        """
        _, end = await self.ports.log.bounds(topic, self.partition)
        if reached.offset < end and (
            record := await self.ports.log.read(topic, self.partition, reached.offset, _AHEAD_S)
        ):
            self._seen[topic] = max(record.offset + 1, self._seen.get(topic, 0))

    async def _check_log(self, topic: str, held: Position) -> None:
        if why := await misfit(self.ports.log, topic, self.partition, held):
            raise LogMismatch(f"{why}. {_RESTORE}")

    async def _publish_outbox(self) -> None:
        (stored,) = await self.session.get([self.keys.outbox(self.part)])
        if stored is None:
            return
        outbox = msgspec.msgpack.decode(stored, type=Outbox)
        letters = [letter for at in outbox.dead for letter in await self._read_dead(*at)]
        await self.publish(Effects((), outbox.outputs, outbox.mail, outbox.dead, letters))

    async def _read_dead(self, topic: str, offset: int) -> Sequence[Output]:
        record = await self.ports.log.read(topic, self.partition, offset)
        begin, end = await self.ports.log.bounds(topic, self.partition)
        if record is None and begin <= offset < end:
            raise TimeoutError(f"{topic}/{self.partition}: the record at {offset} did not come")
        held = record is not None and record.offset == offset
        return self.ports.dead_letters(self.partition, topic, record) if record and held else ()

    # A batch

    async def unread(self, bundles: Sequence[Bundle]) -> list[tuple[str, Sequence[Record]]]:
        """Batch 1: topics, and records without those that the position covers; then it moves on.

        A bundle that begins beyond the position is left out, and remembered as a gap. Raises LogMismatch.
        """
        reached, found = dict(self.reached), []
        for bundle in bundles:
            topic = self._topic(bundle)
            if bundle.first is not None and bundle.first > reached[topic].offset:
                self._seen[topic] = max(bundle.next, self._seen.get(topic, 0))
                continue
            records = await self._uncovered(topic, bundle, reached[topic])
            if records:
                reached[topic] = _after(records[-1], reached[topic].base)
                found.append((topic, records))
        self.reached = reached
        return found

    async def _uncovered(self, topic: str, bundle: Bundle, reached: Position) -> Sequence[Record]:
        if not bundle.records or bundle.records[0].offset == reached.offset:
            return bundle.records
        if bundle.records[0].offset > reached.offset:
            # Markers and compaction leave holes; but so does retention that overtakes a worker.
            begin, _ = await self.ports.log.bounds(topic, self.partition)
            if why := overtaken(topic, self.partition, reached, begin):
                raise LogMismatch(f"{why}. {_RESTORE}")
            return bundle.records
        # Read twice, or the beginning of a log made anew, where nothing of this was counted?
        await self._check_log(topic, reached)
        return [record for record in bundle.records if record.offset >= reached.offset]

    def gap(self) -> str:
        """What was seen beyond the position while the records between are missing; empty: nothing."""
        gaps = [(t, self.reached[t].offset, seen) for t, seen in self._seen.items()]
        return ", ".join(f"{topic} {at} to {seen}" for topic, at, seen in gaps if at < seen)

    def covers(self, bundle: Bundle) -> bool:
        """Whether all of a bundle is before the position."""
        return self.reached[self._topic(bundle)].offset >= bundle.next

    def _topic(self, bundle: Bundle) -> str:
        return next(topic for topic in self.topics if bundle.topic.endswith(topic))

    def advanced(self) -> Head:
        """The head of the transaction that has read what was reached."""
        return self.head.next(dict(self.reached))

    async def transact(self, new: Head, effects: Effects) -> None:
        """Batch 3: head, state and outbox in one transaction. Raises Fenced, Doubt or StoreFull."""
        outbox = Outbox(_FORMAT, effects.outputs, effects.mail, effects.dead)
        put = Put(self.keys.outbox(self.part), msgspec.msgpack.encode(outbox))
        await self.session.commit(self._held, new, [*effects.writes, put])
        self._held = self.head = new

    async def publish(self, effects: Effects) -> None:
        """Batch 4: messages and views, until broker and store have them; a view only if newer."""
        messages = [output for output in effects.outputs if output.topic]
        by_target: dict[int, list[Output]] = {self.partition: [*messages, *effects.dead_letters]}
        for target, output in effects.mail:
            by_target.setdefault(target, []).append(output)
        views = [View(o.view, o.value, o.expires_s) for o in effects.outputs if o.view]
        # Order matters within a topic and partition only: the round trips may overlap.
        sent = [self.ports.sender.publish(*each) for each in by_target.items()]
        await asyncio.gather(*sent, self.ports.store.put_views(views))


async def misfit(log: Log, topic: str, partition: int, held: Position) -> str:
    """Why a position and the log do not belong together; empty: they do, as far as the log can tell."""
    begin, end = await log.bounds(topic, partition)
    if (why := overtaken(topic, partition, held, begin)) or held.offset == begin or not held.time_ms:
        return why
    where = _where(topic, partition, held)
    # The record itself decides: the embedded broker understates the end by up to a batch, and is slow to
    # hand it out while it is busy.
    before = await log.read(topic, partition, held.offset - 1, _THERE_S)
    if before is None:
        return f"{where}, but the log ends at {end}: it was made anew or cut" if held.offset > end else ""
    if before.offset >= held.offset:
        return ""  # it was compacted away or removed by retention: nothing to compare with
    made_anew = f"{where}, but another record stands before it: the log was made anew"
    return "" if _after(before, held.base) == held else made_anew


def overtaken(topic: str, partition: int, held: Position, begin: int) -> str:
    """Whether retention removed what was not read, in words; empty: it did not."""
    lost = f"{_where(topic, partition, held)}, but the log begins at {begin}: retention removed unread events"
    return lost if held.offset < begin else ""


def _where(topic: str, partition: int, held: Position) -> str:
    return f"{topic}/{partition}: the store's position is {held.offset}"


def _after(record: Record, base: int) -> Position:
    """The position after a record, with what tells this log from one made anew."""
    return Position(record.offset + 1, record.timestamp, zlib.crc32(record.value or b""), base)


_RESTORE = (
    "Restore the log or the store from a backup of the same time, or see what `tidewise mend` can do, or "
    "start over: set another `prefix` and replay the events."
)
