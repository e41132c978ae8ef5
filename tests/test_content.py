from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream.core.content as module
from stream.core.content import Content, category_of, item_tokens, token_hash, words
from stream.core.items import Items, item_hash
from stream.core.neighbor_format import MOST_TOKENS

NAMES = [f"i{at}" for at in range(9)]
TOKENS = ["a", "b", "c", "d", "e", "f"]
Described = dict[str, float]
Catalog = dict[str, Described]
"""What each item is said to be: token → weight."""

TOLD = st.dictionaries(st.sampled_from(TOKENS), st.sampled_from([1.0, 0.5, 0.25]), max_size=4)
CATALOG = st.dictionaries(st.sampled_from(NAMES), TOLD, max_size=9)


def h(token: str) -> int:
    return token_hash(token) & 0xFFFF_FFFF


class TestTokens:
    def test_attributes_group_name_and_description(self) -> None:
        fields = {
            "attributes": {"colour": ["red", "Dark Blue"], "size": 42, "sale": True, "old": False},
            "group": "Acme",
            "name": "Ｒed Mug",
            "description": "A mug, a MUG for tea; the mug mug",
        }
        assert item_tokens(fields) == {
            h("colour=red"): 1.0,
            h("colour=Dark Blue"): 1.0,
            h("size=42"): 1.0,
            h("sale=true"): 1.0,
            h("old=false"): 1.0,
            h("group=Acme"): 1.0,
            h("red"): 0.5,
            h("mug"): 0.5,
            h("for"): 0.25,
            h("tea"): 0.25,
            h("the"): 0.25,
        }

    def test_nothing_is_said(self) -> None:
        assert item_tokens({}) == {}
        assert item_tokens({"attributes": {}, "name": "", "price": 3.0}) == {}
        assert category_of({}) == category_of({"attributes": {"colour": []}}) == 0

    def test_words_are_of_letters_and_digits(self) -> None:
        assert words("A4 x_y Größe-ﬁne 日本 I o'clock") == ["a4", "größe", "fine", "日本", "clock"]

    def test_times_count_by_their_root_up_to_three(self) -> None:
        found = item_tokens({"description": "one two two three three three four four four four"})
        expected = {"one": 1, "two": 2, "three": 3, "four": 3}
        assert found == {h(word): 0.25 * math.sqrt(times) for word, times in expected.items()}

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            (10.5, 10.9, True),
            (10.5, 12.5, False),
            (10.5, -10.5, False),
            (40, 41, False),
            (3.0, 3, True),
            (0.1, 0.11, True),
            (0.1, 0.2, False),
            (True, 1, False),
        ],
    )
    def test_fractions_are_alike_within_half_an_octave(self, one: float, other: float, same: bool) -> None:
        a, b = (item_tokens({"attributes": {"x": value}}) for value in (one, other))
        assert (a == b) == same

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_every_number_has_one_token(self, number: float) -> None:
        assert len(item_tokens({"attributes": {"x": number}})) == 1

    def test_of_too_many_the_heaviest_then_the_longest_stay(self) -> None:
        told = " ".join("x" * n for n in range(2, 40))
        found = item_tokens({"attributes": {"a": ["1", "2"]}, "name": "red mug", "description": told})
        assert len(found) == MOST_TOKENS
        kept = ["a=1", "a=2", "red", "mug", *("x" * n for n in range(39, 19, -1))]
        assert list(found) == [h(token) for token in kept]
        assert list(found.values()) == sorted(found.values(), reverse=True)

    def test_the_category_is_named_or_first(self) -> None:
        fields = {"attributes": {"brand": "Acme", "category": ["shoes", "sale"]}}
        assert category_of(fields) == token_hash("category=shoes")
        assert category_of({"attributes": {"brand": ["Acme", "x"]}}) == token_hash("brand=Acme")


# Cosine


@dataclass
class Shop:
    """A catalogue as a worker knows it."""

    items: Items = field(default_factory=Items)
    told: Catalog = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.content = Content(self.items)

    def learn(self, catalog: Catalog) -> list[str]:
        """Records of some items; returns those that are news."""
        self.told |= catalog
        ids = self.items.ids(catalog)
        self.content.reserve(max(len(self.items), 16))
        tokens, weights = padded(list(catalog.values()))
        none = np.zeros(len(ids), dtype=np.int64)
        empty = np.zeros((len(ids), 0), dtype=np.int8)
        return [self.items.name(at) for at in self.content.learn(ids, tokens, weights, none, empty).tolist()]

    def ids(self, names: Sequence[str | None]) -> list[int]:
        return [-1 if name is None else self.items.add(name) for name in names]


def padded(told: list[Described]) -> tuple[module.U32, module.F32]:
    width = max((len(each) for each in told), default=0)
    tokens = np.zeros((len(told), width), dtype=np.uint32)
    weights = np.zeros((len(told), width), dtype=np.float32)
    for at, each in enumerate(told):
        tokens[at, : len(each)] = [h(token) for token in each]
        weights[at, : len(each)] = list(each.values())
    return tokens, weights


