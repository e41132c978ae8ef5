"""The broker's side of the delivery ports, by aiokafka: reading single records and bounds, and publishing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from stream.codec import Record
from stream.delivery import Output
from stream.settings import Settings
from stream.transport import FETCH_WAIT_MS

BATCH_SHARE = 0.75
"""Producer batches, as a share of the largest message: with the default 16 kB one costs twice as much."""


class KafkaLog:
    """The log port."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap,
            enable_auto_commit=False,
            isolation_level="read_committed",
            request_timeout_ms=int(settings.connect_timeout_s * 1000),
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=8 * settings.max_message_bytes,
        )

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset still there, and the end."""
        at = TopicPartition(self._settings.topic_prefix + topic, partition)
        begin = await self._consumer.beginning_offsets([at])
        end = await self._consumer.end_offsets([at])
        return begin[at], end[at]

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        """The first record at or after an offset, or None when none comes within the time."""
        at = TopicPartition(self._settings.topic_prefix + topic, partition)
        async with self._lock:
            self._consumer.assign([at])
            self._consumer.seek(at, offset)
            found = await self._consumer.getmany(at, timeout_ms=int(within_s * 1000), max_records=1)
        records: Sequence[Record] = found.get(at, [])
        return records[0] if records else None

    async def any_record(self, positions: Mapping[tuple[str, int], int], within_s: float) -> bool:
        """Whether a record comes at or after any of the offsets, by (topic, partition), within the time."""
        prefix = self._settings.topic_prefix
        offsets = {TopicPartition(prefix + topic, p): at for (topic, p), at in positions.items()}
        async with self._lock:
            self._consumer.assign(list(offsets))
            for at, offset in offsets.items():
                self._consumer.seek(at, offset)
            return bool(await self._consumer.getmany(timeout_ms=int(within_s * 1000), max_records=1))


class KafkaSender:
    """The sender port: batches built by hand, 2–4 µs a message where `send` costs 7–11.

    Not idempotent: one batch a partition is in flight at a time, so order holds, and a repeat is allowed
    (receivers drop it by id).
    """

    def __init__(self, settings: Settings) -> None:
        self._topic_prefix = settings.topic_prefix
        self._producer = AIOKafkaProducer(
            bootstrap_servers=settings.bootstrap,
            acks="all",
            max_batch_size=int(BATCH_SHARE * settings.max_message_bytes),
            max_request_size=16 * settings.max_message_bytes,
            request_timeout_ms=int(settings.session_timeout_s * 500),
        )

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what waits, and disconnect."""
        await self._producer.stop()

    async def __aenter__(self) -> KafkaSender:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        """Send in order a topic, and wait until the broker has everything."""
        by_topic = groupby(sorted(outputs, key=_topic), key=_topic)
        sends = [self._send(topic, partition, self._batches(group)) for topic, group in by_topic]
        # All come to an end before anything is tried again: no old batch may land after a repeated one.
        done = await asyncio.gather(*sends, return_exceptions=True)
        for error in done:
            if error is not None:
                raise error

    async def _send(self, topic: str, partition: int, batches: Iterable[Any]) -> None:
        """One batch after the other: a later one must not land when an earlier one was lost."""
        for batch in batches:
            name = self._topic_prefix + topic
            await (await self._producer.send_batch(batch, name, partition=partition))

    def _batches(self, outputs: Iterable[Output]) -> list[Any]:
        batch = self._producer.create_batch()
        batches = [batch]
        for output in outputs:
            if self._append(batch, output) is None:
                batch = self._producer.create_batch()
                batches.append(batch)
                self._append(batch, output)
        for batch in batches:
            batch.close()
        return batches

    @staticmethod
    def _append(batch: Any, output: Output) -> Any:
        value = None if output.tombstone else output.value
        return batch.append(timestamp=None, key=output.key, value=value, headers=list(output.headers))


def _topic(output: Output) -> str:
    return output.topic
