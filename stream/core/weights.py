"""Integer weights for exact, order-free decayed sums.

Forward decay (Cormode, Shkapenyuk, Srivastava, Xu: Forward Decay, ICDE 2009): what is seen at time t
weighs ``w · 2^((t − landmark) / half_life)``, so nothing already stored ever has to be touched again.
Floats would overflow and would make a sum depend on its order. Here every weight is an integer from a
table, shifted left by whole half-lives; integer addition is associative to the bit, so the same log gives
the same counts whatever the batches, workers, retries or interleavings.

Time is cut into *landmark periods* of ``PERIOD`` half-lives, counted from 1970. A weight names its period
``ℓ`` and is expressed relative to the start of that period; a sum names the period ``base`` it is relative
to and takes a weight of period ``ℓ`` by shifting it left by ``PERIOD · (ℓ − base)``.

Bits of a sum, at most 44 in all (so that a 20-bit item id fits beside it in one 64-bit word):
``UNIT_BITS`` of fraction, ``SPAN · PERIOD`` half-lives of headroom, the rest magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

UNIT_BITS = 10
"""A weight of 1.0 at the start of a landmark period is ``2**UNIT_BITS`` units."""

PERIOD = 4
"""Half-lives in a landmark period."""

SPAN = 3
"""Landmark periods a sum can hold exactly: its base and the two after it."""

WEIGHT_BITS = 44
"""A sum never exceeds ``2**WEIGHT_BITS − 1``; it saturates there."""

TYPE_BITS = 3
"""Event type weights are multiples of 1/8."""

_TABLE_BITS = 12
_FRACTIONS = 256


@lru_cache
def _powers_of_two() -> I64:
    """``round(2^(i/256) · 2^12)`` for i in 0..255, by decimal arithmetic: the same on every machine."""
    scale = Decimal(1 << _TABLE_BITS)
    return np.array(
        [
            int((Decimal(2) ** (Decimal(i) / _FRACTIONS) * scale).to_integral_value())
            for i in range(_FRACTIONS)
        ],
        dtype=np.int64,
    )


def gap_table(window: int, exponent: float, factor: float = 1.0) -> I64:
    """``round(factor · gap^−exponent · 2^12)`` for gap = 0..window (entry 0 is unused and 0).

    The distance discount of the co-occurrence window: a pair ``gap`` interactions apart weighs
    ``gap^−exponent`` of an adjacent one. By decimal arithmetic: the same on every machine.
    """
    scale = Decimal(str(factor)) * (1 << _TABLE_BITS)
    power = -Decimal(str(exponent))
    return np.array(
        [0] + [int((scale * Decimal(gap) ** power).to_integral_value()) for gap in range(1, window + 1)],
        dtype=np.int64,
    )


def type_units(weight: float) -> int:
    """An event type's weight as a whole number of eighths (``round(weight · 8)``), at most 16.0."""
    return min(round(weight * (1 << TYPE_BITS)), 16 << TYPE_BITS)


@dataclass(frozen=True)
class Decay:
    """The decayed clock of one statistic.

    Parameters: ``half_life_ms``, the time in ms after which a count is worth half.
    """

    half_life_ms: int

    def split(self, time_ms: I64) -> tuple[I64, I64, I64]:
        """Times [n] ms → (landmark period ℓ, half-lives in it 0..PERIOD−1, table value of 2^fraction)."""
        ticks = (time_ms * _FRACTIONS) // self.half_life_ms
        halves = ticks >> 8
        return halves // PERIOD, halves % PERIOD, _powers_of_two()[ticks & 255]

    def base(self, time_ms: I64) -> tuple[I64, I64]:
        """Times [n] ms → (landmark period ℓ, time factor 2^((t − start of ℓ)/half_life) · 2^12)."""
        period, halves, fraction = self.split(time_ms)
        return period, fraction << halves

    def weigh(self, time_ms: I64, units: I64, gap: I64 | int = 1 << _TABLE_BITS) -> tuple[I64, I64]:
        """Weights of events relative to the start of their own landmark period.

        ``time_ms`` [n] int64, ``units`` [n] type weights in eighths, ``gap`` [n] values of `gap_table`.
        Returns (ℓ [n], weight [n]); weight = units/8 · gap · 2^((t − start of ℓ)/half_life) · 2^UNIT_BITS.
        """
        period, scaled = self.base(time_ms)
        return period, apply(scaled, units, gap)

    def age_factors(self, period: I64, time_ms: I64) -> NDArray[np.float64]:
        """Factors [n] that turn sums relative to ``period`` [n] into counts as of ``time_ms`` [n]."""
        halves = (time_ms - period * (PERIOD * self.half_life_ms)) / self.half_life_ms
        factors: NDArray[np.float64] = np.exp2(-halves - UNIT_BITS)
        return factors


def apply(scaled: I64, units: I64, gap: I64 | int) -> I64:
    """Combine a time factor from `Decay.base`, a type weight in eighths and a gap factor into units."""
    return (scaled * units * gap) >> (2 * _TABLE_BITS + TYPE_BITS - UNIT_BITS)
