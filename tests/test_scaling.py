"""The model of `docs/scaling.md`: its formulas by hand on small cases; the page has what it prints."""

from __future__ import annotations

from math import exp
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.scaling import ASSUMED, MEASURED, Shop

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
GOAL = Shop(1e8, 1e7, 1e6)


def test_the_page_has_the_tables_as_they_are_printed() -> None:
    page = PAGE.read_text()
    assert [each.name for each in scaling.tables(GOAL) if each.markdown() not in page] == []


def test_two_items_share_the_events_two_to_one() -> None:
    many, share = scaling.popularity(2)
    assert many.tolist() == [1, 1] and share == pytest.approx([2 / 3, 1 / 3])
    # As many touches in 0.1 s as make λ = 2 and 1.
    rate = 30 / MEASURED.touched
    found = scaling.changed(Shop(0, 2, rate), 0.1)
    assert found == pytest.approx((1 - exp(-2)) + (1 - exp(-1)))
    assert scaling.records(Shop(0, 2, rate)) == pytest.approx(found / 0.1)
    assert scaling.following(Shop(0, 2, rate)) == pytest.approx(found / 0.1 * MEASURED.follow_us / 1e6)


@pytest.mark.parametrize("items", [1, 2, 999, 1000, 1001, 30_000])
def test_groups_of_items_are_nearly_as_good_as_single_ones(items: int) -> None:
    single = 1 / np.arange(1, items + 1)
    touches = 20_000 * MEASURED.touched * single / single.sum()
    many, share = scaling.popularity(items)
    assert many.sum() == items and (many * share).sum() == pytest.approx(1)
    assert scaling.changed(Shop(0, items, 20_000), 1) == pytest.approx((1 - np.exp(-touches)).sum(), rel=1e-4)
    assert scaling.covered(Shop(0, items, 1), items / 2) <= 1


def test_workers_partitions_and_bytes_by_hand() -> None:
    shop = Shop(1000, 100, 1e5)
    # 100,000 · 70 µs are 7 cores, half busy 14; two partitions each are 28, up to a power of two 32.
    assert (MEASURED.worker_us, ASSUMED.busy) == (70, 0.5)
    assert scaling.workers(shop) == 14 and scaling.partitions(shop) == 32
    user, item = MEASURED.state_b + MEASURED.list_b, MEASURED.row_b + MEASURED.view_b
    assert scaling.store_bytes(shop) == 1000 * user + 100 * item
    own = 100 / 14 * MEASURED.held_row_b + ASSUMED.cached_users * MEASURED.held_user_b
    assert scaling.worker_bytes(shop) == pytest.approx(100 * MEASURED.known_b + own)


def test_a_message_goes_to_each_partition_that_an_event_touches() -> None:
    # One worker, two partitions, 10 transactions a second each; so many events that both are always touched …
    busy = Shop(0, 10, 7000)
    assert scaling.partitions(busy) == 2 and scaling.mail_messages(busy) == pytest.approx(2 * 10 * 2)
    # … and so few that a transaction touches one row: two of two partitions half of the time each.
    few = Shop(0, 10, 20 / MEASURED.touched)
    assert scaling.mail_messages(few) == pytest.approx(2 * 10 * 1)
    per_event = 24 * MEASURED.touched + 12 * MEASURED.entries
    assert scaling.mail_bytes(busy) > 7000 * per_event + 20 * scaling.mail_messages(busy)


def test_an_item_has_half_a_core_when_its_share_is_at_the_bound() -> None:
    most = ASSUMED.busy / scaling.hot_cores(GOAL, 1.0)
    assert scaling.hot_cores(GOAL, most) == pytest.approx(0.5)
    assert scaling.hot_cores(Shop(0, 1, 1e6), 0.5) == pytest.approx(
        0.5 * MEASURED.entries * MEASURED.entry_ns / 1e3
    )


def test_a_queue_is_what_a_loop_says() -> None:
    random = np.random.default_rng(1)
    arrivals, capacity = random.poisson(5, 500).astype(float), random.integers(0, 11, 500).astype(float)
    backlog, expected = 0.0, []
    for come, able in zip(arrivals, capacity, strict=True):
        backlog = max(backlog + come - able, 0)
        expected.append(backlog)
    assert scaling.waiting(arrivals, capacity).tolist() == expected and max(expected) > 0


def test_an_outage_is_caught_up_with_what_is_idle_otherwise() -> None:
    # 10 s of events wait, and half of the time is left for them: gone after 10 s more, all but 1 s after 8.
    found = scaling.episode(10_000, 0.5, 0, 10)
    assert found.wait_s == 10 and found.over_s == pytest.approx(18, abs=0.3)
    # Twice the capacity for 10 s: 5 s of work wait.
    assert scaling.episode(10_000, 0.5, 3, 10).wait_s == pytest.approx(5, abs=0.2)
    assert scaling.episode(10_000, 0.5, 1.5, 10).over_s == 0


def test_one_partition_is_the_mean_and_more_are_less_even() -> None:
    assert scaling.uneven(Shop(0, 1000, 0), 1) == pytest.approx(1)
    assert 1 < scaling.uneven(GOAL, 4) < scaling.uneven(GOAL, 64)


@pytest.mark.parametrize(("bound", "found"), [(0.5, 0.01), (4.0, 2.0), (1e9, 100.0)])
def test_a_bound_is_found_between_the_ends(bound: float, found: float) -> None:
    assert scaling.solved(lambda x: x * x, bound if bound > 1 else 1e-9, 0.01, 100.0) == pytest.approx(
        found, rel=2e-3
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0 B"),
        (0.0432, "0.043 B"),
        (9.3, "9.3 B"),
        (18.2, "18 B"),
        (994, "990 B"),
        (996, "1.0 kB"),
        (4.13e6, "4.1 MB"),
    ],
)
def test_two_digits_are_said(value: float, said: str) -> None:
    assert scaling.said(value, "B") == said
