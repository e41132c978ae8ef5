"""Co-occurrence rows: C(i→j) for the neighbours j of item i, folded in and ranked in vectorised passes. Pure.

A row is an open-addressing hash table of 64 lines of 8 words; a word holds a pair's weight (44 bits) above
its neighbour's code (20 bits), so one gather of 64 bytes finds both. The line comes from the code's top bits,
so that sorted keys touch adjacent lines; a full line spills to the next. Nothing is ever removed but by a
cut, which brings back what had spilled.

A code begins with the upper bits of the complement of the item's 64-bit hash: words in falling order are
pairs by falling weight, ties by ascending hash, but for ties within one bucket of codes, which are mended.
docs/decisions/kernel-layout.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core import row_format
from stream.core.heaviest import KEPT, Change, Heaviest
from stream.core.items import Items
from stream.core.row_format import PackedRows
from stream.core.runs import lengths, starts
from stream.core.weights import PERIOD, SPAN, WEIGHT_BITS

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

LINES, WIDTH = 64, 8
SLOTS = LINES * WIDTH
ID_BITS = 64 - WEIGHT_BITS
BUCKET_BITS = 10
"""Bits of a code that come from the hash; the others number the items of a bucket."""
MOST_PAIRS = SLOTS // 2
"""A row of more pairs than this is cut; at half load a line is rarely full."""

_ENTRIES = 1 << 22
"""Entries folded at a time, so that a key (40 bits) and an entry's number fit one sortable number."""
_CHUNK = 16_000
"""Merged entries handled at a time, so that their lines stay in cache."""
_BLOCK = 256
"""Rows of 512 words handled at a time, likewise."""
_BURST = SLOTS - MOST_PAIRS - 2 * WIDTH
"""Most pairs that are put into a row before it is looked at for a cut."""
_CODES = 1 << ID_BITS
_ID_MASK = np.uint64(_CODES - 1)
_ID_SHIFT = np.uint64(ID_BITS)
_LINE_BITS = LINES.bit_length() - 1
_LINE_SHIFT = ID_BITS - _LINE_BITS
_SLOT_BITS = SLOTS.bit_length() - 1
_GATHER = np.uint64(0x0102_0408_1020_4080)
"""Eight truth values, a byte each, times this: the upper byte of the product has a bit for each."""
_ALL_TRUE = np.uint64(0x0101_0101_0101_0101)
"""Eight truth values that are true."""
_ENTRY_BITS = 63 - 2 * ID_BITS
_BLANK = -(1 << 40)
"""The base of a row before its first entry: whatever comes is beyond its span."""
_UNBORN = (1 << 32) - 1
_MAX_WEIGHT = (1 << WEIGHT_BITS) - 1
_BUCKETS = 1 << BUCKET_BITS
_IN_BUCKET = _CODES // _BUCKETS
_BUCKET_SHIFT = np.uint64(ID_BITS - BUCKET_BITS)


@dataclass(frozen=True, slots=True)
class Top:
    """The heaviest K neighbours of r rows: ``cols`` [r, K] local ids, −1 padded, ``weights`` [r, K]."""

    cols: I32
    weights: I64


@dataclass(frozen=True, slots=True)
class Sums:
    """Of r rows: ``forward`` and ``backward`` sums, the period ``base`` they are relative to, ``last`` ms."""

    forward: I64
    backward: I64
    base: I64
    last: I64


