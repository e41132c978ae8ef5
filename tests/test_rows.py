from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core import row_format
from stream.core import rows as module
from stream.core.items import Items
from stream.core.row_format import digest_fields
from stream.core.rows import BUCKET_BITS, LINES, MOST_PAIRS, WIDTH, Rows
from stream.core.weights import PERIOD, SPAN, WEIGHT_BITS

CEILING = 2**WEIGHT_BITS - 1
NAMES = [f"item {n}" for n in range(3000)]
Entry = tuple[int, int, int, int, bool, int]  # row, col (numbers of NAMES), period, weight, backward, time


def numbered(seed: int | None = None) -> tuple[Items, list[int]]:
    """A dictionary of NAMES, and the local id of each; a seed gives another order of insertion."""
    order = list(range(len(NAMES)))
    if seed is not None:
        random.Random(seed).shuffle(order)
    items = Items()
    items.ids([NAMES[n] for n in order])
    return items, items.ids(NAMES).tolist()


ITEMS, IDS = numbered()
HASHES = dict(zip(range(len(NAMES)), ITEMS.hashes[IDS].tolist(), strict=True))


@dataclass
class Row:
    base: int
    pairs: dict[int, int] = field(default_factory=dict)
    sums: list[int] = field(default_factory=lambda: [0, 0])
    last: int = 0
    evicted: bool = False


