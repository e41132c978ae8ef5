"""Mail from the shopper side to the item side: increments, packed.

One message carries *segments*, one per source event and never summed across events, so that a receiver can
drop repeats event by event whatever batch they come in. A segment names its source: the event's position
``offset · 2^20 + index`` in the sender's partition of `events`. Entries are (row item, column item, kind,
weight); kinds are `FORWARD` and `BACKWARD` (a pair seen in, or against, the direction of time) and `HIT`
(one interaction with an item, for its popularity; weight in eighths).

Message v1, little-endian::

    format u8, pad, sender u16, items u32, segments u32, entries u32, name bytes u32
    hashes u64[items], name lengths u16[items], names (utf-8, joined)
    source i64[segments], time ms i64[segments], period i32[segments], entries u32[segments]
    row u32[entries] (index into hashes; kind in the two highest bits)
    column u32[entries], weight u32[entries]

Message v2 tells items who is interested in them (`stream.core.watchers`), while a campaign runs that wants to
know: u8 2, pad, sender u16 (partition + `WATCH_SENDER`: these positions are counted for themselves), then a
MessagePack array of interests, each with its source, in its order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.items import Items
from stream.core.runs import lengths, starts
from stream.core.watchers import Interest

T = TypeVar("T", bound=np.generic)
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]

FORWARD, BACKWARD, HIT = 0, 1, 2
INDEX_BITS = 20
"""Bits of a source position that hold the event's index within its message."""

_HEADER = struct.Struct("<BxHIIII")
_FORMAT = 1
_KIND_SHIFT = 30
_INDEX_MASK = (1 << _KIND_SHIFT) - 1
_WATCH_HEADER = struct.Struct("<BxH")
_WATCH_FORMAT = 2
WATCH_SENDER = 2**15
"""Added to the partition that sends interests."""
MESSAGE_INTERESTS = 4000
"""A message is closed at the event that reaches this many interests (60 bytes each, with short names)."""
MESSAGE_ENTRIES = 200_000
"""A message is closed at the segment that reaches this many entries (12 bytes each)."""


@dataclass(frozen=True, slots=True)
class Increments:
    """Entries [n], by local item id, in source order; all columns have one value an entry."""

    row: I32
    col: I32
    kind: U8
    weight: I64
    source: I64
    time: I64
    period: I64

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Increments:
        """Some of the entries."""
        return Increments(*(getattr(self, field.name)[which] for field in fields(self)))


def join(parts: Sequence[Increments]) -> Increments:
    """Entries of several, one after the other; at least one part."""
    return Increments(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Increments))
    )


def source_of(offset: I64, index: NDArray[np.integer]) -> I64:
    """Source positions [n] of events."""
    return (offset << INDEX_BITS) | index.astype(np.int64)


def position_of(offset: int, index: int) -> int:
    """The source position of one event."""
    return (offset << INDEX_BITS) | index


