"""The deterministic replay: the log as it now stands, in one process and in memory, by the worker's own code.

Every partition of `events` is read from its beginning to its end, recorded mail and ticks included, through
the very same `Shopper`; what it makes for item partitions goes through the very same `Shelf`; the catalogue
comes first. The result depends on the log alone, so its digest is what every live run over that log must
have reached, whatever workers, batches and failures did on the way. Lists are not part of that: no
neighbours are followed here while users are ranked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition

from state.memory import MemoryStore
from stream.codec import Record
from stream.core.campaigns import Campaign
from stream.delivery import Output
from stream.digest import Digest, sum_up
from stream.forward import from_items
from stream.local import LocalWorker, bundle
from stream.mail import has_interests
from stream.posting import claimed
from stream.settings import Settings
from stream.status import tallies
from stream.topics import CAMPAIGNS, CATALOG, EVENTS
from stream.transport import FETCH_WAIT_MS

Chunks = Callable[[str, int], AsyncIterator[Sequence[Record]]]
"""(topic, partition) → its records in order, some at a time."""

MAIL = b'{"type":"tidewise.mail"'
"""How mail begins, by which it is told from clients' events in a log."""
CHUNK = 8000
"""Records in one step."""
_READ_S, _NONE_S = 5.0, 0.3
"""Waits for a record that must be there, and for one behind the end that the broker tells."""


@dataclass
class Replayed:
    """What a log makes.

    ``outputs`` are all messages by topic, in order of partition; ``missing`` the mail to `events` (target
    partition, bytes) that the log should hold and does not, ``strange`` what it holds and no event explains.
    What items told users is taken as it stands: in which order events and catalogue met is not recorded.
    """

    digest: Digest
    store: MemoryStore
    outputs: dict[str, list[Output]]
    missing: list[tuple[int, bytes]]
    strange: list[tuple[int, bytes]]


async def replay_topics(settings: Settings, signing_key: bytes) -> Replayed:
    """Replay what stands on the broker. About 50 µs an event; memory grows with users and items."""
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=int(settings.connect_timeout_s * 1000),
        fetch_max_wait_ms=FETCH_WAIT_MS,
        max_partition_fetch_bytes=8 * settings.max_message_bytes,
    ) as consumer:
        return await replay(settings, signing_key, lambda t, p: _chunks(consumer, settings, t, p))


async def _chunks(
    consumer: AIOKafkaConsumer, settings: Settings, topic: str, partition: int
) -> AsyncIterator[Sequence[Record]]:
    """All records, until none comes: behind the last there may be transaction markers."""
    at = TopicPartition(settings.topic_prefix + topic, partition)
    consumer.assign([at])
    await consumer.seek_to_beginning(at)
    end = (await consumer.end_offsets([at]))[at]
    while True:
        wait_s = _READ_S if await consumer.position(at) < end else _NONE_S
        found = await consumer.getmany(at, timeout_ms=int(wait_s * 1000), max_records=CHUNK)
        if not found:
            return
        yield found[at]


async def replay(
    settings: Settings, signing_key: bytes, chunks: Chunks, campaigns: Sequence[Campaign] | None = None
) -> Replayed:
    """Replay any log. ``chunks`` yields the records of `events`, `catalog` and `campaigns`.

    ``campaigns`` as for `Contexts`.
    """
    return await _Replay(settings, signing_key, campaigns).run(chunks)


class _Replay:
    def __init__(self, settings: Settings, signing_key: bytes, campaigns: Sequence[Campaign] | None) -> None:
        self._settings = settings
        self._worker = LocalWorker(settings, signing_key, campaigns)

    async def run(self, chunks: Chunks) -> Replayed:
        worker = self._worker
        await worker.take()
        recorded: set[tuple[int, bytes]] = set()
        for partition in range(self._settings.partitions):
            async for records in chunks(CAMPAIGNS.name, partition):
                worker.follower.learn_campaigns(records)
        for shelf in worker.shelves:
            async for records in chunks(CATALOG.name, shelf.partition):
                await shelf.handle([bundle(CATALOG.name, shelf.partition, records)])
        for shopper in worker.shoppers:
            async for records in chunks(EVENTS.name, shopper.partition):
                values = (record.value or b"" for record in records)
                recorded.update(
                    (shopper.partition, claimed(value))
                    for value in values
                    if value.startswith(MAIL) and not from_items(value)
                )
                await shopper.handle([bundle(EVENTS.name, shopper.partition, records)])
                await worker.fold(lambda mail: not has_interests(mail))
        for shelf in worker.shelves:
            await shelf.pulse(busy=False)
        return await self._result(recorded)

    async def _result(self, recorded: set[tuple[int, bytes]]) -> Replayed:
        outputs: dict[str, list[Output]] = {}
        made: set[tuple[int, bytes]] = set()
        store = self._worker.store
        for (topic, partition), sent in sorted(self._worker.outputs.sent.items()):
            if topic == EVENTS.name:
                made.update((partition, claimed(output.value)) for output in sent)
            else:
                outputs.setdefault(topic, []).extend(sent)
        summed, _ = await tallies(self._settings, store)
        digest = await sum_up(self._settings, store, summed)
        return Replayed(digest, store, outputs, sorted(made - recorded), sorted(recorded - made))
