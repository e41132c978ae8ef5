"""The users of one partition in memory: history, interest and last event ids, as numpy arrays.

A batch takes a copy of the users it touches (`UserTable.take`), computes new ones (`fresh`, `advance`: pure)
and puts them back once its transaction has happened (`UserTable.put`); a transaction that failed leaves no
trace. What a user becomes depends on his own events and their order alone, never on how batches were cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from state.packing import STRANGE, UserColumns, pack_users, unpack_users
from stream.core import bought as purchases
from stream.core import interest as interests
from stream.core.bought import Bought
from stream.core.interest import Interest, add, spans
from stream.core.items import Items
from stream.core.weights import Decay
from stream.events import CODE

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
T = TypeVar("T", bound=np.generic)

BOUGHT = 32
"""Items bought last that are kept of a user where these are left out of lists."""
_PURCHASE = CODE["purchase"]
_LOW = 0xFFFF_FFFF
_SLOTS = 1024
"""Slots a user when interactions are looked up among his interest entries; a power of two."""
_ENTRY = np.dtype(
    [("weight", "i8"), ("item", "i4"), ("count", "u4"), ("first", "u4"), ("last", "u4"), ("at", "u4")]
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is kept of a user: L interactions, K interest entries (with slack to 1.5 K), D event ids, and
    the B items that he bought last."""

    history: int = 64
    interest: int = 128
    ids: int = 16
    bought: int = BOUGHT


@dataclass(frozen=True, slots=True)
class Rows:
    """U users as arrays; 9 bytes an interaction, 28 an interest entry, 8 an id and an item bought, 56 for
    the rest.

    Histories [U, L] end at the right: the newest in the last column, −1 (items) and 0 before the oldest.
    ``time`` is in seconds, ``kind`` the event's code. ``seen`` [U] counts interactions ever, ``newest``
    [U] is the greatest time in ms of one, ``rate`` [U] how many events came of late (`noise`). ``ids``
    [U, D]: the last accepted event ids, newest last, 0 = none. ``bought``: what was bought last.
    """

    item: I32
    time: U32
    kind: U8
    seen: I64
    newest: I64
    rate: I64
    ids: U64
    interest: Interest
    bought: Bought

    @classmethod
    def blank(cls, users: int, bounds: Bounds) -> Rows:
        """New users, who have done nothing."""
        shape = (users, bounds.history)
        return cls(
            np.full(shape, -1, dtype=np.int32),
            np.zeros(shape, dtype=np.uint32),
            np.zeros(shape, dtype=np.uint8),
            np.zeros(users, dtype=np.int64),
            np.zeros(users, dtype=np.int64),
            np.zeros(users, dtype=np.int64),
            np.zeros((users, bounds.ids), dtype=np.uint64),
            Interest.blank(users, bounds.interest),
            Bought.blank(users, bounds.bought),
        )

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def bounds(self) -> Bounds:
        """The bounds these arrays were made for."""
        return Bounds(self.item.shape[1], self.interest.keep, self.ids.shape[1], self.bought.item.shape[1])

    def take(self, at: I64) -> Rows:
        """A copy of the users ``at`` [n]."""
        return Rows(
            self.item.take(at, axis=0),
            self.time.take(at, axis=0),
            self.kind.take(at, axis=0),
            self.seen[at],
            self.newest[at],
            self.rate[at],
            self.ids.take(at, axis=0),
            self.interest.take(at),
            self.bought.take(at),
        )

    def replaced(self, at: I64, rows: Rows) -> Rows:
        """A copy in which the users ``at`` [n] are these."""
        which = np.arange(len(self))
        which[at] = len(self) + np.arange(len(at))
        return joined([self, rows]).take(which)


def joined(parts: Sequence[Rows]) -> Rows:
    """All users of the parts, in order."""
    return Rows(
        np.concatenate([part.item for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.seen for part in parts]),
        np.concatenate([part.newest for part in parts]),
        np.concatenate([part.rate for part in parts]),
        np.concatenate([part.ids for part in parts]),
        interests.joined([part.interest for part in parts]),
        purchases.joined([part.bought for part in parts]),
    )