class Packer:
    """Packs increments of one sender. Keeps a scratch array as long as the item dictionary."""

    def __init__(self, items: Items, sender: int) -> None:
        self._items = items
        self._sender = sender
        self._scratch = np.zeros(1024, dtype=np.int64)
        self._names: list[bytes] = []

    def pack(self, entries: Increments) -> list[bytes]:
        """Messages for one receiver; entries must be in source order. About 10 ns an entry."""
        if not len(entries.row):
            return []
        first = starts(entries.source)
        cuts = first[starts(first // MESSAGE_ENTRIES)]
        bounds = [*cuts.tolist(), len(entries.row)]
        return [self._message(entries.take(slice(low, high))) for low, high in pairwise(bounds)]

    def _message(self, entries: Increments) -> bytes:
        first = starts(entries.source)
        unique, index = self._local(np.concatenate([entries.row, entries.col]))
        n = len(entries.row)
        row, col = index[:n].astype(np.uint32), index[n:].astype(np.uint32)
        names = self._encoded(unique)
        joined = b"".join(names)
        return b"".join(
            [
                _HEADER.pack(_FORMAT, self._sender, len(unique), len(first), n, len(joined)),
                self._items.hashes[unique].tobytes(),
                np.array([len(name) for name in names], dtype=np.uint16).tobytes(),
                joined,
                entries.source[first].tobytes(),
                entries.time[first].tobytes(),
                entries.period[first].astype(np.int32).tobytes(),
                lengths(first, n).astype(np.uint32).tobytes(),
                (row | (entries.kind.astype(np.uint32) << _KIND_SHIFT)).tobytes(),
                col.tobytes(),
                entries.weight.astype(np.uint32).tobytes(),
            ]
        )

    def _local(self, ids: I32) -> tuple[I32, I64]:
        """Distinct ids and, for each id, its place among them; linear, where np.unique would sort."""
        if len(self._scratch) < len(self._items):
            self._scratch = np.zeros(2 * len(self._items), dtype=np.int64)
        place = np.arange(len(ids))
        self._scratch[ids] = place
        unique = ids[self._scratch[ids] == place]
        self._scratch[unique] = np.arange(len(unique))
        return unique, self._scratch[ids]

    def _encoded(self, ids: I32) -> list[bytes]:
        known, names = self._names, self._items.names
        known.extend((names[at] or "").encode() for at in range(len(known), len(names)))
        for at in ids.tolist():
            if not known[at]:
                known[at] = (names[at] or "").encode()
        return [known[at] for at in ids.tolist()]


def unpack(message: bytes, items: Items) -> tuple[int, Increments]:
    """The sender and the entries of one message; learns the names of items not known yet.

    Raises ValueError when the bytes are not a message of this format.
    """
    try:
        layout, sender, n_items, n_segments, n, n_names = _HEADER.unpack_from(message)
        if layout != _FORMAT:
            raise ValueError(f"format {layout}, this version reads {_FORMAT}")
        # First, for names learnt from damaged bytes would stay, and wrong counts would fill the memory.
        if len(message) != _HEADER.size + 10 * n_items + n_names + 24 * n_segments + 12 * n:
            raise ValueError("it is not as long as its header says")
        reader = _Reader(message, _HEADER.size)
        hashes = reader.array(np.uint64, n_items)
        lengths = reader.array(np.uint16, n_items)
        ids = _learn(hashes, lengths, reader.bytes(n_names), items)
        source, time = reader.array(np.int64, n_segments), reader.array(np.int64, n_segments)
        period, counts = reader.array(np.int32, n_segments), reader.array(np.uint32, n_segments)
        row, col, weight = (reader.array(np.uint32, n) for _ in range(3))
        kind = (row >> _KIND_SHIFT).astype(np.uint8)
        if counts.sum(dtype=np.int64) != n or (kind > HIT).any():
            raise ValueError("its segments do not add up, or an entry is of no kind")
        segment = np.repeat(np.arange(n_segments), counts)
        return sender, Increments(
            ids[row & _INDEX_MASK],
            ids[col],
            kind,
            weight.astype(np.int64),
            source[segment],
            time[segment],
            period[segment].astype(np.int64),
        )
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"increments are damaged or of another format: {error}") from error


def pack_interests(sender: int, interests: Sequence[Interest]) -> list[bytes]:
    """Messages for one receiver; interests must be in source order. About 0.3 µs each."""
    cuts = [0]
    for at in range(1, len(interests)):
        if at - cuts[-1] >= MESSAGE_INTERESTS and interests[at].source != interests[at - 1].source:
            cuts.append(at)
    header = _WATCH_HEADER.pack(_WATCH_FORMAT, sender + WATCH_SENDER)
    parts = (interests[low:high] for low, high in pairwise([*cuts, len(interests)]) if low < high)
    return [header + msgspec.msgpack.encode(part) for part in parts]


def has_interests(message: bytes) -> bool:
    """Whether a message tells of interests."""
    return message[:1] == bytes([_WATCH_FORMAT])


_INTERESTS = msgspec.msgpack.Decoder(list[Interest])


def unpack_interests(message: bytes) -> tuple[int, list[Interest]]:
    """The sender and the interests of one message. Raises ValueError when it is damaged."""
    try:
        _, sender = _WATCH_HEADER.unpack_from(message)
        return sender, _INTERESTS.decode(message[_WATCH_HEADER.size :])
    except (struct.error, msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"interests are damaged: {error}") from error


class _Reader:
    """Arrays off a buffer, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    def bytes(self, n: int) -> bytes:
        self._at += n
        return self._data[self._at - n : self._at]

    def array(self, dtype: type[T], n: int) -> NDArray[T]:
        return np.frombuffer(self.bytes(n * np.dtype(dtype).itemsize), dtype=dtype, count=n)


def _learn(hashes: NDArray[np.uint64], lengths: NDArray[np.uint16], joined: bytes, items: Items) -> I32:
    """Local ids of hashes; names are decoded only of items whose name is not known yet."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if ends[-1:].sum() != len(joined):
        raise ValueError("its names are not as long as it says")
    ids = items.ids_of_hashes(hashes)
    for at, local in enumerate(ids.tolist()):
        if items.names[local] is None:
            items.add(joined[ends[at] - lengths[at] : ends[at]].decode())
    return ids
