"""Exposure bounds: each group's share of what users see stays within what was agreed. Pure, deterministic.

**Exposure** of a place p (from 1) is 1/log2(p + 1), as in Singh and Joachims, "Fairness of exposure in
rankings", KDD 2018; a group's share is the exposure of its items over that of all, over the stream. It is
counted in whole numbers, so that the order of users does not matter.

**Debt.** A group with bounds [a, b] that got e of the exposure t of a batch owes, afterwards,

    over' = max(−c, over + e − b·t),   under' = max(−c, under + a·t − e)

the virtual queues of Lyapunov optimisation (Neely 2010), with a credit of c = `CREDIT` full lists, so that
lists that come one by one, where nothing can be halved, need not each keep within the bounds. Both begin at
0: over the stream the share is at most b + over/T and at least a − under/T, T its exposure, and over any
stretch of it c/T more.

**Controller.** Each batch aims at b·t − over at most and a·t + under at least: the integral part, as the
cumulative error in FairCo (Morik, Singh, Hong, Joachims, SIGIR 2020); at most a tenth of a batch goes into
making up. What the group's scores are multiplied with for that, 2^bias, is searched by ranking the batch in
up to 20 rounds with steps that grow while the sign of the error stays and halve when it turns (Rprop:
Riedmiller and Braun 1993), from where the last batches ended. To multiply a group's scores is the cheapest
way to move its share: items that are nearly as good swap first. Every user's bias is the common one times
3/4 to 5/4, by a hash, so that many equal lists do not all turn at once.

**What cannot be had** (too few candidates of a group, bounds that exclude each other) is not hidden: a debt
above `MOST_OWED` full lists is written off, so that it cannot flood later lists, and counted in ``missed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from stream.core.items import item_hash
from stream.core.slate.facts import F32, F64, I32, I64, U64, Bool, mix

MOST_OWED = 256
"""Lists' worth of exposure that a group may owe before the rest is written off."""

CREDIT = 8
"""Lists' worth of exposure that a group may have stayed within its bounds beforehand."""

