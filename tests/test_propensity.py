"""Who redeems which coupon: features, learning and what the evaluation may know, against plain Python."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import exp, log, log1p, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from producers.datasets.complete_journey import DAY_MS, CompleteJourney, Coupons
from stream.core.choice import WEIGHTS
from stream.core.propensity import FEATURES, Evidence, Propensity, alike, best, features
from stream.evaluation import live_coupons
from stream.evaluation.coupons import TEST_MS, Journey, Pairs, auc, average_precision, pairs

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

NOW = 40 * DAY_MS
"""When the second campaign of the shop below begins; the first began ten days before and is over by then."""
COVERS = {(0, 7): {1, 2}, (0, 8): {3}, (1, 7): {1, 2, 4}, (1, 9): {9}}
"""Products that coupons are good for, by campaign and code; nobody ever bought 9."""
TYPES = {1: 0, 2: 1, 3: 0, 4: 1}
SENT = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 3)]
REDEEMED = [(0, 1, 7, NOW - 5 * DAY_MS), (1, 3, 7, NOW + DAY_MS)]


@dataclass(frozen=True)
class Line:
    """A line of a basket, numbered by its household and day."""

    household: int
    day: float
    product: int
    coupon: bool
    reduced: bool


Lines = list[Line]
LINE = st.builds(
    Line,
    st.integers(0, 3),
    st.sampled_from([2.0, 15.5, 39.0]),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
FIRST = Line(2, 0.0, 1, False, False)


class Shop(CompleteJourney):
    """Two campaigns, with lines as given and perhaps more redemptions."""

    def __init__(self, lines: Lines, redeemed: list[tuple[int, int, int, int]] = REDEEMED) -> None:
        self.told, self.redeemed = sorted([FIRST, *lines], key=lambda line: line.day), redeemed

    def baskets(self) -> tuple[I64, I64, I64, I64]:
        rows = [(x.household, x.household + 10 * x.day, x.product, x.day * DAY_MS) for x in self.told]
        household, basket, product, time = np.array(rows, dtype=np.float64).T
        return household.astype(int), basket, product.astype(int), time.astype(int)

    def with_coupon(self) -> Bool:
        return np.array([x.coupon for x in self.told])

    def reduced(self) -> Bool:
        return np.array([x.reduced for x in self.told])

    def types(self) -> tuple[I64, I64]:
        return np.array(list(TYPES)), np.array(list(TYPES.values()))

    def coupons(self) -> Coupons:
        covers = [(*coupon, product) for coupon, products in COVERS.items() for product in products]
        starts = np.array([NOW - 10 * DAY_MS, NOW])
        columns = np.array(covers).T, np.array(SENT).T, np.array(self.redeemed).T
        return Coupons(starts, np.array([NOW, NOW + 30 * DAY_MS]), *columns[0], *columns[1], *columns[2])


def scored(shop: Shop) -> Pairs:
    return pairs(shop, NOW)


def expected_features(lines: Lines, household: int, code: int) -> list[float]:
    """The features of a pair of the second campaign, one line of a basket after the other."""
    before = [x for x in [FIRST, *lines] if x.day * DAY_MS < NOW]
    sizes = {
        (x.household, x.day): sum((y.household, y.day) == (x.household, x.day) for y in before)
        for x in before
    }
    worth = {x: 2 ** ((x.day - 40) / 365) / sqrt(sizes[x.household, x.day]) for x in before}
    mine, good = [x for x in before if x.household == household], COVERS[1, code]
    kinds = {TYPES[product] for product in good if product in TYPES}
    days = {x.day for x in mine}
    used = {(x.household, x.day) for x in before if x.coupon}
    usual = max(len(used) / len(sizes), 1e-3)
    redeemed = 1.0 if household == 1 else 0.0
    usually = 0.5 if household in (0, 1) else 0.0
    near = 2 / sqrt(2 * 3) if code == 7 else 0.0
    return [
        1.0,
        log(0.01 + sum(worth[x] for x in mine if x.product in good)),
        log(0.01 + sum(worth[x] for x in mine if x.product in good and x.reduced)),
        float(any(TYPES[x.product] in kinds for x in mine)),
        float(household == 1 and code == 7),
        log1p(sum(2 ** ((day - 40) / 365) for day in days)),
        log((sum(of == household for of, _ in used) + 0.5) / usual / (len(days) + 0.5 / usual)),
        log((redeemed + 0.5) / (usually + 0.5)),
        log(2),
        log((near + 2) / (0.5 * near + 2)),
    ]


@given(st.lists(LINE, max_size=25))
@settings(deadline=None, max_examples=50)
def test_features_are_those_of_plain_python(lines: Lines) -> None:
    found, x = scored(Shop(lines)), features_of(Shop(lines))
    everyone = [(household, code) for household in (0, 1, 3) for code in (7, 9)]
    assert found.household.tolist() == [household for household, _ in everyone]
    assert found.redeemed.tolist() == [pair == (3, 7) for pair in everyone]
    assert x == pytest.approx(np.array([expected_features(lines, *pair) for pair in everyone]))


@given(st.lists(LINE, max_size=15), st.lists(LINE, min_size=1, max_size=15), st.booleans())
@settings(deadline=None, max_examples=50)
def test_what_happens_from_the_begin_on_changes_no_feature_and_no_score(
    lines: Lines, later: Lines, redeemed: bool
) -> None:
    """The leakage law: baskets at and after the begin, and redemptions of the campaign itself."""
    after = [Line(x.household, x.day + 38, x.product, x.coupon, x.reduced) for x in later]
    more = [*REDEEMED, (1, 0, 9, NOW), (0, 0, 8, NOW)] if redeemed else REDEEMED[:1]
    shops = [Shop([*lines, *(x for x in after if x.day >= 40)], more), Shop(lines)]
    one, other = map(features_of, shops)
    assert np.array_equal(one, other)


def features_of(shop: Shop) -> F64:
    """Features of the second campaign."""
    return Journey(shop).campaign(1).features


def test_a_campaign_teaches_when_its_last_day_is_over_and_not_before() -> None:
    """The first one's outcome moves scores of the second; had it lasted longer, it would not."""
    lines = [Line(0, 2.0, 1, True, False), Line(1, 2.0, 3, False, True)]
    fresh = Propensity().score(features_of(Shop(lines)))
    assert not np.allclose(scored(Shop(lines)).score, fresh)
    assert np.array_equal(scored(Lasting(lines)).score, fresh)


