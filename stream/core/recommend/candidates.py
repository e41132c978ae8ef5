"""What components give, and its union: one candidate an item and user, one value a channel. Pure.

A component gives *entries*: a matrix of items, a row a user, and one matrix of values a *channel*. Many
entries may name the same item (ten history items may all lead to it); the evidence of a channel for a
candidate is their sum. One 32-bit word an entry (item, column) is sorted within each user's row, so that a
candidate's entries stand together and lead to their values: numpy sorts rows of such words at 1.4 ns each,
one flat array of 64-bit words at 36.

A score is a weighted sum of channels. Ranking weighs the entries first and sums once (`Weighed`); the
evidence of every channel is made only of the candidates it is asked for (`Candidates.evidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise, starmap

import numpy as np
from numpy.typing import NDArray

from stream.core.ranking import reaching

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class Entries:
    """What one component gives for U users, w entries each.

    ``item`` [U, w] local ids, −1 where there is none; ``values``: one matrix [U, w] a channel, 0 there (None:
    all 0); ``because`` [U, w] the item of the user's own that is the evidence (−1 = none; None: nowhere any).
    ``features`` [D, m] of the m entries with an item, row by row.

    Channels that differ by a factor of ``runs`` of columns alone name the same matrix, which is then read
    once: ``factors`` [C, n] are those of the n runs. Without runs there are none.
    """

    item: I32
    values: tuple[F32 | None, ...]
    because: I32 | None
    features: F32 | None = None
    runs: tuple[int, ...] = ()
    factors: F32 | None = None

    def channel(self, number: int) -> F32:
        """The evidence in one channel: [U, w]."""
        values = self.values[number]
        if values is None:
            return np.zeros(self.item.shape, dtype=np.float32)
        return values if self.factors is None else values * np.repeat(self.factors[number], self.runs)

    def sums(self, by: F32 | None = None) -> F64:
        """What each channel gives each user in all, entries times ``by`` [U, w]: [C, U]."""
        sums = np.zeros((len(self.values), len(self.item)))
        for channels, matrix in self.matrices:
            values = matrix if by is None else matrix * by
            if self.factors is None:
                sums[channels] = np.add.reduce(values, axis=1)
            else:
                held, begins = _held(self.runs)
                by_run = np.add.reduceat(values, begins, axis=1)
                sums[channels] = np.add.reduce(by_run * self.factors[channels][:, None, held], axis=2)
        return sums

    def mix(self, weights: F32, into: F32) -> None:
        """The sum of the channels by ``weights`` [C, U], into [U, w]."""
        if not self.matrices:
            into[:] = 0
        for number, (channels, values) in enumerate(self.matrices):
            by = np.add.reduce(weights[channels], axis=0)[:, None]
            if self.factors is not None:
                by_run = weights[channels][:, :, None] * self.factors[channels][:, None]
                by = np.add.reduce(by_run, axis=0).repeat(self.runs, axis=1)
            if number:
                into += values * by
            else:
                np.multiply(values, by, out=into)

    def at(self, row: I64, column: I64) -> F32:
        """The values of some entries [m] in each channel: [C, m]."""
        found = np.zeros((len(self.values), len(row)), dtype=np.float32)
        for channels, values in self.matrices:
            found[channels] = values[row, column]
        if self.factors is not None:
            found *= self.factors.repeat(self.runs, axis=1).take(column, axis=1)
        return found

    @cached_property
    def matrices(self) -> list[tuple[slice, F32]]:
        """Each matrix, and the channels next to each other that name it."""
        found: list[tuple[slice, F32]] = []
        for channel, values in enumerate(self.values):
            if found and values is found[-1][1]:
                found[-1] = slice(found[-1][0].start, channel + 1), values
            elif values is not None:
                found.append((slice(channel, channel + 1), values))
        return found


@lru_cache(maxsize=16)
def _held(runs: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """The numbers of the runs that are not empty, and where those begin."""
    # An empty run would give the entry behind it, and there may be none.
    held = [number for number, length in enumerate(runs) if length]
    return held, list(accumulate((runs[number] for number in held[:-1]), initial=0))


@dataclass(frozen=True)
class Candidates:
    """J candidates of U users, by user, then by local id.

    ``row`` [J], ``item`` [J], ``start`` [U + 1] where each user's begin. The entries of all ``parts`` are
    sorted by user and candidate, those of candidate j from ``first[j]`` [J + 1] on, and those of user u that
    name no item, whose values are 0, from ``end[u]`` on: ``place`` [U · W] is where each stands in the matrix
    [U, 2^bits] of all parts side by side, which begin at ``columns``; ``head`` [J] is the place of each
    candidate's first. ``everywhere`` is the evidence [J] of channels, by number, that speak of every
    candidate.
    """

    row: I64
    item: I32
    start: I64
    place: I64
    first: I64
    head: I64
    end: I64
    bits: int
    columns: tuple[int, ...]
    parts: tuple[Entries, ...]
    everywhere: Mapping[int, F32]

    @property
    def users(self) -> int:
        """U."""
        return len(self.start) - 1

    @cached_property
    def spans(self) -> list[tuple[Entries, slice, slice]]:
        """Each part, its channels, and its columns in the matrix of all."""
        ends = accumulate((len(part.values) for part in self.parts), initial=0)
        channels, columns = (starmap(slice, pairwise(each)) for each in (ends, self.columns))
        return list(zip(self.parts, channels, columns, strict=True))

    def find(self, row: I64, item: I32) -> I64:
        """Places [n] of (row, item) pairs [n] among the candidates, −1 for those that are none."""
        if not len(self.item) or not len(row):
            return np.full(len(row), -1, dtype=np.int64)
        keys, wanted = self.row << 32 | self.item, row << 32 | item
        at = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
        return np.where(keys.take(at) == wanted, at, -1)

    def leading(self) -> tuple[I64, I64]:
        """Candidates [m] that the first part names, and the number [m] of each one's entry there.

        Its entries count row by row; they must stand leftmost in their rows, and name an item but once.
        """
        column, given = self.head & ((1 << self.bits) - 1), self.parts[0].item
        at = (column < given.shape[1]).nonzero()[0]
        length = np.add.reduce(given >= 0, axis=1)
        return at, (length.cumsum() - length).take(self.row.take(at)) + column.take(at)

    def part_of(self, place: I64) -> U8:
        """The number of the part that each of some places [n] is in: [n]."""
        widths = [high - low for low, high in pairwise(self.columns)]
        by_column = np.arange(len(widths), dtype=np.uint8).repeat(widths)
        return by_column.take(place & ((1 << self.bits) - 1))

    def within(self, place: I64, part: int) -> tuple[I64, I64]:
        """The rows and columns [n] in a part of places [n] that are in it."""
        return place >> self.bits, (place & ((1 << self.bits) - 1)) - self.columns[part]

    def totals(self) -> F64:
        """Σ_j of each channel's evidence, by user: [C, U]."""
        totals = np.concatenate([part.sums() for part in self.parts])
        if self.everywhere:
            held = (self.start[1:] > self.start[:-1]).nonzero()[0]
            start = self.start.take(held)
            for channel, values in self.everywhere.items():
                totals[channel, held] = np.add.reduceat(values, start)
        return totals

    def totals_by(self, at: I64, by: F32) -> F64:
        """Σ of each channel's evidence of candidates ``at`` [n] times ``by`` [n], by user: [C, U]."""
        row, (begin, place) = self.row.take(at), self.entries(at)
        wide = np.zeros((self.users, 1 << self.bits), dtype=np.float32)
        wide.ravel()[place] = by.repeat(np.diff(begin, append=len(place)))
        totals = np.concatenate([part.sums(wide[:, columns]) for part, _, columns in self.spans])
        for channel, values in self.everywhere.items():
            totals[channel] = np.bincount(row, weights=values[at] * by, minlength=self.users)
        return totals

    def reaching(self, scores: F32, size: int) -> tuple[I64, I64]:
        """Rows [n], candidates [n] whose scores [J] > 0 reach their user's size-th best; more if tied."""
        counts = self.start[1:] - self.start[:-1]
        wide = np.zeros((self.users, int(counts.max(initial=0))), dtype=np.float32)
        wide[np.arange(wide.shape[1]) < counts[:, None]] = scores
        place = reaching(wide.view(np.int32), size)
        row = place // max(wide.shape[1], 1)
        place += (self.start[:-1] - np.arange(self.users) * wide.shape[1]).take(row)
        return row, place

    def weighed(self, weights: F64) -> Weighed:
        """All entries with their channels weighed by ``weights`` [C, U]."""
        weights_32 = weights.astype(np.float32)
        wide = np.empty((self.users, 1 << self.bits), dtype=np.float32)
        for part, channels, columns in self.spans:
            part.mix(weights_32[channels], wide[:, columns])
        return Weighed(self, weights_32, wide.ravel())

    @property
    def values(self) -> F32:
        """The evidence of every channel for every candidate: [C, J]."""
        return self.evidence(np.arange(len(self.item)))

    def evidence(self, at: I64) -> F32:
        """The evidence of every channel for candidates ``at`` [n]: [C, n]. ~20 ns an entry of theirs."""
        begin, place = self.entries(at)
        of, channels = self.part_of(place), sum(len(part.values) for part in self.parts)
        values = np.zeros((channels, len(place)), dtype=np.float32)
        for number, (part, own, _) in enumerate(self.spans):
            mine = (of == number).nonzero()[0]
            values[own, mine] = part.at(*self.within(place.take(mine), number))
        found = np.add.reduceat(values, begin, axis=1) if len(at) else values
        for channel, everywhere in self.everywhere.items():
            found[channel] = everywhere[at]
        return found

    def lengths(self, at: I64) -> I64:
        """How many entries candidates ``at`` [n] have: [n]."""
        # A user's entries that name no item follow his last candidate's.
        after = np.minimum(self.first.take(at + 1), self.end.take(self.row.take(at)))
        return np.subtract(after, self.first.take(at), out=after)

    def entries(self, at: I64) -> tuple[I64, I64]:
        """The m entries of candidates ``at`` [n]: where those of each begin [n], and their places [m]."""
        length = self.lengths(at)
        begin = length.cumsum() - length
        which = (self.first.take(at) - begin).repeat(length)
        which += np.arange(len(which))
        return begin, self.place.take(which)


