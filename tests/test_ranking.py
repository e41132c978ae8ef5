from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.items import Items, item_hash
from stream.core.neighbor_format import HAS_PRICE, HIDDEN, OUT_OF_STOCK
from stream.core.neighborhood import HashIndex, Neighborhood
from stream.core.ranking import CONTENT, ITEM_ITEM, Ranked, nearest
from stream.core.similarity import Similarity
from stream.settings import Settings

NAMES = [f"i{at}" for at in range(12)]
Shop = dict[str, "Entry"]


@dataclass(frozen=True)
class Entry:
    """What one record says of an item."""

    list: dict[str, float]
    row_sum: float = 10.0
    col_sum: float = 1.0
    flags: int = 0
    last: int = 0
    version: tuple[int, int] = field(default=(1, 1))
    tokens: dict[int, float] = field(default_factory=dict)
    popularity: float = 0.0

    def value(self) -> bytes:
        k = len(self.list)
        term, n = self.version
        return (
            struct.pack(
                "<BBHQQqdddf",
                2,
                self.flags,
                k,
                term,
                n,
                self.last,
                self.row_sum,
                self.col_sum,
                2.5,
                self.popularity,
            )
            + struct.pack("<ffqQQHH", 3.0, 0.5, 77, 8, 9, len(self.tokens), 0)
            + struct.pack(f"<{k}Q", *map(item_hash, self.list))
            + struct.pack(f"<{k}f", *self.list.values())
            + b"".join(struct.pack("<If", *token) for token in self.tokens.items())
        )


def hood_of(shop: Shop, neighbors: int = 5, complete: bool = True) -> Neighborhood:
    """The records of a shop applied; ``complete`` names the items that have none."""
    hood = Neighborhood(Items(), neighbors)
    if complete:
        hood.items.ids(name for entry in shop.values() for name in entry.list)
    hood.apply(list(shop), [entry.value() for entry in shop.values()])
    return hood


def ids(hood: Neighborhood, names: list[str | None]) -> list[int]:
    return [-1 if name is None else hood.items.add(name) for name in names]


def nearest_of(hood: Neighborhood, subjects: list[str], size: int = 4) -> Ranked:
    return nearest(hood, np.array(ids(hood, list(subjects)), dtype=np.int32), size)


def listed(hood: Neighborhood, ranked: Ranked, row: int = 0) -> list[tuple[str, str | None, int]]:
    """(item, because, strategy) of one list."""
    return [
        (hood.items.name(item), hood.items.name(why) if why >= 0 else None, strategy)
        for item, why, strategy in zip(
            ranked.items[row].tolist(),
            ranked.because[row].tolist(),
            ranked.strategy[row].tolist(),
            strict=True,
        )
        if item >= 0
    ]


def similarity(shop: Shop, i: str, j: str) -> float:
    """S(i→j), by the formula in floats of 64 bits."""
    column = (shop[j].col_sum if j in shop else 0.0) or 1.0
    return float(shop[i].list[j] / ((shop[i].row_sum + 100.0) ** 0.9 * column**0.15))


def oracle(shop: Shop, subject: str) -> dict[str, float]:
    """S of every item that may be shown beside a subject."""
    blocked = {name for name in shop if shop[name].flags & (HIDDEN | OUT_OF_STOCK)}
    given = shop[subject].list if subject in shop else {}
    return {j: similarity(shop, subject, j) for j in given if j not in blocked}


LIST = st.dictionaries(st.sampled_from(NAMES), st.floats(2**-10, 1e6, width=32), max_size=5)
ENTRY = st.builds(
    Entry,
    LIST,
    row_sum=st.floats(0, 1e6),
    col_sum=st.one_of(st.just(0.0), st.floats(0.125, 1e6)),
    flags=st.sampled_from([0, 0, 0, 0, HIDDEN, OUT_OF_STOCK, HIDDEN | OUT_OF_STOCK | 4]),
)
SHOP = st.dictionaries(st.sampled_from(NAMES), ENTRY, max_size=12)
SUBJECTS = st.lists(st.sampled_from(NAMES), unique=True, max_size=5)


@settings(max_examples=300)
@given(SHOP, SUBJECTS, st.integers(1, 7))
def test_similar_items_are_those_of_brute_force(shop: Shop, subjects: list[str], size: int) -> None:
    hood = hood_of(shop)
    ranked = nearest_of(hood, subjects, size)
    for row, subject in enumerate(subjects):
        expected = oracle(shop, subject)
        found = [item for item, _, _ in listed(hood, ranked, row)]
        assert len(found) == len(set(found)) == min(size, len(expected))
        assert {(why, strategy) for _, why, strategy in listed(hood, ranked, row)} <= {(subject, ITEM_ITEM)}
        # Rank by rank the best scores there are, and each item with its own: the same up to near ties.
        scores = ranked.scores[row, : len(found)]
        np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True)[: len(found)], rtol=1e-5)
        np.testing.assert_allclose(scores, [expected[item] for item in found], rtol=1e-5)
        assert not ranked.scores[row, len(found) :].any()