_UNIT = 1 << 16
_ROUNDS = 20
_OCTAVE = 1024
_MOST = 40 * _OCTAVE
_TOP = 256 * _OCTAVE
_LAST = (1 << 31) - 1
_STEP = _OCTAVE // 4
_FINE = _OCTAVE // 16
_REPAID = 10
_TELLING = 64
_ALMOST = 2000
_JITTER = np.uint64(4)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of G groups' shares: ``groups`` [G] hashes, ascending, ``least``, ``most`` [G] in [0, 1]."""

    groups: U64
    least: F64
    most: F64

    @classmethod
    def of(cls, bounds: Mapping[str, tuple[float, float]]) -> Bounds:
        """From names and (least, most)."""
        told = sorted((item_hash(name), *pair) for name, pair in bounds.items())
        return cls(
            np.array([each[0] for each in told], dtype=np.uint64),
            np.array([each[1] for each in told], dtype=np.float64),
            np.array([each[2] for each in told], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.groups)

    def index(self, group: U64) -> I64:
        """Numbers of groups of any shape; G for those without bounds."""
        if not len(self):
            return np.zeros(group.shape, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.groups, group), len(self) - 1)
        return np.where(self.groups[at] == group, at, len(self))


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the controller remembers of G groups, in the order of `Bounds`: soft state.

    ``bias`` [G] in 1/1024 octaves; ``over``, ``under`` [G] debts; ``given`` [G] exposure of the groups,
    ``total`` of all; ``missed`` [G] debt written off. Exposure is in 2^−16 of that of a first place.
    """

    groups: U64
    bias: I64
    over: F64
    under: F64
    given: I64
    missed: F64
    total: int = 0

    @classmethod
    def empty(cls, bounds: Bounds) -> Exposure:
        """Before the first list."""
        zeros, none = np.zeros(len(bounds)), np.zeros(len(bounds), dtype=np.int64)
        return cls(bounds.groups, none, zeros, zeros, none, zeros)

    def under_bounds(self, bounds: Bounds) -> Exposure:
        """This state if it is of these groups, else an empty one."""
        same = self.groups is bounds.groups or np.array_equal(self.groups, bounds.groups)
        return self if same else Exposure.empty(bounds)

    @property
    def shares(self) -> F64:
        """Share of each group over the stream: [G]."""
        found: F64 = self.given / max(self.total, 1)
        return found

    @property
    def missed_shares(self) -> F64:
        """Exposure beyond the bounds that will not be made up for, as a share of all: [G]. 0: bounds hold."""
        found: F64 = self.missed / max(self.total, 1)
        return found


@lru_cache(maxsize=16)
def worth(size: int) -> I64:
    """Exposure of the places of a list: [size]; not to be written to."""
    return np.rint(_UNIT / np.log2(np.arange(size) + 2)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Balance:
    """A batch whose lists are to be balanced: what `Balance.exposure` needs to try a bias. N ≤ 2048.

    ``words`` [U, N] rank the candidates without a bias, the best first: how far log2 of the score, in 1/1024,
    is below the top, and in the lowest ``bits`` the column; `_LAST` behind the last. ``group`` [U, N] numbers
    of the candidates' groups, G behind the last; ``count`` [U] candidates; ``jitter`` [U, 1]; ``weight``
    [U, ≤ size] exposure of the list's free places, in order, 0 where no candidate is left for one; ``fixed``
    [G] exposure of the groups' items that stand already; ``total`` exposure of all lists.
    """

    words: I32
    bits: int
    group: I64
    count: I64
    jitter: I32
    weight: I64
    fixed: I64
    total: int

    @classmethod
    def of(cls, scores: F32, group: I64, user: U64, weight: I64, fixed: I64, total: int) -> Balance:
        """``scores`` [U, N] falling, 0 behind the last candidate; ``user`` [U] hashes."""
        live, width = scores > 0, scores.shape[1]
        bits = max(width - 1, 1).bit_length()
        level = np.rint(np.log2(np.where(live, scores, 1)) * _OCTAVE).astype(np.int32)
        words = (np.int32(_TOP) - level) << np.int32(bits) | np.arange(width, dtype=np.int32)
        jitter = (mix(user, _JITTER) >> np.uint64(55)).astype(np.int32) + np.int32(768)
        return cls(
            np.where(live, words, np.int32(_LAST)),
            bits,
            np.where(live, group, len(fixed)),
            np.count_nonzero(live, axis=1),
            jitter[:, None],
            np.where(live[:, : weight.shape[1]], weight[:, :width], 0),
            fixed,
            total,
        )

    def order(self, bias: I64) -> I64:
        """Columns of the best candidates with a bias, as many as the list has free places: [U, ≤ size]."""
        found = self._best(bias)
        return np.where(np.arange(found.shape[1]) < self.count[:, None], found, -1)

    def _best(self, bias: I64) -> I64:
        """The same; behind the last candidate anything."""
        biases = np.zeros(len(bias) + 1, dtype=np.int32)
        biases[:-1] = bias
        words = biases.take(self.group)
        words *= self.jitter
        words >>= 10
        words <<= self.bits
        np.subtract(self.words, words, out=words)
        words.sort(axis=1)
        return (words[:, : self.weight.shape[1]] & ((1 << self.bits) - 1)).astype(np.int64)

    def exposure(self, bias: I64) -> I64:
        """Exposure of the groups with a bias: [G]. ~0.7 µs a user."""
        at = self._best(bias)
        at += np.arange(len(at))[:, None] * self.group.shape[1]
        group = self.group.take(at, mode="clip")
        summed = np.bincount(group.ravel(), weights=self.weight.ravel(), minlength=len(bias) + 1)
        return self.fixed + summed[: len(bias)].astype(np.int64)

    def touched(self, groups: int) -> Balance:
        """The lists with any candidate of a group with bounds: no bias changes the others."""
        rows = (self.group < groups).any(axis=1)
        return replace(
            self,
            words=self.words[rows],
            group=self.group[rows],
            count=self.count[rows],
            jitter=self.jitter[rows],
            weight=self.weight[rows],
        )


def settle(batch: Balance, bounds: Bounds, state: Exposure) -> I64:
    """The bias [G] under which a batch comes nearest to what it aims at. Up to 20 rankings of the batch."""
    touched = batch.touched(len(bounds))
    search = _Search.of(bounds, state, batch.total)
    for _ in range(_ROUNDS):
        if search.advance(touched.exposure(search.bias)):
            break
    return search.found


@dataclass(slots=True)
class _Search:
    """Looks for the bias: where it stands, its steps and last signs, and the best so far."""

    least: F64
    most: F64
    almost: float
    bias: I64
    step: I64
    turn: I64
    turned: Bool
    found: I64
    rank: tuple[float, int] | None = None

    @classmethod
    def of(cls, bounds: Bounds, state: Exposure, total: int) -> _Search:
        """From the last bias. Of debts at most a tenth of the batch is made up for at once."""
        over, under = (np.minimum(debt, total / _REPAID) for debt in (state.over, state.under))
        count = len(bounds)
        zero = np.zeros(count, dtype=np.int64)
        step = np.full(count, _STEP, dtype=np.int64)
        none = np.zeros(count, dtype=np.bool_)
        least, most = bounds.least * total + under, bounds.most * total - over
        return cls(least, most, total / _ALMOST, state.bias, step, zero, none, state.bias)

    def advance(self, given: I64) -> bool:
        """Note what the bias gave, and go on to the next; True when there is nothing more to find."""
        miss = float((np.maximum(given - self.most, 0) + np.maximum(self.least - given, 0)).sum())
        rank = (miss if miss > self.almost else 0.0, int(np.abs(self.bias).sum()))
        if self.rank is None or rank < self.rank:
            self.rank, self.found = rank, self.bias
        sign, inside = self._signs(given)
        if not sign.any() or (rank[0] == 0 and self.step.max() <= _FINE):
            return True
        turns = sign * self.turn < 0
        self.turned |= turns
        longer = np.where(self.turned, self.step * 5 // 4, self.step * 2)
        kept = np.where(sign * self.turn > 0, longer, self.step)
        self.step = _within(np.where(turns, self.step // 2, kept), 1)
        # A step back towards no bias stops there.
        moved = _within(self.bias + sign * self.step, -_MOST)
        self.bias = np.where(inside & (moved * self.bias < 0), 0, moved)
        self.turn = sign
        return False

    def _signs(self, given: I64) -> tuple[I64, Bool]:
        """Down above the most, up below the least, else back towards no bias until just inside; and which
        are within their bounds."""
        near = 2 * self.almost
        tight = np.where(self.bias < 0, given > self.most - near, given < self.least + near)
        found: I64 = np.where(tight, 0, -np.sign(self.bias))
        above, below = given > self.most, given < self.least
        found[below] = 1
        found[above] = -1
        return found, ~(above | below)


def _within(values: I64, least: int) -> I64:
    """Values up to `_MOST`; `np.clip` of so few numbers takes four times as long."""
    return np.maximum(np.minimum(values, _MOST), least)


def account(bounds: Bounds, state: Exposure, bias: I64, given: I64, total: int, full: int) -> Exposure:
    """The state after lists that gave the groups ``given`` [G] of ``total``; ``full`` is a full list's."""
    most, credit = float(MOST_OWED * full), float(CREDIT * full)
    over = np.maximum(state.over + given - bounds.most * total, -credit)
    under = np.maximum(state.under + bounds.least * total - given, -credit)
    lost = np.maximum(over - most, 0) + np.maximum(under - most, 0)
    # What a few lists needed says little about the next ones.
    told = total / (total + _TELLING * full)
    return replace(
        state,
        bias=np.rint(state.bias + (bias - state.bias) * told).astype(np.int64),
        over=np.minimum(over, most),
        under=np.minimum(under, most),
        given=state.given + given,
        missed=state.missed + lost,
        total=state.total + total,
    )


def given_to(group: I64, held: Bool, groups: int) -> I64:
    """Exposure of each group in lists: ``group`` [U, size] numbers, ``held`` [U, size] filled places: [G]."""
    weight = np.where(held, worth(held.shape[1]), 0)
    found = np.bincount(group.ravel(), weights=weight.ravel(), minlength=groups + 1)
    return found[:groups].astype(np.int64)