@dataclass(frozen=True)
class Weighed:
    """Candidates with ``weights`` [C, U] of their channels; ``wide`` [U · 2^bits] all entries weighed."""

    found: Candidates
    weights: F32
    wide: F32

    def sums(self) -> F32:
        """Σ_c w_c · f_c of each candidate: [J]. ~2 µs a user."""
        found, total = self.found, np.zeros(0, dtype=np.float32)
        if len(found.row):
            total = np.add.reduceat(self.wide.take(found.place), found.first[:-1])
        for channel, values in found.everywhere.items():
            total += values * self.weights[channel].take(found.row)
        return total

    def reasons(self, at: I64, strategies: Sequence[Sequence[int]]) -> tuple[U8, I32]:
        """What speaks most for candidates ``at`` [n]: a strategy [n] and the item [n] of the user's own.

        Of the component with the largest share of the sum the largest entry, of equal ones the first (the
        newest history item): its item, and the strategy of the channel with the largest share of it
        (``strategies`` by part and channel). Item −1 for channels that speak of every candidate.
        """
        share, place = self._largest(at)
        strategy, because = self._told(place, strategies)
        flat = [each for part in strategies for each in part]
        for number, values in self.found.everywhere.items():
            more = values.take(at) * self.weights[number].take(self.found.row.take(at))
            larger = more > share
            strategy[larger], because[larger] = flat[number], -1
            share = np.maximum(share, more)
        return strategy, because

    def _largest(self, at: I64) -> tuple[F32, I64]:
        """The largest share of a part in candidates [n], and the place of its largest entry [n]."""
        begin, place = self.found.entries(at)
        values = self.wide.take(place)
        if len(self.found.parts) == 1:
            return np.add.reduceat(values, begin), place.take(_first_largest(values, begin))
        # The entries of a candidate stand by part: the parts of all in one row of segments.
        part, news = self.found.part_of(place), np.empty(len(place), dtype=np.bool_)
        np.not_equal(part[1:], part[:-1], out=news[1:])
        news[begin] = True
        segment = news.nonzero()[0]
        shares = np.add.reduceat(values, segment)
        chosen = _first_largest(shares, (news.cumsum() - 1).take(begin))
        return shares.take(chosen), place.take(_first_largest(values, segment).take(chosen))

    def _told(self, place: I64, strategies: Sequence[Sequence[int]]) -> tuple[U8, I32]:
        """The strategies of entries at places [n], and the items [n] behind them."""
        of = self.found.part_of(place)
        strategy = np.array([codes[0] for codes in strategies], dtype=np.uint8).take(of)
        because = np.full(len(place), -1, dtype=np.int32)
        for number, (part, channels, _) in enumerate(self.found.spans):
            if part.because is not None and len(mine := (of == number).nonzero()[0]):
                row, column = self.found.within(place.take(mine), number)
                because[mine] = part.because[row, column]
                if len(set(codes := strategies[number])) > 1:
                    shares = part.at(row, column) * self.weights[channels, row]
                    strategy[mine] = np.array(codes, dtype=np.uint8).take(shares.argmax(axis=0))
        return strategy, because


