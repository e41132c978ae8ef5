"""Follows the compacted topics `neighbors`, `trending`, `metrics` and `campaigns`: a worker ranks and decides
without the network.

A plain consumer without a group reads these topics whole, from their beginning. `catch_up` returns when it
has reached the ends seen at its start: only then may the worker join the group. Of each item the greatest
version counts; an older record that lands after a newer one of ours is remembered in ``stale``, so that the
item's owner publishes again (a compacted topic keeps the last record, not the newest).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from numpy.typing import NDArray

from state.model import TERM_LENGTH
from stream.core.items import Items
from stream.core.metrics import Measured
from stream.core.metrics import read as read_metrics
from stream.core.models import external
from stream.core.models.external import External
from stream.core.models.gathered import Models
from stream.core.models.model import NAMES, unpack
from stream.core.neighborhood import Neighborhood
from stream.core.plan import Schedule
from stream.core.trending import Top, merge, read_top
from stream.kin import Kin
from stream.publishing import learn
from stream.settings import Settings
from stream.topics import CAMPAIGNS, METRICS, MODEL_SCORES, MODELS, NEIGHBORS, TRENDING, Topic
from stream.transport import FETCH_WAIT_MS

log = structlog.get_logger(__name__)
TRENDING_ITEMS = 200
"""Items that are known as trending, at most."""
READ_WITHIN_S = 10.0
"""Longest wait for what stands in `campaigns` before the batch is tried again."""


class Followed:
    """What the topics say: everybody's neighbour lists (``hood``), the merged top list (``top``), what each
    partition knows of segments (``segments``, by segment and partition), and what each counted of lists
    (``measured``; ``outdated`` where an older record landed last), and which campaigns hold when
    (``schedule``)."""

    def __init__(self, settings: Settings, items: Items) -> None:
        self._settings = settings
        self._items = items
        self.hood = Neighborhood.of(items, settings)
        self._top: list[tuple[str, float]] | None = []
        self._fill: tuple[object, NDArray[np.int32]] = (None, np.zeros(0, dtype=np.int32))
        self._trending: dict[int, Top] = {}
        self.segments: dict[str, dict[int, Top]] = {}
        self.measured: dict[int, Measured] = {}
        self.outdated: set[int] = set()
        self.schedule = Schedule()
        self.stale: set[int] = set()
        self.flagged: set[int] = set()
        self.kin = Kin(self.hood)
        self.models = Models(items, set(NAMES).intersection(settings.components))
        self.external = External(items, settings.model_scores_users)

    @property
    def top(self) -> list[tuple[str, float]]:
        """The best trending items of all partitions, merged once they are asked for: ~0.2 ms a partition."""
        if self._top is None:
            self._top = merge(self._trending.values(), TRENDING_ITEMS)
        return self._top

    @property
    def fill(self) -> NDArray[np.int32]:
        """Trending items by local id, best first: what fills short lists."""
        if self._fill[0] is not (top := self.top):
            self._fill = top, self._items.ids(name for name, _ in top)
        return self._fill[1]

    def rise(self, partition: int, record: Any) -> None:
        """A partition's newest top list, or that of a segment; one that cannot be read is passed over."""
        _, told, segment = (record.key or b"").partition(b":")
        if told:
            return self._learn_segment(partition, segment.decode(errors="replace"), record)
        try:
            self._trending[partition], self._top = read_top(record.value), None
        except ValueError as error:
            _passed_over(record, error)
        return None

    def _learn_segment(self, partition: int, segment: str, record: Any) -> None:
        """A partition's newest top list of a segment; an empty one takes it back."""
        try:
            top = read_top(record.value)
        except ValueError as error:
            return _passed_over(record, error)
        if top.items:
            self.segments.setdefault(segment, {})[partition] = top
        elif segment in self.segments:
            self.segments[segment].pop(partition, None)
            if not self.segments[segment]:
                del self.segments[segment]
        return None

    def learn_models(self, records: Sequence[Any]) -> None:
        """Chunks of fitted models, in order."""
        for record in records:
            try:
                if record.value is not None:
                    self.models.put(unpack(record.value))
            except ValueError as error:
                _passed_over(record, error)

    def score(self, records: Sequence[Any]) -> None:
        """What models trained elsewhere say of users; a tombstone forgets one. Wrong ones are passed over."""
        for record in records:
            try:
                if record.value is None:
                    self.external.drop((record.key or b"").decode(errors="replace"))
                else:
                    self.external.put(external.read(record.value, record.key))
            except ValueError as error:
                _passed_over(record, error)

    def learn_campaigns(self, records: Sequence[Any]) -> None:
        """Versions of campaigns; one that cannot be read is passed over."""
        learn(self.schedule, records)

    async def read_campaigns(self) -> None:
        """Return when every version that stands in the topic now is known: here all are, always."""

    def measure(self, partition: int, record: Any) -> None:
        """A partition's newest counts. Those of an owner before the one known must be overwritten."""
        try:
            found = read_metrics(record.value)
        except ValueError as error:
            return _passed_over(record, error)
        held = self.measured.get(partition)
        if held is None or held.version <= found.version:
            self.measured[partition] = found
            self.outdated.discard(partition)
        elif found.version[:TERM_LENGTH] < held.version[:TERM_LENGTH]:
            self.outdated.add(partition)
        return None

    def allowed(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which items may be shown: [n]."""
        ids = self._items.ids(names)
        self.hood.reserve()
        found: NDArray[np.bool_] = ~self.hood.blocked[ids]
        return found

    def shown(self, n: int) -> list[tuple[str, float]]:
        """The best ``n`` trending items that may be shown."""
        allowed = self.allowed([name for name, _ in self.top])
        return [line for line, keep in zip(self.top, allowed.tolist(), strict=True) if keep][:n]


class Follower(Followed):
    """Keeps that up to date from the broker."""

    def __init__(self, settings: Settings, items: Items) -> None:
        super().__init__(settings, items)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a reset to the end on its way would outrun the seek
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=4_194_304,
        )

    async def start(self) -> None:
        """Connect and begin at the beginning of every partition."""
        await self._consumer.start()
        topics = tuple(topic.full(self._settings) for topic in followed(self._settings))
        self._consumer.assign(
            [TopicPartition(t, p) for t in topics for p in range(self._settings.partitions)]
        )
        await self._consumer.seek_to_beginning()

    async def stop(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def catch_up(self) -> None:
        """Read up to the ends as they are now."""
        ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        while any([await self._consumer.position(at) < end for at, end in ends.items()]):
            await self.poll(100)
        self.hood.liken()
        # Their lists were published when they became known.
        self.kin.described.clear()
        log.info("neighbours followed", items=len(self._items))

    async def read_campaigns(self) -> None:
        """Return when every version that stands in the topic now is known: one request, `poll` does the rest.

        Raises KafkaError, TimeoutError.
        """
        name = CAMPAIGNS.full(self._settings)
        ends = await self._consumer.end_offsets(
            [at for at in self._consumer.assignment() if at.topic == name]
        )
        async with asyncio.timeout(READ_WITHIN_S):
            while any([await self._consumer.position(at) < end for at, end in ends.items()]):
                await asyncio.sleep(0.02)

    async def poll(self, timeout_ms: int = 500) -> None:
        """Apply what came. A pause between polls gathers records, which cost less together."""
        found = await self._consumer.getmany(timeout_ms=timeout_ms)
        for at, records in found.items():
            if at.topic == NEIGHBORS.full(self._settings):
                self._learn(records)
            elif at.topic == MODELS.full(self._settings):
                self.learn_models(records)
            elif at.topic == MODEL_SCORES.full(self._settings):
                self.score(records)
            elif at.topic == CAMPAIGNS.full(self._settings):
                self.learn_campaigns(records)
            else:
                of_metrics = at.topic == METRICS.full(self._settings)
                for record in {record.key: record for record in records if record.value is not None}.values():
                    (self.measure if of_metrics else self.rise)(at.partition, record)

    def _learn(self, records: Sequence[Any]) -> None:
        """Apply neighbour records; a tombstone (no value) is an item that nobody counts any more.

        A damaged record stays in the topic until somebody writes its key again: it must not stop a worker.
        """
        present = [record for record in records if record.key and record.value is not None]
        try:
            applied = self.hood.apply([r.key.decode() for r in present], [r.value for r in present])
        except ValueError as error:
            if len(present) == 1:
                return _passed_over(present[0], error)
            for record in present:
                self._learn([record])
            return None
        self.stale.update(applied.stale)
        self.flagged.update(applied.flagged)
        self.kin.described.update(applied.described)
        return None


def followed(settings: Settings) -> list[Topic]:
    """The topics that a worker reads whole: those of models only where lists are made from any."""
    told = [(MODELS, set(NAMES)), (MODEL_SCORES, {external.NAME})]
    more = [topic for topic, names in told if names.intersection(settings.components)]
    return [NEIGHBORS, TRENDING, METRICS, CAMPAIGNS, *more]


def _passed_over(record: Any, error: ValueError) -> None:
    log.error(
        "a record cannot be read", topic=record.topic, key=record.key, offset=record.offset, error=str(error)
    )
