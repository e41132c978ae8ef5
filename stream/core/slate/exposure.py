"""Exposure bounds: each group's share of what users see stays within what was agreed. Pure, deterministic.

**Exposure** of a place p (from 1) is 1/log2(p + 1), as in Singh and Joachims, "Fairness of exposure in
rankings", KDD 2018; a group's share is the exposure of its items over that of all, over the stream. It is
counted in whole numbers, so that the order of users does not matter.

**Debt.** A group with bounds [a, b] that got e of the exposure t of a batch owes, afterwards,

    over' = max(0, over + e − b·t),   under' = max(0, under + a·t − e)

the virtual queues of Lyapunov optimisation (Neely 2010). Over any stretch of the stream the share is at most
b + over'/T and at least a − under'/T, T its exposure: with small debts the bounds hold on every stretch.

**Controller.** Each batch aims at b·t − over at most and a·t + under at least: the integral part, as the
cumulative error in FairCo (Morik, Singh, Hong, Joachims, SIGIR 2020). What the group's scores are multiplied
with for that, 2^bias, is searched by ranking the batch in up to 16 rounds with steps that double while the
sign of the error stays and halve when it turns (Rprop: Riedmiller and Braun 1993), from where the last batch
ended. To multiply a group's scores is the cheapest way to move its share: items that are nearly as good swap
first. Every user's bias is the common one times 3/4 to 5/4, by a hash, so that many equal lists do not all
turn at once.

**What cannot be had** (too few candidates of a group, bounds that exclude each other) is not hidden: a debt
above `MOST_OWED` full lists is written off, so that it cannot flood later lists, and counted in ``missed``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from stream.core.items import item_hash
from stream.core.slate.facts import F32, F64, I32, I64, U64, Bool, mix

MOST_OWED = 256
"""Lists' worth of exposure that a group may owe before the rest is written off."""

_UNIT = 1 << 16
_ROUNDS = 16
_OCTAVE = 1024
_MOST = 40 * _OCTAVE
_TOP = 256 * _OCTAVE
_LAST = (1 << 31) - 1
_STEP = _OCTAVE // 4
_FINE = _OCTAVE // 16
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
        return self if np.array_equal(self.groups, bounds.groups) else Exposure.empty(bounds)

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


def worth(size: int) -> I64:
    """Exposure of the places of a list: [size]."""
    return np.rint(_UNIT / np.log2(np.arange(size) + 2)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Balance:
    """A batch whose lists are to be balanced: what `Balance.exposure` needs to try a bias.

    ``level`` [U, N] log2 of the scores in 1/1024, falling; ``group`` [U, N] number of each candidate's group,
    in this order; ``count`` [U] candidates; ``weight`` [U, size] exposure of the list's free places, in
    order; ``fixed`` [G] exposure of the groups' items that stand already; ``total`` exposure of all lists.
    """

    level: I32
    group: I64
    count: I64
    jitter: I32
    weight: I64
    fixed: I64
    total: int

    @classmethod
    def of(cls, scores: F32, group: I64, user: U64, weight: I64, fixed: I64, total: int) -> Balance:
        """``scores`` [U, N] falling, 0 behind the last candidate; ``user`` [U] hashes."""
        live = scores > 0
        level = np.rint(np.log2(np.where(live, scores, 1)) * _OCTAVE).astype(np.int32)
        jitter = (mix(user, _JITTER) >> np.uint64(55)).astype(np.int32) + np.int32(768)
        return cls(level, group, np.count_nonzero(live, axis=1), jitter, weight, fixed, total)

    def order(self, bias: I64) -> I64:
        """Columns of the best candidates with a bias, as many as the list has free places: [U, ≤ size]."""
        width = self.level.shape[1]
        bits = max(width - 1, 1).bit_length()
        column = np.arange(width, dtype=np.int32)
        words = np.append(bias, 0).astype(np.int32).take(self.group)
        words *= self.jitter[:, None]
        words >>= 10
        words += self.level
        np.subtract(_TOP, words, out=words)
        words <<= bits
        words |= column
        words[column >= self.count[:, None]] = _LAST
        words.sort(axis=1)
        found = (words[:, : self.weight.shape[1]] & ((1 << bits) - 1)).astype(np.int64)
        return np.where(np.arange(found.shape[1]) < self.count[:, None], found, -1)

    def exposure(self, bias: I64) -> I64:
        """Exposure of the groups with a bias: [G]. ~0.7 µs a user."""
        order = self.order(bias)
        group = np.take_along_axis(self.group, np.maximum(order, 0), axis=1)
        weight = np.where(order >= 0, self.weight[:, : order.shape[1]], 0)
        summed = np.bincount(group.ravel(), weights=weight.ravel(), minlength=len(bias) + 1)
        return self.fixed + summed[: len(bias)].astype(np.int64)

    def touched(self, groups: int) -> Balance:
        """The lists with any candidate of a group with bounds: no bias changes the others."""
        rows = (self.group < groups).any(axis=1)
        return replace(
            self,
            level=self.level[rows],
            group=self.group[rows],
            count=self.count[rows],
            jitter=self.jitter[rows],
            weight=self.weight[rows],
        )


def settle(batch: Balance, bounds: Bounds, state: Exposure) -> I64:
    """The bias [G] under which a batch comes nearest to what it aims at. Up to 16 rankings of the batch."""
    touched = batch.touched(len(bounds))
    least, most = _aims(bounds, state, batch.total)
    almost = batch.total / _ALMOST
    bias, step = state.bias, np.full(len(bounds), _STEP, dtype=np.int64)
    turn = np.zeros(len(bounds), dtype=np.int64)
    best: tuple[float, int] | None = None
    found = bias
    for _ in range(_ROUNDS):
        given = touched.exposure(bias)
        miss = float((np.maximum(given - most, 0) + np.maximum(least - given, 0)).sum())
        rank = (miss if miss > almost else 0.0, int(np.abs(bias).sum()))
        if best is None or rank < best:
            best, found = rank, bias
        sign = _direction(bias, given, least, most)
        if not sign.any() or (rank[0] == 0 and step.max() <= _FINE):
            break
        step = np.where(sign * turn < 0, np.maximum(step // 2, 1), np.where(turn, step * 2, step))
        bias, turn = _stepped(bias, sign, np.minimum(step, _MOST), given, least, most), sign
    return found


def _aims(bounds: Bounds, state: Exposure, total: int) -> tuple[F64, F64]:
    return bounds.least * total + state.under, bounds.most * total - state.over


def _direction(bias: I64, given: I64, least: F64, most: F64) -> I64:
    """Down above the most, up below the least, else back towards no bias."""
    inside = np.where(given > most, -1, np.where(given < least, 1, -np.sign(bias)))
    return inside.astype(np.int64)


def _stepped(bias: I64, sign: I64, step: I64, given: I64, least: F64, most: F64) -> I64:
    """Steps; one back towards no bias stops there."""
    moved = np.clip(bias + sign * step, -_MOST, _MOST)
    back = (given <= most) & (given >= least) & (moved * bias < 0)
    return np.where(back, 0, moved)


def account(bounds: Bounds, state: Exposure, bias: I64, given: I64, total: int, full: int) -> Exposure:
    """The state after lists that gave the groups ``given`` [G] of ``total``; ``full`` is a full list's."""
    over = np.maximum(state.over + given - bounds.most * total, 0)
    under = np.maximum(state.under + bounds.least * total - given, 0)
    most = float(MOST_OWED * full)
    lost = np.maximum(over - most, 0) + np.maximum(under - most, 0)
    return replace(
        state,
        bias=bias,
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
