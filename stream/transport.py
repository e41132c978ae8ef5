"""A Faust transport that hands a whole poll of a partition over as one message: a *bundle*.

Stock Faust spends 60–100 µs a message on its stream machinery, ten times all the rest of the work; a bundle
costs that once a poll. The overridden methods are private in Faust 0.15.3, which is therefore pinned, and
tests/test_transport.py holds this file to their contract. The setting ``transport=stock`` goes back to
Faust's own; the agents read both through `bundle_of`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import aiokafka
import structlog
from aiokafka.errors import IllegalStateError, KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, EventT, Message

from stream.codec import Record

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Bundle:
    """Consecutive records of one partition.

    ``first`` is the position the fetch began at (None when the transport does not tell) and ``next`` the one
    it reached; offsets missing between records are transaction markers, aborted or compacted-away records.
    ``size`` counts the bytes of the values.
    """

    topic: str
    partition: int
    records: Sequence[Record]
    first: int | None
    next: int
    size: int = 0


BUNDLE_BYTES = 1_048_576
"""A bundle holds at most this many bytes of values, unless a single record is larger."""
BATCH_BYTES = 2 * BUNDLE_BYTES
"""Bundles that wait are taken together up to this many bytes: at most three. With half of it an event of a
backlog cost a fifth more, with twice as much the same: the larger a batch, the fewer lists an event."""
POLL_BYTES = 4 * BUNDLE_BYTES
"""A poll asks for as many records as made this many bytes of values the last time."""


def cut(bundle: Bundle) -> Iterator[Bundle]:
    """The bundle in pieces of at most `BUNDLE_BYTES`; the positions follow on from piece to piece.

    A poll may hold thousands of arrays: far more than should wait in memory, or go into one transaction.
    """
    start, size, first = 0, 0, bundle.first
    for at, record in enumerate(bundle.records):
        more = len(record.value or b"")
        if size + more > BUNDLE_BYTES and at > start:
            reached = bundle.records[at - 1].offset + 1
            yield replace(bundle, records=bundle.records[start:at], first=first, next=reached, size=size)
            start, size, first = at, 0, reached
        size += more
    yield replace(bundle, records=bundle.records[start:], first=first, size=size)


def split(bundle: Bundle, records: int) -> Iterator[Bundle]:
    """The bundle in pieces of at most so many records; the positions follow on."""
    some, first = bundle.records, bundle.first
    for start in range(0, max(len(some), 1), records):
        piece, last = some[start : start + records], start + records >= len(some)
        next_ = bundle.next if last else piece[-1].offset + 1
        yield Bundle(bundle.topic, bundle.partition, piece, first, next_)
        first = next_


class BundleMessage(ConsumerMessage):
    """A Faust message that stands for a bundle; its offset is that of the bundle's last record."""

    __slots__ = ("bundle",)
    bundle: Bundle


