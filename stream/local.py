"""A worker without broker: the worker's own shoppers and shelves on memory ports, for replay and evaluation.

Whatever is handed in goes through the very same `Shopper` and `Shelf` as live. What shoppers make for item
partitions waits in ``sent`` until `fold` hands it over. Mail on `events` is left there: a log that is
replayed has it already, and who makes a log up, as a dry run does, knows its place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from state.keys import Keys
from state.memory import MemoryStore
from stream.codec import Record
from stream.contexts import Contexts
from stream.core.campaigns import Campaign
from stream.core.items import Items
from stream.delivery import Output, Ports
from stream.follower import Followed
from stream.refresh import configured, refresh
from stream.settings import Settings
from stream.shelf import Shelf
from stream.shopper import Shopper
from stream.topics import INCREMENTS
from stream.transport import Bundle, StockRecord


@dataclass
class Outputs:
    """The sender's port: keeps what is published, by topic and partition."""

    sent: dict[tuple[str, int], list[Output]] = field(default_factory=dict)

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        """Keep messages."""
        for output in outputs:
            self.sent.setdefault((output.topic, partition), []).append(output)

    def take(self, topic: str, partition: int) -> list[Output]:
        """Messages of a topic's partition, and forget them."""
        return self.sent.pop((topic, partition), [])


class NewLog:
    """The log's port: every log begins at 0, and nothing is ever read a second time."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Nothing yet."""
        return 0, 0

    async def read(self, topic: str, partition: int, offset: int, within_s: float = 5.0) -> Record | None:
        """Never asked."""
        raise AssertionError("a replay reads in order")


class LocalWorker:
    """All partitions of a deployment in this process. ``outputs`` are kept until taken.

    ``campaigns`` and ``asking`` as for `Contexts`.
    """

    def __init__(
        self,
        settings: Settings,
        signing_key: bytes,
        campaigns: Sequence[Campaign] | None = None,
        asking: bool = True,
    ) -> None:
        items = Items()
        self.items, self.settings = items, settings
        self.follower = Followed(settings, items)
        self.contexts = Contexts(settings, items, self.follower, signing_key, campaigns, asking)
        self.store = MemoryStore(Keys(settings.prefix))
        self.outputs = Outputs()
        # A clock that leaps lets everything that is done at intervals be due whenever it is asked for.
        leaps = itertools.count(1, 1_000_000)
        ports = Ports(NewLog(), self.store, self.outputs, lambda: next(leaps), self.contexts.dead_letters)
        self.shoppers = [Shopper(p, ports, self.contexts.shopping) for p in range(settings.partitions)]
        self.shelves = [Shelf(p, ports, self.contexts.shelving) for p in range(settings.partitions)]
        self._increments = [itertools.count() for _ in self.shelves]

    async def take(self) -> None:
        """Become the owner of every partition."""
        for shopper, shelf in zip(self.shoppers, self.shelves, strict=True):
            await shopper.take()
            await shelf.take()

    async def fold(self, which: Callable[[bytes], bool] = lambda message: True) -> None:
        """Hand the mail that the shoppers made to the item partitions; ``which``: the rest is dropped."""
        for shelf in self.shelves:
            mail = self.outputs.take(INCREMENTS.name, shelf.partition)
            offsets = self._increments[shelf.partition]
            records = [
                StockRecord(next(offsets), 0, None, each.value, ()) for each in mail if which(each.value)
            ]
            if records:
                await shelf.handle([bundle(INCREMENTS.name, shelf.partition, records)])

    async def refresh(self) -> None:
        """Fit the models that lists are made from, from the users as they are now."""
        if names := configured(self.settings):
            version = 1 + max(self.follower.models.versions.values(), default=0)
            await refresh(self.store, self.settings, names, version, self._follow_models)

    async def _follow_models(self, sent: Sequence[Output]) -> None:
        self.follower.learn_models(sent)


def bundle(topic: str, partition: int, records: Sequence[Record]) -> Bundle:
    """Records as one bundle."""
    return Bundle(topic, partition, records, None, records[-1].offset + 1)