class UserTable:
    """All users of a partition that a worker has in memory: slots by name, rows by slot; grows by doubling.

    One record a user, for a gather from one place in memory costs half of one from ten; the interest, of
    which few have much, as bytes of its own. 1.1 kB a user at the default bounds, 28 bytes an interest entry,
    and his name. Taking and putting a user with 30 entries back: ~2 µs.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._slots: dict[str, int] = {}
        self._names: list[str] = []
        self._free: list[int] = []
        self._words: I64 = np.zeros((256, _width(bounds)), dtype=np.int64)
        self._interest: list[bytes] = []
        self._used: I64 = np.zeros(256, dtype=np.int64)
        self._clock = 0

    def __len__(self) -> int:
        return len(self._slots)

    def slots(self, names: Iterable[str]) -> I64:
        """Slots [n] of users, −1 for those not in memory. ~60 ns a user."""
        get = self._slots.get
        return np.array([get(name, -1) for name in names], dtype=np.int64)

    def load(self, names: Sequence[str], blobs: Sequence[bytes | None], items: Items) -> I64:
        """Take in users, all different, with what the store has (None: nothing); returns their slots [n]."""
        rows = unpack([blob for blob in blobs if blob is not None], items, self.bounds)
        known = np.array([blob is not None for blob in blobs], dtype=np.bool_)
        slots = np.array([self._slot(name) for name in names], dtype=np.int64)
        self._reserve(len(self._names))
        self.put(slots[known], rows)
        self.put(slots[~known], Rows.blank(len(slots) - len(rows), self.bounds))
        return slots

    def take(self, slots: I64) -> Rows:
        """A copy of the users in ``slots`` [n], which counts as their use."""
        self._touch(slots)
        entries = list(map(self._interest.__getitem__, slots.tolist()))
        return _views(self._words.take(slots, axis=0), self.bounds, entries)

    def put(self, slots: I64, rows: Rows) -> None:
        """Overwrite users, after their transaction."""
        self._touch(slots)
        self._words[slots] = _words(rows, self.bounds)
        for slot, entries in zip(slots.tolist(), _entries_of(rows.interest), strict=True):
            self._interest[slot] = entries

    def forget(self, names: Iterable[str]) -> None:
        """Drop users from memory; unknown names are passed over."""
        for name in names:
            if (slot := self._slots.pop(name, None)) is not None:
                self._used[slot], self._interest[slot] = 0, b""
                self._free.append(slot)

    def trim(self, limit: int, keep: I64) -> int:
        """Drop the users not used for longest until ``limit`` remain, but none in ``keep``; how many went."""
        if len(self) <= limit:
            return 0
        used = self._used.copy()
        used[keep] = 0
        able = np.flatnonzero(used)
        excess = min(len(self) - limit, len(able))
        # Users of one batch share a tick; which of them go first changes no result.
        oldest = able[np.argsort(used[able])[:excess]]
        self.forget([self._names[slot] for slot in oldest.tolist()])
        return len(oldest)

    def _touch(self, slots: I64) -> None:
        self._clock += 1
        self._used[slots] = self._clock

    def _slot(self, name: str) -> int:
        if (slot := self._slots.get(name)) is None:
            if self._free:
                slot = self._free.pop()
                self._names[slot] = name
            else:
                slot = len(self._names)
                self._names.append(name)
                self._interest.append(b"")
            self._slots[name] = slot
        return slot

    def _reserve(self, users: int) -> None:
        size = len(self._used)
        if users <= size:
            return
        while size < users:
            size *= 2
        self._words, self._used = _grown(self._words, size), _grown(self._used, size)


def fresh(rows: Rows, user: I64, ids: U64) -> tuple[Bool, Rows]:
    """Which events are no repeats, and the users with these remembered.

    ``user`` [E] row of each event, ``ids`` [E] in order, 0 = no id. An event is a repeat when its id is among
    the last D accepted ids of its user before it; a repeat is not remembered again. Returns mask [E], rows.
    ~0.2 µs an event; users with a possible repeat go event by event, 0.5 µs.
    """
    window = rows.ids
    accepted = ids != 0
    if not (window.shape[1] and accepted.any()):
        return np.ones(len(ids), dtype=np.bool_), rows
    suspects = _suspects(window, user, ids)
    events = np.flatnonzero(suspects[user] & accepted)
    accepted[_repeats(window, events, user[events], ids[events])] = False
    events = np.flatnonzero(accepted)
    events = events[_by_user(user[events])]
    place, shift = _places(user[events], len(rows), window.shape[1])
    last = events[place >= 0]
    window = _append(window, user[last], place[place >= 0], shift, ids[last])
    return accepted | (ids == 0), replace(rows, ids=window)


def advance(
    rows: Rows,
    user: I64,
    item: I32,
    kind: U8,
    time_ms: I64,
    units: I64,
    event: NDArray[np.integer],
    decay: Decay,
    hashes: U64,
) -> Rows:
    """Users after more interactions, in order: into the histories (the last L stay), the interest and what
    was bought.

    ``user`` [N] row of each interaction, ``item`` [N], ``kind`` [N], ``time_ms`` [N], ``units`` [N] type
    weights in eighths (0: into the history only), ``event`` [N] number of its event, non-decreasing for a
    user; ``hashes`` by local item id. Pure.
    ~1 µs an interaction in batches of 2,000 with half as many users of 30 interest entries.
    """
    if not len(user):
        return rows
    newest = rows.newest.copy()
    np.maximum.at(newest, user, time_ms)
    order = _by_user(user)
    of, what, when, size = user[order], item[order], time_ms[order], units[order]
    interest = add(rows.interest, of, what, event[order].astype(np.int64), when, size, decay, hashes)
    place, shift = _places(user[order], len(rows), rows.item.shape[1])
    last, place = order[place >= 0], place[place >= 0]
    seconds = (time_ms[last] // 1000).astype(np.uint32)
    buys = np.flatnonzero(kind == _PURCHASE)
    return Rows(
        _append(rows.item, user[last], place, shift, item[last]),
        _append(rows.time, user[last], place, shift, seconds),
        _append(rows.kind, user[last], place, shift, kind[last]),
        rows.seen + np.bincount(user, minlength=len(rows)),
        newest,
        rows.rate,
        rows.ids,
        interest,
        rows.bought.add(user[buys], item[buys], time_ms[buys] // 1000, hashes),
    )


def tail(rows: Rows, window: int) -> I32:
    """The last ``window`` items a user, newest last, −1 padded at the left: [U, window]."""
    lack = window - rows.item.shape[1]
    if lack > 0:
        return np.pad(rows.item, ((0, 0), (lack, 0)), constant_values=-1)
    return rows.item[:, -lack:]


def profile(rows: Rows, n: int) -> I32:
    """The ``n`` newest distinct items a user, newest first, −1 padded: [U, n]. ~0.3 µs a user."""
    length = rows.item.shape[1]
    # Few users need their whole history to find n distinct items.
    near = min(2 * n, length)
    found = _distinct(rows.item[:, length - near :], n)
    if near < length:
        more = np.flatnonzero((found[:, -1] < 0) & (rows.item[:, length - near - 1] >= 0))
        if len(more):
            found[more] = _distinct(rows.item[more], n)
    return found


def bought(rows: Rows, since_s: I64 | int) -> tuple[I32, I32]:
    """What was bought after ``since_s`` (one or [U]), as far as the histories or the B items bought last
    tell: rows [m], items [m], some twice."""
    since = np.broadcast_to(np.asarray(since_s), len(rows))
    at = np.flatnonzero(rows.kind == _PURCHASE)
    row, column = at // rows.kind.shape[1], at % rows.kind.shape[1]
    held = (rows.time[row, column] > since[row]) & (rows.item[row, column] >= 0)
    last, items = rows.bought.since(since)
    found = np.concatenate([row[held], last]).astype(np.int32)
    return found, np.concatenate([rows.item[row, column][held], items])


def last_bought(rows: Rows, item: int) -> int:
    """When anybody of ``rows`` last bought an item, in seconds, as far as `bought` knows; 0: nobody did."""
    history = rows.time[(rows.item == item) & (rows.kind == _PURCHASE)]
    return int(np.concatenate([history, rows.bought.second[rows.bought.item == item]]).max(initial=0))


def pack(rows: Rows, items: Items) -> list[bytes]:
    """One blob a user, for the key `user` (`state.packing`)."""
    hashes = items.hashes if len(items) else np.zeros(1, dtype=np.uint64)
    interest, (numbers, strange) = rows.interest, _numbers(rows)
    kept = rows.bought.item >= 0
    columns = UserColumns(
        rows.seen,
        interest.added,
        interest.events,
        interest.base,
        rows.newest,
        rows.rate,
        np.add.reduce(rows.item >= 0, axis=1, dtype=np.int64),
        numbers,
        hashes.take(strange),
        rows.time,
        rows.kind,
        rows.ids,
        interest.length,
        hashes.take(interest.item),
        interest.weight,
        interest.count,
        interest.first,
        interest.last,
        interest.at,
        np.add.reduce(kept, axis=1, dtype=np.int64),
        hashes.take(rows.bought.item[kept]),
        rows.bought.second[kept],
    )
    return pack_users(columns)


def unpack(blobs: Sequence[bytes], items: Items, bounds: Bounds) -> Rows:
    """The inverse of `pack`, cut to these bounds. Unknown items are added by their hash."""
    rows = Rows.blank(len(blobs), bounds)
    if not blobs:
        return rows
    users = unpack_users(blobs)
    item, had, buys = _locals(users, items)
    _align(rows.item, item)
    _align(rows.time, users.times)
    _align(rows.kind, users.kinds)
    _align(rows.ids, users.ids)
    _unpack_bought(rows.bought, users, buys)
    interest = _unpack_interest(users, had, bounds.interest)
    return replace(rows, seen=users.seen, newest=users.newest, rate=users.rate, interest=interest)


def _unpack_bought(into: Bought, users: UserColumns, item: I32) -> None:
    """Fill in what was bought; where there is less room, the last."""
    most = int(users.n_bought.max(initial=0))
    if not most:
        return
    held = np.arange(most)[::-1] < users.n_bought[:, None]
    stored = Bought.blank(len(held), most)
    stored.item[held], stored.second[held] = item, users.seconds
    _align(into.item, stored.item)
    _align(into.second, stored.second)


def _unpack_interest(users: UserColumns, item: I32, keep: int) -> Interest:
    interest = Interest(
        np.concatenate([[0], np.cumsum(users.n_interest)]),
        item,
        users.weights,
        users.counts,
        users.firsts,
        users.lasts,
        users.ats,
        users.added,
        users.base,
        users.events,
        keep,
    )
    # Never so under one K: between cuts a user has at most K entries and one an interaction since.
    over = np.flatnonzero(users.n_interest > keep + users.added % (keep // 2))
    return interests.cut(interest, over) if over.size else interest


def _by_user(user: I64) -> I64:
    """Order [n] that sorts by user and keeps the order within; cheaper than a stable argsort."""
    return np.sort(user << 32 | np.arange(len(user))) & _LOW


def _places(row: I64, users: int, width: int) -> tuple[I64, I64]:
    """Where entries sorted by row go in windows of ``width``: place behind the old [n], shift a user [U].

    A negative place: newer entries of this batch fill the window.
    """
    count = np.bincount(row, minlength=users)
    shift = np.minimum(count, width)
    return np.arange(len(row)) - (np.cumsum(count) - shift)[row], shift


def _append(old: NDArray[T], row: I64, place: I64, shift: I64, new: NDArray[T]) -> NDArray[T]:
    """Windows [U, w] moved left by ``shift`` [U], with the new entries at the right."""
    users, width = old.shape
    wide = np.empty((users, width + int(shift.max(initial=0))), dtype=old.dtype)
    wide[:, :width] = old
    wide[row, width + place] = new
    return np.lib.stride_tricks.sliding_window_view(wide, width, axis=1)[np.arange(users), shift]


def _suspects(window: U64, user: I64, ids: U64) -> Bool:
    """Users [U] one of whose new ids stands in his window or occurs twice in the batch."""
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    suspicious = (window[user] == ids[:, None]).any(axis=1)
    if twice.any():
        suspicious |= np.isin(ids, twice)
    suspects = np.zeros(len(window), dtype=np.bool_)
    suspects[user[suspicious & (ids != 0)]] = True
    return suspects


def _repeats(window: U64, events: I64, user: I64, ids: U64) -> list[int]:
    """Of these events, in order, the repeats: exact, one by one."""
    last: dict[int, deque[int]] = {}
    repeats = []
    for event, row, key in zip(events.tolist(), user.tolist(), ids.tolist(), strict=True):
        if (recent := last.get(row)) is None:
            recent = last[row] = deque(window[row].tolist(), maxlen=window.shape[1])
        if key in recent:
            repeats.append(event)
        else:
            recent.append(key)
    return repeats


def _distinct(item: I32, n: int) -> I32:
    """The ``n`` newest distinct items of histories [U, w], newest first, −1 padded: [U, n]."""
    users, width = item.shape
    none = np.int64(width) << 32
    age = np.arange(width - 1, -1, -1, dtype=np.int64)
    by_item = np.sort(item.astype(np.int64) << 32 | age, axis=1)
    found = by_item >> 32
    by_age = (by_item & _LOW) << 32 | (found & _LOW)
    by_age[found < 0] = none
    by_age[:, 1:][found[:, 1:] == found[:, :-1]] = none
    by_age.sort(axis=1)
    newest = np.full((users, n), -1, dtype=np.int32)
    first = by_age[:, :n]
    newest[:, : first.shape[1]] = np.where(first < none, first & _LOW, -1)
    return newest


def _align(new: NDArray[T], old: NDArray[T]) -> None:
    """Copy windows [U, v] into windows [U, w], newest at the right edge of both."""
    width = min(new.shape[1], old.shape[1])
    new[:, new.shape[1] - width :] = old[:, old.shape[1] - width :]


def _parts(bounds: Bounds) -> list[int]:
    """Words of the parts of a user's record in the table."""
    halves, eighths, bought = (-(-n // of) for n, of in _fillings(bounds))
    return [1, 1, 1, 1, 1, 1, bounds.ids, halves, halves, eighths, bought, bought]


def _fillings(bounds: Bounds) -> list[tuple[int, int]]:
    return [(bounds.history, 2), (bounds.history, 8), (bounds.bought, 2)]


def _width(bounds: Bounds) -> int:
    return sum(_parts(bounds))


def _views(words: I64, bounds: Bounds, entries: Sequence[bytes]) -> Rows:
    """Records [U, words] seen as rows, with the interest entries of each user."""
    seen, newest, rate, added, base, events, *windows = _split(words, bounds)
    ids, item, time, kind, bought, second = windows
    length, most = bounds.history, bounds.bought
    scalars = (added[:, 0], base[:, 0], events[:, 0])
    return Rows(
        item.view(np.int32)[:, :length],
        time.view(np.uint32)[:, :length],
        kind.view(np.uint8)[:, :length],
        seen[:, 0],
        newest[:, 0],
        rate[:, 0],
        ids.view(np.uint64),
        _interest_of(entries, scalars, bounds.interest),
        Bought(bought.view(np.int32)[:, :most], second.view(np.uint32)[:, :most]),
    )


def _words(rows: Rows, bounds: Bounds) -> I64:
    """The records [U, words] of rows."""
    words = np.zeros((len(rows), _width(bounds)), dtype=np.int64)
    parts, interest, length = _split(words, bounds), rows.interest, bounds.history
    scalars = (rows.seen, rows.newest, rows.rate, interest.added, interest.base, interest.events)
    for part, scalar in zip(parts, scalars, strict=False):
        part[:, 0] = scalar
    ids, item, time, kind, bought, second = parts[len(scalars) :]
    ids.view(np.uint64)[:] = rows.ids
    item.view(np.int32)[:, :length], time.view(np.uint32)[:, :length] = rows.item, rows.time
    kind.view(np.uint8)[:, :length] = rows.kind
    bought.view(np.int32)[:, : bounds.bought] = rows.bought.item
    second.view(np.uint32)[:, : bounds.bought] = rows.bought.second
    return words


def _split(words: I64, bounds: Bounds) -> list[I64]:
    return np.split(words, np.cumsum(_parts(bounds))[:-1], axis=1)


def _entries_of(interest: Interest) -> list[bytes]:
    """The interest entries of each user as they stand in the table: local ids, so for this process alone."""
    entries = np.empty(len(interest.item), dtype=_ENTRY)
    entries["item"], entries["weight"], entries["count"] = interest.item, interest.weight, interest.count
    entries["first"], entries["last"], entries["at"] = interest.first, interest.last, interest.at
    data, ends = entries.tobytes(), (interest.start * _ENTRY.itemsize).tolist()
    return [data[start:end] for start, end in pairwise(ends)]


def _interest_of(entries: Sequence[bytes], scalars: tuple[I64, I64, I64], keep: int) -> Interest:
    start = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, entries), np.int64, len(entries)) // _ENTRY.itemsize, out=start[1:])
    held = np.frombuffer(b"".join(entries), dtype=_ENTRY)
    item, weight, count = (held[name].copy() for name in ("item", "weight", "count"))
    first, last, at = (held[name].copy() for name in ("first", "last", "at"))
    return Interest(start, item, weight, count, first, last, at, *scalars, keep)


