"""What `tidewise mend` does: let a store go on with a log that is not the one its positions belong to.

A worker refuses such a log, for going on would lose or repeat events; only people know what happened to it.
Mended is the position alone, by a transaction of a new owner, so that a worker that still runs is fenced.
Offsets of a log made anew begin again: the position's ``base`` grows, so that whatever is named by its place
in the log (messages by id, mail by source) never gets a name twice.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from state.keys import Keys
from state.model import Head, Position, Put
from state.store import Store
from stream.delivery import Log, Outbox, misfit
from stream.settings import Settings
from stream.status import INPUTS


@dataclass(frozen=True, slots=True)
class Misfit:
    """A position that does not fit: whose (``part``), of which log, why, and how far the log reaches."""

    part: str
    topic: str
    partition: int
    position: int
    why: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Mended:
    """A position as it was and as it is."""

    topic: str
    partition: int
    was: int
    now: int


async def examine(settings: Settings, store: Store, log: Log) -> list[Misfit]:
    """All positions that do not fit their logs. A trip to the store, and a few a log to the broker."""
    keys = Keys(settings.prefix)
    parts = [f"{side}{p}" for side in INPUTS for p in range(settings.partitions)]
    heads = await store.get([keys.head(part) for part in parts])
    return [
        each for part, head in zip(parts, heads, strict=True) for each in await _part(store, log, part, head)
    ]


async def _part(store: Store, log: Log, part: str, packed: bytes | None) -> list[Misfit]:
    head = Head.unpack(packed) if packed is not None else None
    found = []
    for topic in INPUTS[part[0]]:
        partition, held = int(part[1:]), head.positions.get(topic) if head is not None else None
        if held is not None:
            why = await misfit(log, topic, partition, held)
        else:
            why = "state without a position" if await store.has_state(part) else ""
        if why:
            offset = held.offset if held is not None else 0
            found.append(Misfit(part, topic, partition, offset, why, *await log.bounds(topic, partition)))
    return found


async def mend(settings: Settings, store: Store, misfits: Sequence[Misfit], start: str) -> list[Mended]:
    """Set the positions that do not fit to ``beginning``, ``end`` or an offset. Raises Doubt, StoreFull.

    What the newest transaction of a partition had to send is sent by the next worker, but for its dead
    letters from the old log: their bytes are gone with it.
    """
    mended: list[Mended] = []
    for part in dict.fromkeys(each.part for each in misfits):
        of_part = [each for each in misfits if each.part == part]
        mended += await _mend_part(settings, store, of_part, start)
    return mended


async def _mend_part(settings: Settings, store: Store, misfits: Sequence[Misfit], start: str) -> list[Mended]:
    part = misfits[0].part
    session, outbox_key = store.session(part), Keys(settings.prefix).outbox(part)
    try:
        head, _ = await session.claim(secrets.randbits(63), time.time_ns() // 1_000_000)
        moved = {each.topic: _moved(head.positions.get(each.topic), each, start) for each in misfits}
        (stored,) = await session.get([outbox_key])
        writes = [] if stored is None else [Put(outbox_key, _without_letters(stored, moved.keys()))]
        await session.commit(head, head.next(moved), writes)
    finally:
        await session.close()
    return [Mended(each.topic, each.partition, each.position, moved[each.topic].offset) for each in misfits]


def _moved(held: Position | None, of: Misfit, start: str) -> Position:
    offset = {"beginning": of.begin, "end": of.end}.get(start)
    offset = int(start) if offset is None else offset
    if held is None:
        return Position(offset)
    return Position(offset, base=held.base + max(0, held.offset - offset))


def _without_letters(stored: bytes, topics: Collection[str]) -> bytes:
    outbox = msgspec.msgpack.decode(stored, type=Outbox)
    kept = [at for at in outbox.dead if at[0] not in topics]
    return msgspec.msgpack.encode(msgspec.structs.replace(outbox, dead=kept))
