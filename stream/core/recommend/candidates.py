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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise

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
    all 0); ``because`` [U, w] the item of the user's own that is the evidence (−1 = none). ``features``
    [D, m] of the m entries with an item, row by row.

    Channels that differ by a factor of ``runs`` of columns alone name the same matrix, which is then read
    once: ``factors`` [C, n] are those of the n runs. Without runs there are none.
    """

    item: I32
    values: tuple[F32 | None, ...]
    because: I32
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
        for channels, matrix in self._matrices():
            values = matrix if by is None else matrix * by
            if self.factors is None:
                sums[channels] = values.sum(axis=1)
            else:
                # An empty run would give the entry behind it, and there may be none.
                held = [number for number, length in enumerate(self.runs) if length]
                begins = list(accumulate((self.runs[number] for number in held[:-1]), initial=0))
                by_run = np.add.reduceat(values, begins, axis=1)
                sums[channels] = (by_run * self.factors[channels][:, None, held]).sum(axis=2)
        return sums

    def mixed(self, weights: F32) -> F32:
        """The sum of the channels by ``weights`` [C, U]: [U, w]."""
        total: F32 | None = None
        for channels, values in self._matrices():
            weight = weights[channels]
            if self.factors is None:
                part = values * weight.sum(axis=0)[:, None]
            else:
                by_run = (weight[:, :, None] * self.factors[channels][:, None]).sum(axis=0)
                part = np.repeat(by_run, self.runs, axis=1)
                part *= values
            total = part if total is None else np.add(total, part, out=total)
        return np.zeros(self.item.shape, dtype=np.float32) if total is None else total

    def at(self, row: I64, column: I64) -> F32:
        """The values of some entries [m] in each channel: [C, m]."""
        found = np.zeros((len(self.values), len(row)), dtype=np.float32)
        for channels, values in self._matrices():
            found[channels] = values[row, column]
        if self.factors is not None:
            found *= np.repeat(self.factors, self.runs, axis=1)[:, column]
        return found

    def _matrices(self) -> Iterator[tuple[slice, F32]]:
        """Each matrix, and the channels next to each other that name it."""
        begin = 0
        for _, same in groupby(self.values, id):
            values, *others = same
            if values is not None:
                yield slice(begin, begin + 1 + len(others)), values
            begin += 1 + len(others)


@dataclass(frozen=True)
class Candidates:
    """J candidates of U users, by user, then by local id.

    ``row`` [J], ``item`` [J], ``start`` [U + 1] where each user's begin. The entries of all ``parts`` are
    sorted by user and candidate, those of candidate j from ``first[j]`` on, and those of user u that name no
    item, whose values are 0, from ``end[u]`` on: ``place`` [U · W] is where each stands in the matrix
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
    everywhere: Mapping[int, F32] = field(default_factory=dict)

    @property
    def users(self) -> int:
        """U."""
        return len(self.start) - 1

    def find(self, row: I64, item: I32) -> I64:
        """Places [n] of (row, item) pairs [n] among the candidates, −1 for those that are none."""
        if not len(self.item) or not len(row):
            return np.full(len(row), -1, dtype=np.int64)
        keys, wanted = self.row << 32 | self.item, row << 32 | item
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, at, -1)

    def leading(self) -> tuple[I64, I64]:
        """Candidates [m] that the first part names, and the number [m] of each one's entry there.

        Its entries count row by row; they must stand leftmost in their rows, and name an item but once.
        """
        given = self.parts[0].item
        column = self.head & ((1 << self.bits) - 1)
        at = np.flatnonzero(column < given.shape[1])
        length = np.count_nonzero(given >= 0, axis=1)
        return at, (np.cumsum(length) - length)[self.row[at]] + column[at]

    def within(self, place: I64, part: int) -> tuple[I64, I64, I64]:
        """Which of some places [n] are a part's: numbers [m], and their rows and columns in it [m]."""
        low, high = self.columns[part : part + 2]
        column = place & ((1 << self.bits) - 1)
        mine = np.flatnonzero((column >= low) & (column < high))
        return mine, place[mine] >> self.bits, column[mine] - low

    def totals(self) -> F64:
        """Σ_j of each channel's evidence, by user: [C, U]."""
        totals = np.concatenate([part.sums() for part in self.parts])
        held = (self.start[1:] > self.start[:-1]).nonzero()[0]
        start = self.start[held]
        for channel, values in self.everywhere.items():
            totals[channel, held] = np.add.reduceat(values, start)
        return totals

    def totals_by(self, at: I64, by: F32) -> F64:
        """Σ of each channel's evidence of candidates ``at`` [n] times ``by`` [n], by user: [C, U]."""
        row, length = self.row[at], self.lengths(at)
        wide = np.zeros((self.users, 1 << self.bits), dtype=np.float32)
        wide.ravel()[self._places(at, length)] = by.repeat(length)
        columns = pairwise(self.columns)
        totals = np.concatenate(
            [part.sums(wide[:, low:high]) for part, (low, high) in zip(self.parts, columns, strict=True)]
        )
        for channel, values in self.everywhere.items():
            totals[channel] = np.bincount(row, weights=values[at] * by, minlength=self.users)
        return totals

    def reaching(self, scores: F32, size: int) -> tuple[I64, I64]:
        """Rows [n], candidates [n] whose scores [J] > 0 reach their user's size-th best; more if tied."""
        counts = self.start[1:] - self.start[:-1]
        wide = np.zeros((self.users, int(counts.max(initial=0))), dtype=np.float32)
        wide[np.arange(wide.shape[1]) < counts[:, None]] = scores
        row, place = np.divmod(reaching(wide.view(np.int32), size), max(wide.shape[1], 1))
        return row, place + self.start[row]

    def weighed(self, weights: F64) -> Weighed:
        """All entries with their channels weighed by ``weights`` [C, U]."""
        weights_32, channel = weights.astype(np.float32), 0
        wide = np.empty((self.users, 1 << self.bits), dtype=np.float32)
        for part, (low, high) in zip(self.parts, pairwise(self.columns), strict=True):
            wide[:, low:high] = part.mixed(weights_32[channel : channel + len(part.values)])
            channel += len(part.values)
        return Weighed(self, weights_32, wide.ravel())

    @property
    def values(self) -> F32:
        """The evidence of every channel for every candidate: [C, J]."""
        return self.evidence(np.arange(len(self.item)))

    def evidence(self, at: I64) -> F32:
        """The evidence of every channel for candidates ``at`` [n]: [C, n]. ~20 ns an entry of theirs."""
        begin, place = self.entries(at)
        values = np.zeros((sum(len(part.values) for part in self.parts), len(place)), dtype=np.float32)
        channel = 0
        for number, part in enumerate(self.parts):
            mine, row, column = self.within(place, number)
            channels = slice(channel, channel + len(part.values))
            values[channels, mine] = part.at(row, column)
            channel = channels.stop
        found = np.add.reduceat(values, begin, axis=1) if len(at) else values
        for channel, everywhere in self.everywhere.items():
            found[channel] = everywhere[at]
        return found

    def lengths(self, at: I64) -> I64:
        """How many entries candidates ``at`` [n] have: [n]."""
        # A user's entries that name no item follow his last candidate's; behind the very last nothing does.
        after = self.first.take(np.minimum(at + 1, len(self.first) - 1))
        after = np.where(at + 1 < len(self.first), after, len(self.place))
        lengths: I64 = np.minimum(after, self.end.take(self.row.take(at))) - self.first.take(at)
        return lengths

    def entries(self, at: I64) -> tuple[I64, I64]:
        """The m entries of candidates ``at`` [n]: where those of each begin [n], and their places [m]."""
        length = self.lengths(at)
        return length.cumsum() - length, self._places(at, length)

    def _places(self, at: I64, length: I64) -> I64:
        """The places [m] of the entries of candidates ``at`` [n], which have ``length`` [n]."""
        ends = length.cumsum()
        begin: I64 = (self.first[at] - ends + length).repeat(length)
        begin += np.arange(len(begin))
        return self.place[begin]