class Lasting(Shop):
    """The first campaign is over a moment after the second begins."""

    def coupons(self) -> Coupons:
        told = super().coupons()
        told.end_ms[0] += 1
        return told


def test_ratios_of_those_of_whom_nothing_is_known_are_usual() -> None:
    nothing = np.zeros(1)
    told = Evidence(**{each.name: nothing for each in fields(Evidence)} | {"coupons": np.ones(1)})
    found = dict(zip(FEATURES, features(told)[0], strict=True))
    usual = ("use", "redemptions", "alike", "visits", "choice")
    assert [found[name] for name in usual] == [0.0] * len(usual)
    assert (found["one"], found["own"], found["reduced"]) == (1.0, log(0.01), log(0.01))


def test_alike_is_by_cosine_of_what_coupons_are_good_for() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.random((3, 6)) < 0.4, rng.random((5, 6)) < 0.4
    new[0], old[0] = False, False
    redeemed, expected = rng.integers(0, 9, 5).astype(float), rng.random(5)
    sums = [[0.0, 0.0] for _ in new]
    for at, mine in enumerate(new):
        for other, theirs in enumerate(old):
            near = (mine & theirs).sum() / max(sqrt(mine.sum() * theirs.sum()), 1)
            sums[at][0] += near * redeemed[other]
            sums[at][1] += near * expected[other]
    covers, earlier = (sparse.csr_array(each.astype(float)) for each in (new, old))
    found = alike(covers, earlier, redeemed, expected)
    assert np.column_stack(found) == pytest.approx(np.array(sums))


def drawn(seed: int, n: int = 400) -> tuple[F64, Bool]:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, len(FEATURES) - 1))])
    return x, rng.random(n) < 1 / (1 + np.exp(2 - x @ np.linspace(-1, 1, len(FEATURES))))


def test_learning_ends_where_the_posterior_is_highest() -> None:
    """Twice, the first posterior the second's prior: slope zero, precision the prior's and the curvature."""
    model = Propensity()
    for seed in (1, 2):
        x, y = drawn(seed)
        mean, precision = model.mean.copy(), model.precision.copy()
        model.learn(x, y)
        p = np.array([1 / (1 + exp(-z)) for z in x @ model.mean])
        assert x.T @ (y - p) - precision @ (model.mean - mean) == pytest.approx(0, abs=0.05)
        assert model.precision == pytest.approx(precision + x.T @ np.diag(p * (1 - p)) @ x, rel=1e-6)
    assert model.learned == 800


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_the_order_of_pairs_does_not_matter(seed: int) -> None:
    x, y = drawn(3)
    order = np.random.default_rng(seed).permutation(len(x))
    one, other = Propensity(), Propensity()
    one.learn(x, y)
    other.learn(x[order], y[order])
    assert other.mean == pytest.approx(one.mean, rel=1e-9)
    assert other.score(x[order]) == pytest.approx(one.score(x)[order], rel=1e-9)


