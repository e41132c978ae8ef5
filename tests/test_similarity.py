"""All measures of similarity against their formulas in plain Python, with 60 digits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stream.core.items import Items
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import nearest
from stream.core.recommend import kernel
from stream.core.recommend.explain import RANKED, explain
from stream.core.recommend.lists import Recommender
from stream.core.similarity import Similarity
from stream.settings import Settings
from tests.shops import NAMED, User, World, evidence, some_recommender, some_world
from tests.test_lean import oracle as lean_oracle
from tests.test_ranking import NAMES, SHOP, Entry, Shop, oracle

NAMED_ONES = ("cosine", "pearson", "lift", "llr")
ALL = ("conditional", *NAMED_ONES)
NONE = np.zeros(0, dtype=np.int32)
_LEAST = 1e-3


def total(shop: Shop) -> float:
    return sum(entry.row_sum for entry in shop.values())


def log_sum(values: Iterable[Decimal]) -> Decimal:
    """Σ x·ln x."""
    return sum((x * x.ln() for x in values if x), Decimal(0))


def of_table(name: str, count: float, row: float, column: float, n: float) -> float:
    """φ and G² by the textbook, of the table that has these counts."""
    with localcontext(prec=60):
        c = Decimal(count)
        p, q = max(Decimal(row) - c, Decimal(0)), max(Decimal(column) - c, Decimal(0))
        o = max(Decimal(n) - c - p - q, Decimal(0))
        rows, columns, whole = (c + p, q + o), (c + q, p + o), c + p + q + o
        joint = c * whole - rows[0] * columns[0]
        if joint <= 0:
            return 0.0
        if name == "pearson":
            return float(joint / (rows[0] * rows[1] * columns[0] * columns[1]).sqrt())
        return float(2 * (log_sum((c, p, q, o, whole)) - log_sum((*rows, *columns))))


def similarity(name: str, shop: Shop, i: str, j: str) -> float:
    """S(i→j) by the formulas of `stream.core.similarity`."""
    count, row = shop[i].list[j], shop[i].row_sum
    column = (shop[j].col_sum if j in shop else 0.0) or 1.0
    if name == "conditional":
        return float(count / ((row + 100.0) ** 0.9 * column**0.15))
    count = min(count, float(np.float32(row)))
    if not count:
        return 0.0
    if name == "cosine":
        return count / math.sqrt(row * max(column, _LEAST))
    if name == "lift":
        return count * total(shop) / (row * max(column, _LEAST))
    return of_table(name, count, row, column, total(shop))


def close(shop: Shop, i: str, j: str) -> float:
    """How far 32 bits of a count, and 64 of sums of millions, may lead astray; G² grows with counts."""
    return 1e-6 + 1e-5 * shop[i].list[j] + 1e-11 * total(shop)


def hood_of(shop: Shop, name: str, order: list[str] | None = None) -> Neighborhood:
    chosen = Similarity() if name == "conditional" else Similarity.named(name)
    hood = Neighborhood(Items(), 5, chosen)
    hood.items.ids(NAMES)
    for item in order or list(shop):
        if item in shop:
            hood.apply([item], [shop[item].value()])
    return hood


def listed(hood: Neighborhood, subject: str) -> dict[str, float]:
    ranked = nearest(hood, hood.items.ids([subject]), 5)
    items, scores = ranked.items[0].tolist(), ranked.scores[0].tolist()
    assert scores == sorted(scores, reverse=True)
    return {hood.items.name(at): score for at, score in zip(items, scores, strict=True) if at >= 0}


# Sums and counts of which each may be anything, and such as counting makes


@st.composite
def counted(draw: st.DrawFn) -> Shop:
    """A shop of which rows and columns add up, each item having few neighbours."""
    names = NAMES[:6]
    pairs = st.dictionaries(
        st.tuples(st.sampled_from(names), st.sampled_from(names)).filter(lambda two: two[0] != two[1]),
        st.floats(0.25, 100, width=32),
        max_size=12,
    )
    held = draw(pairs)
    rows = {i: {j: c for (one, j), c in held.items() if one == i} for i in names}
    columns = {j: sum(c for (_, one), c in held.items() if one == j) for j in names}
    kept = {i: dict(sorted(row.items(), key=lambda each: -each[1])[:5]) for i, row in rows.items()}
    return {i: Entry(kept[i], row_sum=sum(rows[i].values()), col_sum=columns[i]) for i in names}


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=100, deadline=None)
@given(shop=st.one_of(SHOP, counted()))
def test_lists_are_those_of_the_formula(name: str, shop: Shop) -> None:
    hood = hood_of(shop, name)
    for i in shop:
        found = listed(hood, i)
        for j in oracle(shop, i):
            expected = similarity(name, shop, i, j)
            assert found.get(j, 0.0) == pytest.approx(expected, rel=1e-4, abs=close(shop, i, j))
        assert found.keys() <= oracle(shop, i).keys()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=50, deadline=None)
@given(shop=st.one_of(SHOP, counted()), order=st.permutations(NAMES))
def test_the_order_of_records_matters_only_to_the_rounding_of_their_sum(
    name: str, shop: Shop, order: list[str]
) -> None:
    one, other = hood_of(shop, name), hood_of(shop, name, order)
    for i in shop:
        a, b = listed(one, i), listed(other, i)
        for j in oracle(shop, i):
            assert a.get(j, 0.0) == pytest.approx(b.get(j, 0.0), rel=1e-6, abs=1e-11 * total(shop))


@pytest.mark.parametrize("name", NAMED_ONES)
@settings(max_examples=50, deadline=None)
@given(shop=counted())
def test_a_list_follows_what_its_neighbours_and_all_others_have_counted_since(name: str, shop: Shop) -> None:
    """A row's own record need not come again."""
    hood = hood_of(shop, name)
    changed = dict(shop)
    for at, item in enumerate(NAMES[6:9] + NAMES[1:3]):
        before = shop.get(item, Entry({}))
        changed[item] = Entry(before.list, before.row_sum + 40 * at, before.col_sum + 7, version=(2, 1))
        hood.apply([item], [changed[item].value()])
    for j in oracle(changed, NAMES[0]):
        expected = similarity(name, changed, NAMES[0], j)
        tolerance = close(changed, NAMES[0], j)
        assert listed(hood, NAMES[0]).get(j, 0.0) == pytest.approx(expected, rel=1e-4, abs=tolerance)


