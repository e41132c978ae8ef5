"""Mail about anonymous users who become known ones (`stream.core.merge`). Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from stream import forward
from stream.codec import Columns
from stream.core.items import Items
from stream.core.merge import Handover, Request, answer
from stream.core.step import Result
from stream.delivery import Output
from stream.ownership import partition_of
from stream.routing import Posted
from stream.settings import Settings
from stream.topics import EVENTS


@dataclass(frozen=True, slots=True)
class Merger:
    """Writes the requests and answers of partition ``partition`` of ``partitions``; ``key`` signs them."""

    partition: int
    partitions: int
    key: bytes
    items: Items
    most_bytes: int

    @classmethod
    def of(cls, settings: Settings, partition: int, key: bytes, items: Items) -> Merger:
        """From the settings."""
        return cls(partition, settings.partitions, key, items, settings.max_message_bytes)

    def mail(self, result: Result, columns: Columns) -> Iterator[Posted]:
        """What a step has to say. Names of items that are handed over must be known. 20 µs each."""
        for at in result.asking:
            event, time = columns.details[at], int(columns.time[at])
            if event.user is not None and event.anonymous is not None:
                body = msgspec.json.encode(Request(time, event.user, event.anonymous))
                yield self._posted(columns, at, event.anonymous, forward.MERGE, body)
        for handover in result.handovers:
            at = handover.at
            yield self._posted(columns, at, handover.user, forward.HANDED, self._answer(columns, handover))

    def _answer(self, columns: Columns, handover: Handover) -> bytes:
        request = Request(int(columns.time[handover.at]), handover.user, columns.user[handover.at])
        names = [self.items.name(item) for item in handover.item.tolist()]
        bought = [self.items.name(item) for item in handover.bought]
        return answer(handover, request, names, bought, self.most_bytes)

    def _posted(self, columns: Columns, at: int, to: str, kind: str, body: bytes) -> Posted:
        offset, index = int(columns.offset[at]), int(columns.index[at])
        target, source = partition_of(to, self.partitions), (self.partition, offset, index)
        mail = forward.pack(self.key, target, source, int(columns.received[at]), body, kind)
        return Posted((offset, index), target, Output(EVENTS.name, to.encode(), mail))