class Rows:
    """Rows by local item id; 4.7 kB each.

    A row's weights are relative to its base period. A row that held more than 256 pairs after a fold was cut
    to its ``max_pairs`` heaviest and is marked evicted; one that never did is exact, whatever the batches.
    Counters: ``evicted`` pairs cut, ``saturated`` sums that hit the ceiling, ``shifted`` entries older than
    their row's base.
    """

    def __init__(self, items: Items, max_pairs: int = 192, k: int = 50) -> None:
        if max_pairs < KEPT:
            raise ValueError(
                f"max_pairs is {max_pairs}: a row keeps at least the {KEPT} pairs that are ranked"
            )
        self._items = items
        self._max_pairs = max_pairs
        self._k = k
        self._slot: I32 = np.zeros(0, dtype=np.int32)
        self._known = 0
        self._code: I64 = np.zeros(0, dtype=np.int64)
        self._item: I32 = np.full(_CODES, -1, dtype=np.int32)
        self._in_bucket: I64 = np.zeros(_BUCKETS, dtype=np.int64)
        # Code 0 marks an empty word.
        self._in_bucket[0] = 1
        self._free: list[int] = []
        # Slot 0 is nobody's: what finds no room in a line is written there, and wiped.
        self._used = 1
        self._words: U64 = np.zeros((0, WIDTH), dtype=np.uint64)
        self._heaviest = Heaviest()
        self._count: I64 = np.zeros(0, dtype=np.int64)
        self._base: I64 = np.zeros(0, dtype=np.int64)
        self._sums: I64 = np.zeros((0, 2), dtype=np.int64)
        self._last: I64 = np.zeros(0, dtype=np.int64)
        self._born: I64 = np.zeros(0, dtype=np.int64)
        self._cut: Bool = np.zeros(0, dtype=np.bool_)
        self.evicted = self.saturated = self.shifted = 0

    @property
    def _rows(self) -> U64:
        """The words by slot: [slots, SLOTS], a view."""
        return self._words.reshape(-1, SLOTS)

    # Which rows are in memory

    def missing(self, rows: I32) -> I32:
        """Those of the items [n] whose row is not in memory."""
        self._reserve()
        return rows[self._slot[rows] < 0]

    def drop(self, rows: I32) -> None:
        """Forget rows; what is not stored is lost."""
        self._reserve()
        slots = self._slot[rows]
        held = slots >= 0
        self._clear(slots[held])
        self._free += slots[held].tolist()
        self._slot[rows[held]] = -1

    def _clear(self, slots: I32) -> None:
        self._rows[slots] = 0
        self._heaviest.forget(slots)
        self._count[slots] = self._last[slots] = 0
        self._born[slots] = _UNBORN
        self._base[slots] = _BLANK
        self._sums[slots] = 0
        self._cut[slots] = False

    def _reserve(self) -> None:
        """Give codes to items that are new. Raises OverflowError at about 900,000 items."""
        known, items = self._known, len(self._items)
        if items == known:
            return
        bucket = (~self._items.hashes[known:] >> np.uint64(64 - BUCKET_BITS)).view(np.int64)
        order = np.argsort(bucket, kind="stable")
        rank = np.empty_like(bucket)
        rank[order] = _rank_in_run(bucket[order])
        code = bucket * _IN_BUCKET + self._in_bucket[bucket] + rank
        counts = self._in_bucket + np.bincount(bucket, minlength=_BUCKETS)
        if counts.max() > _IN_BUCKET:
            raise OverflowError(f"{items} items are more than one worker can count (about 900,000)")
        if (lack := items - len(self._code)) > 0:
            room = max(lack, len(self._code))
            self._code = np.concatenate([self._code, np.zeros(room, dtype=np.int64)])
            self._slot = np.concatenate([self._slot, np.full(room, -1, dtype=np.int32)])
        self._in_bucket, self._known = counts, items
        self._item[_compact(code)] = np.arange(known, items, dtype=np.int32)
        self._code[known:items] = code

    def _slots_of(self, rows: I32) -> I32:
        """Slots of items, made where missing."""
        self._reserve()
        slots = self._slot[rows]
        lacking = np.flatnonzero(slots < 0)
        if len(lacking):
            new = np.unique(rows[lacking])
            self._slot[new] = self._take_slots(len(new))
            slots[lacking] = self._slot[rows[lacking]]
        return slots

    def _take_slots(self, n: int) -> I32:
        """Slots of blank rows: those given back first, then new ones; the arrays grow by an eighth."""
        again = [self._free.pop() for _ in range(min(n, len(self._free)))]
        fresh = range(self._used, self._used + n - len(again))
        self._used = fresh.stop
        if self._used > (capacity := len(self._count)):
            self._grow(max(self._used, capacity + capacity // 8 + 256))
        return np.array([*again, *fresh], dtype=np.int32)

    def _grow(self, rows: int) -> None:
        """Make room. Large blocks are moved by the kernel's page tables, so nothing is copied.

        No view of these arrays outlives the method that made it.
        """
        before = len(self._base)
        self._words.resize((rows * LINES, WIDTH), refcheck=False)
        self._sums.resize((rows, 2), refcheck=False)
        self._heaviest.grow(rows)
        for column in (self._count, self._base, self._last, self._born, self._cut):
            column.resize(rows, refcheck=False)
        self._base[before:] = _BLANK
        self._born[before:] = _UNBORN

    # Folding

    def fold(self, row: I32, col: I32, period: I64, weight: I64, backward: Bool, time: I64) -> None:
        """Add entries [n]: ``weight`` (of landmark ``period``) to C(row→col) and to one of row's two sums.

        ``time`` ms of the events. Cutting into calls does not matter to rows that are never cut; neither
        does order, unless entries are dated three landmark periods or more apart.
        """
        for start in range(0, len(row), _ENTRIES):
            part = slice(start, start + _ENTRIES)
            slots = self._slots_of(row[part]).astype(np.int64)
            key = slots << ID_BITS | self._code[col[part]]
            self._fold(slots, key, period[part], weight[part], backward[part], time[part])

    def _fold(self, slots: I64, key: I64, period: I64, weight: I64, backward: Bool, time: I64) -> None:
        ahead = period - self._base[slots]
        if ahead.max() >= SPAN:
            self._found(slots, period, ahead)
        # Unsigned, what is older than its row's base is beyond its span, too.
        if (ahead.view(np.uint64) < SPAN).all():
            self._add(key, weight << ahead * PERIOD, backward, time)
            return
        for at in self._stages(slots, period):
            ahead = (period[at] - self._base[slots[at]]) * PERIOD
            self.shifted += int(np.count_nonzero(ahead < 0))
            relative = (weight[at] << np.maximum(ahead, 0)) >> np.minimum(np.maximum(-ahead, 0), 63)
            self._add(key[at], relative, backward[at], time[at])

    def _found(self, slots: I64, period: I64, ahead: I64) -> None:
        """Give new rows their base: the period before that of their first entry."""
        new = np.flatnonzero(ahead > -_BLANK // 2)
        if len(new):
            at, first = np.unique(slots[new], return_index=True)
            self._base[at] = period[new[first]] - 1
            ahead[new] = period[new] - self._base[slots[new]]

    def _stages(self, slots: I64, period: I64) -> Iterator[I64]:
        """Entries in parts within which no row's base moves; before each, the rows' bases are moved.

        What one entry after the other would do: an entry beyond its row's span moves the base before it is
        added, and one older than the base it meets is shifted singly.
        """
        order = np.argsort(slots, kind="stable")
        row, first = slots[order], starts(slots[order])
        newest = period[order]
        newest = np.maximum(newest, self._base[row] + SPAN - 1)
        low, rank = newest.min(), np.cumsum(np.bincount(first, minlength=len(row)))
        newest = np.maximum.accumulate(rank << 40 | newest - low) - (rank << 40) + low
        before = np.concatenate([newest[:1], newest[:-1]])
        before[first] = self._base[row[first]] + SPAN - 1
        moves = newest - before
        moved = np.cumsum(moves > 0)
        stage = moved - np.repeat(moved[first] - (moves[first] > 0), lengths(first, len(row)))
        for number in range(int(stage.max()) + 1):
            part = np.flatnonzero(stage == number)
            moving = part[moves[part] > 0]
            self._move(row[moving], moves[moving])
            if len(part):
                yield order[part]

    def _move(self, slots: I64, periods: I64) -> None:
        """The landmark move of rows [m] by ``periods`` [m]: what is older loses its lowest bits."""
        shift = np.minimum(periods * PERIOD, 63)
        words = self._rows[slots]
        weights = (words >> _ID_SHIFT) >> shift.astype(np.uint64)[:, None]
        self._rows[slots] = weights << _ID_SHIFT | words & _ID_MASK
        self._heaviest.forget(slots)
        self._sums[slots] >>= shift[:, None]
        self._base[slots] += periods

    def _add(self, key: I64, weight: I64, backward: Bool, time: I64) -> None:
        """Add entries, weighed relative to their rows' bases: sort, sum what is of one pair, insert, cut."""
        key, order = _sorted(key)
        slots, weight = key >> ID_BITS, weight[order]
        self._add_sums(slots, weight, backward[order], time[order])
        first = starts(key)
        if len(first) < len(key):
            key, weight = key[first], np.add.reduceat(weight, first)
        self._merge(key, self._capped(weight))

    def _add_sums(self, slots: I64, weight: I64, backward: Bool, time: I64) -> None:
        """Row sums and newest times; entries are sorted by row."""
        first = starts(slots)
        rows = slots[first]
        behind = np.add.reduceat(weight * backward, first)
        self._sums[rows, 0] += np.add.reduceat(weight, first) - behind
        self._sums[rows, 1] += behind
        self._last[rows] = np.maximum(self._last[rows], np.maximum.reduceat(time, first))

    def _capped(self, weight: I64) -> I64:
        """A sum stops at its ceiling."""
        if (weight > _MAX_WEIGHT).any():
            self.saturated += int(np.count_nonzero(weight > _MAX_WEIGHT))
            weight = np.minimum(weight, _MAX_WEIGHT)
        return weight

    def _merge(self, key: I64, weight: I64) -> None:
        """Add distinct, sorted keys [m] (slot | code) to the tables; cut rows that grew too long."""
        slots = key >> ID_BITS
        first = starts(slots)
        counts = lengths(first, len(key))
        if counts.max() > _BURST:
            wide = np.repeat(counts > _BURST, counts)
            self._rebuild(slots[first[counts > _BURST]], key[wide], weight[wide])
            slots, key, weight = slots[~wide], key[~wide], weight[~wide]
            first = starts(slots)
        for start in range(0, len(key), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._heaviest.note(self._insert(key[part], weight[part]))
        touched = slots[first]
        long = touched[self._count[touched] > MOST_PAIRS]
        for start in range(0, len(long), _BLOCK):
            self._shorten(long[start : start + _BLOCK])

    def _insert(self, key: I64, weight: I64) -> list[Change]:
        """Add to the pairs that are there, put the others into the first line with room; keys are sorted.

        Returns what it did, with changes of slot 0 among it.
        Pairs of one line stay side by side when they all go on to the next.
        """
        line, code = key >> _LINE_SHIFT, (key & (_CODES - 1)).view(np.uint64)
        flat = self._words.reshape(-1)
        changes: list[Change] = []
        while len(line):
            place = self._places(line, code)
            at, left = line * WIDTH + place, np.flatnonzero(place < 0)
            # Cheaper than to take out what has no room: it goes to the slot that is nobody's.
            at[left] = 0
            old = flat[at]
            total = self._capped((old >> _ID_SHIFT).view(np.int64) + weight)
            new = total.view(np.uint64) << _ID_SHIFT | code
            flat[at], flat[0] = new, 0
            changes.append((at >> _SLOT_BITS, old, new))
            np.add.at(self._count, at[np.flatnonzero(old == 0)] >> _SLOT_BITS, 1)
            line, weight, code = _next_line(line[left]), weight[left], code[left]
        return changes

    def _places(self, line: I64, code: U64) -> I64:
        """Where in its line each pair stands, or is to stand: [n]; negative where a line is full."""
        lines = np.take(self._words, line, axis=0)
        # Eight truth values seen as one number: a byte each, the first one lowest.
        free = (lines == 0).view(np.uint64)[:, 0]
        lines &= _ID_MASK
        match = (lines == code[:, None]).view(np.uint64)[:, 0]
        place: I64 = (np.bitwise_count(match - 1) >> 3).astype(np.int64)
        new = np.flatnonzero(place == WIDTH)
        rank = np.minimum(_rank_in_run(line[new]), WIDTH)
        place[new] = _FREE_PLACE[(free[new] * _GATHER >> np.uint64(56)).view(np.int64) * (WIDTH + 1) + rank]
        return place

    # Cutting

    def _shorten(self, slots: I64) -> None:
        """Cut rows to their heaviest pairs, ties by ascending hash, and mark them evicted."""
        words = np.take(self._rows, slots, axis=0)
        bound = _largest(words.copy(), MOST_PAIRS)[:, -self._max_pairs] >> _BUCKET_SHIFT << _BUCKET_SHIFT
        kept = words >= np.maximum(bound, _ID_MASK + np.uint64(1))[:, None]
        count = kept.sum(axis=1)
        excess = count - self._max_pairs
        self._drop_tied(words, bound, kept, excess)
        count = np.minimum(count, self._max_pairs)
        self.evicted += int(self._count[slots].sum() - count.sum())
        # What spilled stands in lines behind full ones.
        line = _next_line(np.flatnonzero((words != 0).view(np.uint64) == _ALL_TRUE))
        words *= kept
        behind = words.reshape(-1, WIDTH)[line]
        away = (behind & _ID_MASK) >> np.uint64(_LINE_SHIFT) != (line & (LINES - 1)).view(np.uint64)[:, None]
        of, place = np.nonzero(away & (behind != 0))
        spilled = line[of] * WIDTH + place
        key = slots[spilled // SLOTS] << ID_BITS
        again = words.reshape(-1)[spilled]
        words.reshape(-1)[spilled] = 0
        self._rows[slots] = words
        self._count[slots] = count - np.bincount(spilled // SLOTS, minlength=len(slots))
        self._cut[slots] = True
        # A list lasts, unless it reached to the ties that were cut.
        self._heaviest.forget(slots[excess > 0])
        key |= (again & _ID_MASK).view(np.int64)
        order = np.argsort(key)
        self._insert(key[order], (again[order] >> _ID_SHIFT).view(np.int64))

    def _drop_tied(self, words: U64, bound: U64, kept: Bool, excess: I64) -> None:
        """Of the pairs tied with the lightest kept one in a bucket, drop those of the greatest hashes."""
        rows = np.flatnonzero(excess > 0)
        tied = np.flatnonzero(words[rows] >> _BUCKET_SHIFT == (bound[rows] >> _BUCKET_SHIFT)[:, None])
        row = rows[tied // SLOTS]
        at = row * SLOTS + tied % SLOTS
        order = np.lexsort((~self._hash_of(words.reshape(-1)[at]), row))
        lost = _rank_in_run(row) < excess[row]
        kept.reshape(-1)[at[order[lost]]] = False

    def _rebuild(self, slots: I64, key: I64, weight: I64) -> None:
        """Add keys [m] to rows [r] that they might overfill: rows are made anew from all their pairs."""
        words = np.take(self._rows, slots, axis=0)
        at = np.flatnonzero(words)
        old = words.reshape(-1)[at]
        key = np.concatenate([key, slots[at // SLOTS] << ID_BITS | (old & _ID_MASK).view(np.int64)])
        weight = np.concatenate([weight, (old >> _ID_SHIFT).view(np.int64)])
        order = np.argsort(key)
        first = starts(key[order])
        key, weight = key[order][first], self._capped(np.add.reduceat(weight[order], first))
        row = key >> ID_BITS
        hashes = self._hash_of(key.view(np.uint64))
        order = np.lexsort((hashes, -weight, row))
        count = lengths(starts(row), len(row))
        long = count > MOST_PAIRS
        light = (_rank_in_run(row) >= self._max_pairs) | (weight[order] == 0)
        kept = np.sort(order[~(light & np.repeat(long, count))])
        self.evicted += len(key) - len(kept)
        self._cut[slots] |= long
        self._rows[slots] = 0
        self._count[slots] = 0
        self._heaviest.forget(slots)
        self._insert(key[kept], weight[kept])

    # Ranking

    def top(self, rows: I32) -> Top:
        """The heaviest K pairs of items [r], heaviest first, ties by ascending hash. Exact."""
        cols = np.empty((len(rows), self._k), dtype=np.int32)
        weights = np.empty((len(rows), self._k), dtype=np.int64)
        slots = self._slots_of(rows)
        self._rank_unknown(slots)
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            best = self._ranked(slots[part])
            weights[part] = best >> _ID_SHIFT
            cols[part] = self._items_of(best)
        cols[weights == 0] = -1
        return Top(cols, weights)

    def _rank_unknown(self, slots: I32) -> None:
        """Make the lists of rows [r] known."""
        self._heaviest.apply()
        unknown = self._heaviest.unknown(slots)
        for start in range(0, len(unknown), _BLOCK):
            part = unknown[start : start + _BLOCK]
            self._heaviest.put(part, _largest(np.take(self._rows, part, axis=0), KEPT))

    def _ranked(self, slots: I32) -> U64:
        """The heaviest K words of rows [r] whose lists are known, in order: [r, K]."""
        best = np.ascontiguousarray(self._heaviest.of(slots)[:, ::-1])
        flat = best.reshape(-1)
        tied = np.zeros(len(flat) + 1, dtype=np.bool_)
        np.less(flat[1:] ^ flat[:-1], _IN_BUCKET, out=tied[1:-1])
        tied[:-1] &= flat > _ID_MASK
        tied[::KEPT] = False
        at = np.flatnonzero(tied[:-1] | tied[1:])
        if len(at):
            run = np.cumsum(~tied[at])
            flat[at] = flat[at[np.lexsort((self._hash_of(flat[at]), run))]]
            # A run across the K-th word may go on beyond these words.
            across = at[(at % KEPT == self._k - 1) & tied[at + 1]]
            self._rank_whole(slots, best, across // KEPT)
        return best[:, : self._k]

    def _rank_whole(self, slots: I32, best: U64, rows: I64) -> None:
        """Rank rows [m] of ``slots`` into ``best`` by all their pairs."""
        for at in rows.tolist():
            words = self._rows[slots[at]]
            held = words[words > _ID_MASK]
            order = np.lexsort((self._hash_of(held), ~(held >> _ID_SHIFT)))
            best[at, : self._k] = held[order[: self._k]]

    def _items_of(self, words: U64) -> I32:
        """Local ids of the neighbours in words; −1 of an empty one."""
        return np.take(self._item, _compact((words & _ID_MASK).view(np.int64)))

    def _hash_of(self, words: U64) -> U64:
        return self._items.hashes[self._items_of(words)]

    def sums(self, rows: I32) -> Sums:
        """Sums, bases and newest times of items [r]."""
        slots = self._slots_of(rows)
        forward, backward = self._sums[slots].T
        base = self._base[slots]
        return Sums(forward.copy(), backward.copy(), np.where(base == _BLANK, 0, base), self._last[slots])

    def were_cut(self, rows: I32) -> Bool:
        """Which of items [r] have rows that were ever cut: what these hold depends on batches."""
        return self._cut[self._slots_of(rows)]

    def witness(self, rows: I32, time: I64) -> None:
        """Something was heard of items [n] at ``time`` [n] ms: the earliest is when one was born."""
        np.minimum.at(self._born, self._slots_of(rows), np.maximum(time // 1000, 1))

    def born(self, rows: I32) -> I64:
        """Time of the first event of items [r], in whole seconds as ms; 0 unknown."""
        born = self._born[self._slots_of(rows)]
        return np.where(born == _UNBORN, 0, born * 1000)

    # Storing

    def pack(self, rows: I32) -> list[bytes]:
        """One blob an item (`row_format`), pairs by ascending hash. About 6 µs a row of 140 pairs."""
        slots = self._slots_of(rows)
        words = self._rows[slots]
        held = words != 0
        pairs = words[held]
        sums = self.sums(rows)
        packed = PackedRows(
            [(self._items.names[at] or "").encode() for at in rows.tolist()],
            self._cut[slots],
            sums.base,
            sums.forward,
            sums.backward,
            sums.last,
            np.count_nonzero(held, axis=1),
            self._hash_of(pairs),
            (pairs >> _ID_SHIFT).astype(np.int64),
            self.born(rows) // 1000,
        )
        return row_format.pack(packed)

    def unpack(self, rows: I32, blobs: Sequence[bytes | None]) -> list[bytes]:
        """Load rows, all missing, from the store (None: never stored); returns what stands behind each.

        Raises ValueError, and loads none, when the bytes of one are damaged.
        """
        stored = [at for at, blob in enumerate(blobs) if blob is not None]
        packed, rests = row_format.unpack([blob for blob in blobs if blob is not None])
        col = self._items.ids_of_hashes(packed.hashes)
        self._reserve()
        code, row = self._code[col], np.repeat(np.arange(len(stored)), packed.pairs)
        key = np.sort(row << ID_BITS | code)
        if (packed.pairs > MOST_PAIRS).any() or (key[1:] == key[:-1]).any():
            raise ValueError("a row holds too many pairs, or one twice: the stored bytes are damaged")
        slots = self._slots_of(rows)
        at = slots[stored].astype(np.int64)
        blank = (packed.pairs == 0) & (packed.last == 0)
        self._cut[at], self._last[at] = packed.evicted, packed.last
        self._born[at] = np.where(packed.born == 0, _UNBORN, packed.born)
        self._base[at] = np.where(blank, _BLANK, packed.base)
        self._sums[at] = np.stack([packed.forward, packed.backward], axis=1)
        key = at[row] << ID_BITS | code
        key, order = _sorted(key)
        self._insert(key, packed.weights[order])
        behind = [b""] * len(blobs)
        for place, rest in zip(stored, rests, strict=True):
            behind[place] = rest
        return behind


def _free_places() -> I64:
    """The place of a line's n-th free word from its end: [256 · 9] by which are free, and n; −1 for none."""
    found = np.full((1 << WIDTH, WIDTH + 1), -1, dtype=np.int64)
    for mask in range(1 << WIDTH):
        free = [place for place in reversed(range(WIDTH)) if mask >> place & 1]
        found[mask, : len(free)] = free
    return found.reshape(-1)


_FREE_PLACE = _free_places()


def _compact(code: I64) -> I64:
    """Codes with bucket and number in it exchanged: those in use lie close together. Both have 10 bits."""
    found: I64 = code * (_CODES + 1) >> BUCKET_BITS & (_CODES - 1)
    return found


def _sorted(key: I64) -> tuple[I64, I64]:
    """Keys [n] of 40 bits sorted, and the order that sorts them, equal ones as they came.

    Cheaper than a stable argsort.
    """
    packed = key << _ENTRY_BITS | np.arange(len(key))
    packed.sort()
    return packed >> _ENTRY_BITS, packed & (1 << _ENTRY_BITS) - 1


def _largest(words: U64, n: int) -> U64:
    """The ``n`` ≤ 256 largest of words [r, 512], ascending: [r, n]. Sorts halves of ``words`` in place.

    Sorting halves and taking the greater of the one's rising and the other's falling end is exact, and
    several times faster than to partition or sort whole rows (docs/decisions/kernel-layout.md).
    """
    half = SLOTS // 2
    halves = words.reshape(-1, 2, half)
    halves.sort(axis=2)
    best = np.maximum(halves[:, 0, half - n :], halves[:, 1, half - n :][:, ::-1])
    best.sort(axis=1)
    return best


def _rank_in_run(values: I64) -> I64:
    """How many equal values stand just before each: [n]; equal values must be adjacent."""
    place = np.arange(len(values))
    begin = place.copy()
    begin[1:] *= values[1:] != values[:-1]
    np.maximum.accumulate(begin, out=begin)
    place -= begin
    return place


def _next_line(line: I64) -> I64:
    """The line after, within its row."""
    return (line & ~(LINES - 1)) | (line + 1 & (LINES - 1))
