"""How likely a user redeems a coupon, learned from campaigns that ended. Pure and deterministic.

Chance of user u and coupon c: a logistic model of a few features (`features`),

    P(u redeems c) = σ(w · x(u, c)),   score = P · value

logarithms of ratios and of decayed counts from before the campaign begins: what u bought of the coupon's
items, what of it at a reduced price, and whether anything of their types; how often he comes, the share of
his baskets with a coupon, his redemptions by those usual of what he was sent, whether he redeemed this very
coupon before; the number of coupons to choose from, and how often coupons alike were redeemed.

Learning, test then learn: a campaign is scored before it begins and teaches after it has ended, once. The
posterior of all campaigns before it is the prior of the next (sequential Laplace approximation: Spiegelhalter
and Lauritzen, Networks 1990; Chapelle and Li, NIPS 2011): with p = σ(X w)

    w ← argmax Σ log P(y | X, w) − ½ (w − m)ᵀ Λ (w − m),   Λ ← Λ + Xᵀ diag(p (1 − p)) X

by Newton's method with halved steps. Nothing of a campaign is kept but the mean m and the precision Λ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FEATURES = (
    *("one", "own", "reduced", "type", "again"),
    *("visits", "use", "redemptions", "choice", "alike"),
)
"""The columns of `features`, the constant first."""
_LEAST = 0.01
"""What one has without a purchase."""
_USE, _REDEMPTIONS, _ALIKE = 0.5, 0.5, 2.0
"""Pseudo-counts: baskets with a coupon, redemptions of a user, redemptions of coupons alike."""
_FIRST = -6.0
_STEPS, _HALVINGS, _ENOUGH = 30, 20, 1e-3
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of n pairs of user and coupon before the campaign begins, [n] each or one for all.

    ``own``, ``reduced``: the user's decayed purchases of the coupon's items, and those at a reduced price.
    ``of_type``: 1 if he ever bought an item of their types; ``again``: 1 if he redeemed the same coupon in an
    earlier campaign. ``visits``: his decayed baskets.
    ``baskets``, ``with_coupon``: his baskets, and those in which he used any coupon; ``usual_use``: the share
    of such baskets among all users'.
    ``redeemed``: his redemptions; ``expected``: the mean redemptions a user of each campaign he was sent.
    ``coupons``: how many coupons the campaign has.
    ``alike_redeemed``, ``alike_expected``: redemptions of coupons alike and those usual (`alike`).
    """

    own: F64
    reduced: F64
    of_type: F64
    again: F64
    visits: F64
    baskets: F64
    with_coupon: F64
    usual_use: F64
    redeemed: F64
    expected: F64
    coupons: F64
    alike_redeemed: F64
    alike_expected: F64


def features(known: Evidence) -> F64:
    """The columns `FEATURES` of n pairs: [n, D], ~0.1 µs a pair. Ratios are shrunk to 1: none known is 0."""
    own = np.log(known.own + _LEAST)
    usual = np.maximum(known.usual_use, 1e-3)
    columns = (
        np.ones_like(own),
        own,
        np.log(known.reduced + _LEAST),
        known.of_type,
        known.again,
        np.log1p(known.visits),
        _ratio(known.with_coupon / usual, known.baskets, _USE / usual),
        _ratio(known.redeemed, known.expected, _REDEMPTIONS),
        np.log(known.coupons),
        _ratio(known.alike_redeemed, known.alike_expected, _ALIKE),
    )
    return np.stack(np.broadcast_arrays(*columns), axis=1)


def _ratio(found: F64, expected: F64, prior: F64 | float) -> F64:
    """log of found by expected, both with ``prior`` added (Gamma-Poisson shrinkage to 1)."""
    ratio: F64 = np.log((found + prior) / (expected + prior))
    return ratio


def best(user: I64, score: F64) -> I64:
    """Which coupon for whom: of each user's pairs the one with the greatest score, of equals the first.

    ``user`` [n] numbers the pairs' users, ``score`` [n] is propensity × value (`Propensity.score`). Returns
    numbers of pairs [u], by ascending user; ~0.2 µs a pair.
    """
    order = np.lexsort((-score, user))
    firsts = np.ones(len(user), dtype=np.bool_)
    firsts[1:] = np.diff(user[order]) != 0
    found: I64 = order[firsts]
    return found