@given(SHOP, st.permutations(NAMES))
def test_lists_do_not_depend_on_the_order_in_which_records_came(shop: Shop, order: list[str]) -> None:
    other = Neighborhood(Items(), 5)
    for name in order:
        if name in shop:
            other.apply([name], [shop[name].value()])
    other.items.ids(NAMES)
    one = hood_of(shop)
    a, b = nearest_of(one, NAMES), nearest_of(other, NAMES)
    for row in range(len(NAMES)):
        assert listed(one, a, row) == listed(other, b, row)
    np.testing.assert_array_equal(a.scores, b.scores)


def test_ties_keep_the_order_of_the_record() -> None:
    """Which is by ascending hash: the item agent sees to that."""
    names = sorted((f"t{at}" for at in range(40)), key=item_hash)
    hood = hood_of({"a": Entry(dict.fromkeys(names, 2.0))}, neighbors=40)
    assert [item for item, _, _ in listed(hood, nearest_of(hood, ["a"], size=7))] == names[:7]


def test_a_list_longer_than_all_candidates_is_padded() -> None:
    hood = hood_of({"a": Entry({"b": 3.0})})
    ranked = nearest_of(hood, ["a", "b"], size=9)
    assert listed(hood, ranked) == [("b", "a", ITEM_ITEM)]
    assert (ranked.items[1] == -1).all()
    assert ranked.items.shape == (2, 5), "no item keeps more than 5"


VERSIONS = st.lists(st.tuples(st.sampled_from(NAMES[:3]), st.integers(1, 3), st.integers(0, 3)), max_size=12)


@given(VERSIONS, st.integers(0, 12))
def test_the_greatest_version_counts_and_stale_records_are_told(
    arrivals: list[tuple[str, int, int]], cut: int
) -> None:
    """Each record's row sum names it; the batch is cut in two at ``cut``."""
    hood = Neighborhood(Items(), 5)
    held: dict[str, tuple[tuple[int, int], float]] = {}
    for batch, offset in ((arrivals[:cut], 0), (arrivals[cut:], 100)):
        values = [
            Entry({"x": 1.0}, row_sum=10.0 * term + n, version=(term, n)).value() for _, term, n in batch
        ]
        applied = hood.apply([name for name, _, _ in batch], values)
        for name, term, n in batch:
            if name not in held or (term, n) > held[name][0]:
                held[name] = ((term, n), 10.0 * term + n)
        last = {name: (term, n) for name, term, n in batch}
        stale = {name for name, version in last.items() if version < held[name][0]}
        assert {hood.items.name(at) for at in applied.stale} == stale, offset
    for name, (version, row_sum) in held.items():
        at = hood.items.add(name)
        assert (hood.term[at], hood.n[at]) == version
        assert hood.row_sum[at] == row_sum


def test_a_flag_that_changed_is_told_once() -> None:
    hood = hood_of({"a": Entry({"b": 1.0})})
    steps = [(0, []), (HIDDEN, ["b"]), (HIDDEN | OUT_OF_STOCK, []), (4, ["b"])]
    for n, (flags, told) in enumerate(steps, start=2):
        applied = hood.apply(["b"], [Entry({}, flags=flags, version=(1, n)).value()])
        assert [hood.items.name(at) for at in applied.flagged] == told
        shown = [item for item, _, _ in listed(hood, nearest_of(hood, ["a"]))]
        assert shown == ([] if flags & (HIDDEN | OUT_OF_STOCK) else ["b"])


@pytest.mark.parametrize("by", ["event", "record", "hidden record"])
def test_an_item_is_shown_once_its_name_is_known(by: str) -> None:
    hood = hood_of({"a": Entry({"b": 3.0})}, complete=False)
    assert listed(hood, nearest_of(hood, ["a"])) == []
    if by == "event":
        hood.items.add("b")
    else:
        hood.apply(["b"], [Entry({}, flags=HIDDEN if by == "hidden record" else 0).value()])
    shown = [] if by == "hidden record" else [("b", "a", ITEM_ITEM)]
    assert listed(hood, nearest_of(hood, ["a"])) == shown


