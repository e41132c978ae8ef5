"""Noise: what bots, double clicks and test accounts do is accepted and does not count."""

from __future__ import annotations

from collections import Counter, deque
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.attribution import SHOWN
from stream.core.items import Items
from stream.core.noise import Noise, judge, shown_to_bots, test_accounts
from stream.core.users import Bounds, Rows, advance
from stream.core.weights import Decay
from stream.mail import HIT
from stream.ownership import partition_of
from stream.settings import Settings
from tests.test_cold_start import Worker
from tests.test_step import SETTINGS, START_MS, Sent, World, event, log_of, steps

BOUNDS = Bounds(history=6, interest=4, ids=4)
NAMES = [f"i{n}" for n in range(4)]
ITEMS = Items()
ITEMS.add_all(NAMES)
Act = tuple[int, int, list[tuple[int, int]]]
"""User, seconds since the start, and what the event names: item, kind (one kind an event)."""

acts = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 200),
        st.tuples(st.integers(0, 1), st.lists(st.integers(0, 3), min_size=1, max_size=3)),
    ),
    max_size=40,
).map(lambda drawn: [(user, at, [(item, kind) for item in items]) for user, at, (kind, items) in drawn])


class Oracle:
    """The definition, event by event: all times are kept, and looked at anew every time."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.times: dict[int, list[int]] = {}
        self.history: dict[int, deque[tuple[int, int, int]]] = {}

    def act(self, user: int, time_ms: int, what: list[tuple[int, int]]) -> list[bool]:
        size, times = self.noise.window_ms, self.times.setdefault(user, [])
        times.append(time_ms)
        counts = Counter(each // size for each in times)
        newest = max(counts)
        left = size - max(time_ms - newest * size, 0)
        if self.noise.most and counts[newest] * size + counts[newest - 1] * left > self.noise.most * size:
            return [False] * len(what)
        history = self.history.setdefault(user, deque(maxlen=BOUNDS.history))
        second, earlier = time_ms // 1000, list(history)
        kept = []
        for item, kind in what:
            again = any(
                (i, k) == (item, kind) and abs(s - second) < self.noise.repeat_s for i, k, s in earlier
            )
            kept.append(not again)
            if not again:
                history.append((item, kind, second))
        return kept


def columns(batch: list[Act]) -> tuple[Any, ...]:
    rows = [
        (user, item, kind, START_MS + 1000 * at, number)
        for number, (user, at, what) in enumerate(batch)
        for item, kind in what
    ]
    user, item, kind, time, number = (np.array(column) for column in zip(*rows, strict=True))
    return user, item.astype(np.int32), kind.astype(np.uint8), time, number.astype(np.int32)


def run(noise: Noise, batches: list[list[Act]]) -> tuple[list[bool], Rows]:
    rows, kept = Rows.blank(3, BOUNDS), []
    for batch in batches:
        if batch:
            user, item, kind, time, number = columns(batch)
            counts, rate = judge(noise, rows, user, item, kind, time, number)
            kept += counts.tolist()
            units = np.full(int(counts.sum()), 8)
            rows.rate[:] = rate
            rows = advance(
                rows,
                user[counts],
                item[counts],
                kind[counts],
                time[counts],
                units,
                number[counts],
                Decay(10**9),
                ITEMS.hashes,
            )
    return kept, rows


@settings(deadline=None, max_examples=300)
@given(acts, st.integers(0, 6), st.integers(0, 4), st.sets(st.integers(1, 40)))
def test_judged_as_defined_however_batches_are_cut(
    drawn: list[Act], most: int, repeat_s: int, cuts: set[int]
) -> None:
    noise = Noise(most, 60_000, repeat_s, None)
    oracle = Oracle(noise)
    wanted = [one for user, at, what in drawn for one in oracle.act(user, START_MS + 1000 * at, what)]
    edges = sorted({0, len(drawn), *(cut for cut in cuts if cut < len(drawn))})
    kept, rows = run(noise, [drawn[low:high] for low, high in pairwise(edges)])
    assert kept == wanted
    for user, history in oracle.history.items():
        held = rows.item[user] >= 0
        assert rows.item[user, held].tolist() == [item for item, _, _ in history]


def test_a_bot_falls_silent_and_comes_back() -> None:
    """At most 3 a minute: 10 in the first, 1 in the middle of the second, 1 in the fourth."""
    noise = Noise(3, 60_000, 0, None)
    minute = -(-START_MS // 60_000) * 60 - START_MS // 1000
    burst: list[Act] = [(0, minute + second, [(0, 0)]) for second in range(10)]
    kept, _ = run(noise, [[*burst, (0, minute + 90, [(0, 0)]), (0, minute + 185, [(0, 0)])]])
    assert kept == [True] * 3 + [False] * 8 + [True], "10 events weigh 5 at the middle of the next minute"


def views(count: int, user: str, gap_ms: int, item: str = "") -> list[Sent]:
    """Views of one item, or of another each time."""
    return [
        Sent(
            n,
            START_MS + 10**9,
            orjson.dumps(event("view_item", user, item or f"{user}-{n % 50}", START_MS + n * gap_ms, n)),
        )
        for n in range(count)
    ]


def hits(world: World) -> int:
    return sum(n for entry, n in world.increments.items() if entry[2] == HIT)


def test_nobody_is_noise_by_default() -> None:
    world = World.new()
    world.feed(views(500, "ann", 2500))
    assert (world.uncounted, hits(world)) == (0, 500)


def test_a_bot_stops_counting() -> None:
    world = World.new()
    world.feed(views(1000, "ann", 100))
    assert (world.uncounted, hits(world)) == (700, 300)
    rows = world.table.take(world.table.slots(["ann"]))
    assert rows.seen.tolist() == [300] and rows.newest.tolist() == [START_MS + 299 * 100]


def test_a_double_click_counts_once() -> None:
    world = World.new()
    world.feed(views(4, "ann", 900, "tea"))
    assert (world.uncounted, hits(world)) == (2, 2)


def test_what_one_event_names_twice_counts_twice() -> None:
    world = World.new()
    order = event("purchase", "ann", "tea", START_MS, 1) | {"items": [{"item": "tea"}, {"item": "tea"}]}
    world.feed(
        [Sent(0, START_MS, orjson.dumps(order)), Sent(1, START_MS, orjson.dumps(order | {"id": "e2"}))]
    )
    assert (world.uncounted, hits(world)) == (1, 2)


@pytest.mark.parametrize(("patterns", "uncounted"), [([], 0), (["qa-*", "robot"], 6)])
def test_test_accounts_have_history_and_count_nowhere(patterns: list[str], uncounted: int) -> None:
    world = World.new(SETTINGS.model_copy(update={"test_users": patterns}))
    world.feed(views(3, "qa-1", 60_000) + views(3, "robot", 60_000) + views(3, "robotnik", 60_000))
    assert (world.uncounted, hits(world)) == (uncounted, 9 - uncounted)
    assert world.table.take(world.table.slots(["qa-1", "robot"])).seen.tolist() == [3, 3]


def test_patterns_match_whole_ids() -> None:
    noise = Noise.of(Settings(test_users=["qa-?", "x[12]"]))
    names = ["qa-1", "qa-10", "aqa-1", "x1", "x3", "QA-1"]
    assert test_accounts(noise, names).tolist() == [True, False, False, True, False, False]
    assert not test_accounts(Noise.of(Settings()), names).any()


def above(noise: Noise, times: list[int], time_ms: int) -> bool:
    """Whether who acted at ``times`` is above the rate at a later place of the log, of time ``time_ms``."""
    size = noise.window_ms
    counts = Counter(each // size for each in times)
    newest = max([*counts, time_ms // size])
    left = size - max(time_ms - newest * size, 0)
    return counts[newest] * size + counts[newest - 1] * left > noise.most * size


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 200), st.booleans()), max_size=40),
    st.integers(1, 5),
    st.integers(0, 40),
)
def test_lists_shown_to_bots_are_those_of_the_definition(
    drawn: list[tuple[int, int, bool]], most: int, cut: int
) -> None:
    noise, acted, wanted = Noise(most, 60_000, 0, None), [list[int](), list[int]()], []
    for user, at, acts in drawn:
        time_ms = START_MS + 1000 * at
        wanted.append(not acts and above(noise, acted[user], time_ms))
        acted[user] += [time_ms] * acts
    rows, found = Rows.blank(2, BOUNDS), []
    for batch in (drawn[:cut], drawn[cut:]):
        who, seconds = (np.array([one[at] for one in batch], dtype=np.int64) for at in (0, 1))
        does = np.array([one[2] for one in batch], dtype=np.bool_)
        found += shown_to_bots(noise, rows.rate, who, START_MS + 1000 * seconds, does).tolist()
        doing: list[Act] = [(user, at, [(0, 0)]) for user, at, acts in batch if acts]
        if doing:
            rows.rate[:] = judge(noise, rows, *columns(doing))[1]
    assert found == wanted


async def test_what_a_bot_is_shown_counts_no_more_than_what_he_does() -> None:
    """The first 10 events count, the 11th does not, nor does what is shown after it, until he slows down."""
    worker = Worker(bot_events=10, bot_window_s=60.0)
    await worker.start({})
    for n in range(15):
        await worker.send("ann", "recommendation_shown", n, list=f"l{n}", items=[{"item": "tea"}])
        await worker.send("ann", "view_item", n, item=f"i{n}")
    await worker.send("ann", "recommendation_shown", 600, list="later", items=[{"item": "tea"}])
    shopper = worker.local.shoppers[partition_of("ann", 2)]
    lists = [row for key, row in shopper.ledger.counts.items() if key.table == SHOWN]
    assert (lists, shopper.meta.uncounted) == ([[12, 0]], 5 + 4)


NOISY = SETTINGS.model_copy(
    update={"bot_events": 3, "bot_window_s": 3600.0, "repeat_s": 120, "test_users": ["b*"]}
)


@settings(max_examples=100, deadline=None)
@given(st.lists(steps, min_size=1, max_size=30), st.data())
def test_any_batches_give_the_same(drawn: list[tuple[str, str, str, int, int]], data: st.DataObject) -> None:
    log = log_of(drawn)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(log)), max_size=6)))
    whole, cut = World.new(NOISY), World.new(NOISY)
    whole.feed(log)
    for low, high in zip([0, *cuts], [*cuts, len(log)], strict=True):
        if low < high:
            cut.feed(log[low:high])
    assert cut.state() == whole.state()