def _grown(column: I64, size: int) -> I64:
    """The same with more room. Zeros: pages of memory nobody has used yet cost nothing."""
    grown = np.zeros((size, *column.shape[1:]), dtype=column.dtype)
    grown[: len(column)] = column
    return grown


def _numbers(rows: Rows) -> tuple[U8, I32]:
    """The numbers [U, L] of the histories' items among the interest entries (`UserColumns`), and the items
    [S] that have none.

    By a table of numbers a user, an item's slot being the low bits of its local id; where entries share a
    slot, and for items without an entry, by comparing with all of the user. ~4 ns a place in a history.
    """
    interest, items = rows.interest, rows.item
    start, n = interest.start[:-1], interest.length
    slot, low = np.arange(0, len(n) * _SLOTS, _SLOTS), np.int32(_SLOTS - 1)
    table = np.full(len(n) * _SLOTS, STRANGE, dtype=np.uint8)
    place = np.minimum(np.arange(len(interest.item)) - start.repeat(n), STRANGE)
    table[slot.repeat(n) + (interest.item & low)] = place
    numbers = table.take(slot[:, None] + (items & low))
    if len(interest.item):
        # What the clipped take reads where there is no number changes none.
        same = interest.item.take(start[:, None] + numbers, mode="clip") == items
        numbers |= same.view(np.uint8) - np.uint8(1)
    numbers *= items >= 0
    strange = (numbers == STRANGE).ravel().nonzero()[0]
    if strange.size:
        found = _compared(rows, strange)
        numbers.ravel()[strange] = found
        strange = strange[found == STRANGE]
    return numbers, items.ravel()[strange]


