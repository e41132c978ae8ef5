"""Always-valid inference: the sets are what their definition says, and looking all the time costs nothing."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import beta

from stream.core.sequential import PRIOR, compare, p_values, rate

ALPHA = 0.05
Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
GRID = np.linspace(0.0005, 0.9995, 1000)
counts = st.integers(0, 400)
shares = st.integers(1, 19).map(lambda twentieths: twentieths / 20)


def log_mixture(successes: float | F64, failures: float | F64, p: F64, a: float, b: float) -> F64:
    """log M(p), by the definition: the mixed likelihood against that of p."""
    mixed = betaln(successes + a, failures + b) - betaln(a, b) - successes * np.log(p)
    found: F64 = mixed - failures * np.log1p(-p)
    return found


def test_the_mixture_is_one() -> None:
    """B(s + a, f + b) / B(a, b) is the likelihood mixed over the prior: by numbers, for 3 of 10."""
    mixed = np.trapezoid(GRID**3 * (1 - GRID) ** 7 * beta.pdf(GRID, 2, 5), GRID)
    assert np.log(mixed) == pytest.approx(betaln(3 + 2, 7 + 5) - betaln(2, 5), abs=1e-3)


@given(counts, counts)
def test_a_rate_is_the_set_of_its_definition(successes: int, failures: int) -> None:
    found = rate(successes, successes + failures)
    inside = (found.low < GRID) & (found.high > GRID)
    expected = log_mixture(successes, failures, GRID, 1, 1) < -np.log(ALPHA)
    assert (inside == expected).all()
    assert 0 <= found.low <= found.value <= found.high <= 1 or not successes + failures


@given(counts, counts, shares)
def test_a_ratio_is_the_set_of_its_definition(a: int, b: int, share: float) -> None:
    """The arm of a converted user is b with probability share · r / (1 − share + share · r)."""
    ratio = np.geomspace(0.02, 50, 400)
    theta = share * ratio / (1 - share + share * ratio)
    expected = log_mixture(b, a, theta, PRIOR * share, PRIOR * (1 - share)) < -np.log(ALPHA)
    found = compare(a, b, share).ratio
    assert ((found.low < ratio) & (found.high > ratio)).tolist() == expected.tolist()


@given(counts, counts, shares)
def test_the_p_value_and_the_ratio_agree_from_both_sides(a: int, b: int, share: float) -> None:
    found, back = compare(a, b, share), compare(b, a, 1 - share)
    if abs(found.p_value - ALPHA) > 1e-9:
        assert (found.p_value > ALPHA) == (found.ratio.low < 1 < found.ratio.high)
    assert back.p_value == pytest.approx(found.p_value)
    if a and b:
        assert back.ratio.low == pytest.approx(1 / found.ratio.high)
        assert back.ratio.value == pytest.approx(1 / found.ratio.value)


def test_without_conversions_nothing_is_said() -> None:
    assert (rate(0, 0).low, rate(0, 0).high) == (0, 1)
    nothing = compare(0, 0, 0.5)
    assert (nothing.ratio.low, nothing.ratio.value, nothing.ratio.high, nothing.p_value) == (0, 1, inf, 1)
    assert compare(0, 3, 0.5).ratio.value == inf


@pytest.mark.parametrize(("successes", "n", "alpha"), [(2, 1, 0.05), (-1, 1, 0.05), (0, 1, 0.0), (0, 1, 1.0)])
def test_what_cannot_be_a_rate_is_refused(successes: int, n: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=r"succeed|alpha"):
        rate(successes, n, alpha)


@pytest.mark.parametrize(("a", "b", "share"), [(-1, 0, 0.5), (0, -1, 0.5), (1, 1, 0.0), (1, 1, 1.0)])
def test_what_cannot_be_two_arms_is_refused(a: int, b: int, share: float) -> None:
    with pytest.raises(ValueError, match="two arms"):
        compare(a, b, share)


# Simulations: users come one by one, fall to an arm by the coin, and convert or not


def histories(seed: int, runs: int, users: int, rates: tuple[float, float], share: float) -> list[F64]:
    """Converted and seen of both arms after every user: four arrays [runs, users]."""
    rng = np.random.default_rng(seed)
    in_b = rng.random((runs, users)) < share
    # The shop's rate swings with time, for everybody.
    swing = 1 + 0.8 * np.sin(np.arange(users) / 200)
    converted = rng.random((runs, users)) < np.where(in_b, rates[1], rates[0]) * swing
    columns = (converted & ~in_b, ~in_b, converted & in_b, in_b)
    return [np.cumsum(column, axis=1, dtype=np.float64) for column in columns]


def naive(s_a: F64, n_a: F64, s_b: F64, n_b: F64) -> Bool:
    """Where the test of one look, looked at all the time, finds a difference: |z| > 1.96."""
    pooled = (s_a + s_b) / (n_a + n_b)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n_a, 1) + 1 / np.maximum(n_b, 1)))
    difference = np.abs(s_a / np.maximum(n_a, 1) - s_b / np.maximum(n_b, 1))
    enough = (s_a + s_b >= 10) & (n_a > 0) & (n_b > 0)
    return enough & (difference > 1.96 * spread)


@pytest.mark.parametrize(("true", "share"), [(0.02, 0.5), (0.3, 0.5), (0.3, 0.1)])
def test_who_looks_after_every_user_is_wrong_no_more_than_alpha(true: float, share: float) -> None:
    """600 experiments without a difference, 3,000 users, a look after each. The test of one look is lost.

    (With 60 conversions of 2 % nobody is wrong: one may look long before the prior has anything to say.)
    """
    s_a, n_a, s_b, n_b = histories(7, 600, 3000, (true, true), share)
    wrong = (p_values(s_a, s_b, share) <= ALPHA).any(axis=1).mean()
    assert (0.0 if true == 0.02 else 0.001) <= wrong <= ALPHA
    assert naive(s_a, n_a, s_b, n_b).any(axis=1).mean() > 4 * ALPHA


def test_the_interval_holds_the_true_ratio_at_all_looks() -> None:
    """A ratio of 1.5, and 500 sequences of looks: at most α leave it out anywhere."""
    s_a, _, s_b, _ = histories(3, 500, 3000, (0.1, 0.15), 0.5)
    theta = np.full(1, 0.6)
    missed = log_mixture(s_b, s_a, theta, PRIOR / 2, PRIOR / 2) >= -np.log(ALPHA)
    assert missed.any(axis=1).mean() <= ALPHA


def test_a_difference_is_found() -> None:
    """10 % against 13 %: most experiments of 10,000 users find it, few of 1,000 do."""
    s_a, _, s_b, _ = histories(5, 200, 10_000, (0.10, 0.13), 0.5)
    found = p_values(s_a[:, 99::100], s_b[:, 99::100], 0.5) <= ALPHA
    assert found.any(axis=1).mean() > 0.85
    assert found[:, :10].any(axis=1).mean() < 0.3
