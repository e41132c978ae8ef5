"""The record of topic `neighbors`, format 1: an item's list and what else a worker must know of it. Pure.

Little-endian, in words of 4 bytes, so that many records are packed as one matrix of words and one mask. The
key of a record is the item's name; items in the list stand as 64-bit hashes. ``docs/keyspace.md`` shows the
layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

NEIGHBOR_FORMAT = 1
"""First byte of a record."""
HIDDEN, OUT_OF_STOCK, HAS_PRICE = 1, 2, 4
"""Bits of ``flags``."""

_HEADER = np.dtype(
    [
        ("format", "u1"),
        ("flags", "u1"),
        ("k", "<u2"),
        ("term", "<u8"),
        ("n", "<u8"),
        ("last", "<i8"),
        ("row_sum", "<f8"),
        ("col_sum", "<f8"),
        ("price", "<f8"),
        ("popularity", "<f4"),
    ]
)
_WORD = 4
_MOST = 2.0**62
_HEADER_WORDS = _HEADER.itemsize // _WORD


@dataclass(frozen=True, slots=True)
class Records:
    """r records as columns.

    ``flags`` [r]; version ``term``, ``n`` [r]; ``last`` [r] time of the newest event, ms; ``row_sum``,
    ``col_sum`` [r] and ``weights`` [r, K] in counts, decayed to ``last``; ``price`` [r] (0 without
    HAS_PRICE); ``popularity`` [r] decayed; ``hashes`` [r, K], heaviest first, of which the first ``k`` [r]
    count (what stands behind them is not packed, and is 0 after unpacking).
    """

    flags: U8
    term: I64
    n: I64
    last: I64
    row_sum: F64
    col_sum: F64
    price: F64
    popularity: F32
    k: I64
    hashes: U64
    weights: F32


def pack_records(records: Records) -> list[bytes]:
    """One value a record: 56 bytes and 12 a neighbour. ~0.5 µs a record with 50 neighbours."""
    width = records.hashes.shape[1]
    hashes = np.ascontiguousarray(records.hashes, dtype="<u8").view(np.uint32)
    weights = np.ascontiguousarray(records.weights, dtype="<f4").view(np.uint32)
    words = np.concatenate([_header(records), hashes, weights], axis=1)
    mask = _mask(records.k, width)
    # A boolean index costs more than all the rest, and most lists are full.
    data = (words if bool((records.k == width).all()) else words[mask]).tobytes()
    ends = np.cumsum(_sizes(records.k)).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def unpack_records(values: Sequence[bytes]) -> Records:
    """The inverse of `pack_records`; ``hashes`` and ``weights`` are as wide as the longest list.

    Raises ValueError on an unknown format, on bytes that do not have the length their header says, and on
    sums and weights that no counting makes (not a number, negative, beyond 2^62). ~0.5 µs a record with 50
    neighbours.
    """
    head = np.frombuffer(b"".join([value[: _HEADER.itemsize] for value in values]), dtype="u1")
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    if (lengths < _HEADER.itemsize).any():
        raise ValueError("a neighbors record is shorter than its header: its bytes are damaged")
    header = head.view(_HEADER)
    if (strange := header["format"][header["format"] != NEIGHBOR_FORMAT]).size:
        raise ValueError(f"neighbors record has format {strange[0]}, not {NEIGHBOR_FORMAT}: upgrade Tidewise")
    k = header["k"].astype(np.int64)
    if (lengths != _sizes(k)).any():
        raise ValueError("a neighbors record is not as long as its header says: its bytes are damaged")
    records = _columns(header, k, np.frombuffer(b"".join(values), dtype=np.uint32))
    if not (_counted(records.row_sum) and _counted(records.col_sum) and _counted(records.weights)):
        raise ValueError("a neighbors record holds what no counting makes: its bytes are damaged")
    return records


def _counted(values: F64 | F32) -> bool:
    """Whether all are sums of weights; the comparisons are false for what is not a number."""
    return bool(((values >= 0) & (values <= _MOST)).all())


def _columns(header: NDArray[np.void], k: I64, data: U32) -> Records:
    width = int(k.max(initial=0))
    words = np.zeros((len(k), _HEADER_WORDS + 3 * width), dtype=np.uint32)
    if (k == width).all():
        words[:] = data.reshape(words.shape)
    else:
        words[_mask(k, width)] = data
    _, hashes, weights = np.split(words, [_HEADER_WORDS, _HEADER_WORDS + 2 * width], axis=1)
    return Records(
        header["flags"].copy(),
        header["term"].astype(np.int64),
        header["n"].astype(np.int64),
        header["last"].astype(np.int64),
        header["row_sum"].astype(np.float64),
        header["col_sum"].astype(np.float64),
        header["price"].astype(np.float64),
        header["popularity"].astype(np.float32),
        k,
        np.ascontiguousarray(hashes).view(np.uint64),
        np.ascontiguousarray(weights).view(np.float32),
    )


def _header(records: Records) -> U32:
    head = np.zeros(len(records.k), dtype=_HEADER)
    head["format"], head["flags"], head["k"] = NEIGHBOR_FORMAT, records.flags, records.k
    head["term"], head["n"], head["last"] = records.term, records.n, records.last
    head["row_sum"], head["col_sum"] = records.row_sum, records.col_sum
    head["price"], head["popularity"] = records.price, records.popularity
    return head.view(np.uint32).reshape(len(head), _HEADER_WORDS)


def _sizes(k: I64) -> I64:
    """Bytes of records with ``k`` [r] neighbours: [r]."""
    return _HEADER.itemsize + 3 * _WORD * k


def _mask(k: I64, width: int) -> Bool:
    """Which words of the matrix [r, header | 2·width | width] belong to a record: [r, words]."""
    head = np.ones((len(k), _HEADER_WORDS), dtype=bool)
    held = np.arange(width) < k[:, None]
    return np.concatenate([head, np.repeat(held, 2, axis=1), held], axis=1)