MOST = 2.0**62
ANY = st.one_of(st.just(0.0), st.just(MOST), st.floats(0, 1e-300), st.floats(0, MOST))
STRANGE = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        Entry,
        st.dictionaries(st.sampled_from(NAMES), st.floats(0, MOST, width=32), max_size=5),
        row_sum=ANY,
        col_sum=ANY,
    ),
    min_size=1,
)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=200, deadline=None)
@given(shop=STRANGE)
def test_whatever_records_hold_it_is_a_number_not_below_zero(name: str, shop: Shop) -> None:
    hood = hood_of(shop, name)
    with np.errstate(all="raise", under="ignore"):
        found = hood.similarities(hood.items.ids(NAMES))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert name != "pearson" or (found <= 1).all()


def test_measures_differ_in_what_they_put_first() -> None:
    """After i0 mostly i1 comes, as after all else; i2 seldom, but only there; i3 often, and mostly there."""
    shop = {
        "i0": Entry({"i1": 34.0, "i2": 6.0, "i3": 20.0}, row_sum=60.0),
        "i1": Entry({}, row_sum=300.0, col_sum=700.0),
        "i2": Entry({}, row_sum=300.0, col_sum=6.0),
        "i3": Entry({}, row_sum=340.0, col_sum=40.0),
    }
    lists = {name: list(listed(hood_of(shop, name), "i0")) for name in ALL}
    assert lists == {
        "conditional": ["i1", "i3", "i2"],
        "cosine": ["i3", "i2", "i1"],
        "pearson": ["i3", "i2"],
        "lift": ["i2", "i3", "i1"],
        "llr": ["i3", "i2"],
    }


def test_a_textbook_table() -> None:
    """Dunning's "the swiss" (1993, table 2): 110 of 31,777 pairs, −2 log λ = 270.72."""
    count, only_row, only_column, neither = 110.0, 2442.0, 111.0, 29114.0
    n = count + only_row + only_column + neither
    shop = {
        "i0": Entry({"i1": count}, row_sum=count + only_row),
        "i1": Entry({}, row_sum=n - count - only_row, col_sum=count + only_column),
    }
    assert listed(hood_of(shop, "llr"), "i0")["i1"] == pytest.approx(270.72, abs=0.005)


# The default


@given(shop=SHOP)
def test_the_default_is_the_product_of_its_parts_and_nothing_else(shop: Shop) -> None:
    hood = hood_of(shop, "conditional")
    assert hood.similarity == Similarity.of(Settings())
    at = hood.items.ids(NAMES)
    column = np.where(hood.cols[at] < 0, np.float32(0), hood.column.take(hood.cols[at], mode="clip"))
    np.testing.assert_array_equal(hood.similarities(at), hood.scores[at] * column)
    for row, name in enumerate(NAMES):
        entry = shop.get(name, Entry({}))
        counts = np.array(list(entry.list.values()), dtype=np.float32)
        parts = np.power(counts, np.float32(1)) * np.float32(np.power(entry.row_sum + 100.0, -0.9))
        np.testing.assert_array_equal(hood.scores[at[row], : len(counts)], parts)


