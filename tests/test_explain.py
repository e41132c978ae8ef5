"""Explanations add up to the scores of lists, and say what stands behind them."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from stream.core.neighbor_format import HIDDEN
from stream.core.recommend.explain import ABSENT, BARRED, BLOCKED, RANKED, Explanation, explain
from stream.core.recommend.lists import Recommender
from tests.shops import (
    CHANNELS,
    COMPONENTS,
    NOW,
    Had,
    User,
    World,
    evidence,
    some_recommender,
    some_world,
    value,
)
from tests.test_ranking import Entry

NONE = np.zeros(0, dtype=np.int32)
PAIRS = 1000


def explained(
    recommender: Recommender, world: World, user: User, item: str, barred: list[str] | None = None
) -> Explanation:
    (at,) = world.ids([item])
    exclude = np.array(world.ids(barred or []), dtype=np.int32)
    return explain(recommender, world.sources(), world.query([user]), at, exclude)


def check_sums(found: Explanation) -> None:
    """Every line is the product, and every total the sum, that it says it is."""
    for each in found.channels:
        assert each.contribution == each.weight * each.evidence
        assert sum(entry.value for entry in each.entries) == pytest.approx(each.evidence, rel=1e-5)
        if each.log_total is not None:
            exponent = each.theta + each.of_kind - each.phi * each.log_total
            assert each.weight == pytest.approx(math.exp(exponent), rel=1e-6)
    exponent = sum(each.weight * each.value for each in found.features)
    whole = (found.least + sum(each.contribution for each in found.channels)) * math.exp(exponent)
    assert found.score == pytest.approx(whole, rel=1e-12)


def test_a_thousand_explanations_add_up_to_the_scores_of_lists() -> None:
    """To a millionth of the score: it is added up in floats of 32 bits, the explanation in 64."""
    rng, pairs = random.Random(8), 0
    for seed in range(100):
        world, recommender = some_world(seed, users=20), some_recommender(seed)
        ranked = recommender.rank(world.sources(), world.query(), (NONE, NONE), 70)
        for row in rng.sample(range(20), 12):
            held = np.flatnonzero(ranked.items[row] >= 0)
            if not len(held):
                continue
            place = int(rng.choice(held.tolist()))
            name = world.hood.items.name(int(ranked.items[row, place]))
            found = explained(recommender, world, world.users[row], name)
            assert (found.item, found.status, found.place) == (name, RANKED, place + 1)
            assert found.candidates == len(held)
            check_sums(found)
            assert found.score == pytest.approx(float(ranked.scores[row, place]), rel=1e-6, abs=0)
            pairs += 1
    assert pairs >= PAIRS


def test_every_entry_is_that_of_plain_python() -> None:
    for seed in range(5):
        world, recommender = some_world(seed), some_recommender(seed)
        for user in world.users:
            given = evidence(world, user)
            for item in given:
                found = explained(recommender, world, user, item)
                for channel, each in zip(CHANNELS, found.channels, strict=True):
                    entries = sorted((str(why), v) for v, why in given[item].get(channel, []) if v)
                    told = sorted((str(entry.because), entry.value) for entry in each.entries)
                    assert [why for why, _ in told] == [why for why, _ in entries]
                    assert [v for _, v in told] == pytest.approx([v for _, v in entries], rel=1e-4)
                    assert each.evidence == pytest.approx(value(given, item, channel), rel=1e-4)


def shop() -> World:
    """Ann looked at `i1`, then twice at `i0`, and bought `i2`, after which people look at `i3`."""
    entries = {
        "i0": Entry({"i3": 4.0, "i5": 2.0}, row_sum=9.0, last=NOW, popularity=3.0, tokens={1: 1.0}),
        "i1": Entry({"i3": 1.0}, row_sum=2.0, last=NOW, tokens={1: 1.0, 2: 1.0}),
        "i2": Entry({}, last=NOW, popularity=1.0),
        "i3": Entry({"i0": 1.0}, col_sum=16.0, last=NOW, popularity=4.0, tokens={1: 1.0, 2: 1.0}),
        "i5": Entry({}, flags=HIDDEN, last=NOW),
        "i6": Entry({}, last=NOW),
    }
    second = NOW // 1000
    had = {
        "i0": Had(4096, 2, second - 3 * 86_400, second - 86_400, 3),
        "i1": Had(2048, 1, second - 2 * 86_400, second - 2 * 86_400, 2),
        "i2": Had(2048, 1, second, second, 4),
    }
    return World(entries, ["i3", "i0", "i2"], [User(["i2", "i0", "i1"], had, 4)])


def test_an_entry_tells_the_counts_behind_it() -> None:
    world = shop()
    found = explained(Recommender(COMPONENTS), world, world.users[0], "i3")
    assert (found.kind, found.status, found.reasons) == ("browsing", RANKED, [])
    channels = {each.channel: each for each in found.channels}
    first, second = channels["item-item far"].entries
    assert (first.because, second.because) == ("i0", "i1")
    s = 4.0 / 109**0.9 / 16**0.15
    expected = {
        "count": 4.0, "row sum": 9.0, "column sum": 16.0, "similarity": s, "items ago": 1, "discount": 0.8,
    }  # fmt: skip
    assert {name: first.figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert channels["item-item near"].entries[1].figures["discount"] == pytest.approx(0.4**2, rel=1e-5)
    assert channels["item-item last"].entries == []
    (like,) = (each for each in channels["item-item alike"].entries if each.because == "i1")
    assert (like.figures["discount"], like.figures["likeness"]) == pytest.approx((0.64, 1.0), rel=1e-5)
    (content, _) = sorted(channels["content"].entries, key=lambda each: str(each.because))
    assert content.because == "i0"
    assert content.value == pytest.approx(0.8 * content.figures["cosine"] * math.sqrt(17), rel=1e-5)
    (popular,) = channels["popular"].entries
    assert (popular.because, popular.value, popular.figures) == (None, 0.5, {"popularity": 4.0})
    assert found.features == []
    (own,) = (
        each
        for each in explained(Recommender(COMPONENTS), world, world.users[0], "i0").channels
        if each.channel == "repeat"
    )
    figures = {"times": 2, "events ago": 1, "days ago": 1.0, "mean gap in days": 2.0}
    assert own.entries[0].figures == pytest.approx(figures)


def test_what_is_not_ranked_says_why() -> None:
    world, recommender = shop(), Recommender(COMPONENTS)
    (user,) = world.users
    hidden = explained(recommender, world, user, "i5")
    assert (hidden.status, hidden.place, hidden.score) == (BLOCKED, None, 0.0)
    assert hidden.reasons == ["it is hidden or out of stock"]
    bought = explained(recommender, world, user, "i2", ["i2"])
    assert (bought.status, bought.place, bought.reasons) == (BARRED, None, ["it was bought lately"])
    allowed = explained(recommender, world, user, "i2")
    assert (allowed.status, bought.score) == (RANKED, allowed.score)
    absent = explained(recommender, world, user, "i6")
    assert (absent.status, absent.place, absent.score) == (ABSENT, None, 0.0)
    assert {reason.split(":")[0] for reason in absent.reasons} == set(COMPONENTS)
    # Who is barred takes nobody's place.
    places = {i: explained(recommender, world, user, i, ["i2"]).place for i in ("i0", "i1", "i3")}
    assert sorted(map(str, places.values())) == ["1", "2", "3"]


def test_many_users_cannot_be_explained_at_once() -> None:
    world = some_world(1)
    with pytest.raises(ValueError, match="a query of 3 users cannot be explained: ask about one"):
        explain(Recommender(COMPONENTS), world.sources(), world.query(), 0)