def _compared(rows: Rows, at: I64) -> U8:
    """The numbers [m] of the interactions ``at`` [m] of the flat histories."""
    row, item = at // rows.item.shape[1], rows.item.ravel()[at]
    which, begin = spans(rows.interest.start, row)
    of = np.repeat(np.arange(len(at)), begin[1:] - begin[:-1])
    same = np.flatnonzero(rows.interest.item[which] == item[of])
    numbers = np.full(len(at), STRANGE, dtype=np.uint8)
    numbers[of[same]] = np.minimum(same - begin[of[same]], STRANGE)
    return numbers


def _locals(users: UserColumns, items: Items) -> tuple[I32, I32, I32]:
    """Local ids of the histories [U, L], −1 where there is nothing, of the interest entries [M], and of what
    was bought [R].

    Users repeat each other: one look-up a different item.
    """
    hashes, which = np.unique(
        np.concatenate([users.interest, users.strange, users.bought]), return_inverse=True
    )
    n, ends = users.n_interest, np.cumsum([len(users.interest), len(users.strange)])
    own, strange, bought = np.split(items.ids_of_hashes(hashes)[which], ends)
    # Past the last entry there are as many more as a number can be.
    known = np.append(own, np.full(STRANGE + 1, -1, dtype=np.int32))
    width = users.numbers.shape[1]
    held = np.arange(width)[::-1] < users.n_history[:, None]
    history = np.where(held, known.take((np.cumsum(n) - n)[:, None] + users.numbers), np.int32(-1))
    history[users.numbers == STRANGE] = strange
    return history, own, bought
