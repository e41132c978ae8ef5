"""Integer weights against exact arithmetic: tables, rounding, monotony, additivity."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.weights import PERIOD, SPAN, UNIT_BITS, WEIGHT_BITS, Decay, apply, gap_table, type_units

DAY_MS = 86_400_000
HALF_LIVES = st.sampled_from([60_000, 3_600_000, 7 * DAY_MS, 90 * DAY_MS])
TIMES = st.integers(0, 4_102_444_800_000)
GAPS = gap_table(50, 0.5)


def weights(
    decay: Decay, times: list[int], units: int = 8, gap: int = 1 << 12
) -> tuple[list[int], list[int]]:
    period, weight = decay.weigh(np.array(times), np.full(len(times), units), gap)
    return period.tolist(), weight.tolist()


def nearest(value: int, power: int, exact: Fraction) -> bool:
    """Whether ``value`` is the integer nearest to the number whose ``power``-th power is ``exact``."""
    return Fraction(2 * value - 1, 2) ** power <= exact <= Fraction(2 * value + 1, 2) ** power


def test_the_table_of_fractions_is_rounded_exactly() -> None:
    _, table = Decay(half_life_ms=256).base(np.arange(256))
    assert all(nearest(value, 256, Fraction(2) ** (i + 12 * 256)) for i, value in enumerate(table.tolist()))


@pytest.mark.parametrize(
    ("exponent", "power", "factor"),
    [(0.5, Fraction(1, 2), 1.0), (0.5, Fraction(1, 2), 0.2), (0.75, Fraction(3, 4), 0.75)],
)
def test_the_table_of_gaps_is_rounded_exactly(exponent: float, power: Fraction, factor: float) -> None:
    table = gap_table(60, exponent, factor).tolist()
    assert table[0] == 0
    scale, root = Fraction(str(factor)) * 4096, power.denominator
    for gap in range(1, 61):
        assert nearest(table[gap], root, scale**root / Fraction(gap) ** power.numerator)


def test_weights_of_known_times_are_pinned() -> None:
    assert gap_table(4, 0.5).tolist() == [0, 4096, 2896, 2365, 2048]
    decay = Decay(half_life_ms=1000)
    assert weights(decay, [0, 500, 1000, 3999, 4000]) == ([0, 0, 0, 0, 1], [1024, 1448, 2048, 16340, 1024])


@given(HALF_LIVES, TIMES)
def test_a_time_lies_in_the_tick_that_its_parts_name(half_life: int, time: int) -> None:
    period, halves, fraction = (int(part[0]) for part in Decay(half_life).split(np.array([time])))
    start = (period * PERIOD + halves) * half_life
    assert 0 <= halves < PERIOD and start <= time < start + half_life
    tick = (time - start) * 256 // half_life
    assert nearest(fraction, 256, Fraction(2) ** (tick + 12 * 256))


@given(HALF_LIVES, TIMES, st.integers(1, 128), st.integers(1, 50))
def test_a_weight_is_within_its_error_bound(half_life: int, time: int, units: int, gap: int) -> None:
    # Exact: units/8 · gap^−½ · 2^age · 2^UNIT_BITS, age in half-lives since its period began. All rounding is
    # a tick of time (2^(1/256)), half a unit in 4096 in the table of fractions, half a unit in that of gaps,
    # and one unit at the end.
    (period,), (weight,) = weights(Decay(half_life), [time], units, int(GAPS[gap]))
    age = Fraction(time - period * PERIOD * half_life, half_life)
    exact = units / 8 * gap**-0.5 * 2.0 ** float(age) * (1 << UNIT_BITS)
    up = 1 + 0.5 / 4096 + 0.5 / GAPS[gap] + 1e-6
    assert exact * (2 ** (-1 / 256) - 0.5 / 4096 - 0.5 / GAPS[gap] - 1e-6) - 1 <= weight <= exact * up


@given(HALF_LIVES, TIMES, st.integers(0, 10 * DAY_MS), st.integers(1, 128), st.integers(1, 50))
def test_a_later_event_never_weighs_less(half_life: int, time: int, later: int, units: int, gap: int) -> None:
    (first, second), (early, late) = weights(Decay(half_life), [time, time + later], units, int(GAPS[gap]))
    assert second >= first
    # Across a landmark the earlier one, brought to the later period, loses its lowest bits.
    assert early >> min(PERIOD * (second - first), 63) <= late


@given(TIMES, st.integers(1, 127), st.integers(1, 49))
def test_heavier_types_and_nearer_pairs_weigh_more(time: int, units: int, gap: int) -> None:
    _, scaled = Decay(DAY_MS).base(np.array([time]))
    here = int(apply(scaled, np.array([units]), int(GAPS[gap]))[0])
    assert int(apply(scaled, np.array([units + 1]), int(GAPS[gap]))[0]) >= here
    assert int(apply(scaled, np.array([units]), int(GAPS[gap + 1]))[0]) <= here


@given(st.lists(st.tuples(TIMES, st.integers(1, 128)), min_size=1, max_size=40), st.randoms())
def test_sums_add_up_exactly_in_any_order(events: list[tuple[int, int]], random: Random) -> None:
    decay = Decay(90 * DAY_MS)
    period, weight = decay.weigh(
        np.array([time for time, _ in events]), np.array([units for _, units in events])
    )
    entries = list(zip(period.tolist(), weight.tolist(), strict=True))
    base = min(period.tolist())
    whole = sum(w << PERIOD * (at - base) for at, w in entries)
    shuffled = entries.copy()
    random.shuffle(shuffled)
    assert sum(w << PERIOD * (at - base) for at, w in shuffled) == whole
    # Relative to a base a landmark earlier the same sum is the same number, shifted.
    assert sum(w << PERIOD * (at - base + 1) for at, w in entries) == whole << PERIOD


def test_the_heaviest_weights_leave_room_for_many_in_a_sum() -> None:
    last = 4 * DAY_MS - 1
    (_,), (weight,) = weights(Decay(DAY_MS), [last], units=type_units(99.0))
    assert type_units(99.0) == 128 and type_units(0.2) == 2
    assert (1 << WEIGHT_BITS) // (weight << PERIOD * (SPAN - 1)) >= 1 << 18


@given(HALF_LIVES, TIMES, st.integers(0, 20))
def test_age_factors_turn_sums_back_into_counts(half_life: int, time: int, halves: int) -> None:
    decay = Decay(half_life)
    period, weight = decay.weigh(np.array([time]), np.array([8]))
    now = np.array([time + halves * half_life])
    count = float((weight * decay.age_factors(period, now))[0])
    assert count == pytest.approx(2.0**-halves, rel=5e-3)
