"""The mixture of components, learned online from what users do next. Pure and deterministic.

Score of candidate j for user u (a log-linear mixture of evidence; product-of-experts features on top):

    s(u, j) = log(ε + Σ_c exp(θ_c + θ_{b,c} − φ_c·L_c) · f_c(j)) + Σ_d v_d · g_d(j),   L_c = log Σ_j f_c(j)

f_c(j) ≥ 0 is the evidence of channel c, b the user's kind by length of history, φ_c a learned normalisation
(1: f_c counts as a distribution, 0: as it is), g_d(j) a feature.

Learning, test then learn: before an event counts, its user's candidates are scored; what he then does are the
targets. Loss: cross-entropy of a softmax over the best 100 candidates, label 1/n on each of the n targets
among them (sampled softmax: Jean et al., ACL 2015). With δ = y − p and r_c(j) the share of channel c in the
sum:

    ∂θ = √n · Σ_j δ_j r_c(j),   ∂φ = −0.3 · L · ∂θ,   ∂v = √n · Σ_j δ_j g_d(j)

by AdaGrad (Duchi, Hazan, Singer, JMLR 2011) with accumulators from 1; a batch of queries takes one step with
the sum of its gradients. The kinds' own θ_{b,c} shrink by a thousandth a query: what is common is learned in
θ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.recommend.candidates import Candidates, Weighed

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

KINDS = ("new", "second", "browsing", "settling", "returning", "regular")
"""Kinds of users, by how many events they have: 1, 2, 3–4, 5–9, 10–24, 25 and more."""
_EDGES = np.array([2, 3, 5, 10, 25])
LEAST = 1e-9
"""ε: what a candidate has without any evidence."""
_RATE, _SLOW_RATE, _PHI_SHARE = 0.1, 0.05, 0.3
_MOST_PHI = 1.3
_SHRINK = 0.999
_BEST = 100
_FORMAT = 1


def kind_of(events: I64) -> I64:
    """Kinds [U] (numbers of `KINDS`) of users with so many events [U]."""
    return _EDGES.searchsorted(events, side="right")


@dataclass(frozen=True, slots=True)
class Features:
    """Features g of candidates ``at`` [m]: columns ``entry`` [m] of ``values`` [D, e]. Others have 0."""

    at: I64
    entry: I64
    values: F32


@dataclass(frozen=True, slots=True)
class Targets:
    """What users did next: ``row`` [t], ``item`` [t], all different; ``weight`` [t], 1 for a plain sign."""

    row: I64
    item: I32
    weight: F64


@dataclass
class Mixture:
    """Weights of C channels and D features; ``learned`` counts queries. Only `learn` changes them.

    A ``fixed`` one takes the channels as they are, each with weight 1, and never learns.

    ``theta`` [C], ``kinds`` [B, C], ``phi`` [C], ``v`` [D], and their accumulators ``squares`` by name.
    """

    channels: tuple[str, ...]
    features: tuple[str, ...]
    theta: F64 = field(init=False)
    kinds: F64 = field(init=False)
    phi: F64 = field(init=False)
    v: F64 = field(init=False)
    squares: dict[str, F64] = field(init=False)
    learned: int = 0
    fixed: bool = False

    def __post_init__(self) -> None:
        c, d = len(self.channels), len(self.features)
        self.theta = np.full(c, -np.log(c))
        self.kinds = np.zeros((len(KINDS), c))
        self.phi, self.v = np.ones(c), np.zeros(d)
        self.squares = {name: np.ones_like(getattr(self, name)) for name in _WEIGHTS}

    def factors(self, found: Candidates, kind: I64) -> F64:
        """exp(θ_c + θ_{b,c} − φ_c·L_c) by channel and user: [C, U]; 0 where a channel has no evidence."""
        if self.fixed:
            return np.ones((len(self.channels), found.users))
        return self.factors_of(found.totals(), kind)

    def factors_of(self, total: F64, kind: I64) -> F64:
        """The same where the `Candidates.totals` [C, U] are known."""
        held = total > 0
        logs = np.log(np.where(held, total, 1.0))
        exponent = self.theta[:, None] + self.kinds[kind].T - self.phi[:, None] * logs
        return np.where(held, np.exp(exponent), 0.0)

    def scores(self, weighed: Weighed, features: Features) -> F32:
        """exp(s(u, j)) of all candidates, weighed by their users' `factors`: [J], > 0. ~3 µs a user."""
        return self.featured(weighed.sums() + np.float32(LEAST), features)

    def featured(self, scores: F32, features: Features) -> F32:
        """``scores`` [J], times what features make of them, in place."""
        scores[features.at] *= np.exp(self.v.astype(np.float32) @ features.values).take(features.entry)
        return scores

    def learn(self, found: Candidates, features: Features, kind: I64, targets: Targets) -> None:
        """One step from U queries and what their users did. ~15 µs a query."""
        batch = None if self.fixed else _Batch.of(self, found, features, kind, targets)
        if batch is None:
            return
        by_query = batch.shares
        totals = np.log(np.maximum(batch.totals, 1e-12)).T
        self._step("theta", by_query, _RATE)
        self._step("phi", -_PHI_SHARE * totals * by_query, _SLOW_RATE)
        self.phi = self.phi.clip(0.0, _MOST_PHI)
        self._step("v", batch.features, _RATE)
        self._step_kinds(kind, by_query)
        queries = int(np.count_nonzero(batch.taught))
        self.kinds *= _SHRINK**queries
        self.learned += queries

    def _step(self, name: str, gradients: F64, rate: float) -> None:
        """AdaGrad with the gradients [U, n] of a batch, in place."""
        square, weights = self.squares[name], getattr(self, name)
        square += (gradients**2).sum(axis=0)
        weights += rate * gradients.sum(axis=0) / np.sqrt(square)

    def _step_kinds(self, kind: I64, gradients: F64) -> None:
        summed, square = np.zeros_like(self.kinds), self.squares["kinds"]
        np.add.at(summed, kind, gradients)
        np.add.at(square, kind, gradients**2)
        self.kinds += _SLOW_RATE * summed / np.sqrt(square)

    def pack(self) -> bytes:
        """For the store: names, counts and weights, as MessagePack. Soft state, about 2 kB."""
        weights = {name: getattr(self, name).ravel().tolist() for name in _WEIGHTS}
        squares = {name: self.squares[name].ravel().tolist() for name in _WEIGHTS}
        return msgspec.msgpack.encode((_FORMAT, self.channels, self.features, self.learned, weights, squares))

    @classmethod
    def unpack(cls, blob: bytes, channels: tuple[str, ...], features: tuple[str, ...]) -> Mixture:
        """The stored mixture; a new one when it was learned for other components or by another version."""
        new = cls(channels, features)
        found = msgspec.msgpack.decode(blob)
        if tuple(found[:1]) != (_FORMAT,) or (tuple(found[1]), tuple(found[2])) != (channels, features):
            return new
        new.learned = int(found[3])
        for name in _WEIGHTS:
            shape = getattr(new, name).shape
            setattr(new, name, np.array(found[4][name]).reshape(shape))
            new.squares[name] = np.array(found[5][name]).reshape(shape)
        return new