class Oracle:
    """Rows as dicts by item number, entry by entry."""

    def __init__(self, max_pairs: int = 192) -> None:
        self.rows: dict[int, Row] = {}
        self.max_pairs = max_pairs
        self.evicted = self.shifted = 0

    def fold(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._add(*entry)
        for number in {entry[0] for entry in entries}:
            row = self.rows[number]
            if len(row.pairs) > MOST_PAIRS:
                kept = dict(self.ranked(number)[: self.max_pairs])
                self.evicted += len(row.pairs) - len(kept)
                row.pairs, row.evicted = kept, True

    def _add(self, number: int, col: int, period: int, weight: int, backward: bool, time: int) -> None:
        row = self.rows.setdefault(number, Row(period - 1))
        if (beyond := period - row.base - SPAN + 1) > 0:
            row.base += beyond
            row.pairs = {j: w >> beyond * PERIOD for j, w in row.pairs.items()}
            row.sums = [w >> beyond * PERIOD for w in row.sums]
        self.shifted += period < row.base
        shift = (period - row.base) * PERIOD
        weight = weight << shift if shift >= 0 else weight >> -shift
        row.pairs[col] = min(row.pairs.get(col, 0) + weight, CEILING)
        row.sums[backward] += weight
        row.last = max(row.last, time)

    def ranked(self, number: int) -> list[tuple[int, int]]:
        """Pairs that weigh anything, heaviest first, ties by hash."""
        pairs = [pair for pair in self.rows[number].pairs.items() if pair[1]]
        return sorted(pairs, key=lambda pair: (-pair[1], HASHES[pair[0]]))


def fold(rows: Rows, entries: list[Entry], ids: list[int] = IDS) -> None:
    columns = list(zip(*entries, strict=True)) or [()] * 6
    rows.fold(
        np.array([ids[n] for n in columns[0]], dtype=np.int32),
        np.array([ids[n] for n in columns[1]], dtype=np.int32),
        np.array(columns[2], dtype=np.int64),
        np.array(columns[3], dtype=np.int64),
        np.array(columns[4], dtype=np.bool_),
        np.array(columns[5], dtype=np.int64),
    )


def held(rows: Rows, number: int, ids: list[int] = IDS) -> tuple[dict[int, int], list[int], int, int, bool]:
    """What a row holds, read through what would be stored."""
    (blob,) = rows.pack(np.array([ids[number]], dtype=np.int32))
    row, _ = row_format.unpack([blob])
    pairs = dict(zip(row.hashes.tolist(), row.weights.tolist(), strict=True))
    assert len(pairs) == len(row.hashes)
    sums = [int(row.forward[0]), int(row.backward[0])]
    return pairs, sums, int(row.base[0]), int(row.last[0]), bool(row.evicted[0])


def listed(rows: Rows, number: int, ids: list[int] = IDS) -> list[tuple[int, int]]:
    """A row's list as (hash, weight)."""
    top = rows.top(np.array([ids[number]], dtype=np.int32))
    count = int(np.count_nonzero(top.cols[0] >= 0))
    assert (top.cols[0, count:] == -1).all() and (top.weights[0, count:] == 0).all()
    hashes = rows._items.hashes[top.cols[0, :count]].tolist()
    return list(zip(hashes, top.weights[0, :count].tolist(), strict=True))


def check(rows: Rows, oracle: Oracle, ids: list[int] = IDS, k: int = 50) -> None:
    """Rows, lists and counters are those of the oracle."""
    for number, row in oracle.rows.items():
        pairs = {HASHES[col]: weight for col, weight in row.pairs.items()}
        assert held(rows, number, ids) == (pairs, row.sums, row.base, row.last, row.evicted)
        expected = [(HASHES[col], weight) for col, weight in oracle.ranked(number)[:k]]
        assert listed(rows, number, ids) == expected
    assert (rows.evicted, rows.shifted) == (oracle.evicted, oracle.shifted)


def entries_of(
    seed: int, n: int, rows: int = 3, cols: int = 40, weights: int = 50, periods: int = 1
) -> list[Entry]:
    """Seeded entries, no item paired with itself."""
    rng = random.Random(seed)
    return [
        (
            rng.randrange(rows),
            rows + rng.randrange(cols),
            20_000 + rng.randrange(periods),
            1 + rng.randrange(weights),
            rng.random() < 0.5,
            1_700_000_000_000 + rng.randrange(10**6),
        )
        for _ in range(n)
    ]


def parts(entries: list[Entry], cuts: list[int]) -> list[list[Entry]]:
    ends = [0, *sorted(cut % (len(entries) + 1) for cut in cuts), len(entries)]
    return [entries[a:b] for a, b in pairwise(ends)]


ENTRY = st.tuples(
    st.integers(0, 3),
    st.integers(4, 12),
    st.integers(-3, 9),
    st.integers(0, 2**24),
    st.booleans(),
    st.integers(1, 10**12),
)
CUTS = st.lists(st.integers(0, 400), max_size=5)
SEED = st.integers(0, 10**6)


class TestFold:
    @given(st.lists(ENTRY, max_size=40), CUTS)
    def test_any_cuts_into_folds_give_what_one_entry_after_the_other_gives(
        self, entries: list[Entry], cuts: list[int]
    ) -> None:
        rows, oracle = Rows(ITEMS), Oracle()
        for part in parts(entries, cuts):
            fold(rows, part)
            oracle.fold(part)
        check(rows, oracle)

    @given(SEED, CUTS, st.integers(1, 12))
    def test_many_entries_over_landmarks_in_order_of_time(
        self, seed: int, cuts: list[int], periods: int
    ) -> None:
        entries = sorted(entries_of(seed, 400, periods=periods), key=lambda entry: entry[2])
        rows, oracle = Rows(ITEMS), Oracle()
        for part in parts(entries, cuts):
            fold(rows, part)
        oracle.fold(entries)
        check(rows, oracle)

    @given(SEED, st.randoms())
    def test_order_does_not_matter_within_the_span_of_the_first(
        self, seed: int, shuffler: random.Random
    ) -> None:
        first = [(row, 500, 20_000, 1, False, 1) for row in range(3)]
        entries = entries_of(seed, 200, periods=2)
        shuffled = entries.copy()
        shuffler.shuffle(shuffled)
        one, other = Rows(ITEMS), Rows(ITEMS)
        fold(one, first + entries)
        fold(other, first + shuffled)
        for number in range(3):
            assert held(one, number) == held(other, number)
            assert listed(one, number) == listed(other, number)

    @given(SEED, SEED)
    def test_adds(self, seed: int, other_seed: int) -> None:
        one, other = entries_of(seed, 120), entries_of(other_seed, 120)
        both, first, second = Rows(ITEMS), Rows(ITEMS), Rows(ITEMS)
        fold(first, one)
        fold(second, other)
        fold(both, one + other)
        for number in range(3):
            (a, a_sums, *_), (b, b_sums, *_) = held(first, number), held(second, number)
            pairs, sums, *_ = held(both, number)
            assert pairs == {key: a.get(key, 0) + b.get(key, 0) for key in a.keys() | b.keys()}
            assert sums == [x + y for x, y in zip(a_sums, b_sums, strict=True)]

    @given(SEED)
    @settings(max_examples=20)
    def test_the_sizes_of_passes_do_not_matter(self, seed: int) -> None:
        entries = entries_of(seed, 2000, rows=9, cols=500, weights=4, periods=2)
        whole, pieces = Rows(ITEMS), Rows(ITEMS)
        fold(whole, entries)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_CHUNK", 7)
            patch.setattr(module, "_BLOCK", 2)
            fold(pieces, entries)
            lists = [listed(pieces, number) for number in range(9)]
        assert [held(pieces, number) for number in range(9)] == [held(whole, number) for number in range(9)]
        assert lists == [listed(whole, number) for number in range(9)]
        top = pieces.top(np.array(IDS[:9], dtype=np.int32))
        assert [row[row >= 0].tolist() for row in top.cols] == [
            ITEMS.ids_of_hashes(np.array([key for key, _ in each], dtype=np.uint64)).tolist()
            for each in lists
        ]

    def test_more_entries_than_fit_one_sort_are_folded_in_parts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_ENTRIES", 11)
        entries = entries_of(1, 300)
        rows, oracle = Rows(ITEMS), Oracle()
        fold(rows, entries)
        oracle.fold(entries)
        check(rows, oracle)

    def test_nothing_is_folded_from_nothing(self) -> None:
        rows = Rows(ITEMS)
        fold(rows, [])
        assert len(rows.missing(np.arange(5, dtype=np.int32))) == 5

    def test_full_lines_spill_to_the_next_and_around_the_end(self) -> None:
        line = ~ITEMS.hashes[IDS] >> np.uint64(58)
        crowd = np.flatnonzero((line >= LINES - 2) & (np.arange(len(NAMES)) > 0)).tolist()[: 6 * WIDTH]
        assert len(crowd) == 6 * WIDTH
        entries: list[Entry] = [(0, col, 0, 1 + n, False, 1) for n, col in enumerate(crowd)]
        rows, oracle = Rows(ITEMS), Oracle()
        for part in (entries[:20], entries[10:], entries[::-1]):
            fold(rows, part)
            oracle.fold(part)
        check(rows, oracle)

    def test_what_spills_adds_up_with_nothing_else(self) -> None:
        line = ~ITEMS.hashes[IDS] >> np.uint64(58)
        crowd = np.flatnonzero((line == 3) & (np.arange(len(NAMES)) > 1)).tolist()[: 2 * WIDTH]
        rows = Rows(ITEMS)
        for row in (0, 1):
            fold(rows, [(row, col, 0, CEILING >> PERIOD, False, 1) for col in crowd])
        assert rows.saturated == 0
        assert held(rows, 1)[0] == {HASHES[col]: CEILING >> PERIOD << PERIOD for col in crowd}

    def test_a_sum_stops_at_its_ceiling(self) -> None:
        rows, oracle = Rows(ITEMS), Oracle()
        heavy: Entry = (0, 1, 0, CEILING >> PERIOD, False, 1)
        entries = [heavy, heavy, (0, 2, 0, 5, False, 1), (0, 3, 0, (CEILING >> PERIOD) - 1, False, 1)]
        for part in (entries, [heavy], [(0, 3, 0, 2, False, 1)], [(0, 3, 0, 2, False, 1)]):
            fold(rows, part)
            oracle.fold(part)
        check(rows, oracle)
        assert rows.saturated == 4

    def test_a_base_moves_only_beyond_its_span(self) -> None:
        rows = Rows(ITEMS)
        for period, base in ((5, 4), (4, 4), (6, 4), (7, 5), (3, 5), (40, 38)):
            fold(rows, [(0, 1, period, 1 << 20, False, 1)])
            assert rows.sums(np.array(IDS[:1], dtype=np.int32)).base.tolist() == [base]
        assert rows.shifted == 1
        assert held(rows, 0)[0] == {HASHES[1]: 1 << 20 + 2 * PERIOD}


class TestCut:
    @given(SEED, st.sampled_from([3, 40, 10**6]), st.sampled_from([60, 230]))
    @settings(max_examples=40)
    def test_rows_of_more_than_256_pairs_keep_their_heaviest(
        self, seed: int, weights: int, size: int
    ) -> None:
        rows, oracle = Rows(ITEMS), Oracle()
        entries = entries_of(seed, 2400, rows=2, cols=700, weights=weights)
        for start in range(0, len(entries), size):
            fold(rows, entries[start : start + size])
            oracle.fold(entries[start : start + size])
        assert oracle.evicted
        check(rows, oracle)

    @given(SEED, st.sampled_from([1, 5, 10**6]), st.integers(240, 1500))
    @settings(max_examples=30)
    def test_a_row_that_outgrows_its_slots_within_one_fold(self, seed: int, weights: int, size: int) -> None:
        rows, oracle = Rows(ITEMS, max_pairs=100), Oracle(100)
        entries = entries_of(seed, 3 * size, rows=1, cols=2500, weights=weights)
        for start in range(0, 3 * size, size):
            fold(rows, entries[start : start + size])
            oracle.fold(entries[start : start + size])
            assert listed(rows, 0) == [(HASHES[col], each) for col, each in oracle.ranked(0)[:50]]
        check(rows, oracle)

    @given(SEED, st.sampled_from([64, 100]))
    @settings(max_examples=20)
    def test_what_spilled_is_found_again_after_a_cut(self, seed: int, max_pairs: int) -> None:
        line = ~ITEMS.hashes[IDS] >> np.uint64(58)
        crowd = (np.flatnonzero((line[1:] >= LINES - 4) | (line[1:] == 0)) + 1).tolist()
        rng, rows, oracle = random.Random(seed), Rows(ITEMS, max_pairs=max_pairs), Oracle(max_pairs)
        for part in range(8):
            cols = [*rng.sample(crowd, 60), *rng.sample(range(1, 1000), 40)]
            entries: list[Entry] = [(0, col, 0, 1 + rng.randrange(50), False, 1 + part) for col in cols]
            fold(rows, entries)
            oracle.fold(entries)
            check(rows, oracle)
        assert oracle.evicted

    def test_256_pairs_are_not_cut_and_257_are(self) -> None:
        entries: list[Entry] = [(0, 1 + n, 0, 1000 + n, False, 1) for n in range(257)]
        rows = Rows(ITEMS)
        fold(rows, entries[:200])
        fold(rows, entries[200:256])
        pairs, *_, evicted = held(rows, 0)
        assert (len(pairs), evicted, rows.evicted) == (256, False, 0)
        fold(rows, entries[256:])
        pairs, *_, evicted = held(rows, 0)
        assert (len(pairs), evicted, rows.evicted) == (192, True, 65)
        assert set(pairs) == {HASHES[1 + n] for n in range(65, 257)}

    def test_sums_keep_what_was_cut(self) -> None:
        rows = Rows(ITEMS)
        fold(rows, [(0, 1 + n, 0, 7, n % 2 == 0, 1) for n in range(300)])
        sums = rows.sums(np.array(IDS[:1], dtype=np.int32))
        assert (sums.forward.tolist(), sums.backward.tolist()) == ([150 * 7 << PERIOD], [150 * 7 << PERIOD])

    def test_a_cut_drops_pairs_that_weigh_nothing(self) -> None:
        rows, oracle = Rows(ITEMS), Oracle()
        light: list[Entry] = [(0, 1 + n, 0, 1, False, 1) for n in range(200)]
        heavy: list[Entry] = [(0, 300 + n, 9, 1, False, 1) for n in range(100)]
        for part in (light, heavy):
            fold(rows, part)
            oracle.fold(part)
        check(rows, oracle)
        assert len(held(rows, 0)[0]) == 100


class TestTop:
    @given(SEED, st.integers(1, 250), st.sampled_from([1, 2, 9, 10**6]), st.integers(1, 50))
    def test_is_exact_among_ties_and_at_the_boundary(
        self, seed: int, cols: int, weights: int, k: int
    ) -> None:
        rows, oracle = Rows(ITEMS, k=k), Oracle()
        entries = entries_of(seed, 2 * cols, cols=cols, weights=weights)
        fold(rows, entries)
        oracle.fold(entries)
        check(rows, oracle, k=k)

    @given(st.sets(st.integers(0, 40), min_size=1), st.sets(st.integers(2**63, 2**63 + 200)), SEED)
    @settings(max_examples=50)
    def test_ties_of_hashes_that_begin_alike_go_by_the_whole_hash(
        self, some: set[int], others: set[int], seed: int
    ) -> None:
        hashes = [2**64 - 1, *random.Random(seed).sample(sorted(some | others), len(some | others))]
        items = Items()
        ids = items.ids_of_hashes(np.array(hashes, dtype=np.uint64))
        rows = Rows(items, k=5)
        n, zeros = len(hashes) - 1, np.zeros(len(hashes) - 1, dtype=np.int64)
        rows.fold(np.repeat(ids[:1], n), ids[1:], zeros, zeros + 9, zeros > 0, zeros + 1)
        top = rows.top(ids[:1]).cols[0]
        assert items.hashes[top[top >= 0]].tolist() == sorted(hashes[1:])[:5]

    def test_a_tie_that_goes_on_beyond_the_words_looked_at(self) -> None:
        hashes = [2**64 - 1, *random.Random(7).sample(range(10**6), 150)]
        items = Items()
        ids = items.ids_of_hashes(np.array(hashes, dtype=np.uint64))
        rows = Rows(items)
        ones = np.ones(150, dtype=np.int64)
        rows.fold(np.repeat(ids[:1], 150), ids[1:], ones, ones, ones > 0, ones)
        assert items.hashes[rows.top(ids[:1]).cols[0]].tolist() == sorted(hashes[1:])[:50]

    @given(
        SEED, st.sampled_from([3, 10**6]), st.sampled_from([(400, 1), (200, 7)]), st.sampled_from([15, 60])
    )
    @settings(max_examples=30)
    def test_is_exact_whenever_it_is_asked_for(
        self, seed: int, weights: int, cols_periods: tuple[int, int], size: int
    ) -> None:
        rng, rows, oracle = random.Random(seed), Rows(ITEMS, max_pairs=64), Oracle(64)
        entries = entries_of(seed, 900, 2, cols_periods[0], weights, cols_periods[1])
        entries.sort(key=lambda entry: entry[2])
        for start in range(0, len(entries), size):
            fold(rows, entries[start : start + size])
            oracle.fold(entries[start : start + size])
            for number in rng.sample(sorted(oracle.rows), rng.randrange(len(oracle.rows) + 1)):
                expected = [(HASHES[col], weight) for col, weight in oracle.ranked(number)[:50]]
                assert listed(rows, number) == expected

    def test_a_row_that_is_loaded_again_is_ranked_anew(self) -> None:
        rows, oracle = Rows(ITEMS), Oracle()
        entries = entries_of(3, 300, rows=1, cols=90)
        one = np.array(IDS[:1], dtype=np.int32)
        fold(rows, entries[:200])
        listed(rows, 0)
        blobs = rows.pack(one)
        fold(rows, entries[200:210])
        rows.drop(one)
        rows.unpack(one, blobs)
        oracle.fold(entries[:200])
        check(rows, oracle)

    def test_too_few_pairs_for_a_list_are_refused(self) -> None:
        with pytest.raises(ValueError, match="max_pairs is 63"):
            Rows(ITEMS, max_pairs=63)

    def test_ties_do_not_cross_rows(self) -> None:
        """The last words looked at in one row weigh as much as the first of the next, in one bucket."""
        hashes = [2**64 - 1, 2**64 - 2, *random.Random(8).sample(range(10**6), 90)]
        items = Items()
        ids = items.ids_of_hashes(np.array(hashes, dtype=np.uint64))
        rows = Rows(items)
        weight = np.concatenate([1000 - np.arange(55), np.full(35, 9)])
        ones = np.ones(90, dtype=np.int64)
        rows.fold(np.repeat(ids[:1], 90), ids[2:], ones, weight, ones > 0, ones)
        rows.fold(np.repeat(ids[1:2], 20), ids[2:22], ones[:20], 9 * ones[:20], ones[:20] > 0, ones[:20])
        cols = rows.top(ids[:2]).cols
        assert cols[0].tolist() == ids[2:52].tolist()
        assert items.hashes[cols[1, :20]].tolist() == sorted(hashes[2:22])

    @pytest.mark.parametrize("parts", [1, 3])
    def test_cuts_among_hashes_that_begin_alike_go_by_the_whole_hash(self, parts: int) -> None:
        hashes = [2**64 - 1, *random.Random(5).sample(range(10**6), 300)]
        items = Items()
        ids = items.ids_of_hashes(np.array(hashes, dtype=np.uint64))
        rows = Rows(items, max_pairs=64)
        for cols in np.array_split(ids[1:], parts):
            zeros = np.zeros(len(cols), dtype=np.int64)
            rows.fold(np.repeat(ids[:1], len(cols)), cols, zeros, zeros + 9, zeros > 0, zeros + 1)
            rows.top(ids[:1])
        row, _ = row_format.unpack(rows.pack(ids[:1]))
        assert sorted(row.hashes.tolist()) == sorted(hashes[1:])[:64]
        assert items.hashes[rows.top(ids[:1]).cols[0]].tolist() == sorted(hashes[1:])[:50]

    @given(SEED, st.sampled_from([3, 10**6]))
    @settings(max_examples=30)
    def test_another_numbering_of_items_gives_the_same_lists_and_cuts(self, seed: int, weights: int) -> None:
        items, ids = numbered(seed)
        one, other = Rows(ITEMS), Rows(items)
        for part in range(4):
            entries = entries_of(seed + part, 900, rows=4, cols=600, weights=weights)
            fold(one, entries)
            fold(other, entries, ids)
        assert one.evicted == other.evicted > 0
        for number in range(4):
            assert listed(one, number) == listed(other, number, ids)
            assert held(one, number) == held(other, number, ids)

    def test_of_many_rows_at_once_in_any_order(self) -> None:
        rows = Rows(ITEMS)
        entries = entries_of(3, 20_000, rows=1500, cols=100, weights=10)
        fold(rows, entries)
        oracle = Oracle()
        oracle.fold(entries)
        numbers = sorted(oracle.rows, key=lambda n: HASHES[n])
        top = rows.top(np.array([IDS[n] for n in numbers], dtype=np.int32))
        for at, number in enumerate(numbers):
            cols = [IDS[col] for col, _ in oracle.ranked(number)[:50]]
            assert top.cols[at].tolist() == cols + [-1] * (50 - len(cols))

    def test_of_a_row_nobody_counted_is_empty(self) -> None:
        rows = Rows(ITEMS)
        assert listed(rows, 7) == []
        assert rows.top(np.zeros(0, dtype=np.int32)).cols.shape == (0, 50)


class TestStoring:
    @given(SEED, st.integers(1, 900), st.integers(1, 6))
    @settings(max_examples=30)
    def test_dropping_and_loading_elsewhere_is_as_if_never_dropped(
        self, seed: int, cols: int, periods: int
    ) -> None:
        items, ids = numbered(seed)
        numbers = list(range(3))
        stayed, moved = Rows(ITEMS), Rows(items)
        fold(stayed, entries_of(seed, 700, cols=cols, periods=periods))
        here, there = (np.array([each[n] for n in numbers], dtype=np.int32) for each in (IDS, ids))
        blobs: list[bytes | None] = [blob + b"behind" for blob in stayed.pack(here)]
        assert moved.unpack(there, blobs) == [b"behind"] * 3
        for part in range(2):
            entries = entries_of(seed + 1 + part, 300, cols=cols, periods=periods + 1)
            fold(stayed, entries)
            fold(moved, entries, ids)
        for number in numbers:
            assert held(stayed, number) == held(moved, number, ids)
            assert listed(stayed, number) == listed(moved, number, ids)

    def test_rows_never_stored_load_as_blank_ones(self) -> None:
        rows = Rows(ITEMS)
        wanted = np.array(IDS[:4], dtype=np.int32)
        assert rows.missing(wanted).tolist() == wanted.tolist()
        assert rows.unpack(wanted, [None] * 4) == [b""] * 4
        assert len(rows.missing(wanted)) == 0
        assert held(rows, 0) == ({}, [0, 0], 0, 0, False)

    def test_a_blank_row_is_blank_again_when_loaded(self) -> None:
        stayed, moved = Rows(ITEMS), Rows(ITEMS)
        wanted = np.array(IDS[:1], dtype=np.int32)
        moved.unpack(wanted, list(stayed.pack(wanted)))
        for rows in (stayed, moved):
            fold(rows, [(0, 1, 77, 1, False, 1)])
        assert held(stayed, 0) == held(moved, 0)

    def test_slots_are_used_again_clean(self) -> None:
        rows = Rows(ITEMS)
        fold(rows, entries_of(1, 3000, rows=3, cols=700))
        gone = np.array(IDS[:3], dtype=np.int32)
        rows.drop(gone)
        rows.drop(gone)
        used = rows._used
        assert rows.missing(gone).tolist() == gone.tolist()
        rows.evicted = 0
        entries = [(900 + entry[0], *entry[1:]) for entry in entries_of(2, 60, periods=2)]
        oracle = Oracle()
        oracle.fold(entries)
        fold(rows, entries)
        check(rows, oracle)
        assert rows._used == used

    @pytest.mark.parametrize("size", [0, 1, 39, 41, -1, -17])
    def test_bytes_cut_short_are_refused_and_nothing_is_loaded(self, size: int) -> None:
        rows = Rows(ITEMS)
        fold(rows, entries_of(1, 50))
        wanted = np.array(IDS[:2], dtype=np.int32)
        one, two = rows.pack(wanted)
        other = Rows(ITEMS)
        with pytest.raises(ValueError):
            other.unpack(wanted, [one, two[:size]])
        assert other.missing(wanted).tolist() == wanted.tolist()

    def test_a_pair_twice_or_too_many_pairs_are_refused(self) -> None:
        for numbers in ([1, 2, 1], range(1, 258)):
            hashes = np.array([HASHES[n] for n in numbers], dtype=np.uint64)
            count, one = np.array([len(hashes)]), np.array([1])
            packed = row_format.PackedRows(
                [b"x"], one > 1, one, one, one, one, count, hashes, np.ones(len(hashes), dtype=np.int64), one
            )
            with pytest.raises(ValueError, match="damaged"):
                Rows(ITEMS).unpack(np.array([0], dtype=np.int32), row_format.pack(packed))

    @given(SEED)
    @settings(max_examples=30)
    def test_the_digest_knows_no_base(self, seed: int) -> None:
        entries = entries_of(seed, 100, rows=1)
        early, late = Rows(ITEMS), Rows(ITEMS)
        fold(early, [(0, 39, 19_999, 1 << PERIOD, False, 1), *entries])
        fold(late, [(0, 39, 20_000, 1, False, 1), *entries])
        row = np.array(IDS[:1], dtype=np.int32)
        (one,), (other,) = early.pack(row), late.pack(row)
        assert early.sums(row).base != late.sums(row).base
        assert digest_fields(one) == digest_fields(other)

    def test_more_items_than_codes_are_refused(self) -> None:
        items = Items()
        rows = Rows(items)
        near = np.arange(1 << module.ID_BITS - BUCKET_BITS, dtype=np.uint64)
        ids = items.ids_of_hashes(near)
        rows.missing(ids)
        items.ids_of_hashes(near + np.uint64(len(near)))
        with pytest.raises(OverflowError, match="2048 items"):
            rows.missing(ids)