@dataclass(slots=True)
class StockRecord:
    """One record as stock Faust delivers it, in the shape of aiokafka's."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def bundle_of(event: EventT[Any]) -> Bundle:
    """The bundle behind a Faust event; a stock message becomes a bundle of one."""
    message = event.message
    if isinstance(message, BundleMessage):
        return message.bundle
    raw = message.headers or []
    headers = list(raw.items()) if isinstance(raw, Mapping) else list(raw)
    record = StockRecord(message.offset, round(message.timestamp * 1000), message.key, message.value, headers)
    return Bundle(message.topic, message.partition, [record], None, message.offset + 1)


FETCH_WAIT_MS = 50
"""Longest wait of the broker for data. Kafka answers as soon as there is some; the embedded broker waits."""


def _mended(consumer: aiokafka.AIOKafkaConsumer) -> aiokafka.AIOKafkaConsumer:
    """Faust hard-codes read_uncommitted, by which aborted records would count, and a wait of 1.5 s."""
    consumer._isolation_level = "read_committed"
    consumer._fetch_max_wait_ms = FETCH_WAIT_MS
    return consumer


class CommittedThread(driver.AIOKafkaConsumerThread):
    """The consumer thread, reading committed records only."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:
        return _mended(super()._create_worker_consumer(transport))

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit what is assigned. Faust would crash at an error; but the store holds the position."""
        assigned = self.assignment()
        given = {aiokafka.TopicPartition(*tp): at for tp, at in offsets.items() if tp in assigned}
        try:
            if given:
                await self._ensure_consumer().commit(given)
        except KafkaError as error:
            log.warning("positions not shown to Kafka", error=repr(error))
            return False
        return True


class BundleThread(CommittedThread):
    """The consumer thread; it also notes the position each fetch began at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._from: dict[TP, int] = {}
        self._sought: set[TP] = set()
        self._record_bytes = POLL_BYTES // 500

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TP, Any]:
        for tp in active_partitions:
            if tp not in self._from and (at := self._position(consumer, tp)) is not None:
                self._from[tp] = at
        self._sought.clear()
        # Fetched bytes are bounded, but compressed: what they become is known by the last poll only.
        most = max(1, min(max_records or POLL_BYTES, POLL_BYTES // self._record_bytes))
        fetched = await super()._fetch_records(consumer, active_partitions, timeout, most)
        if fetched:
            means = [sum(len(r.value or b"") for r in found) // len(found) for found in fetched.values()]
            self._record_bytes = max(1, *means)
        # What came while somebody sought elsewhere is of before; it comes again if it is due.
        return {tp: self._bundle(tp, records) for tp, records in fetched.items() if tp not in self._sought}

    @staticmethod
    def _position(consumer: Any, tp: TP) -> int | None:
        state = consumer._subscription.subscription.assignment.state_value(tp)
        return state.position if state is not None and state.has_valid_position else None

    def _bundle(self, tp: TP, records: list[Any]) -> Bundle:
        first, self._from[tp] = self._from.get(tp), records[-1].offset + 1
        return Bundle(tp.topic, tp.partition, records, first, records[-1].offset + 1)

    async def seek_here(self, partition: TP, offset: int) -> None:
        """Seek, in the thread that fetches. A seek begins a new run of positions.

        aiokafka drops what it had fetched, and nothing waits between its look at the position and `_bundle`:
        also a fetch under way gives what follows ``offset`` only.
        """
        self.seek(partition, offset)
        self._from[partition] = offset

    def _forget_all(self) -> None:
        self._sought.update(self._from)
        self._from.clear()

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Likewise. Where a rebalance has taken a partition away meanwhile, the next one brings new ones."""
        self._forget_all()
        found: Mapping[TP, int] = {}
        with suppress(IllegalStateError):
            found = await super().seek_to_committed()
        # A fetch may have gone on from the new positions meanwhile, for nobody: the next looks where it is.
        self._forget_all()
        return found

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Likewise."""
        self._forget_all()
        await super().on_partitions_assigned(assigned, generation_id)


class StockConsumer(driver.Consumer):
    """Faust's own consumer, but reading committed records only."""

    def _new_consumer_thread(self) -> CommittedThread:
        return CommittedThread(self, loop=self.loop, beacon=self.beacon)


class _Unread(dict[TP, int | None]):
    """Offsets that Faust would drop messages by, never remembered.

    Faust notes an offset after the message is handed over: one noted after a seek back would make it drop all
    that is read again. Repeats are dropped by the partition's position.
    """

    def __getitem__(self, tp: TP) -> int | None:
        return None

    def __setitem__(self, tp: TP, offset: int | None) -> None:
        """Forget it."""

    def update(self, *_: Any, **__: Any) -> None:
        """Likewise."""


class BundleConsumer(driver.Consumer):
    """Faust's consumer, a few messages a poll and partition: what came, in pieces."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _Unread()

    def _new_consumer_thread(self) -> BundleThread:
        return BundleThread(self, loop=self.loop, beacon=self.beacon)

    async def _seek(self, partition: TP, offset: int) -> None:
        thread = cast(BundleThread, self._thread)
        await thread.call_thread(thread.seek_here, partition, offset)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Yield the pieces of a poll. Stops when a rebalance begins, as Faust's own does."""
        bundles, _ = await self._wait_next_records(timeout)
        generation = self.app.consumer_generation_id
        if not self.flow_active:
            await self.perform_seek()
            return
        pieces = ((tp, piece) for tp, bundle in (bundles or {}).items() for piece in cut(cast(Any, bundle)))
        for tp, piece in pieces:
            if self.should_stop or not self.flow_active or self.app.consumer_generation_id != generation:
                return
            yield tp, self._message_of(tp, piece)

    def _message_of(self, tp: TP, bundle: Bundle) -> BundleMessage:
        message = BundleMessage(
            tp.topic,
            tp.partition,
            bundle.next - 1,
            0.0,
            0,
            None,
            None,
            b"",
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )
        message.bundle = bundle
        return message

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets between bundles are part of the later bundle: there are no gaps to track."""

    def _new_offset(self, tp: TP) -> int | None:
        """Bundles of a partition are acknowledged in order, so the newest covers all before it."""
        acked = self._acked[tp]
        if not acked:
            return None
        newest = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return int(newest) + 1


class StockTransport(driver.Transport):
    """Faust's own transport, reading committed records only."""

    Consumer = StockConsumer


class BundleTransport(driver.Transport):
    """Faust over aiokafka, in bundles."""

    Consumer = BundleConsumer
