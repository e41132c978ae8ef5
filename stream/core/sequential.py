"""Rates, and a comparison of two arms, that may be looked at any time: always-valid inference. Pure.

Of n independent tries with success probability p, s succeeded. With a Beta(a, b) prior the mixture

    M(p) = B(s + a, n − s + b) / B(a, b) / (p^s (1 − p)^(n−s))

is, as tries come, a martingale that begins at 1 if p is true. By Ville's inequality it ever reaches 1/α with
probability at most α (Robbins 1970; the mixture sequential probability ratio test). So the p with M(p) < 1/α
are a confidence sequence: at all looks together they hold the true one with probability 1 − α, exactly and
from the first try on; and 1 / M(p) is an always-valid p-value of p (Johari, Koomen, Pekelis and Walsh,
"Always valid inference", Operations Research 2022). Neither times nor number of looks are agreed beforehand.

Two arms are compared by the *users who convert*, each counted once, for users are what is randomised. If
the arm makes no difference, the arm of a converting user is a toss of the coin that assigned him: each of
all conversions is from b with the known probability w_b / (w_a + w_b). That holds whatever the users' own
rates, however these change with time, and however late conversions come, so that nobody must wait for users
to have decided (Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022). If a
user converts r times as likely in b, that probability is θ = w_b r / (w_a + w_b r), and the confidence
sequence of θ is one of the ratio r.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, xlog1py, xlogy

F64 = NDArray[np.float64]

PRIOR = 100.0
"""Conversions that the prior of a comparison is worth: it expects ratios of about 0.8 to 1.2. Any value is
valid; this one finds such differences soonest."""
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the ends of its interval, here of its confidence sequence."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many times as likely users convert in the second arm; the always-valid p-value of "just as"."""

    ratio: Estimate
    p_value: float


def rate(successes: int, n: int, alpha: float = 0.05) -> Estimate:
    """The rate of ``successes`` among ``n`` independent tries, by a uniform prior. ~0.3 ms.

    Raises ValueError unless 0 ≤ successes ≤ n and 0 < alpha < 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"of {n} tries {successes} cannot succeed")
    low, high = _ends(successes, n - successes, 1.0, 1.0, alpha)
    return Estimate(successes / n if n else 0.0, low, high)


def compare(a: int, b: int, share: float, alpha: float = 0.05) -> Comparison:
    """Two arms by their converted users ``a`` and ``b``; ``share`` of all users are assigned to b. ~0.3 ms.

    Raises ValueError unless a, b ≥ 0 and 0 < share, alpha < 1.
    """
    if min(a, b) < 0 or not 0 < share < 1:
        raise ValueError(f"no users of two arms: {a} and {b} converted, {share} of all in the second")
    low, high = _ends(b, a, PRIOR * share, PRIOR * (1 - share), alpha)
    ratio = Estimate(_odds(b, a, share), _odds(low, 1 - low, share), _odds(high, 1 - high, share))
    return Comparison(ratio, float(p_values(a, b, share)))


def p_values(a: ArrayLike, b: ArrayLike, share: float) -> F64:
    """Always-valid p-values [k] of "the arm makes no difference"; ``a``, ``b`` [k] converted users."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    prior = PRIOR * share, PRIOR * (1 - share)
    evidence = betaln(b + prior[0], a + prior[1]) - betaln(*prior) - b * log(share) - a * log(1 - share)
    found: F64 = np.exp(np.minimum(-evidence, 0.0))
    return found


def _odds(b: float, a: float, share: float) -> float:
    """The ratio of rates that goes with odds b : a of a conversion's arm; 1 where nothing is known."""
    if not a:
        return inf if b else 1.0
    return b / a * (1 - share) / share


def _ends(successes: int, failures: int, prior_a: float, prior_b: float, alpha: float) -> tuple[float, float]:
    """The least and the greatest p with M(p) < 1/alpha: M is convex and least at the observed rate."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}, not between 0 and 1")
    mixed = float(betaln(successes + prior_a, failures + prior_b) - betaln(prior_a, prior_b))

    def held(p: float) -> bool:
        return mixed - float(xlogy(successes, p) + xlog1py(failures, -p)) < -log(alpha)

    n = successes + failures
    best = successes / n if n else 0.5
    return _end(held, best, 0.0), _end(held, best, 1.0)


def _end(held: Callable[[float], bool], inside: float, outside: float) -> float:
    """The last value from ``inside`` towards ``outside`` that is held, as all before it are."""
    if held(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if held(middle):
            inside = middle
        else:
            outside = middle
    return outside
