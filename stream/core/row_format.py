"""The packed co-occurrence row, format 3: private bytes behind the key `row`. Pure.

Little-endian: format u8, flags u8 (1 = evicted), name length u16, pairs u16, pad u16, base period i32, first
event u32 s, forward sum i64, backward sum i64, newest event i64 ms; the name (utf-8); then per pair, by
ascending hash, hash u64, weight u48. The item's popularity (`stream.core.trending`) stands behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core.weights import PERIOD, WEIGHT_BITS

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bool = NDArray[np.bool_]

ROW_FORMAT = 3
_EVICTED = 1
_WIDE = 256
"""Pairs a row holds at most; a place among them has 8 bits."""
_PLACE = np.uint64(_WIDE - 1)
_HEADER = np.dtype(
    [
        ("format", "u1"),
        ("flags", "u1"),
        ("name", "<u2"),
        ("pairs", "<u2"),
        ("pad", "<u2"),
        ("base", "<i4"),
        ("born", "<u4"),
        ("forward", "<i8"),
        ("backward", "<i8"),
        ("last", "<i8"),
    ]
)
_PAIR = np.dtype([("hash", "<u8"), ("low", "<u4"), ("high", "<u2")])
"""``low`` and ``high`` bits of the weight."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """r rows as columns [r]; ``hashes`` and ``weights`` are those of all pairs, row after row.

    ``born`` is the time of the item's first event in whole seconds since 1970, 0 unknown.
    """

    names: list[bytes]
    evicted: Bool
    base: I64
    forward: I64
    backward: I64
    last: I64
    pairs: I64
    hashes: U64
    weights: I64
    born: I64


def pack(rows: PackedRows) -> list[bytes]:
    """One blob a row: 40 bytes, the name, 14 a pair. Pairs by ascending hash: equal rows give equal bytes."""
    head = np.zeros(len(rows.names), dtype=_HEADER)
    head["format"], head["flags"] = ROW_FORMAT, rows.evicted * _EVICTED
    head["name"] = [len(name) for name in rows.names]
    head["pairs"], head["base"], head["last"] = rows.pairs, rows.base, rows.last
    head["forward"], head["backward"], head["born"] = rows.forward, rows.backward, rows.born
    pairs = np.empty(len(rows.hashes), dtype=_PAIR)
    order = _by_hash(rows.hashes, rows.pairs)
    weights = rows.weights[order]
    pairs["hash"], pairs["low"], pairs["high"] = rows.hashes[order], weights, weights >> 32
    heads, data, size = head.tobytes(), pairs.tobytes(), _HEADER.itemsize
    ends = (np.cumsum(rows.pairs) * _PAIR.itemsize).tolist()
    return [
        heads[n * size : (n + 1) * size] + name + data[start:end]
        for n, (name, start, end) in enumerate(zip(rows.names, [0, *ends], ends, strict=False))
    ]


def _by_hash(hashes: U64, pairs: I64) -> I64:
    """The order [n] that sorts the hashes of each row, ``pairs`` [r] of them a row."""
    row = np.repeat(np.arange(len(pairs)), pairs)
    first = np.repeat(np.cumsum(pairs) - pairs, pairs)
    if pairs.max(initial=0) > _WIDE:
        return np.lexsort((hashes, row))
    # Short rows of (hash but for its lowest 8 bits | place) sort about six times as fast as one long list.
    held = np.arange(_WIDE) < pairs[:, None]
    table = np.full(held.shape, -1, dtype=np.int64).view(np.uint64)
    table[held] = hashes & ~_PLACE | (np.arange(len(hashes)) - first).view(np.uint64)
    table.sort(axis=1)
    keys = table[held]
    alike = (keys[1:] & ~_PLACE == keys[:-1] & ~_PLACE) & (row[1:] == row[:-1])
    return np.lexsort((hashes, row)) if alike.any() else first + (keys & _PLACE).view(np.int64)


def unpack(blobs: Sequence[bytes]) -> tuple[PackedRows, list[bytes]]:
    """The inverse of `pack`, and what stands behind each row.

    Raises ValueError on an unknown format, bytes that are too short, or a weight that no row can hold.
    """
    head = np.frombuffer(b"".join(blob[: _HEADER.itemsize] for blob in blobs), dtype=_HEADER)
    if len(head) != len(blobs):
        raise ValueError("a row is shorter than its header: the stored bytes are damaged")
    if (strange := head["format"][head["format"] != ROW_FORMAT]).size:
        raise ValueError(
            f"a row has format {strange[0]}, not {ROW_FORMAT}: upgrade Tidewise or use another prefix"
        )
    starts = (_HEADER.itemsize + head["name"].astype(np.int64)).tolist()
    counts = head["pairs"].astype(np.int64)
    ends = [start + _PAIR.itemsize * n for start, n in zip(starts, counts.tolist(), strict=True)]
    if any(len(blob) < end for blob, end in zip(blobs, ends, strict=True)):
        raise ValueError("a row is shorter than its header says: the stored bytes are damaged")
    joined = b"".join(blob[start:end] for blob, start, end in zip(blobs, starts, ends, strict=True))
    pairs = np.frombuffer(joined, dtype=_PAIR)
    weights = pairs["high"].astype(np.int64) << 32 | pairs["low"]
    if (weights >> WEIGHT_BITS).any():
        raise ValueError("a row holds a weight beyond its range: the stored bytes are damaged")
    rows = PackedRows(
        [blob[_HEADER.itemsize : start] for blob, start in zip(blobs, starts, strict=True)],
        (head["flags"] & _EVICTED) != 0,
        head["base"].astype(np.int64),
        head["forward"].astype(np.int64),
        head["backward"].astype(np.int64),
        head["last"].astype(np.int64),
        counts,
        pairs["hash"].astype(np.uint64),
        weights,
        head["born"].astype(np.int64),
    )
    return rows, [blob[end:] for blob, end in zip(blobs, ends, strict=True)]


def digest_fields(blob: bytes) -> tuple[bytes, bool]:
    """What the digest covers of a row, and whether it was evicted: its sums, and its pairs if it never was.

    The same sums relative to another base give the same bytes.
    """
    rows, _ = unpack([blob])
    evicted = bool(rows.evicted[0])
    order = np.argsort(rows.hashes)
    weights = [] if evicted else rows.weights[order].tolist()
    values, base = _normal([int(rows.forward[0]), int(rows.backward[0]), *weights], int(rows.base[0]))
    pairs = b"" if evicted else rows.hashes[order].tobytes()
    return struct.pack(f"<?q{len(values)}q", evicted, base, *values) + pairs, evicted


def _normal(values: list[int], base: int) -> tuple[list[int], int]:
    """Values with as many whole landmark periods taken out as divide them all."""
    if not any(values):
        return values, 0
    while not any(value & (1 << PERIOD) - 1 for value in values):
        values, base = [value >> PERIOD for value in values], base + 1
    return values, base