@dataclass(frozen=True)
class Weighed:
    """Candidates with ``weights`` [C, U] of their channels; ``wide`` [U · 2^bits] all entries weighed."""

    found: Candidates
    weights: F32
    wide: F32

    def sums(self) -> F32:
        """Σ_c w_c · f_c of each candidate: [J]. ~2 µs a user."""
        found, total = self.found, np.zeros(0, dtype=np.float32)
        if len(found.first):
            total = np.add.reduceat(self.wide.take(found.place), found.first)
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
            more = values[at] * self.weights[number][self.found.row[at]]
            larger = more > share
            strategy[larger], because[larger] = flat[number], -1
            share = np.maximum(share, more)
        return strategy, because

    def _largest(self, at: I64) -> tuple[F32, I64]:
        """The largest share of a part in candidates [n], and the place of its largest entry [n]."""
        place = self.found.head[at]
        share = self.wide.take(place)
        many = np.flatnonzero(self.found.lengths(at) > 1)
        if len(many):
            share[many], place[many] = self._largest_of(at[many])
        return share, place

    def _largest_of(self, at: I64) -> tuple[F32, I64]:
        """The same of candidates that have several entries."""
        begin, place = self.found.entries(at)
        if len(self.found.parts) > 1:
            begin, place, share = self._largest_part(begin, place)
        else:
            share = np.add.reduceat(self.wide.take(place), begin)
        return share, place[_first_largest(self.wide.take(place), begin)]

    def _largest_part(self, begin: I64, place: I64) -> tuple[I64, I64, F32]:
        """Of entries [m], which begin at ``begin`` [n], those of the part that gives most, and how much."""
        column = place & ((1 << self.found.bits) - 1)
        news = np.zeros(len(place), dtype=np.bool_)
        news[begin] = True
        for edge in self.found.columns[1:-1]:
            beyond = column >= edge
            news[1:] |= beyond[1:] != beyond[:-1]
        segment = np.flatnonzero(news)
        share = np.add.reduceat(self.wide.take(place), segment)
        first = _first_largest(share, np.searchsorted(segment, begin))
        low, length = segment[first], np.diff(segment, append=len(place))[first]
        starts = np.cumsum(length) - length
        return starts, place[np.repeat(low - starts, length) + np.arange(int(length.sum()))], share[first]

    def _told(self, place: I64, strategies: Sequence[Sequence[int]]) -> tuple[U8, I32]:
        """The strategies of entries at places [n], and the items [n] behind them."""
        strategy, because = np.zeros(len(place), dtype=np.uint8), np.full(len(place), -1, dtype=np.int32)
        begin = 0
        for number, (part, codes) in enumerate(zip(self.found.parts, strategies, strict=True)):
            mine, row, column = self.found.within(place, number)
            because[mine] = part.because[row, column]
            if len(set(codes)) == 1:
                strategy[mine] = codes[0]
            else:
                shares = part.at(row, column) * self.weights[begin : begin + len(codes), row]
                strategy[mine] = np.asarray(codes, dtype=np.uint8)[shares.argmax(axis=0)]
            begin += len(codes)
        return strategy, because