def test_a_shorter_list_replaces_a_longer_one_whole() -> None:
    hood = hood_of({"a": Entry({"b": 3.0, "c": 2.0})})
    hood.items.add("d")
    hood.apply(["a"], [Entry({"d": 1.0}, version=(1, 2)).value()])
    assert listed(hood, nearest_of(hood, ["a"])) == [("d", "a", ITEM_ITEM)]


def test_lists_longer_than_kept_are_cut() -> None:
    hood = hood_of({"a": Entry({f"c{at}": 9.0 - at for at in range(8)})}, neighbors=3)
    assert [item for item, _, _ in listed(hood, nearest_of(hood, ["a"], size=8))] == ["c0", "c1", "c2"]


def test_similarities_are_the_formula() -> None:
    shop = {
        "a": Entry({"b": 3.0, "c": 2.0, "d": 1.0}, row_sum=7.0),
        "b": Entry({}, col_sum=5.0),
        "c": Entry({}, col_sum=0.0),
    }
    hood = hood_of(shop, complete=False)
    (found,) = hood.similarities(np.array([hood.items.add("a")], dtype=np.int32))
    expected = [similarity(shop, "a", "b"), similarity(shop, "a", "c"), 0, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_constants_come_from_the_settings() -> None:
    given = {"row_exponent": 1.0, "damping": 0.0, "column_exponent": 0.0, "power": 1.0}
    values = {f"similarity_{name}": value for name, value in given.items()}
    hood = Neighborhood.of(Items(), Settings.model_validate(values | {"neighbors": 20}))
    hood.apply(["a", "b"], [Entry({"b": 3.0}, row_sum=12.0).value(), Entry({}, col_sum=9.0).value()])
    assert hood.cols.shape[1] == 20
    assert hood.similarities(np.array([0], dtype=np.int32))[0, 0] == pytest.approx(0.25)
    # A row without any count divides by nothing.
    hood.apply(["z"], [Entry({}, row_sum=0.0).value()])
    assert np.isfinite(hood.scores).all()


def test_active_items_are_those_with_a_late_event() -> None:
    hour = 3_600_000
    hood = hood_of(
        {"a": Entry({}, last=100 * hour), "b": Entry({}, last=28 * hour + 1), "c": Entry({}, last=28 * hour)}
    )
    everything = np.arange(len(hood.items), dtype=np.int32)
    assert [hood.items.name(at) for at in hood.active(everything, 72).tolist()] == ["a", "b"]
    assert not len(Neighborhood(Items()).active(everything[:0], 72))


def test_a_record_that_cannot_be_read_changes_nothing() -> None:
    hood = hood_of({"a": Entry({"b": 3.0})})
    with pytest.raises(ValueError, match="as long as"):
        hood.apply(["a", "b"], [Entry({}, version=(1, 9)).value(), Entry({"a": 1.0}).value()[:-1]])
    assert listed(hood, nearest_of(hood, ["a"])) == [("b", "a", ITEM_ITEM)]


def test_the_index_of_hashes_equals_the_dictionary() -> None:
    rng = np.random.default_rng(3)
    items, index = Items(), None
    index = HashIndex(items)
    for step in range(6):
        items.add_all([f"s{step}-{at}" for at in range(2000)])
        asked = np.concatenate([rng.choice(items.hashes, 500), rng.integers(0, 2**63, 50).astype(np.uint64)])
        found = index.ids(asked)
        np.testing.assert_array_equal(items.hashes[found], asked)
        np.testing.assert_array_equal(found, items.ids_of_hashes(asked))


def test_the_damped_conditional_of_zero_counts_is_zero() -> None:
    part = Similarity().row_part(np.array([[0.0, 1.0]], dtype=np.float32), np.array([1.0]))
    assert part[0, 0] == 0
    assert part[0, 1] == pytest.approx(101**-0.9, rel=1e-6)


# What the catalogue says


def cold_shop() -> dict[str, Entry]:
    """Shoes of two brands; nobody saw `new` beside anything yet."""
    return {
        "new": Entry({}, tokens={1: 1.0, 2: 1.0}),
        "near": Entry({"far": 2.0}, tokens={1: 1.0, 2: 1.0}, popularity=3.0, col_sum=50.0),
        "akin": Entry({"near": 2.0}, tokens={1: 1.0, 3: 1.0}, popularity=8.0),
        "far": Entry({"near": 2.0}, tokens={4: 1.0}, popularity=99.0),
        "gone": Entry({}, tokens={1: 1.0, 2: 1.0}, flags=HIDDEN),
        "mute": Entry({}),
    }


def similar(hood: Neighborhood, name: str, size: int = 4) -> list[tuple[str, str | None, int]]:
    return listed(hood, nearest(hood, np.array([hood.items.add(name)], dtype=np.int32), size))


def test_an_item_that_was_never_seen_beside_another_has_neighbors_by_content() -> None:
    # The first item of the dictionary is popular, and in no list.
    hood = hood_of({"far": Entry({}, popularity=99.0)} | cold_shop())
    assert similar(hood, "new") == [("near", "new", CONTENT), ("akin", "new", CONTENT)]
    assert similar(hood, "mute") == []
    assert similar(hood, "akin") == [("near", "akin", ITEM_ITEM)]
    assert similar(hood, "gone") == [
        ("near", "gone", CONTENT),
        ("new", "gone", CONTENT),
        ("akin", "gone", CONTENT),
    ]
    scores = hood.similarities(np.array([hood.items.add("new")], dtype=np.int32))[0, :2]
    cosines = hood.content.item_cosine(*np.array([ids(hood, ["new", "new"]), ids(hood, ["near", "akin"])]))
    counts = cosines * np.sqrt(np.array([4.0, 9.0]) / 9.0)
    np.testing.assert_allclose(scores, counts / 101**0.9, rtol=1e-5)


def test_such_a_list_follows_what_becomes_known() -> None:
    hood = hood_of(cold_shop())
    before = similar(hood, "new")
    assert similar(hood, "new") == before
    hood.apply(["twin"], [Entry({}, tokens={1: 1.0, 2: 1.0}, popularity=20.0).value()])
    assert similar(hood, "new", 1) == [("twin", "new", CONTENT)]
    hood.apply(["twin"], [Entry({}, tokens={1: 1.0, 2: 1.0}, flags=OUT_OF_STOCK, version=(1, 2)).value()])
    assert similar(hood, "new") == before
    hood.apply(["new"], [Entry({"far": 1.0}, tokens={1: 1.0, 2: 1.0}, version=(1, 2)).value()])
    assert similar(hood, "new") == [("far", "new", ITEM_ITEM)]


def test_lists_of_bare_items_that_are_like_a_new_one_are_due() -> None:
    hood = hood_of(cold_shop())
    records = [Entry({}, tokens={1: 1.0}).value(), Entry({}, tokens={4: 1.0}).value()]
    applied = hood.apply(["twin", "x"], records)
    assert [hood.items.name(at) for at in applied.described] == ["twin", "x"]
    kin = hood.cold_kin(np.array(ids(hood, ["twin"]), dtype=np.int32))
    assert [hood.items.name(at) for at in kin.tolist()] == ["new"]
    assert not len(hood.cold_kin(np.array(ids(hood, ["x", "mute"]), dtype=np.int32)))
    again = [Entry({}, tokens={1: 1.0}, version=(1, 2), popularity=5.0).value()]
    assert hood.apply(["twin"], again).described == []


def test_what_records_say_is_kept_by_local_id() -> None:
    hood = hood_of({"a": Entry({}, flags=HAS_PRICE, tokens={7: 0.5}, popularity=4.0), "b": Entry({})})
    a, b = ids(hood, ["a", "b"])
    assert hood.price[a] == 2.5
    assert np.isnan(hood.price[b])
    kept = (hood.popularity, hood.usual, hood.season, hood.born, hood.group, hood.category)
    assert [array[a] for array in kept] == [4.0, 3.0, 0.5, 77, 8, 9]
    assert hood.token_weights[a].tolist() == [0.5]
    assert hood.token_weights[b].tolist() == [0.0]
    assert hood.tokens.shape == hood.token_weights.shape == (len(hood.cols), 1)


class Looked(list[str | None]):
    """Names, and how often one was looked up."""

    times = 0

    def __getitem__(self, at: Any) -> Any:
        self.times += 1
        return super().__getitem__(at)


def test_items_are_shown_once_named_and_those_without_a_name_are_waited_for_at_no_cost() -> None:
    hood = hood_of({})
    (early, late), strangers = (item_hash(name) for name in ("early", "late")), range(1, 1000)
    ids = hood.items.ids_of_hashes(np.array([early, late, *strangers], dtype=np.uint64))
    hood.reserve()
    names = hood.items.names = Looked(hood.items.names)
    hood.items.add("early")
    hood.items.add("new")
    hood.reserve()
    assert hood.column[ids].tolist() == [1.0, *[0.0] * 1000] and hood.column[hood.items.add("new")] == 1
    hood.items.add("late")
    looked = names.times
    for _ in range(3):
        hood.reserve()
    assert hood.column[ids].tolist() == [1.0, 1.0, *[0.0] * 999]
    assert names.times == looked, "who has no name must not be looked at with every batch"