def coarse(n: int) -> int:
    """A whole number with all but its four highest binary digits set to 0."""
    low = max(n.bit_length() - 4, 0)
    return n >> low << low


def unit(catalog: Catalog, name: str) -> Described:
    """The item's vector of length 1, by the formula."""
    n = coarse(sum(bool(told) for told in catalog.values()))
    df = {token: coarse(sum(token in told for told in catalog.values())) for token in TOKENS}
    vector = {
        token: weight * (math.log((n + 1) / (df[token] + 1)) + 0.1)
        for token, weight in catalog.get(name, {}).items()
    }
    return normal(vector)


def normal(vector: Described) -> Described:
    length = math.sqrt(sum(value**2 for value in vector.values()))
    return {token: value / length for token, value in vector.items()}


def dot(a: Described, b: Described) -> float:
    return sum(value * b.get(token, 0.0) for token, value in a.items())


def profile_of(catalog: Catalog, items: list[tuple[str | None, float]]) -> Described:
    total: Described = {}
    for name, weight in items:
        for token, value in unit(catalog, name).items() if name is not None else ():
            total[token] = total.get(token, 0.0) + weight * value
    return normal(total) if any(total.values()) else {}


PROFILE = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from(NAMES)), st.sampled_from([1.0, 0.5, 0.0])),
    min_size=3,
    max_size=3,
)
WANTED = st.lists(st.one_of(st.none(), st.sampled_from(NAMES)), min_size=4, max_size=4)


@settings(max_examples=200)
@given(st.lists(CATALOG, min_size=1, max_size=3), st.lists(st.tuples(PROFILE, WANTED), max_size=4))
def test_cosines_are_those_of_the_formula(
    batches: list[Catalog], users: list[tuple[list[tuple[str | None, float]], list[str | None]]]
) -> None:
    shop = Shop()
    shop.items.ids(NAMES)
    for batch in batches:
        shop.learn(batch)
        shop.content.units()
    profile = np.array([shop.ids([name for name, _ in one]) for one, _ in users], dtype=np.int32)
    weights = np.array([[weight for _, weight in one] for one, _ in users], dtype=np.float32)
    wanted = np.array([shop.ids(names) for _, names in users], dtype=np.int32)
    found = shop.content.cosine(profile.reshape(-1, 3), weights.reshape(-1, 3), wanted.reshape(-1, 4))
    expected = [
        [dot(profile_of(shop.told, one), unit(shop.told, name)) if name else 0.0 for name in names]
        for one, names in users
    ]
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 4)), atol=1e-5)
    pairs = [(i, j) for i in NAMES for j in NAMES]
    i, j = np.array([shop.ids(pair) for pair in pairs], dtype=np.int32).T
    cosines = [dot(unit(shop.told, a), unit(shop.told, b)) for a, b in pairs]
    np.testing.assert_allclose(shop.content.item_cosine(i, j), cosines, atol=1e-5)


@given(st.lists(st.tuples(st.sampled_from(NAMES), TOLD), max_size=12), st.randoms())
def test_what_is_known_does_not_depend_on_how_it_came(news: list[tuple[str, Described]], rng: object) -> None:
    """One by one with each replaced later, or all at once in another order: the same weights to the bit."""
    one, other = Shop(), Shop()
    for name, told in news:
        one.learn({name: told})
        one.content.units()
    last = dict(news)
    names = sorted(last)
    getattr(rng, "shuffle")(names)  # noqa: B009 - Hypothesis gives its own class
    other.learn({name: last[name] for name in names})
    assert one.content.known == other.content.known
    for name in last:
        a, b = one.items.add(name), other.items.add(name)
        width = len(last[name])
        np.testing.assert_array_equal(one.content.units()[a, :width], other.content.units()[b, :width])
        assert not one.content.units()[a, width:].any()


@given(CATALOG, CATALOG)
def test_only_what_is_new_is_news(first: Catalog, then: Catalog) -> None:
    shop = Shop()
    assert sorted(shop.learn(first)) == sorted(name for name, told in first.items() if told)
    assert shop.learn(first) == []
    expected = [name for name in then if list(then[name].items()) != list(first.get(name, {}).items())]
    assert sorted(shop.learn(then)) == sorted(expected)