def _first_largest(values: F32, begin: I64) -> I64:
    """The first of the largest ``values`` [m] ≥ 0 of each segment: positions [n].

    Segments begin at ``begin`` [n]. The bits of such a float order as it does, so one maximum over words of
    value and position finds both.
    """
    words = values.view(np.int32).astype(np.int64) << 32
    words |= np.arange(len(words) - 1, -1, -1)
    return len(words) - 1 - (np.maximum.reduceat(words, begin) & 0xFFFF_FFFF)


def unite(parts: Sequence[Entries], told: Callable[[I32], Mapping[int, F32]] = lambda item: {}) -> Candidates:
    """The union of what components give. ~3 µs a user with 400 entries.

    ``told`` gives for the items [J] of all candidates the evidence that is for every one: `everywhere`.

    Raises ValueError when the dictionary outgrows the bits of a word (8 million items with 512 entries).
    """
    words = np.concatenate([part.item for part in parts], axis=1).view(np.uint32)
    users, width = words.shape
    bits = max(width - 1, 1).bit_length()
    _sort(words, bits)
    rows = np.arange(users)
    place = (words & np.uint32((1 << bits) - 1)).astype(np.int64)
    place += (rows << bits)[:, None]
    words >>= np.uint32(bits)
    # One more than there are entries: where the last one ends.
    begins = np.ones(words.size + 1, dtype=np.bool_)
    named = begins[:-1].reshape(words.shape)
    np.less(words, np.uint32((1 << (32 - bits)) - 1), out=named)
    end = np.add.reduce(named, axis=1) + rows * width
    named[:, 1:] &= words[:, 1:] != words[:, :-1]
    first, place = begins.nonzero()[0], place.ravel()
    head = place.take(first[:-1])
    row = head >> bits
    item = words.ravel().take(first[:-1]).astype(np.int32)
    return Candidates(
        row,
        item,
        row.searchsorted(np.arange(users + 1)),
        place,
        first,
        head,
        end,
        bits,
        tuple(accumulate((part.item.shape[1] for part in parts), initial=0)),
        tuple(parts),
        told(item),
    )


def _sort(items: U32, bits: int) -> None:
    """Make of items [U, W], −1 for none, words of item and column; sort those of each row."""
    if (most := int(items.view(np.int32).max(initial=0))) >= (1 << (32 - bits)) - 1:
        raise ValueError(
            f"{most + 1} items are too many for {items.shape[1]} candidates a user: set profile_items or"
            " neighbors lower"
        )
    items <<= np.uint32(bits)
    items |= np.arange(items.shape[1], dtype=np.uint32)
    items.sort(axis=1)
