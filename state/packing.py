"""The packed user, format 2: private bytes behind the key `user`. Pure: numpy in, bytes out.

Little-endian, in words of 8 bytes, so that many users are packed as one matrix of words and one mask. Items
stand as 64-bit hashes, for local ids mean nothing outside a process. ``docs/keyspace.md`` shows the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.core.weights import PERIOD

Bool = NDArray[np.bool_]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)

USER_FORMAT = 2
"""First byte of a packed user."""

_HEADER = np.dtype(
    [
        ("format", "u1"),
        ("ids", "u1"),
        ("history", "<u2"),
        ("interest", "<u2"),
        ("zero", "<u2"),
        ("seen", "<u4"),
        ("added", "<u4"),
        ("base", "<i8"),
        ("newest", "<i8"),
        ("rate", "<i8"),
    ]
)
_WORD = 8
_HEADER_WORDS = _HEADER.itemsize // _WORD
_FROM_LEFT = (2, 3)


@dataclass(frozen=True, slots=True)
class UserColumns:
    """U users as they are packed. Histories and ids end at the right edge, interest begins at the left.

    ``seen``, ``added``, ``base``, ``newest``, ``rate`` [U]; ``history`` [U, L] hashes with ``times`` [U, L]
    seconds and ``kinds`` [U, L], of which the last ``n_history`` [U] count (the rest of both is 0);
    ``interest`` [U, M] hashes with ``weights`` [U, M], of which the first ``n_interest`` [U] count;
    ``ids`` [U, D], 0 where there is none.
    """

    seen: I64
    added: I64
    base: I64
    newest: I64
    rate: I64
    n_history: I64
    history: U64
    times: U32
    kinds: U8
    n_interest: I64
    interest: U64
    weights: I64
    ids: U64


def pack_users(users: UserColumns) -> list[bytes]:
    """One blob a user: 40 bytes, 13 an interaction, 16 an interest entry, 8 an id; parts filled up to words.

    Equal users give equal bytes. ~1 µs a user with full bounds.
    """
    n_ids = np.count_nonzero(users.ids, axis=1)
    parts = [
        _header(users, n_ids),
        users.history,
        users.interest,
        users.weights.view(np.uint64),
        users.ids,
        _as_words(users.times),
        _as_words(users.kinds),
    ]
    lengths = _lengths(users.n_history, users.n_interest, n_ids)
    mask = _mask([part.shape[1] for part in parts], lengths)
    data = np.concatenate(parts, axis=1)[mask].tobytes()
    ends = (np.cumsum(lengths.sum(axis=1)) * _WORD).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def unpack_users(blobs: Sequence[bytes]) -> UserColumns:
    """The inverse of `pack_users`; the parts are as wide as the longest user needs.

    Raises ValueError on an unknown format and on bytes that do not have the length their header says.
    """
    # First, for the header of another format may have another length.
    if strange := {blob[0] for blob in blobs if blob} - {USER_FORMAT}:
        raise ValueError(
            f"user has format {min(strange)}, not {USER_FORMAT}: upgrade Tidewise or use another prefix"
        )
    head = np.frombuffer(b"".join(blob[: _HEADER.itemsize] for blob in blobs), dtype=_HEADER)
    n_history, n_interest, n_ids = (head[name].astype(np.int64) for name in ("history", "interest", "ids"))
    long, wide, marks = (int(n.max(initial=0)) for n in (n_history, n_interest, n_ids))
    widths = [_HEADER_WORDS, long, wide, wide, marks, -(-long // 2), -(-long // 8)]
    lengths = _lengths(n_history, n_interest, n_ids)
    if (lengths.sum(axis=1) * _WORD != [len(blob) for blob in blobs]).any():
        raise ValueError("a packed user is not as long as its header says: the stored bytes are damaged")
    mask = _mask(widths, lengths)
    words = np.zeros(mask.shape, dtype=np.uint64)
    words[mask] = np.frombuffer(b"".join(blobs), dtype=np.uint64)
    _, history, interest, weights, ids, times, kinds = np.split(words, np.cumsum(widths)[:-1], axis=1)
    return UserColumns(
        head["seen"].astype(np.int64),
        head["added"].astype(np.int64),
        head["base"].astype(np.int64),
        head["newest"].astype(np.int64),
        head["rate"].astype(np.int64),
        n_history,
        history,
        _from_words(times, np.dtype(np.uint32), long),
        _from_words(kinds, np.dtype(np.uint8), long),
        n_interest,
        interest,
        weights.view(np.int64),
        ids,
    )


def digest_fields(blob: bytes) -> bytes:
    """What `digest` covers of a packed user: all but the ids, in a form that is one for equal sums.

    Interest entries are sorted by hash; weights and base are reduced by the landmark periods that all weights
    can be divided by, so that equal sums relative to different bases give equal bytes.
    """
    user = unpack_users([blob])
    order = np.argsort(user.interest[0])
    weights = user.weights[0][order]
    together = int(np.bitwise_or.reduce(weights))
    spare = ((together & -together).bit_length() - 1) // PERIOD if together else 0
    base = user.base + spare if together else user.base * 0
    scalars = (user.seen, user.added, base, user.newest, user.rate, user.n_history)
    parts = (*scalars, user.history, user.times, user.kinds, user.interest[0][order])
    return b"".join(part.tobytes() for part in (*parts, weights >> (PERIOD * spare)))


def _header(users: UserColumns, n_ids: I64) -> U64:
    head = np.zeros(len(users.seen), dtype=_HEADER)
    head["format"] = USER_FORMAT
    head["ids"], head["history"], head["interest"] = n_ids, users.n_history, users.n_interest
    head["seen"], head["added"] = users.seen, users.added
    head["base"], head["newest"], head["rate"] = users.base, users.newest, users.rate
    return head.view(np.uint64).reshape(len(head), _HEADER_WORDS)


def _lengths(n_history: I64, n_interest: I64, n_ids: I64) -> I64:
    """Words of each part: [U, 7]."""
    header = np.full_like(n_ids, _HEADER_WORDS)
    halves, eighths = (n_history + 1) // 2, (n_history + 7) // 8
    return np.stack([header, n_history, n_interest, n_interest, n_ids, halves, eighths], axis=1)


def _mask(widths: Sequence[int], lengths: I64) -> Bool:
    """Which words of the matrix [U, Σ widths] belong to a user: [U, Σ widths]."""
    held = [_edge(width, at in _FROM_LEFT).take(lengths[:, at], axis=0) for at, width in enumerate(widths)]
    return np.concatenate(held, axis=1)


@lru_cache(maxsize=1024)
def _edge(width: int, left: bool) -> Bool:
    """Masks [width + 1, width]: row n has the first n columns, or the last. A look-up beats comparing."""
    first: Bool = np.tri(width + 1, width, -1, dtype=np.bool_)
    return first if left else np.ascontiguousarray(first[:, ::-1])


def _as_words(part: U32 | U8) -> U64:
    """[U, n] small numbers as [U, ⌈n·size/8⌉] words, filled with zeros in front."""
    lack = -part.shape[1] % (_WORD // part.itemsize)
    full = np.pad(part, ((0, 0), (lack, 0))) if lack else np.ascontiguousarray(part)
    return full.view(np.uint64)


def _from_words(words: U64, dtype: np.dtype[T], width: int) -> NDArray[T]:
    part = np.ascontiguousarray(words).view(dtype)
    return part[:, part.shape[1] - width :]
