"""An asyncio client that sends events: validated, keyed, batched, in order per user, with back-pressure::

    async with EventProducer(broker_url="kafka://localhost:9092") as producer:
        await producer.send(
            {"type": "view_item", "user": "ann", "item": "mug", "time": "2026-05-01T12:30:00Z"}
        )

`send` returns when the event is accepted, not when the broker has it: `flush`, or the end of the block, waits
for that. A failure to deliver is raised by whatever is called next. Every event gets an id unless it has one,
so that one that reaches the broker twice (an acknowledgement was lost, a caller tries again) counts once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from producers.envelope import InvalidEvent, demand_valid, envelope_of, with_id
from stream.admin import BrokerError
from stream.codec import Limits
from stream.events import CatalogItem, Event
from stream.ownership import partition_of
from stream.reasons import Reason, reason
from stream.settings import Settings
from stream.topics import CATALOG, EVENTS, Topic

__all__ = ["EventProducer", "InvalidEvent", "Undelivered"]

BATCH_BYTES = 262_144
"""Bytes of one request to a partition: with aiokafka's default of 16 kB a message costs twice as much."""
YIELD_BYTES = 16_384
"""A caller that never waits lets the lanes send after so many bytes."""
OVERHEAD_BYTES = 200
"""What a message, its header and the batch around it cost beyond key and value, waiting or on the wire."""
ARRAY_SPAN_MS = 3_600_000
"""Events of one array were received within this time of each other: an array has one header `received`."""

Sendable = Mapping[str, Any] | Event | CatalogItem | bytes


class Undelivered(BrokerError):
    """Events were accepted, but the broker did not acknowledge them in time; some may have arrived."""


class Message(NamedTuple):
    """One event ready to be sent; ``received`` in ms, None: when the broker gets it."""

    key: str
    value: bytes
    received: int | None

    @property
    def size(self) -> int:
        """Bytes it takes in the buffer and at most on the wire."""
        return len(self.key) * 4 + len(self.value) + OVERHEAD_BYTES