def _first_largest(values: F32, begin: I64) -> I64:
    """The first of the largest values of each segment: positions [n]. Segments begin at ``begin`` [n]."""
    most = np.maximum.reduceat(values, begin)
    owner = np.repeat(np.arange(len(begin)), np.diff(begin, append=len(values)))
    largest = np.flatnonzero(values == most[owner])
    return largest[np.flatnonzero(np.diff(owner[largest], prepend=-1))]


def unite(parts: Sequence[Entries]) -> Candidates:
    """The union of what components give. ~3 µs a user with 400 entries.

    Raises ValueError when the dictionary outgrows the bits of a word (8 million items with 512 entries).
    """
    item = np.concatenate([part.item for part in parts], axis=1)
    users, width = item.shape
    bits = max(width - 1, 1).bit_length()
    words = _words(item, bits)
    place = (words & np.uint32((1 << bits) - 1)).astype(np.int64)
    place += (np.arange(users) << bits)[:, None]
    words >>= np.uint32(bits)
    begins = words < np.uint32((1 << (32 - bits)) - 1)
    length = np.count_nonzero(begins, axis=1)
    begins[:, 1:] &= words[:, 1:] != words[:, :-1]
    first = np.flatnonzero(begins)
    place = place.ravel()
    head = place.take(first)
    row = head >> bits
    return Candidates(
        row,
        words.ravel().take(first).astype(np.int32),
        np.searchsorted(row, np.arange(users + 1)),
        place,
        first,
        head,
        length + np.arange(users) * width,
        bits,
        tuple(np.cumsum([0, *(part.item.shape[1] for part in parts)]).tolist()),
        tuple(parts),
    )


def _words(item: I32, bits: int) -> U32:
    if (most := int(item.max(initial=0))) >= (1 << (32 - bits)) - 1:
        raise ValueError(
            f"{most + 1} items are too many for {item.shape[1]} candidates a user: set profile_items or"
            " neighbors lower"
        )
    words = item.view(np.uint32) << np.uint32(bits)
    words |= np.arange(item.shape[1], dtype=np.uint32)
    words.sort(axis=1)
    return words
