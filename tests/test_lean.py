from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stream.core.recommend.candidates import Entries
from stream.core.recommend.explain import explain
from stream.core.recommend.lists import COMPONENTS, Recommender
from stream.core.recommend.mixture import Targets
from stream.core.views import STRATEGIES
from stream.settings import ALL_COMPONENTS, Settings
from tests.shops import PROFILE, World, some_world

Told = list[tuple[float, str, str | None]]
"""Value, strategy and evidence of what speaks for an item."""
NOTHING = (np.zeros(0, np.int32), np.zeros(0, np.int32))


def oracle(world: World, profile: list[str]) -> dict[str, Told]:
    """What speaks for each candidate."""
    told: dict[str, Told] = defaultdict(list)
    best = 1e-6
    for k, i in enumerate(profile):
        most = min(20 if k < PROFILE / 2 else 5, world.neighbors)
        for j in list(world.shop[i].list if i in world.shop else ())[:most]:
            if world.shown(j):
                similarity = world.similarity(i, j)
                best = max(best, similarity)
                told[j].append((0.8**k * similarity, "item-item", i))
    for k, i in enumerate(profile):
        if world.shown(i):
            told[i].append((0.8**k * best, "return", i))
    total = max(sum(map(world.heat, world.trending)), 1e-6)
    for j in [name for name in world.trending if world.shown(name)][:20]:
        told[j].append(((world.heat(j) / total + 1e-6) * 1e-6, "trending", None))
    return told


@given(st.integers(0, 10_000), st.sampled_from([5, 24]))
def test_lean_lists_are_those_of_plain_python(seed: int, neighbors: int) -> None:
    world, recommender = some_world(seed, neighbors=neighbors), Recommender(["lean"])
    ranked = recommender.rank(world.sources(), world.query(), NOTHING, 8)
    for row, user in enumerate(world.users):
        told = oracle(world, user.profile)
        expected = sorted((1e-9 + sum(v for v, *_ in given_) for given_ in told.values()), reverse=True)[:8]
        items = [world.hood.items.name(at) for at in ranked.items[row].tolist() if at >= 0]
        assert ranked.scores[row, : len(items)].tolist() == pytest.approx(expected, rel=1e-4)
        for place, item in enumerate(items):
            assert ranked.scores[row, place] == pytest.approx(1e-9 + sum(v for v, *_ in told[item]), rel=1e-4)
            why = int(ranked.because[row, place])
            reason = (
                STRATEGIES[ranked.strategy[row, place]],
                None if why < 0 else world.hood.items.name(why),
            )
            most = max(v for v, *_ in told[item]) * 0.9999
            assert reason in [(strategy, because) for v, strategy, because in told[item] if v >= most]


def test_what_is_lean_never_learns_and_adds_up() -> None:
    world, recommender = some_world(3), Recommender(["lean"])
    before = recommender.mixture.pack()
    ranked = recommender.rank(world.sources(), world.query(), NOTHING, 5)
    targets = Targets(np.arange(len(world.users)), ranked.items[:, 0].copy(), np.ones(len(world.users)))
    recommender.learn(world.sources(), world.query(), targets)
    assert recommender.mixture.pack() == before
    item = int(ranked.items[0, 0])
    found = explain(recommender, world.sources(), world.query(world.users[:1]), item)
    assert found.score == pytest.approx(float(ranked.scores[0, 0]), rel=1e-6)


def test_lean_stands_alone_and_names_are_known() -> None:
    assert Settings(components=["lean"]).components == ["lean"]
    with pytest.raises(ValidationError, match="lean stands alone"):
        Settings(components=["lean", "repeat"])
    with pytest.raises(ValidationError, match=r"unknown component 'item'; known are .*item-item"):
        Settings(components=["item"])
    with pytest.raises(ValidationError, match="twice"):
        Settings(components=["repeat", "repeat"])
    assert set(ALL_COMPONENTS) == set(COMPONENTS)


def test_an_empty_run_of_entries_sums_to_nothing() -> None:
    """As where nothing trends, or nobody has done anything."""
    values, items = np.array([[1, 2, 3]], dtype=np.float32), np.arange(3, dtype=np.int32)[None]
    for runs, sums in (((3, 0, 0), [6, 0, 0]), ((0, 3, 0), [0, 6, 0]), ((1, 0, 2), [1, 0, 5])):
        factors = np.eye(3, dtype=np.float32)
        entries = Entries(items, (values,) * 3, items, runs=runs, factors=factors)
        assert entries.sums()[:, 0].tolist() == sums