class EventProducer:
    """Sends events to `events`, catalogue events (``"type": "item"``) to `catalog`. Use with ``async with``.

    ``array_size`` packs up to so many events of one partition into one message, as a collector would.
    ``max_buffered_bytes`` bounds what waits for the broker: `send` waits while there is more.
    ``deliver_within_s`` is how long the broker may take for a message before the producer gives up.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        broker_url: str | None = None,
        array_size: int = 1,
        linger_s: float = 0.005,
        max_buffered_bytes: int = 33_554_432,
        deliver_within_s: float = 30.0,
    ) -> None:
        given: dict[str, Any] = {} if broker_url is None else {"broker_url": broker_url}
        self.settings = settings.model_copy(update=given) if settings else Settings(**given)
        self._limits = Limits.of(self.settings)
        self._array_size = min(array_size, self.settings.max_batch_events)
        self._linger_s = linger_s
        self._max_bytes = max_buffered_bytes
        self._deliver_within_s = deliver_within_s
        self._ids = map(f"{secrets.token_hex(6)}-%d".__mod__, count())
        self._partitions: dict[str, int] = {}
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self._unyielded = 0
        self.accepted = 0
        self.acknowledged = 0
        self.buffered_bytes = 0
        """Events accepted and acknowledged so far; bytes accepted and not acknowledged."""

    async def __aenter__(self) -> Self:
        self._kafka = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap,
            acks="all",
            max_batch_size=min(BATCH_BYTES, self.settings.max_message_bytes),
            request_timeout_ms=int(self._deliver_within_s * 1000),
        )
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                await self._kafka.start()
            await self._count(EVENTS)
        except BaseException as error:
            await self._kafka.stop()
            if isinstance(error, KafkaError | OSError | TimeoutError):
                raise BrokerError(self._unreachable(error)) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
            elif isinstance(error, Exception):  # what was accepted is sent all the same; `error` goes on
                with suppress(Undelivered):
                    await self.flush()
        finally:
            await asyncio.gather(*(lane.stop() for lane in self._lanes.values()))
            await self._kafka.stop()

    async def send(self, event: Sendable, *, received: int | None = None) -> None:
        """Accept one event; wait while the buffer is full. ``received`` (ms) is kept as a header.

        Raises InvalidEvent before anything is sent, Undelivered when earlier events failed. About 15 µs.
        """
        data = event if isinstance(event, bytes) else _encoded(event)
        envelope = envelope_of(data, self._limits)
        if isinstance(event, CatalogItem):
            envelope.type = "item"
        demand_valid(data, envelope, self._limits)
        if envelope.id is None and not envelope.is_item:
            data = with_id(data, next(self._ids))
        await self.put(CATALOG if envelope.is_item else EVENTS, Message(envelope.key, data, received))

    async def send_many(self, events: Iterable[Sendable] | AsyncIterable[Sendable]) -> int:
        """Accept events in order; return how many. An invalid one stops there: those before it are sent."""
        before = self.accepted
        if isinstance(events, AsyncIterable):
            async for event in events:
                await self.send(event)
        else:
            for event in events:
                await self.send(event)
        return self.accepted - before

    async def put(self, topic: Topic, message: Message) -> None:
        """Accept what was validated elsewhere, like `send`. About 5 µs."""
        size = message.size
        if size > self.settings.max_message_bytes:
            most = f"at most {self.settings.max_message_bytes - size + len(message.value)} bytes"
            raise InvalidEvent([reason("too-large", "", message.value, most)])
        if self._failure or self.buffered_bytes >= self._max_bytes:
            await self._until(lambda: self.buffered_bytes < self._max_bytes)
        partition = partition_of(message.key, self._partitions.get(topic.name) or await self._count(topic))
        self._lane(topic, partition).put(message)
        self.accepted += 1
        self.buffered_bytes += size
        self._unyielded += size
        if self._unyielded >= YIELD_BYTES:
            self._unyielded = 0
            await asyncio.sleep(0)

    async def flush(self) -> None:
        """Wait until the broker has every event accepted before this call. Raises Undelivered."""
        goals = [(lane, lane.accepted) for lane in self._lanes.values()]
        await self._until(lambda: all(lane.acknowledged >= goal for lane, goal in goals))

    async def _until(self, reached: Callable[[], bool]) -> None:
        while True:
            if self._failure is not None:
                raise Undelivered(self._undelivered()) from self._failure
            if reached():
                return
            self._changed.clear()
            await self._changed.wait()

    def _lane(self, topic: Topic, partition: int) -> _Lane:
        lane = self._lanes.get((topic.name, partition))
        if lane is None:
            lane = _Lane(self, topic.full(self.settings), partition)
            self._lanes[topic.name, partition] = lane
        return lane

    async def _count(self, topic: Topic) -> int:
        """How many partitions the topic really has. Raises BrokerError when it is missing."""
        try:
            async with asyncio.timeout(self.settings.connect_timeout_s):
                found = await self._kafka.partitions_for(topic.full(self.settings))
        except (KafkaError, TimeoutError) as error:
            name = topic.full(self.settings)
            raise BrokerError(
                f"topic {name} is not on {self.settings.bootstrap}; `tidewise topics create` makes it"
            ) from error
        self._partitions[topic.name] = len(found)
        return len(found)

    def _sent(self, messages: list[Message]) -> None:
        self.acknowledged += len(messages)
        self.buffered_bytes -= sum(message.size for message in messages)
        self._changed.set()

    def _failed(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._changed.set()

    def _undelivered(self) -> str:
        waiting = self.accepted - self.acknowledged
        return (
            f"{waiting} events were not acknowledged by {self.settings.bootstrap}: {self._failure!r}; some"
            " may have arrived. Send them again, with the same ids, by a new producer"
        )

    def _unreachable(self, error: BaseException) -> str:
        said = str(error) or type(error).__name__
        where = f"broker {self.settings.bootstrap}"
        return f"{where}: {said}; is it running, and is TIDEWISE_BROKER_URL its address?"


class _Lane:
    """What goes to one partition, in order: one request at a time; what comes meanwhile is the next one.

    Not Kafka's idempotent producer, which some brokers refuse: one request in flight keeps the order, and
    ids make a repeat harmless.
    """

    def __init__(self, owner: EventProducer, topic: str, partition: int) -> None:
        self._owner = owner
        self._topic = topic
        self._partition = partition
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self.accepted = 0
        self.acknowledged = 0

    def put(self, message: Message) -> None:
        self._waiting.append(message)
        self._bytes += message.size
        self.accepted += 1
        self._some.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._some.wait()
                if self._bytes < BATCH_BYTES:
                    await asyncio.sleep(self._owner._linger_s)
                await self._send()
        except Exception as error:  # whatever it is, the caller must learn of it
            self._owner._failed(error)

    async def _send(self) -> None:
        batch = self._owner._kafka.create_batch()
        taken: list[Message] = []
        for messages in self._packed():
            if not _append(batch, messages):
                break
            taken += messages
        batch.close()
        await (await self._owner._kafka.send_batch(batch, self._topic, partition=self._partition))
        self._forget(taken)

    def _forget(self, taken: list[Message]) -> None:
        for message in taken:
            self._waiting.popleft()
            self._bytes -= message.size
        self.acknowledged += len(taken)
        if not self._waiting:
            self._some.clear()
        self._owner._sent(taken)

    def _packed(self) -> Iterator[list[Message]]:
        """The waiting messages as groups, each of which becomes one record."""
        size = self._owner._array_size
        if size == 1:
            return ([message] for message in self._waiting)
        return _arrays(self._waiting, size, self._owner.settings.max_message_bytes)


def _encoded(event: Mapping[str, Any] | Event | CatalogItem) -> bytes:
    """JSON; times may be `datetime`s. Raises InvalidEvent that names the field JSON has no form for."""
    try:
        return msgspec.json.encode(event)
    except (TypeError, ValueError, RecursionError):
        raise InvalidEvent([_unencodable(event)]) from None


def _unencodable(event: Any) -> Reason:
    for name, value in event.items() if isinstance(event, Mapping) else ():
        try:
            msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError):
            return reason("wrong-type", str(name), repr(value), "what JSON can hold")
    return reason("wrong-type", "", repr(event), "a dict with names as keys")


def _arrays(messages: Iterable[Message], most: int, most_bytes: int) -> Iterator[list[Message]]:
    """Runs of messages that may share a record: few enough, small enough, received at about the same time."""
    group: list[Message] = []
    size = 0
    for message in messages:
        if group and (len(group) == most or size + message.size > most_bytes or not _near(group[0], message)):
            yield group
            group, size = [], 0
        group.append(message)
        size += message.size
    if group:
        yield group


def _near(first: Message, other: Message) -> bool:
    if first.received is None or other.received is None:
        return first.received is other.received
    return abs(other.received - first.received) <= ARRAY_SPAN_MS


def _append(batch: Any, messages: list[Message]) -> bool:
    """Append one record, a single event or an array of them; False when it does not fit any more."""
    key, value, received = messages[0]
    if len(messages) > 1:
        value = b"[%s]" % b",".join([message.value for message in messages])
        received = None if received is None else max(message.received or 0 for message in messages)
    headers = [] if received is None else [("received", b"%d" % received)]
    added = batch.append(timestamp=None, key=key.encode(), value=value, headers=headers)
    return added is not None
