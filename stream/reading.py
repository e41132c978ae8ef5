"""Reading topics whole: from their beginning to the ends that they have at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream.admin import BrokerError, describe
from stream.codec import Record
from stream.settings import Settings
from stream.topics import Topic
from stream.transport import FETCH_WAIT_MS

Progress = Callable[[int, int], None]
"""(records read, records in all)."""
_SOME_S, _MOST = 5.0, 5000


async def read_whole(
    settings: Settings, *topics: Topic, progress: Progress = lambda done, total: None
) -> AsyncIterator[tuple[Topic, Sequence[Record]]]:
    """Records of topics, some at a time, those of a partition in order. Raises BrokerError.

    What is written meanwhile is left out, or not.
    """
    await _demand(settings, topics)
    by_name = {topic.full(settings): topic for topic in topics}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        request_timeout_ms=int(settings.connect_timeout_s * 1000),
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=8 * settings.max_message_bytes,
    )
    try:
        await consumer.start()
        consumer.assign([TopicPartition(name, p) for name in by_name for p in range(settings.partitions)])
        async for at, records in _read(consumer, progress):
            yield by_name[at.topic], records
    except (KafkaError, OSError) as error:
        raise BrokerError(f"broker {settings.bootstrap}: {error}") from error
    finally:
        await consumer.stop()


async def _demand(settings: Settings, topics: Sequence[Topic]) -> None:
    found = (await describe(settings)).partitions
    for name in (topic.full(settings) for topic in topics):
        if name not in found:
            raise BrokerError(f"there is no topic {name}: run `tidewise topics create`")


async def _read(
    consumer: AIOKafkaConsumer, progress: Progress
) -> AsyncIterator[tuple[TopicPartition, Sequence[Record]]]:
    parts = list(consumer.assignment())
    begins, ends = await consumer.beginning_offsets(parts), await consumer.end_offsets(parts)
    total, done = sum(ends.values()) - sum(begins.values()), 0
    while left := [at for at in parts if await consumer.position(at) < ends[at]]:
        found = await consumer.getmany(*left, timeout_ms=int(_SOME_S * 1000), max_records=_MOST)
        if not found:
            return  # behind the last record there may be transaction markers
        for at, records in found.items():
            done += len(records)
            yield at, records
        progress(done, total)