def test_many_users_are_compared_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    shop = Shop()
    tokens = [f"t{at}" for at in range(400)]
    names = [f"n{at}" for at in range(500)]
    shop.learn({name: dict.fromkeys(rng.choice(tokens, rng.integers(0, 7)).tolist(), 1.0) for name in names})
    profile = rng.integers(-1, 500, (300, 5)).astype(np.int32)
    weights = rng.random((300, 5)).astype(np.float32)
    candidates = rng.integers(-1, 500, (300, 40)).astype(np.int32)
    together = shop.content.cosine(profile, weights, candidates)
    ragged = rng.random(candidates.shape) < 0.3
    row = np.nonzero(ragged)[0]
    some = shop.content.cosine_of(profile, weights, row, candidates[ragged])
    np.testing.assert_allclose(some, together[ragged], atol=1e-6)
    assert together.max() > 0.5
    for at in (0, 63, 64, 65, 128, 299):
        part = slice(at, at + 1)
        alone = shop.content.cosine(profile[part], weights[part], candidates[part])
        np.testing.assert_array_equal(together[at], alone[0])


# Neighbours


def neighbors_of(
    shop: Shop, names: list[str], k: int, popularity: dict[str, float], hidden: set[str]
) -> list[list[tuple[str, float]]]:
    cap = len(shop.content.weights)
    popular, shown = np.zeros(cap, dtype=np.float32), np.ones(cap, dtype=np.bool_)
    for name, value in popularity.items():
        popular[shop.items.add(name)] = value
    shown[shop.ids(sorted(hidden))] = False
    ids, values = shop.content.neighbors(np.array(shop.ids(names), dtype=np.int32), k, popular, shown)
    assert ids.shape == values.shape == (len(names), k)
    assert ((ids >= 0) == (values > 0)).all()
    return [
        [(shop.items.name(at), value) for at, value in zip(row, found, strict=True) if at >= 0]
        for row, found in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def value_of(shop: Shop, i: str, j: str, popularity: dict[str, float]) -> float:
    return dot(unit(shop.told, i), unit(shop.told, j)) * math.sqrt(1 + popularity.get(j, 0.0))


@settings(max_examples=150)
@given(
    CATALOG,
    CATALOG,
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 1.0, 7.5])),
    st.sets(st.sampled_from(NAMES), max_size=2),
    st.integers(1, 10),
    st.sampled_from([0, 500]),
)
def test_neighbors_are_those_of_brute_force(
    indexed: Catalog, since: Catalog, popularity: dict[str, float], hidden: set[str], k: int, least: int
) -> None:
    shop = Shop()
    shop.items.ids(NAMES)
    with pytest.MonkeyPatch.context() as patched:
        # 0: an index is made of whatever came first.
        patched.setattr(module, "REINDEX", least)
        shop.learn(indexed)
        neighbors_of(shop, NAMES, 2, popularity, hidden)
        shop.learn(since)
        found = neighbors_of(shop, NAMES, k, popularity, hidden)
    for name, row in zip(NAMES, found, strict=True):
        every = {j: value_of(shop, name, j, popularity) for j in NAMES if j != name and j not in hidden}
        best = sorted((value for value in every.values() if value > 0), reverse=True)[:k]
        np.testing.assert_allclose([value for _, value in row], best, rtol=1e-4)
        np.testing.assert_allclose([every[j] for j, _ in row], best, rtol=1e-4)
        assert len({j for j, _ in row}) == len(row)


def test_ties_go_by_ascending_hash() -> None:
    shop = Shop()
    names = [f"t{at}" for at in range(30)]
    shop.learn({name: {"a": 1.0} for name in ["x", *names]})
    (row,) = neighbors_of(shop, ["x"], 7, {}, set())
    assert [name for name, _ in row] == sorted(names, key=item_hash)[:7]


def test_of_a_common_token_the_most_popular_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSTINGS", 5)
    monkeypatch.setattr(module, "REINDEX", 0)
    shop = Shop()
    names = [f"t{at}" for at in range(30)]
    popularity = {name: float(at) for at, name in enumerate(names)}
    shop.learn({name: {"a": 1.0} for name in ["x", *names]} | {"near": {"a": 1.0, "b": 1.0}})
    (row,) = neighbors_of(shop, ["x"], 20, popularity | {"x": 99.0}, set())
    assert [name for name, _ in row] == ["t29", "t28", "t27", "t26"]
    monkeypatch.setattr(module, "CANDIDATES", 2)
    shop.learn({"new": {"b": 1.0, "a": 1.0}})
    # What came since the index is looked at whatever the bounds; then the rarest token's, then what fits.
    (row,) = neighbors_of(shop, ["new"], 20, popularity | {"x": 99.0}, set())
    assert {name for name, _ in row} == {"near", "x"}


def test_an_item_without_content_has_no_neighbors() -> None:
    shop = Shop()
    shop.learn({"a": {"a": 1.0}, "b": {}, "c": {"a": 1.0}})
    assert neighbors_of(shop, ["b"], 3, {}, set()) == [[]]
    assert [[j for j, _ in row] for row in neighbors_of(shop, ["a", "c"], 3, {}, set())] == [["c"], ["a"]]
    assert neighbors_of(shop, [], 3, {}, set()) == []
