"""How similar items are: five measures of directed, decayed co-occurrence counts C(i→j) ("j after i"). Pure.

With n_i the row sum of i, n_j the column sum of j, and N = Σ n_i = Σ n_j the sum of all pairs, S(i→j) is

    conditional   C^p / ((n_i + d)^a · n_j^b), damped
    cosine        C / √(n_i · n_j)
    lift          C·N / (n_i · n_j)
    pearson       (C·o − p·q) / √((C + p)·(q + o)·(C + q)·(p + o)): the phi coefficient
    llr           G² = 2 Σ O·ln(O / E), the log-likelihood ratio (Dunning, Computational Linguistics 19, 1993)

The last two are of the 2×2 table "i came first" by "j came second" of all pairs: its cells O are C,
p = n_i − C, q = n_j − C and o = N − C − p − q, E what they would be were the two independent. Where they come
together no more often than by chance (C·N ≤ n_i·n_j) both are 0. Sums are decayed to different times, so a
cell may come out below 0; it counts 0. A column sum of 0 counts 1.

The first three are the product of a row part, a column part and, of lift, N. So that all are handled alike,
the last two have parts, too, C and 1: `Similarity.whole` makes S of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from stream.settings import Settings

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_TINY = np.float32(1e-30)
_LEAST = 1e-3
"""Least column sum of cosine and lift, which have no damping; so lift stays a number."""
_CONSTANTS = {
    "cosine": (0.5, 0.0, 0.5, 1.0),
    "lift": (1.0, 0.0, 1.0, 1.0),
    "pearson": (0.0, 0.0, 0.0, 1.0),
    "llr": (0.0, 0.0, 0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Similarity:
    """A measure by ``name``, and the constants of its parts: exponents a, b, p and damping d."""

    row_exponent: float = 0.9
    damping: float = 100.0
    column_exponent: float = 0.15
    power: float = 1.0
    name: str = "conditional"

    @classmethod
    def of(cls, settings: Settings) -> Similarity:
        """From the settings; the constants there are those of the conditional."""
        if settings.similarity != "conditional":
            return cls.named(settings.similarity)
        return cls(
            settings.similarity_row_exponent,
            settings.similarity_damping,
            settings.similarity_column_exponent,
            settings.similarity_power,
        )

    @classmethod
    def named(cls, name: str) -> Similarity:
        """One that has no constants to choose: "cosine", "lift", "pearson" or "llr"."""
        return cls(*_CONSTANTS[name], name)

    @property
    def damped(self) -> bool:
        """Whether it is the conditional, with constants of the settings."""
        return self.name == "conditional"

    @property
    def needs_total(self) -> bool:
        """Whether N is in it."""
        return self.name in ("lift", "pearson", "llr")

    def row_part(self, weights: F32, row_sum: F64) -> F32:
        """C^p / (n_i + d)^a of ``weights`` [r, K] and ``row_sum`` [r]: [r, K], 0 where C is 0."""
        if not self.damped:
            weights = np.minimum(weights, row_sum.astype(np.float32)[:, None])
        # The power of 0 would leave the vector instructions.
        powers = np.power(np.maximum(weights, _TINY), np.float32(self.power))
        # Without damping a row may sum to 0; all its weights are 0 then.
        damped = np.maximum(row_sum + self.damping, _TINY)
        divisor = np.power(damped, -self.row_exponent).astype(np.float32)
        return np.where(weights > 0, powers * divisor[:, None], np.float32(0))

    def column_part(self, col_sum: F64) -> F32:
        """n_j^−b of ``col_sum`` [r]: [r], 1 where the sum is 0."""
        known = np.where(col_sum > 0, np.maximum(col_sum, _TINY if self.damped else _LEAST), 1.0)
        return np.power(known, -self.column_exponent).astype(np.float32)

    def whole(self, parts: F32, row_sum: F64, col_sum: F64, total: float) -> F32:
        """S of ``parts`` [n], row part times column part, of pairs with these sums [n], N being ``total``.

        Of the conditional and the cosine that is ``parts``. Finite, ≥ 0, and 0 where a part is 0.
        """
        if not self.needs_total:
            return parts
        if self.name == "lift":
            return parts * np.float32(total)
        found = np.zeros(parts.shape, dtype=np.float32)
        held = np.flatnonzero(parts > 0)
        count, column = parts[held].astype(np.float64), col_sum[held]
        cells = _table(count, row_sum[held], np.where(column > 0, column, 1.0), total)
        found[held] = _phi(*cells) if self.name == "pearson" else _log_likelihood_ratio(*cells)
        return found


def _table(count: F64, row_sum: F64, col_sum: F64, total: float) -> tuple[F64, F64, F64, F64]:
    """The cells C, p, q, o of pairs [n]: each [n], none below 0."""
    only_row, only_column = np.maximum(row_sum - count, 0), np.maximum(col_sum - count, 0)
    return count, only_row, only_column, np.maximum(total - count - only_row - only_column, 0)


def _phi(c: F64, p: F64, q: F64, o: F64) -> F64:
    """Pearson's correlation of "i came first" and "j came second"; 0 where it is below."""
    joint = c * o - p * q
    divisor = np.sqrt((c + p) * (q + o)) * np.sqrt((c + q) * (p + o))
    found: F64 = np.divide(joint, divisor, out=np.zeros_like(joint), where=joint > 0)
    return np.minimum(found, 1.0)


def _log_likelihood_ratio(c: F64, p: F64, q: F64, o: F64) -> F64:
    """Dunning's G²; 0 where the two come together no more often than by chance."""
    n, row, column = c + p + q + o, c + p, c + q
    cells = ((c, row * column), (p, row * (p + o)), (q, (q + o) * column), (o, (q + o) * (p + o)))
    twice = 2 * sum((rel_entr(cell, product / n) for cell, product in cells), np.zeros_like(c))
    return np.where(c * o > p * q, np.maximum(twice, 0), 0.0)
