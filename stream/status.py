"""What a deployment has done so far: read from the store and the broker, without a worker's help."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from state.keys import Keys
from state.model import Head
from state.store import Store
from stream.delivery import Log
from stream.settings import Settings
from stream.shelf import Meta as ShelfMeta
from stream.shopper import Meta as ShopperMeta
from stream.topics import CATALOG, EVENTS, INCREMENTS

INPUTS = {"u": (EVENTS.name,), "i": (INCREMENTS.name, CATALOG.name)}
"""Topics by side of a partition: `u` shoppers, `i` items."""


@dataclass(frozen=True, slots=True)
class Status:
    """Sums over the partitions, as in the shopper's and the shelf's `Meta`. ``positions`` by topic and
    partition; ``lag`` by topic: records between the store's positions and the log's ends."""

    events: int
    repeats: int
    dead: int
    ticks: int
    forwarded: int
    mail: int
    mail_repeats: int
    uncounted: int
    merging: int
    notices: int
    segments: int
    decisions: int
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    lag: dict[str, int] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Nothing waits anywhere."""
        return not any(self.lag.values())


async def status(settings: Settings, store: Store, log: Log) -> Status:
    """Read it: one MGET, and the ends of the input topics."""
    now, heads = await tallies(settings, store)
    positions, lag = await _lag(heads, log)
    return replace(now, positions=positions, lag=lag)


async def tallies(settings: Settings, store: Store) -> tuple[Status, dict[str, Head | None]]:
    """What the store says: sums, and the heads by partition."""
    keys, partitions = Keys(settings.prefix), range(settings.partitions)
    parts = [f"{side}{p}" for side in INPUTS for p in partitions]
    found = await store.get([key(part) for part in parts for key in (keys.head, keys.meta)])
    heads = {part: Head.unpack(blob) if blob else None for part, blob in zip(parts, found[::2], strict=True)}
    metas = dict(zip(parts, found[1::2], strict=True))
    shoppers = [msgspec.msgpack.decode(m, type=ShopperMeta) for p in partitions if (m := metas[f"u{p}"])]
    shelves = [msgspec.msgpack.decode(m, type=ShelfMeta) for p in partitions if (m := metas[f"i{p}"])]
    summed = Status(
        events=sum(meta.accepted for meta in shoppers),
        repeats=sum(meta.repeats for meta in shoppers),
        dead=sum(meta.dead for meta in shoppers) + sum(meta.dead for meta in shelves),
        ticks=sum(meta.ticks for meta in shoppers),
        forwarded=sum(meta.forwarded for meta in shoppers),
        mail=sum(meta.mail for meta in shoppers),
        mail_repeats=sum(meta.mail_repeats for meta in shoppers),
        uncounted=sum(meta.uncounted for meta in shoppers),
        merging=sum(meta.merging for meta in shoppers),
        notices=sum(meta.notices for meta in shoppers),
        segments=sum(meta.segments for meta in shelves),
        decisions=sum(meta.decisions for meta in shoppers) % 2**64,
    )
    return summed, heads


async def _lag(heads: dict[str, Head | None], log: Log) -> tuple[dict[tuple[str, int], int], dict[str, int]]:
    positions: dict[tuple[str, int], int] = {}
    lag: dict[str, int] = {}
    for part, head in heads.items():
        for topic in INPUTS[part[0]]:
            begin, end = await log.bounds(topic, int(part[1:]))
            at = head.positions[topic].offset if head is not None and topic in head.positions else begin
            positions[topic, int(part[1:])] = at
            # The embedded broker understates a log's end by up to a batch.
            lag[topic] = lag.get(topic, 0) + max(end - at, 0)
    return positions, lag