def alike(
    covers: sparse.csr_array, earlier: sparse.csr_array, redeemed: F64, expected: F64
) -> tuple[F64, F64]:
    """Redemptions of coupons alike and those usual, [c] each, by cosine of the sets of items.

    ``covers`` [c, items], ``earlier`` [e, items]: 1 where a coupon is good for an item; ``redeemed``,
    ``expected`` [e]: redemptions of the earlier coupons, and the mean of a coupon of their campaigns.
    """
    near = _normed(covers) @ _normed(earlier).T
    return near @ redeemed, near @ expected


def _normed(covers: sparse.csr_array) -> sparse.csr_array:
    """Rows of length 1; empty ones stay."""
    norms = np.sqrt(np.asarray(covers.multiply(covers).sum(axis=1)).ravel())
    scaled: sparse.csr_array = sparse.diags_array(1 / np.maximum(norms, 1e-12)) @ covers
    return scaled


@dataclass
class Propensity:
    """The posterior: ``mean`` [D], ``precision`` [D, D], ``learned`` pairs. Only `learn` changes it."""

    mean: F64 = field(init=False)
    precision: F64 = field(init=False)
    learned: int = 0

    def __post_init__(self) -> None:
        self.mean = np.zeros(len(FEATURES))
        self.mean[0] = _FIRST
        self.precision = np.eye(len(FEATURES))
        self.precision[0, 0] = 0.01

    def score(self, x: F64, value: F64 | float = 1.0) -> F64:
        """Expected value of pairs with features ``x`` [n, D]: chance of redemption × ``value`` [n]."""
        found: F64 = value / (1 + np.exp(-(x @ self.mean)))
        return found

    def learn(self, x: F64, redeemed: Bool) -> None:
        """All pairs of a campaign that ended: features ``x`` [n, D], and which were redeemed [n].

        ~0.6 µs a pair. The order of pairs does not matter.
        """
        prior, precision = self.mean.copy(), self.precision
        fit = _Fit(x, redeemed, prior, precision)
        for _ in range(_STEPS):
            if fit.step() < _ENOUGH:
                break
        self.mean, self.precision = fit.weights, fit.curvature()
        self.learned += len(x)

    def pack(self) -> bytes:
        """For the store, as MessagePack. About 1 kB."""
        weights = (self.mean.tolist(), self.precision.ravel().tolist())
        return msgspec.msgpack.encode((_FORMAT, FEATURES, self.learned, *weights))

    @classmethod
    def unpack(cls, blob: bytes) -> Propensity:
        """The stored model; a new one when it was learned of other features or by another version."""
        new, found = cls(), msgspec.msgpack.decode(blob)
        if found[0] != _FORMAT or tuple(found[1]) != FEATURES:
            return new
        new.learned, new.mean = int(found[2]), np.array(found[3])
        new.precision = np.array(found[4]).reshape(new.precision.shape)
        return new


@dataclass
class _Fit:
    """Newton's method on the loss of a campaign, from the prior's mean."""

    x: F64
    y: Bool
    prior: F64
    precision: F64
    weights: F64 = field(init=False)
    logits: F64 = field(init=False)

    def __post_init__(self) -> None:
        self.weights, self.logits = self.prior.copy(), self.x @ self.prior

    def loss(self, weights: F64, logits: F64) -> float:
        """−log posterior, but for a constant."""
        off = weights - self.prior
        wrong = np.logaddexp(0, logits).sum() - logits[self.y].sum()
        return float(wrong + off @ self.precision @ off / 2)

    def curvature(self) -> F64:
        """Its second derivative where the fit stands: [D, D]."""
        p = 1 / (1 + np.exp(-self.logits))
        found: F64 = (self.x * (p * (1 - p))[:, None]).T @ self.x + self.precision
        return found

    def step(self) -> float:
        """One step, halved until the loss falls; by how much it fell."""
        p = 1 / (1 + np.exp(-self.logits))
        slope = self.x.T @ (self.y - p) - self.precision @ (self.weights - self.prior)
        way = np.linalg.solve(self.curvature(), slope)
        along, before = self.x @ way, self.loss(self.weights, self.logits)
        for part in 0.5 ** np.arange(_HALVINGS):
            weights, logits = self.weights + part * way, self.logits + part * along
            gained = before - self.loss(weights, logits)
            if gained > 0:
                self.weights, self.logits = weights, logits
                return gained
        return 0.0