# Where it is used


@dataclass(frozen=True)
class Other(World):
    """A world whose items are similar by another measure."""

    name: str = field(default="cosine")

    def __post_init__(self) -> None:
        super().__post_init__()
        hood = Neighborhood(Items(), self.neighbors, Similarity.named(self.name))
        hood.apply(list(self.shop), [entry.value() for entry in self.shop.values()])
        hood.items.add_all(NAMED)
        hood.reserve()
        object.__setattr__(self, "hood", hood)

    def similarity(self, i: str, j: str) -> float:
        return similarity(self.name, self.shop, i, j)


def some_other(seed: int, name: str, users: int = 3) -> Other:
    made = some_world(seed, users)
    return Other(made.shop, made.trending, made.users, made.neighbors, name)


@pytest.mark.parametrize("name", NAMED_ONES)
def test_the_component_gives_what_the_formula_says(name: str) -> None:
    for seed in range(20):
        world = some_other(seed, name)
        found = kernel.entries(world.hood, world.query())
        for row, user in enumerate(world.users):
            for number, channel in enumerate(("far", "near", "last")):
                check_entries(world, user, channel, found.item[row], found.channel(number)[row])


def check_entries(world: Other, user: User, channel: str, item: np.ndarray, value: np.ndarray) -> None:
    told: dict[str, float] = {}
    for at, each in zip(item.tolist(), value.tolist(), strict=True):
        if at >= 0:
            name = world.hood.items.name(at)
            told[name] = told.get(name, 0.0) + each
    for j, channels in evidence(world, user).items():
        expected = sum(each for each, _ in channels.get(channel, []))
        assert told.pop(j, 0.0) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert not told


@pytest.mark.parametrize("name", NAMED_ONES)
def test_lean_lists_are_made_of_it_too(name: str) -> None:
    for seed in range(20):
        world, recommender = some_other(seed, name), Recommender(["lean"])
        ranked = recommender.rank(world.sources(), world.query(), (NONE, NONE), 8)
        for row, user in enumerate(world.users):
            told = lean_oracle(world, user.profile)
            sums = sorted((1e-9 + sum(each for each, *_ in one) for one in told.values()), reverse=True)[:8]
            assert ranked.scores[row, : len(sums)].tolist() == pytest.approx(sums, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", NAMED_ONES)
def test_explanations_add_up_and_tell_counts_and_total(name: str) -> None:
    shown = 0
    for seed in range(10):
        world, recommender = some_other(seed, name), some_recommender(seed)
        ranked = recommender.rank(world.sources(), world.query(), (NONE, NONE), 10)
        for row, user in enumerate(world.users):
            for at, score in zip(ranked.items[row].tolist(), ranked.scores[row].tolist(), strict=True):
                if at < 0:
                    continue
                told = explain(recommender, world.sources(), world.query([user]), at)
                assert told.status == RANKED
                assert told.score == pytest.approx(score, rel=1e-6, abs=0)
                (far,) = (each for each in told.channels if each.channel == "item-item far")
                for entry in far.entries:
                    shown += 1
                    figures, i = entry.figures, world.shop[str(entry.because)]
                    count = min(i.list[told.item], i.row_sum)
                    assert figures["count"] == pytest.approx(count, rel=1e-5)
                    expected = world.similarity(str(entry.because), told.item)
                    assert figures["similarity"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
                    assert figures["discount"] == pytest.approx(0.8 ** figures["items ago"], rel=1e-5)
                    sums = {"total"} & figures.keys()
                    assert sums == (set() if name == "cosine" else {"total"})
                    assert not sums or figures["total"] == pytest.approx(total(world.shop))
    assert shown > 50


@pytest.mark.parametrize("name", NAMED_ONES)
def test_an_item_nobody_saw_beside_another_is_shown_what_is_like_it(name: str) -> None:
    shop = {
        "i0": Entry({}, tokens={1: 1.0, 2: 1.0}),
        "i1": Entry({"i2": 2.0}, tokens={1: 1.0, 2: 1.0}, col_sum=50.0),
        "i2": Entry({"i1": 2.0}, tokens={1: 1.0, 3: 1.0}),
        "i3": Entry({"i1": 2.0}, tokens={4: 1.0}),
    }
    assert list(listed(hood_of(shop, name), "i0")) == ["i1", "i2"]


def test_the_setting_chooses_and_names_what_there_is() -> None:
    for name in NAMED_ONES:
        assert Similarity.of(Settings.model_validate({"similarity": name})).name == name
    with pytest.raises(ValidationError, match=r"similarity\n.*'conditional', 'cosine', 'pearson', 'lift'"):
        Settings.model_validate({"similarity": "jaccard"})
