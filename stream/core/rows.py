"""Co-occurrence rows: C(i→j) for the neighbours j of item i, folded in and ranked in vectorised passes. Pure.

A row is an open-addressing hash table of 64 lines of 8 words; a word holds a pair's weight (44 bits) above
its neighbour's scrambled id (20 bits), so one gather of 64 bytes finds both. The line comes from the
scrambled id's top bits, so that sorted keys touch adjacent lines; a full line spills to the next. Words of a
line stand at its front: nothing is ever removed, but by rebuilding a row when it is cut.
docs/decisions/kernel-layout.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream.core import row_format
from stream.core.items import Items
from stream.core.row_format import PackedRows
from stream.core.weights import PERIOD, SPAN, WEIGHT_BITS

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

LINES, WIDTH = 64, 8
SLOTS = LINES * WIDTH
ID_BITS = 64 - WEIGHT_BITS
MOST_ITEMS = (1 << ID_BITS) - 1
"""Items a worker can count: the id beside a weight has 20 bits, and 0 marks an empty word."""
MOST_PAIRS = SLOTS // 2
"""A row of more pairs than this is cut; at half load a line is rarely full."""

_CHUNK = 24_000
"""Merged entries handled at a time, so that their lines stay in cache."""
_BURST = SLOTS - MOST_PAIRS - 2 * WIDTH
"""Most new pairs a row can take before it must be looked at for a cut."""
_ID_MASK = np.uint64(MOST_ITEMS)
_ID_SHIFT = np.uint64(ID_BITS)
_LINE_SHIFT = ID_BITS - LINES.bit_length() + 1
_MAX_WEIGHT = (1 << WEIGHT_BITS) - 1
_MULTIPLIER = 0x9E375
_INVERSE = pow(_MULTIPLIER, -1, 1 << ID_BITS)


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
    """Rows by local item id; 4.1 kB each.

    A row's weights are relative to its base period. A row that held more than 256 pairs after a fold was cut
    to its ``max_pairs`` heaviest and is marked evicted; one that never did is exact, whatever the batches.
    Counters: ``evicted`` pairs cut, ``saturated`` sums that hit the ceiling, ``shifted`` entries older than
    their row's base.
    """

    def __init__(self, items: Items, max_pairs: int = 192, k: int = 50) -> None:
        self._items = items
        self._max_pairs = max_pairs
        self._k = k
        self._slot: I32 = np.full(1024, -1, dtype=np.int32)
        self._free: list[int] = []
        self._used = 0
        self._allocate(256)
        self.evicted = self.saturated = self.shifted = 0

    def _allocate(self, rows: int) -> None:
        self._words: U64 = np.zeros((rows * LINES, WIDTH), dtype=np.uint64)
        self._count: I64 = np.zeros(rows, dtype=np.int64)
        self._base: I64 = np.zeros(rows, dtype=np.int64)
        self._sums: I64 = np.zeros((rows, 2), dtype=np.int64)
        self._last: I64 = np.zeros(rows, dtype=np.int64)
        self._cut: Bool = np.zeros(rows, dtype=np.bool_)

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
        self._words.reshape(-1, SLOTS)[slots] = 0
        self._count[slots] = self._base[slots] = self._last[slots] = 0
        self._sums[slots] = 0
        self._cut[slots] = False

    def _reserve(self) -> None:
        lack = len(self._items) - len(self._slot)
        if lack > 0:
            if len(self._items) > MOST_ITEMS:
                raise OverflowError(f"more than {MOST_ITEMS} items: run Tidewise with more workers' prefixes")
            grown = np.full(max(lack, len(self._slot)), -1, dtype=np.int32)
            self._slot = np.concatenate([self._slot, grown])

    def _slots_of(self, rows: I32) -> I32:
        """Slots of items, made where missing."""
        self._reserve()
        slots = self._slot[rows]
        new = np.unique(rows[slots < 0])
        if len(new):
            self._slot[new] = self._take_slots(len(new))
            slots = self._slot[rows]
        return slots

    def _take_slots(self, n: int) -> I32:
        """Slots of blank rows: those given back first, then new ones; the arrays grow by doubling."""
        again = [self._free.pop() for _ in range(min(n, len(self._free)))]
        fresh = range(self._used, self._used + n - len(again))
        self._used = fresh.stop
        while self._used > len(self._count):
            self._grow()
        return np.array([*again, *fresh], dtype=np.int32)

    def _grow(self) -> None:
        old = (self._words, self._count, self._base, self._sums, self._last, self._cut)
        self._allocate(2 * len(self._count))
        new = (self._words, self._count, self._base, self._sums, self._last, self._cut)
        for source, target in zip(old, new, strict=True):
            target[: len(source)] = source

    # Folding

    def fold(self, row: I32, col: I32, period: I64, weight: I64, backward: Bool, time: I64) -> None:
        """Add entries [n]: ``weight`` (of landmark ``period``) to C(row→col) and to one of row's two sums.

        ``time`` ms of the events. Order and cutting into calls do not matter to rows that are never cut.
        """
        slots = self._slots_of(row)
        self._prepare(slots, period)
        weight = self._relative(slots, period, weight)
        scrambled = ((col.astype(np.int64) + 1) * _MULTIPLIER) & MOST_ITEMS
        key = slots.astype(np.int64) << ID_BITS | scrambled
        order = np.argsort(key)
        key, weight = key[order], weight[order]
        self._add_sums(key >> ID_BITS, weight, backward[order], time[order])
        first = np.flatnonzero(np.diff(key, prepend=-1))
        self._merge(key[first], np.add.reduceat(weight, first) if len(first) else weight)

    def _prepare(self, slots: I32, period: I64) -> None:
        """Give new rows their base, and move the base of rows that meet a period beyond their span."""
        base = self._base[slots]
        new = (self._last[slots] == 0) & (self._count[slots] == 0)
        if new.any():
            at = slots[new]
            self._base[at] = np.iinfo(np.int64).max
            np.minimum.at(self._base, at, period[new] - 1)
            base = self._base[slots]
        beyond = period - base - (SPAN - 1)
        if (beyond > 0).any():
            move = np.zeros(len(self._base), dtype=np.int64)
            np.maximum.at(move, slots, beyond)
            self._move(np.flatnonzero(move), move[move > 0])

    def _move(self, slots: I64, periods: I64) -> None:
        """The landmark move of rows [m] by ``periods`` [m]: what is older loses its lowest bits."""
        shift = np.minimum(periods * PERIOD, 63)
        words = self._words.reshape(-1, SLOTS)[slots]
        weights = (words >> _ID_SHIFT) >> shift.astype(np.uint64)[:, None]
        self._words.reshape(-1, SLOTS)[slots] = weights << _ID_SHIFT | words & _ID_MASK
        self._sums[slots] >>= shift[:, None]
        self._base[slots] += periods

    def _relative(self, slots: I32, period: I64, weight: I64) -> I64:
        """Weights relative to their rows' bases; an entry older than its row's base is shifted singly."""
        shift = (period - self._base[slots]) * PERIOD
        if (older := shift < 0).any():
            self.shifted += int(np.count_nonzero(older))
            return np.where(older, weight >> np.minimum(-shift, 63), weight << np.maximum(shift, 0))
        found: I64 = weight << shift
        return found

    def _add_sums(self, slots: I64, weight: I64, backward: Bool, time: I64) -> None:
        """Row sums and newest times; entries are sorted by row."""
        first = np.flatnonzero(np.diff(slots, prepend=-1))
        if len(first):
            rows = slots[first]
            self._sums[rows, 0] += np.add.reduceat(np.where(backward, 0, weight), first)
            self._sums[rows, 1] += np.add.reduceat(np.where(backward, weight, 0), first)
            self._last[rows] = np.maximum(self._last[rows], np.maximum.reduceat(time, first))

    def _merge(self, key: I64, weight: I64) -> None:
        """Add distinct, sorted keys [m] (slot | scrambled id) to the tables; cut rows that grew too long."""
        slots = key >> ID_BITS
        rank = np.arange(len(key)) - np.searchsorted(slots, slots)
        for burst in range(int(rank.max(initial=-1)) // _BURST + 1):
            part = np.flatnonzero(rank // _BURST == burst) if burst or rank.max() >= _BURST else slice(None)
            keys, weights = key[part], weight[part]
            for start in range(0, len(keys), _CHUNK):
                self._insert(keys[start : start + _CHUNK], weights[start : start + _CHUNK])
            touched = slots[part][np.flatnonzero(np.diff(slots[part], prepend=-1))]
            self._shorten(touched[self._count[touched] > MOST_PAIRS])

    def _insert(self, key: I64, weight: I64) -> None:
        """Add to the pairs that are there, put the others into the first line with room."""
        line = key >> _LINE_SHIFT
        scrambled = key.astype(np.uint64) & _ID_MASK
        while len(key):
            lines = self._words[line]
            match = (lines & _ID_MASK) == scrambled[:, None]
            found = match.any(axis=1)
            self._strengthen(line[found], match[found].argmax(axis=1), weight[found])
            rest = np.flatnonzero(~found)
            line, key, weight, scrambled = line[rest], key[rest], weight[rest], scrambled[rest]
            place = np.count_nonzero(lines[rest], axis=1) + _rank_in_run(line)
            fits = place < WIDTH
            words = weight[fits].astype(np.uint64) << _ID_SHIFT | scrambled[fits]
            self._words[line[fits], place[fits]] = words
            self._counted(key[fits] >> ID_BITS)
            left = ~fits
            line, key, weight, scrambled = line[left], key[left], weight[left], scrambled[left]
            line = _next_line(line)
            order = np.argsort(line, kind="stable")
            line, key, weight, scrambled = line[order], key[order], weight[order], scrambled[order]

    def _strengthen(self, line: I64, place: I64, weight: I64) -> None:
        """Add weights to pairs that are there; a sum stops at its ceiling."""
        words = self._words[line, place]
        total = (words >> _ID_SHIFT).astype(np.int64) + weight
        if (total > _MAX_WEIGHT).any():
            self.saturated += int(np.count_nonzero(total > _MAX_WEIGHT))
            total = np.minimum(total, _MAX_WEIGHT)
        self._words[line, place] = total.astype(np.uint64) << _ID_SHIFT | words & _ID_MASK

    def _counted(self, slots: I64) -> None:
        """More pairs of rows; slots need not be sorted."""
        if len(slots):
            low = int(slots.min())
            counts = np.bincount(slots - low)
            self._count[low : low + len(counts)] += counts

    # Cutting and ranking

    def _shorten(self, slots: I64) -> None:
        """Cut rows to their heaviest pairs, ties by ascending hash, and mark them evicted."""
        if not len(slots):
            return
        words = self._words.reshape(-1, SLOTS)[slots]
        row, kept = self._heaviest(words, self._max_pairs)
        self.evicted += int(self._count[slots].sum()) - len(kept)
        self._words.reshape(-1, SLOTS)[slots] = 0
        self._count[slots] = 0
        self._cut[slots] = True
        key = slots[row] << ID_BITS | (kept & _ID_MASK).astype(np.int64)
        order = np.argsort(key)
        self._insert(key[order], (kept[order] >> _ID_SHIFT).astype(np.int64))

    def _heaviest(self, words: U64, most: int) -> tuple[I64, U64]:
        """Of words [r, SLOTS] the ``most`` heaviest a row, ties by ascending hash: rows [m], words [m]."""
        bound = np.partition(words, SLOTS - most, axis=1)[:, SLOTS - most] & ~_ID_MASK
        row, at = np.nonzero((words >= bound[:, None]) & (words > _ID_MASK))
        chosen = words[row, at]
        counts = np.bincount(row, minlength=len(words))
        if (counts > most).any():
            kept = self._untied(row, chosen, counts > most, most)
            row, chosen = row[kept], chosen[kept]
        return row, chosen

    def _untied(self, row: I64, words: U64, tied: Bool, most: int) -> I64:
        """Which of the words [m], sorted by row, stay where a row holds more than ``most`` of them."""
        order = np.lexsort((self._hash_of(words), _falling(words), row))
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        return np.sort(order[(rank < most) | ~tied[row]])

    def top(self, rows: I32) -> Top:
        """The heaviest K pairs of items [r], heaviest first, ties by ascending hash. Exact."""
        cols = np.full((len(rows), self._k), -1, dtype=np.int32)
        weights = np.zeros((len(rows), self._k), dtype=np.int64)
        for start in range(0, len(rows), 512):
            part = slice(start, start + 512)
            words = self._words.reshape(-1, SLOTS)[self._slot[rows[part]]]
            row, best = self._heaviest(words, self._k)
            counts = np.bincount(row, minlength=len(words))
            ranked = self._ranked(row, best, counts)
            held = np.arange(self._k) < counts[:, None]
            cols[part][held] = self._ids_of(ranked)
            weights[part][held] = ranked >> _ID_SHIFT
        return Top(cols, weights)

    def _ranked(self, row: I64, words: U64, counts: I64) -> U64:
        """The words [m], sorted by row, heaviest first in each."""
        table = np.zeros((len(counts), self._k), dtype=np.uint64)
        held = np.arange(self._k) < counts[:, None]
        table[held] = words
        table.sort(axis=1)
        ranked = table[:, ::-1][held]
        weight = ranked >> _ID_SHIFT
        tied = np.flatnonzero((weight[1:] == weight[:-1]) & (row[1:] == row[:-1]))
        if len(tied):
            rows = np.unique(row[tied])
            at = np.flatnonzero(np.isin(row, rows))
            order = np.lexsort((self._hash_of(ranked[at]), _falling(ranked[at]), row[at]))
            ranked[at] = ranked[at][order]
        return ranked

    def _ids_of(self, words: U64) -> I32:
        """Local ids [n] of the neighbours in words [n]."""
        scrambled = (words & _ID_MASK).astype(np.int64)
        return ((scrambled * _INVERSE & MOST_ITEMS) - 1).astype(np.int32)

    def _hash_of(self, words: U64) -> U64:
        return self._items.hashes[self._ids_of(words)]

    def sums(self, rows: I32) -> Sums:
        """Sums, bases and newest times of items [r]."""
        slots = self._slots_of(rows)
        forward, backward = self._sums[slots].T
        return Sums(forward.copy(), backward.copy(), self._base[slots], self._last[slots])

    # Storing

    def pack(self, rows: I32) -> list[bytes]:
        """One blob an item (`row_format`). About 3 µs a row of 100 pairs."""
        slots = self._slots_of(rows)
        words = self._words.reshape(-1, SLOTS)[slots]
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
        )
        return row_format.pack(packed)

    def unpack(self, rows: I32, blobs: Sequence[bytes | None]) -> list[bytes]:
        """Load rows, all missing, from the store (None: never stored); returns what stands behind each."""
        slots = self._slots_of(rows)
        stored = [at for at, blob in enumerate(blobs) if blob is not None]
        packed, rests = row_format.unpack([blob for blob in blobs if blob is not None])
        at = slots[stored]
        self._cut[at], self._base[at], self._last[at] = packed.evicted, packed.base, packed.last
        self._sums[at] = np.stack([packed.forward, packed.backward], axis=1)
        col = self._items.ids_of_hashes(packed.hashes)
        scrambled = ((col.astype(np.int64) + 1) * _MULTIPLIER) & MOST_ITEMS
        key = np.repeat(at.astype(np.int64), packed.pairs) << ID_BITS | scrambled
        order = np.argsort(key)
        self._insert(key[order], packed.weights[order])
        behind = [b""] * len(blobs)
        for place, rest in zip(stored, rests, strict=True):
            behind[place] = rest
        return behind


def _falling(words: U64) -> U64:
    """A sort key: heavier words first."""
    return np.uint64(_MAX_WEIGHT) - (words >> _ID_SHIFT)


def _rank_in_run(line: I64) -> I64:
    """How many equal values stand just before each: [n]; equal values must be adjacent."""
    first = np.flatnonzero(np.diff(line, prepend=-1))
    return np.arange(len(line)) - np.repeat(first, np.diff(first, append=len(line)))


def _next_line(line: I64) -> I64:
    """The line after, within its row."""
    return (line & ~(LINES - 1)) | (line + 1 & (LINES - 1))