@pytest.mark.parametrize("redeemed", [False, True])
def test_learning_is_safe_where_all_outcomes_are_the_same(redeemed: bool) -> None:
    """A maximum of likelihood would be infinite, and a whole Newton step from far away overshoots."""
    x, y = drawn(4)
    model = Propensity()
    before = model.score(x).mean()
    model.learn(20 * x, np.full_like(y, redeemed))
    assert np.isfinite(model.mean).all()
    assert (model.score(20 * x).mean() > before) == redeemed


def test_score_is_chance_times_value() -> None:
    x, y = drawn(5)
    model = Propensity()
    model.learn(x, y)
    value = np.linspace(0, 9, len(x))
    assert model.score(x, value) == pytest.approx(value / (1 + np.exp(-(x @ model.mean))))


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.2, 0.2, 7.0])), max_size=30))
def test_the_best_coupon_of_each_user(drawn: list[tuple[int, float]]) -> None:
    user, score = np.array([u for u, _ in drawn], dtype=np.int64), np.array([s for _, s in drawn])
    expected = []
    for one in sorted({u for u, _ in drawn}):
        his = [at for at, (u, _) in enumerate(drawn) if u == one]
        expected.append(max(his, key=lambda at: (drawn[at][1], -at)))
    assert best(user, score).tolist() == expected


def test_a_likelier_coupon_gives_way_to_one_that_is_worth_more() -> None:
    model = Propensity()
    x = np.zeros((3, len(FEATURES)))
    x[:, 0], x[:, 1], model.mean[1] = 1.0, (2.0, 1.0, 0.0), 1.0
    user = np.zeros(3, dtype=np.int64)
    assert best(user, model.score(x)).tolist() == [0]
    assert best(user, model.score(x, np.array([1.0, 5.0, 1.0]))).tolist() == [1]


def test_a_stored_model_is_the_same_and_one_of_other_features_is_new() -> None:
    model = Propensity()
    model.learn(*drawn(6))
    found = Propensity.unpack(model.pack())
    assert np.array_equal(found.mean, model.mean)
    assert np.array_equal(found.precision, model.precision)
    assert found.learned == model.learned
    other = Propensity.unpack(model.pack().replace(b"visits", b"visitz"))
    assert (other.learned, other.mean.tolist()) == (0, Propensity().mean.tolist())


def test_campaigns_of_complete_journey_before_august() -> None:
    """What options were chosen by: campaigns that begin from May to July."""
    may = TEST_MS - 85 * DAY_MS
    found = pairs(CompleteJourney(), may, TEST_MS)
    assert (len(found.score), int(np.count_nonzero(found.redeemed))) == (235_106, 459)
    assert auc(found.score, found.redeemed) == pytest.approx(0.930, abs=0.001)
    assert average_precision(found.score, found.redeemed) == pytest.approx(0.074, abs=0.001)


def live_chances(lines: Lines) -> tuple[list[int], list[float]]:
    """Households and chances of the second campaign, as a live campaign of several offers has them."""
    found, _ = live_coupons.pairs(Shop(lines), NOW)
    return found.household.tolist(), found.score.tolist()


@given(st.lists(LINE, max_size=15), st.lists(LINE, max_size=15))
@settings(deadline=None, max_examples=20)
def test_live_chances_are_of_own_purchases_and_coupons_from_before(lines: Lines, later: Lines) -> None:
    """Against plain Python; what is bought from the begin on changes nothing."""
    after = [Line(x.household, x.day + 38, x.product, x.coupon, x.reduced) for x in later]
    households, found = live_chances([*lines, *(x for x in after if x.day >= 40)])
    assert households == [household for household in (0, 1, 3) for _ in (7, 9)]
    assert found == pytest.approx(
        [expected_chance(lines, each, code) for each in (0, 1, 3) for code in (7, 9)]
    )


def expected_chance(lines: Lines, household: int, code: int, second: bool = True) -> float:
    """Of a pair of the second campaign; the first, ten days before, had two coupons and three takers."""
    begin, good = (40, COVERS[1, code]) if second else (30, COVERS[0, code])
    before = [x for x in [FIRST, *lines] if x.day < begin]
    mine = [x for x in before if x.household == household]
    size = {day: sum(x.day == day for x in mine) for day in {x.day for x in mine}}
    own = sum(2 ** ((x.day - begin) / 365) / sqrt(size[x.day]) for x in mine if x.product in good)
    sent, used = second and household in (0, 1), float(second and household == 1)
    hoped = sum(expected_chance(lines, household, each, second=False) for each in (7, 8)) if sent else 0.0
    one, by_own, by_used, many = WEIGHTS
    z = one + by_own * log(own + 0.01) + by_used * log((used + 0.5) / (hoped + 0.5)) + many * log(2)
    return 1 / (1 + exp(-z))
