"""The packed user, format 4: private bytes behind the key `user`. Pure: numpy in, bytes out.

Little-endian. Header, history and ids stand in words of 8 bytes, so that many users are packed as one matrix
of words and one mask; the interest entries follow, 28 bytes each, packed as one array of all users. Items
stand as 64-bit hashes, for local ids mean nothing outside a process; one of the history that is also among
the interest as the number of that entry. ``docs/keyspace.md`` shows the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.core.weights import PERIOD, WEIGHT_BITS

Bool = NDArray[np.bool_]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)

USER_FORMAT = 4
"""First byte of a packed user."""
STRANGE = 255
"""The number of no interest entry: the item stands as a hash of its own."""

_HEADER = np.dtype(
    [
        ("format", "u1"),
        ("ids", "u1"),
        ("history", "<u2"),
        ("interest", "<u2"),
        ("strange", "u1"),
        ("bought", "u1"),
        ("seen", "<u4"),
        ("added", "<u4"),
        ("events", "<u4"),
        ("base", "<i4"),
        ("newest", "<i8"),
        ("rate", "<i8"),
    ]
)
_ENTRY = np.dtype([("item", "<u8"), ("sum", "<u8"), ("first", "<u4"), ("last", "<u4"), ("at", "<u4")])
"""``sum`` is count · 2^44 + weight."""
_BOUGHT = np.dtype([("item", "<u8"), ("second", "<u4")])

_WORD = 8
_HEADER_WORDS = _HEADER.itemsize // _WORD
_WEIGHT = np.uint64((1 << WEIGHT_BITS) - 1)
_COUNT_SHIFT = np.uint64(WEIGHT_BITS)


@dataclass(frozen=True, slots=True)
class UserColumns:
    """U users as they are packed. Histories and ids end at the right edge; interest entries are flat.

    ``seen``, ``added``, ``events``, ``base``, ``newest``, ``rate`` [U]; the history with ``numbers`` [U, L],
    ``times`` [U, L] seconds and ``kinds`` [U, L], of which the last ``n_history`` [U] count (the rest of all
    is 0); ``ids`` [U, D], 0 where there is none. ``n_interest`` [U] says how many of the entries are a
    user's; they stand user by user, each user's by ascending hash: ``interest`` [M] hashes, ``weights`` [M]
    > 0 of at most 44 bits, ``counts`` [M] > 0 of at most 20, ``firsts``, ``lasts`` [M] seconds, ``ats`` [M].
    A number says which of the user's entries has the item, from 0; where it is `STRANGE` none of the first
    255 has, and the item is the next of ``strange`` [S], hashes, in order of users and histories.
    ``n_bought`` [U] says how many of ``bought`` [R], hashes, with ``seconds`` [R] are a user's.
    """

    seen: I64
    added: I64
    events: I64
    base: I64
    newest: I64
    rate: I64
    n_history: I64
    numbers: U8
    strange: U64
    times: U32
    kinds: U8
    ids: U64
    n_interest: I64
    interest: U64
    weights: I64
    counts: U32
    firsts: U32
    lasts: U32
    ats: U32
    n_bought: I64
    bought: U64
    seconds: U32


def pack_users(users: UserColumns) -> list[bytes]:
    """One blob a user: 40 bytes, 6 an interaction, 8 one whose item is not among the interest, 8 an id, these
    filled up to words; 28 an interest entry, 12 an item bought.

    Equal users give equal bytes. ~3 µs a user with full history and 30 entries.
    """
    n_ids, n_strange = _count(users.ids != 0), np.zeros(len(users.ids), dtype=np.int64)
    if len(users.strange):
        n_strange = _count(users.numbers == STRANGE)
    small = [_as_words(part) for part in (users.times, users.numbers, users.kinds)]
    parts = [_header(users, n_ids, n_strange), users.ids, *small]
    lengths = _lengths(users.n_history, n_ids)
    mask = _mask([part.shape[1] for part in parts], lengths)
    words = _pieces(np.concatenate(parts, axis=1)[mask].tobytes(), lengths.sum(axis=1) * _WORD)
    entries = _pieces(_entries(users).tobytes(), users.n_interest * _ENTRY.itemsize)
    if len(users.strange):
        hashes = _pieces(users.strange.tobytes(), n_strange * _WORD)
        words = [own + more for own, more in zip(words, hashes, strict=True)]
    if len(users.bought):
        bought = _pieces(_purchases(users).tobytes(), users.n_bought * _BOUGHT.itemsize)
        entries = [own + more for own, more in zip(entries, bought, strict=True)]
    return [own + more for own, more in zip(words, entries, strict=True)]


def unpack_users(blobs: Sequence[bytes]) -> UserColumns:
    """The inverse of `pack_users`; the parts are as wide as the longest user needs.

    Raises ValueError on an unknown format and on bytes that do not have the length their header says, or
    whose entries are none.
    """
    # First, for the header of another format may have another length.
    if other := {blob[0] for blob in blobs if blob} - {USER_FORMAT}:
        raise ValueError(
            f"user has format {min(other)}, not {USER_FORMAT}: upgrade Tidewise or use another prefix"
        )
    head = np.frombuffer(b"".join(blob[: _HEADER.itemsize] for blob in blobs), dtype=_HEADER)
    n_history, n_ids, n_strange, n_interest, n_bought = (
        head[name].astype(np.int64) for name in ("history", "ids", "strange", "interest", "bought")
    )
    long, marks = (int(n.max(initial=0)) for n in (n_history, n_ids))
    widths = [_HEADER_WORDS, marks, -(-long // 2), -(-long // 8), -(-long // 8)]
    lengths = _lengths(n_history, n_ids)
    ends = lengths.sum(axis=1) * _WORD
    begins = ends + n_strange * _WORD
    behind = begins + n_interest * _ENTRY.itemsize
    if (behind + n_bought * _BOUGHT.itemsize != [len(blob) for blob in blobs]).any():
        raise ValueError("a packed user is not as long as its header says: the stored bytes are damaged")
    mask = _mask(widths, lengths)
    words = np.zeros(mask.shape, dtype=np.uint64)
    words[mask] = np.frombuffer(_slices(blobs, repeat(0), ends.tolist()), dtype=np.uint64)
    _, ids, times, numbers, kinds = np.split(words, np.cumsum(widths)[:-1], axis=1)
    entries = np.frombuffer(_slices(blobs, begins.tolist(), behind.tolist()), dtype=_ENTRY)
    _check(entries, n_interest)
    strange = np.frombuffer(_slices(blobs, ends.tolist(), begins.tolist()), dtype=np.uint64)
    found = _from_words(numbers, np.dtype(np.uint8), long)
    _check_history(found, n_history, n_strange, n_interest)
    purchases = np.frombuffer(_slices(blobs, behind.tolist(), repeat(None)), dtype=_BOUGHT)
    sums = entries["sum"]
    return UserColumns(
        head["seen"].astype(np.int64),
        head["added"].astype(np.int64),
        head["events"].astype(np.int64),
        head["base"].astype(np.int64),
        head["newest"].astype(np.int64),
        head["rate"].astype(np.int64),
        n_history,
        found,
        strange,
        _from_words(times, np.dtype(np.uint32), long),
        _from_words(kinds, np.dtype(np.uint8), long),
        ids,
        n_interest,
        entries["item"].copy(),
        (sums & _WEIGHT).astype(np.int64),
        (sums >> _COUNT_SHIFT).astype(np.uint32),
        entries["first"].copy(),
        entries["last"].copy(),
        entries["at"].copy(),
        n_bought,
        purchases["item"].copy(),
        purchases["second"].copy(),
    )


def histories(users: UserColumns) -> U64:
    """The items [U, L] of histories, as hashes; 0 where there is no interaction."""
    held = _edge(users.numbers.shape[1])[users.n_history]
    start = (np.cumsum(users.n_interest) - users.n_interest)[:, None]
    own = np.append(users.interest, np.zeros(STRANGE + 1, dtype=np.uint64))
    history: U64 = np.where(held, own[start + users.numbers], np.uint64(0))
    history[users.numbers == STRANGE] = users.strange
    return history


def digest_fields(blob: bytes) -> bytes:
    """What `digest` covers of a packed user: all but the ids, in a form that is one for equal sums.

    Weights and base are reduced by the landmark periods that all weights can be divided by, so that equal
    sums relative to different bases give equal bytes. Entries stand by hash.
    """
    user = unpack_users([blob])
    together = int(np.bitwise_or.reduce(user.weights))
    spare = ((together & -together).bit_length() - 1) // PERIOD if together else 0
    base = user.base + spare if together else user.base * 0
    scalars = (user.seen, user.added, user.events, base, user.newest, user.rate, user.n_history)
    entries = (user.interest, user.counts, user.firsts, user.lasts, user.ats)
    windows = (histories(user), user.times, user.kinds)
    bought = (user.bought, user.seconds)
    parts = (*scalars, *windows, *entries, user.weights >> (PERIOD * spare), *bought)
    return b"".join(part.tobytes() for part in parts)


def _check_history(numbers: U8, n_history: I64, n_strange: I64, n_interest: I64) -> None:
    """Raise ValueError where a number is that of no entry, or of something before the first interaction."""
    held, alone = _edge(numbers.shape[1])[n_history], numbers == STRANGE
    wrong = np.where(held, (numbers >= n_interest[:, None]) & ~alone, numbers > 0)
    if wrong.any() or (_count(alone) != n_strange).any():
        raise ValueError("a packed user's history has no items: the stored bytes are damaged")


def _slices(blobs: Sequence[bytes], begins: Iterable[int], ends: Iterable[int | None]) -> bytes:
    """From each blob the bytes between a begin and an end, joined."""
    return b"".join([blob[begin:end] for blob, begin, end in zip(blobs, begins, ends, strict=False)])


def _entries(users: UserColumns) -> NDArray[np.void]:
    entries = np.empty(len(users.interest), dtype=_ENTRY)
    entries["item"], entries["first"], entries["last"] = users.interest, users.firsts, users.lasts
    entries["sum"] = users.counts.astype(np.uint64) << _COUNT_SHIFT | users.weights.view(np.uint64)
    entries["at"] = users.ats
    return entries


def _purchases(users: UserColumns) -> NDArray[np.void]:
    purchases = np.empty(len(users.bought), dtype=_BOUGHT)
    purchases["item"], purchases["second"] = users.bought, users.seconds
    return purchases


def _check(entries: NDArray[np.void], n_interest: I64) -> None:
    """Raise ValueError where an entry has no weight or no count, or does not stand by its hash."""
    item, sums = entries["item"], entries["sum"]
    falls = item[1:] <= item[:-1]
    starts = np.cumsum(n_interest)
    falls[starts[(starts > 0) & (starts < len(item))] - 1] = False
    if falls.any() or not ((sums & _WEIGHT).all() and (sums >> _COUNT_SHIFT).all()):
        raise ValueError("a packed user's interest is out of order: the stored bytes are damaged")


def _count(mask: Bool) -> I64:
    """How many of each row [U, n] are true: [U]. Cheaper for few rows than `np.count_nonzero`."""
    counts: I64 = np.add.reduce(mask, axis=1, dtype=np.int64)
    return counts


def _pieces(data: bytes, lengths: I64) -> list[bytes]:
    """The data cut into pieces of these lengths."""
    ends = np.cumsum(lengths).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _header(users: UserColumns, n_ids: I64, n_strange: I64) -> U64:
    head = np.zeros(len(users.seen), dtype=_HEADER)
    head["format"] = USER_FORMAT
    head["ids"], head["history"], head["interest"] = n_ids, users.n_history, users.n_interest
    head["strange"], head["bought"] = n_strange, users.n_bought
    head["seen"], head["added"], head["events"] = users.seen, users.added, users.events
    head["base"], head["newest"], head["rate"] = users.base, users.newest, users.rate
    return head.view(np.uint64).reshape(len(head), _HEADER_WORDS)


def _lengths(n_history: I64, n_ids: I64) -> I64:
    """Words of each part but strange items and interest: [U, 5]."""
    lengths = np.empty((len(n_ids), 5), dtype=np.int64)
    lengths[:, 0], lengths[:, 1] = _HEADER_WORDS, n_ids
    lengths[:, 2], lengths[:, 3] = (n_history + 1) // 2, (n_history + 7) // 8
    lengths[:, 4] = lengths[:, 3]
    return lengths


def _mask(widths: Sequence[int], lengths: I64) -> Bool:
    """Which words of the matrix [U, Σ widths] belong to a user: [U, Σ widths]."""
    held = [_edge(width).take(lengths[:, at], axis=0) for at, width in enumerate(widths)]
    return np.concatenate(held, axis=1)


@lru_cache(maxsize=1024)
def _edge(width: int) -> Bool:
    """Mask [width + 1, width]: row n has the last n columns. A look-up beats comparing."""
    return np.ascontiguousarray(np.tri(width + 1, width, -1, dtype=np.bool_)[:, ::-1])


def _as_words(part: U32 | U8) -> U64:
    """[U, n] small numbers as [U, ⌈n·size/8⌉] words, filled with zeros in front."""
    lack = -part.shape[1] % (_WORD // part.itemsize)
    full = np.pad(part, ((0, 0), (lack, 0))) if lack else np.ascontiguousarray(part)
    return full.view(np.uint64)


def _from_words(words: U64, dtype: np.dtype[T], width: int) -> NDArray[T]:
    part = np.ascontiguousarray(words).view(dtype)
    return part[:, part.shape[1] - width :]
