from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.weights import PERIOD, UNIT_BITS, Decay, apply, gap_table, type_units

HALF_LIFE = st.integers(60_000, 400 * 86_400_000)
TIME = st.integers(0, 4 * 10**12)
UNITS = st.integers(1, 128)
TABLE = 2.0**-12 / 2  # half a unit of a table's last bit, of a value of at least 1


def weigh(decay: Decay, time: int, units: int, gap: int = 1 << 12) -> tuple[int, int]:
    period, weight = decay.weigh(np.array([time]), np.array([units]), np.array([gap]))
    return int(period[0]), int(weight[0])


def exact(decay: Decay, time: int, period: int) -> Fraction:
    """2^((t − start of the period) / half-life) by decimal arithmetic of 40 digits."""
    with localcontext() as context:
        context.prec = 40
        halves = Decimal(time - period * PERIOD * decay.half_life_ms) / decay.half_life_ms
        return Fraction(Decimal(2) ** halves)


@given(HALF_LIFE, TIME, UNITS)
def test_a_weight_is_two_to_the_age_within_the_tables_resolution(
    half_life: int, time: int, units: int
) -> None:
    decay = Decay(half_life)
    period, weight = weigh(decay, time, units)
    assert period == time // (PERIOD * half_life)
    wanted = exact(decay, time, period) * units / 8 * 2**UNIT_BITS
    # Time is cut to 1/256 half-lives (downwards), the table is rounded, and so is the result (downwards).
    assert wanted * Fraction(2 ** (-1 / 256) * (1 - TABLE)) - 1 <= weight <= wanted * Fraction(1 + TABLE)


@given(HALF_LIFE, TIME, UNITS, st.integers(1, 64), st.floats(0, 2))
def test_a_gap_discounts_within_a_unit(
    half_life: int, time: int, units: int, gap: int, exponent: float
) -> None:
    decay, table = Decay(half_life), gap_table(64, exponent)
    period, scaled = decay.base(np.array([time]))
    weight = int(apply(scaled, np.array([units]), table[gap : gap + 1])[0])
    factor = Fraction(int(scaled[0]), 1 << 12) * Fraction(int(table[gap]), 1 << 12)
    assert factor * units / 8 * 2**UNIT_BITS - 1 < weight <= factor * units / 8 * 2**UNIT_BITS
    assert weigh(decay, time, units, int(table[gap])) == (int(period[0]), weight)


@given(HALF_LIFE, TIME, st.integers(0, 10**10), UNITS)
def test_later_is_never_lighter(half_life: int, time: int, later: int, units: int) -> None:
    decay = Decay(half_life)
    (period, weight), (next_period, next_weight) = (weigh(decay, at, units) for at in (time, time + later))
    assert weight <= next_weight << PERIOD * (next_period - period)


@given(HALF_LIFE, TIME, UNITS)
def test_a_half_life_later_weighs_exactly_twice(half_life: int, time: int, units: int) -> None:
    decay = Decay(half_life)
    (period, scaled), (next_period, twice) = (decay.base(np.array([at])) for at in (time, time + half_life))
    assert int(twice[0]) << PERIOD * int(next_period[0] - period[0]) == 2 * int(scaled[0])


@given(HALF_LIFE, st.lists(st.tuples(TIME, UNITS), min_size=1, max_size=30))
def test_of_many_events_as_of_one_each(half_life: int, events: list[tuple[int, int]]) -> None:
    decay = Decay(half_life)
    time, units = np.array(events, dtype=np.int64).T
    period, weight = decay.weigh(time, units)
    assert list(zip(period.tolist(), weight.tolist(), strict=True)) == [
        weigh(decay, *event) for event in events
    ]


def test_the_largest_weight_leaves_room_for_a_sum() -> None:
    """Weight 16 at the end of a period, two periods ahead of its row's base: 1,024 fit the ceiling."""
    decay = Decay(1000)
    _, weight = weigh(decay, PERIOD * 1000 - 1, 128)
    assert weight << 2 * PERIOD < 2**34


@given(st.integers(1, 64), st.floats(0, 3), st.sampled_from([1.0, 0.2, 0.05]))
def test_gap_table(window: int, exponent: float, factor: float) -> None:
    table = gap_table(window, exponent, factor).tolist()
    assert (len(table), table[0], table[1]) == (window + 1, 0, round(factor * 4096))
    assert table[1:] == sorted(table[1:], reverse=True)
    for gap in range(1, window + 1):
        assert abs(table[gap] - factor * gap**-exponent * 4096) <= 0.5 + 1e-6


def test_gap_table_of_the_defaults_is_what_it_always_was() -> None:
    assert gap_table(10, 0.5).tolist() == [0, 4096, 2896, 2365, 2048, 1832, 1672, 1548, 1448, 1365, 1295]
    assert gap_table(4, 0.5, 0.2).tolist() == [0, 819, 579, 473, 410]


@pytest.mark.parametrize(("weight", "units"), [(0, 0), (0.125, 1), (1, 8), (1.06, 8), (16, 128), (99, 128)])
def test_type_units_are_eighths_up_to_sixteen(weight: float, units: int) -> None:
    assert type_units(weight) == units


@given(HALF_LIFE, TIME, st.integers(0, 10**10), UNITS)
def test_age_factors_turn_sums_into_counts(half_life: int, time: int, age: int, units: int) -> None:
    decay = Decay(half_life)
    period, weight = weigh(decay, time, units)
    factor = float(decay.age_factors(np.array([period]), np.array([time + age]))[0])
    wanted = units / 8 * 2.0 ** (-age / half_life)
    assert weight * factor == pytest.approx(wanted, rel=2 ** (1 / 256) - 1 + TABLE + 1 / weight)