_WEIGHTS = ("theta", "kinds", "phi", "v")


@dataclass(frozen=True, slots=True)
class _Batch:
    """What queries teach: Σ_j δ_j r_c(j) ``shares`` [U, C], Σ_j δ_j g_d(j) ``features`` [U, D], each times
    √n and the targets' weight; ``taught`` [U] which queries do; ``totals`` [C, U] of the candidates."""

    shares: F64
    features: F64
    taught: Bool
    totals: F64

    @classmethod
    def of(
        cls, mixture: Mixture, found: Candidates, features: Features, kind: I64, targets: Targets
    ) -> _Batch | None:
        """From the best candidates of each query; None when no target was a candidate."""
        label = _labels(found, targets)
        wanted = label > 0
        hit = np.bincount(found.row[wanted], minlength=found.users) > 0
        if not hit.any():
            return None
        totals = found.totals()
        factors = mixture.factors_of(totals, kind)
        sums = found.weighed(factors).sums() + np.float32(LEAST)
        scores = mixture.featured(sums.copy(), features)
        at = _taken(found, scores, wanted, hit)
        error = _errors(np.log(scores[at]), found.row[at], label[at])
        # Σ_j δ_j r_c(j) with r_c(j) = w_c·f_c(j) / sum_j: of single entries, for sums are linear.
        shares = found.totals_by(at, (error / sums[at]).astype(np.float32)) * factors
        return cls(shares.T, _by_query(found, features, at, error).T, hit, totals)


def _errors(scores: F32, row: I64, label: F64) -> F64:
    """√n · weight · (y − p) of candidates [m], by query in ``row`` [m], ascending."""
    begins, query = _runs(row)
    powers = np.exp(scores - np.maximum.reduceat(scores, begins)[query])
    counts = np.add.reduceat((label > 0).astype(np.float64), begins)
    weight = np.add.reduceat(label, begins) / counts
    shares = powers / np.add.reduceat(powers, begins)[query]
    return np.asarray((np.sqrt(counts) * weight)[query] * (label / (counts * weight)[query] - shares))


def _runs(row: I64) -> tuple[I64, I64]:
    """Where equal neighbours of ``row`` [m > 0] begin [n], and of which run each is: [m]."""
    news = np.empty(len(row), dtype=np.bool_)
    news[0] = True
    np.not_equal(row[1:], row[:-1], out=news[1:])
    return news.nonzero()[0], news.cumsum() - 1


def _by_query(found: Candidates, features: Features, at: I64, error: F64) -> F64:
    """Σ_j δ_j g_d(j) by query: [D, U]."""
    every = np.zeros(len(found.item), dtype=np.float32)
    every[at] = error
    told = every[features.at]
    held = told.nonzero()[0]
    summed = np.zeros((len(features.values), found.users))
    if len(held):
        row = found.row[features.at[held]]
        begins, _ = _runs(row)
        parts = features.values[:, features.entry[held]] * told[held]
        summed[:, row[begins]] = np.add.reduceat(parts, begins, axis=1)
    return summed


def _labels(found: Candidates, targets: Targets) -> F64:
    """The weight of the target that each candidate is, 0 for others: [J]."""
    label = np.zeros(len(found.item))
    at = found.find(targets.row, targets.item)
    label[at[at >= 0]] = targets.weight[at >= 0]
    return label


def _taken(found: Candidates, scores: F32, wanted: Bool, hit: Bool) -> I64:
    """The best 100 candidates (more if tied) of each query with a target, and its targets if none is."""
    mine = scores if hit.all() else np.where(hit[found.row], scores, np.float32(0))
    row, place = found.reaching(mine, _BEST)
    best = np.zeros(len(scores), dtype=np.bool_)
    best[place] = True
    reached = np.bincount(row[wanted[place]], minlength=found.users) > 0
    if not reached[hit].all():
        best |= wanted & ~reached[found.row]
    return best.nonzero()[0]
