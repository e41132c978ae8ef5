"""The record of topic `neighbors`, format 2: an item's list and what else a worker must know of it. Pure.

Little-endian, in words of 4 bytes, so that many records are packed as one matrix of words and one mask. The
key of a record is the item's name; items in the list stand as 64-bit hashes, tokens (`stream.core.content`)
as 32-bit ones. ``docs/keyspace.md`` shows the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

NEIGHBOR_FORMAT = 2
"""First byte of a record."""
MOST_TOKENS = 24
"""Tokens a record holds at most."""
MOST_DIMS = 256
"""Dimensions of a record's vector at most."""
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
        ("usual", "<f4"),
        ("season", "<f4"),
        ("born", "<i8"),
        ("group", "<u8"),
        ("category", "<u8"),
        ("tokens", "<u2"),
        ("dims", "<u2"),
    ]
)
_WORD = 4
_MOST = 2.0**62
_HEAVIEST = 2.0**10
_HEADER_WORDS = _HEADER.itemsize // _WORD


@dataclass(frozen=True, slots=True)
class Records:
    """r records as columns.

    ``flags`` [r]; version ``term``, ``n`` [r]; ``last`` [r] time of the newest event, ms; ``row_sum``,
    ``col_sum`` [r] and ``weights`` [r, K] in counts, decayed to ``last``; ``price`` [r] (0 without
    HAS_PRICE); ``popularity`` [r] decayed; ``hashes`` [r, K], heaviest first, of which the first ``k`` [r]
    count (what stands behind them is not packed, and is 0 after unpacking).

    ``born`` [r] time of the first event, ms, 0 unknown; ``usual`` [r] the popularity that would be
    usual and ``season`` [r] that of the same weeks last year (`stream.core.usual`), 0 none or unknown;
    ``group``, ``category`` [r] hashes, 0 none. ``tokens``, ``token_weights`` [r, T]: the first ``t`` [r]
    count. ``vectors`` [r, D] a unit vector in 127ths of its largest component: the first ``dims`` [r] count.
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
    born: I64
    usual: F32
    season: F32
    group: U64
    category: U64
    t: I64
    tokens: U32
    token_weights: F32
    dims: I64
    vectors: I8


_SCALARS = ("last", "row_sum", "col_sum", "price", "popularity", "born", "usual", "season")
_SUMS = ("row_sum", "col_sum", "popularity", "usual", "season", "weights", "token_weights")


def pack_records(records: Records) -> list[bytes]:
    """One value a record: 92 bytes, 12 a neighbour, 8 a token, and its vector. ~0.7 µs with 50 neighbours."""
    words = np.concatenate([_header(records), _lists(records), _tokens(records), _vectors(records)], axis=1)
    counts, widths = _counts(records), _widths(records)
    # A boolean index costs more than all the rest, and most lists are full.
    full = all(bool((count == width).all()) for count, width in zip(counts, widths, strict=True))
    data = (words if full else words[_mask(counts, widths)]).tobytes()
    ends = np.cumsum(_sizes(*counts)).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def unpack_records(values: Sequence[bytes]) -> Records:
    """The inverse of `pack_records`; the matrices are as wide as the longest record has them.

    Raises ValueError on an unknown format, on bytes that do not have the length their header says, and on
    what no counting makes (sums and weights that are not a number, negative, or beyond 2^62; a time before
    1970; more than 24 tokens or 256 dimensions; a token that weighs over 1024).
    ~0.7 µs a record with 50 neighbours.
    """
    header = _checked(values)
    k, t, dims = (header[name].astype(np.int64) for name in ("k", "tokens", "dims"))
    data = np.frombuffer(b"".join(values), dtype=np.uint32)
    starts = np.cumsum(sizes := _sizes(k, t, dims) // _WORD) - sizes + _HEADER_WORDS
    pairs = _section(data, starts + 3 * k, 2 * t)
    vectors = _section(data, starts + 3 * k + 2 * t, _vector_words(dims)).view(np.int8)
    records = Records(
        flags=header["flags"].copy(),
        term=header["term"].astype(np.int64),
        n=header["n"].astype(np.int64),
        k=k,
        hashes=_section(data, starts, 2 * k).view(np.uint64),
        weights=_section(data, starts + 2 * k, k).view(np.float32),
        group=header["group"].copy(),
        category=header["category"].copy(),
        t=t,
        tokens=np.ascontiguousarray(pairs[:, ::2]),
        token_weights=np.ascontiguousarray(pairs[:, 1::2]).view(np.float32),
        dims=dims,
        vectors=vectors[:, : int(dims.max(initial=0))],
        **{name: header[name].copy() for name in _SCALARS},
    )
    sound = [_counted(getattr(records, name)) for name in (*_SUMS, "born")]
    if not all(sound) or records.token_weights.max(initial=0) > _HEAVIEST:
        raise ValueError("a neighbors record holds what no counting makes: its bytes are damaged")
    return records


def _checked(values: Sequence[bytes]) -> NDArray[np.void]:
    """The headers [r], once they agree with the lengths of the values."""
    head = np.frombuffer(b"".join([value[: _HEADER.itemsize] for value in values]), dtype="u1")
    lengths = np.fromiter(map(len, values), dtype=np.int64, count=len(values))
    formats = np.frombuffer(b"".join([value[:1] for value in values]), dtype="u1")
    if (strange := formats[formats != NEIGHBOR_FORMAT]).size:
        raise ValueError(
            f"neighbors record has format {strange[0]}, not {NEIGHBOR_FORMAT}: upgrade Tidewise, or, where it"
            " is an older one, replay the log under another prefix"
        )
    if (lengths < _HEADER.itemsize).any():
        raise ValueError("a neighbors record is shorter than its header: its bytes are damaged")
    header = head.view(_HEADER)
    k, t, dims = (header[name].astype(np.int64) for name in ("k", "tokens", "dims"))
    if (lengths != _sizes(k, t, dims)).any():
        raise ValueError("a neighbors record is not as long as its header says: its bytes are damaged")
    if t.max(initial=0) > MOST_TOKENS or dims.max(initial=0) > MOST_DIMS:
        raise ValueError("a neighbors record holds too many tokens or dimensions: its bytes are damaged")
    return header


def _counted(values: NDArray[np.generic]) -> bool:
    """Whether all are sums of weights; the comparisons are false for what is not a number."""
    numbers: Any = values
    return bool(((numbers >= 0) & (numbers <= _MOST)).all())


def _section(data: U32, starts: I64, counts: I64) -> U32:
    """Words ``starts`` [r] on, ``counts`` [r] of them: [r, greatest count], 0 behind."""
    place = np.arange(int(counts.max(initial=0)))
    found = data.take(starts[:, None] + place, mode="clip") if len(data) else data.reshape(0, len(place))
    if (counts != len(place)).any():
        found *= place < counts[:, None]
    return found


def _header(records: Records) -> U32:
    head = np.zeros(len(records.k), dtype=_HEADER)
    head["format"], head["k"], head["tokens"], head["dims"] = (
        NEIGHBOR_FORMAT,
        records.k,
        records.t,
        records.dims,
    )
    for name in ("flags", "term", "n", "group", "category", *_SCALARS):
        head[name] = getattr(records, name)
    return head.view(np.uint32).reshape(len(head), _HEADER_WORDS)


def _lists(records: Records) -> U32:
    hashes = np.ascontiguousarray(records.hashes, dtype="<u8").view(np.uint32)
    weights = np.ascontiguousarray(records.weights, dtype="<f4").view(np.uint32)
    return np.concatenate([hashes, weights], axis=1)


def _tokens(records: Records) -> U32:
    weights = np.ascontiguousarray(records.token_weights, dtype="<f4").view(np.uint32)
    pairs = np.stack([records.tokens, weights], axis=2)
    return pairs.reshape(len(pairs), 2 * records.tokens.shape[1])


def _vectors(records: Records) -> U32:
    rows, width = records.vectors.shape
    padded = np.zeros((rows, -(-width // _WORD) * _WORD), dtype=np.int8)
    padded[:, :width] = np.where(np.arange(width) < records.dims[:, None], records.vectors, 0)
    return padded.view(np.uint32)


def _counts(records: Records) -> tuple[I64, I64, I64]:
    return records.k, records.t, records.dims


def _widths(records: Records) -> tuple[int, int, int]:
    return records.hashes.shape[1], records.tokens.shape[1], records.vectors.shape[1]


def _vector_words(dims: I64) -> I64:
    found: I64 = -(-dims // _WORD)
    return found


def _sizes(k: I64, t: I64, dims: I64) -> I64:
    """Bytes of records with ``k`` neighbours, ``t`` tokens, ``dims`` dimensions, each [r]: [r]."""
    return _HEADER.itemsize + _WORD * (3 * k + 2 * t + _vector_words(dims))


def _mask(counts: tuple[I64, I64, I64], widths: tuple[int, int, int]) -> Bool:
    """Which words of the matrix [r, header | 2·K | K | 2·T | vector] belong to a record: [r, words]."""
    (k, t, dims), (wide, tokens, wide_vector) = counts, widths
    head = np.ones((len(k), _HEADER_WORDS), dtype=bool)
    held = np.arange(wide) < k[:, None]
    pairs = np.arange(2 * tokens) < 2 * t[:, None]
    vector = np.arange(-(-wide_vector // _WORD)) < _vector_words(dims)[:, None]
    return np.concatenate([head, np.repeat(held, 2, axis=1), held, pairs, vector], axis=1)
