"""Personal lists, against plain Python (`tests/shops.py`)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.items import item_hash
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import Ranked
from stream.core.recommend.lists import CHUNK, Recommender
from stream.core.recommend.mixture import Mixture, Targets
from stream.core.views import STRATEGIES
from tests.shops import (
    CHANNELS,
    COMPONENT,
    COMPONENTS,
    DAY,
    NAMED,
    NOW,
    STRATEGY,
    Evidence,
    User,
    World,
    evidence,
    factors,
    features,
    kind,
    scores,
    shares,
    some_recommender,
    some_world,
    value,
)
from tests.test_ranking import Entry

SEEDS = st.integers(0, 2**32)
NOBODY = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))
ALL = Recommender(COMPONENTS).channels
Line = tuple[str, float, str, str | None]
"""Item, score, strategy, because."""


def lines(hood: Neighborhood, ranked: Ranked) -> list[list[Line]]:
    """The lists, without pads."""

    def name(at: int) -> str | None:
        return hood.items.name(at) if at >= 0 else None

    columns = (ranked.items, ranked.scores, ranked.strategy, ranked.because)
    return [
        [
            (hood.items.name(item), score, STRATEGIES[strategy], name(because))
            for item, score, strategy, because in zip(*row, strict=True)
            if item >= 0
        ]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def ranked_by(recommender: Recommender, world: World, size: int = 10) -> list[list[Line]]:
    return lines(world.hood, recommender.rank(world.sources(), world.query(), NOBODY, size))


@settings(max_examples=60)
@given(SEEDS, st.sampled_from([5, 24]))
def test_candidates_and_their_evidence_are_those_of_plain_python(seed: int, neighbors: int) -> None:
    world, recommender = some_world(seed, neighbors=neighbors), some_recommender(seed)
    found = recommender.search(world.sources(), world.query())
    candidates = found.candidates
    assert found.kind.tolist() == [kind(user) for user in world.users]
    told = np.zeros((len(recommender.mixture.v), len(candidates.item)))
    told[:, found.features.at] = found.features.values[:, found.features.entry]
    for row, user in enumerate(world.users):
        mine = np.flatnonzero(candidates.row == row)
        names = [world.hood.items.name(at) for at in candidates.item[mine].tolist()]
        expected, known = evidence(world, user), features(world, user)
        assert sorted(names) == sorted(expected)
        for at, name in zip(mine.tolist(), names, strict=True):
            given_ = [value(expected, name, channel) for channel in CHANNELS]
            np.testing.assert_allclose(candidates.values[:, at], given_, rtol=1e-4)
            np.testing.assert_allclose(told[:, at], known.get(name, [0.0] * 13), rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(SEEDS, st.sampled_from([5, 24]), st.sampled_from([1, 10, 70]))
def test_lists_are_those_of_plain_python(seed: int, neighbors: int, size: int) -> None:
    world, recommender = some_world(seed, neighbors=neighbors), some_recommender(seed)
    rng = np.random.default_rng(seed)
    barred = [(row, name) for row in range(len(world.users)) for name in rng.choice(NAMED, 5).tolist()]
    rows, names = zip(*barred[::-1], strict=True)
    exclude = np.array(rows, dtype=np.int32), np.array(world.ids(names), dtype=np.int32)
    ranked = recommender.rank(world.sources(), world.query(), exclude, size)
    assert ranked.items.shape == (len(world.users), size)
    assert not ranked.scores[ranked.items < 0].any()
    assert (ranked.because[ranked.items < 0] == -1).all()
    for row, (user, listed) in enumerate(zip(world.users, lines(world.hood, ranked), strict=True)):
        expected = scores(recommender.mixture, world, user)
        able = [score for item, score in expected.items() if (row, item) not in barred]
        assert [score for _, score, *_ in listed] == pytest.approx(sorted(able)[::-1][:size], rel=1e-4)
        assert len({item for item, *_ in listed}) == len(listed)
        for line in listed:
            assert (row, line[0]) not in barred
            assert line[1] == pytest.approx(expected[line[0]], rel=1e-4)
            check_reason(recommender.mixture, evidence(world, user), user, line)


def check_reason(mixture: Mixture, given_: Evidence, user: User, line: Line) -> None:
    """Of the component with the largest share the largest entry, and of that the largest channel."""
    item, _, strategy, because = line
    parts: dict[str, dict[str | None, dict[str, float]]] = {}
    for channel, weight in zip(CHANNELS, factors(mixture, given_, user), strict=True):
        for v, why in given_[item].get(channel, ()):
            parts.setdefault(COMPONENT[channel], {}).setdefault(why, {})[channel] = weight * v
    whole = {name: sum(sum(told.values()) for told in part.values()) for name, part in parts.items()}
    if max(whole.values()) == 0:
        return
    reasons = set()
    for name, part in parts.items():
        entries = {why: sum(told.values()) for why, told in part.items()}
        for why, share in entries.items():
            if whole[name] >= max(whole.values()) * 0.9999 and share >= max(entries.values()) * 0.9999:
                most = max(part[why].values()) * 0.9999
                reasons |= {(STRATEGY[channel], why) for channel, v in part[why].items() if v >= most}
    assert (strategy, because) in reasons


@settings(max_examples=30)
@given(SEEDS)
def test_each_channel_alone_ranks_by_its_evidence(seed: int) -> None:
    world, recommender = some_world(seed), some_recommender(seed)
    made = recommender.alone(world.sources(), world.query(), 8)
    assert tuple(made) == recommender.channels
    for channel, items in zip(CHANNELS, made.values(), strict=True):
        for user, row in zip(world.users, items.tolist(), strict=True):
            given_ = evidence(world, user)
            values = {item: value(given_, item, channel) for item in given_}
            found = [values[world.hood.items.name(item)] for item in row if item >= 0]
            best = sorted((v for v in values.values() if v > 0), reverse=True)[:8]
            assert found == pytest.approx(best, rel=1e-4)


@settings(max_examples=10)
@given(SEEDS)
def test_many_users_are_ranked_as_each_alone(seed: int) -> None:
    world, recommender = some_world(seed, users=CHUNK + 30), some_recommender(seed)
    together = ranked_by(recommender, world)
    for row in [0, 1, CHUNK - 1, CHUNK, CHUNK + 29]:
        query = world.query(world.users[row : row + 1])
        (alone,) = lines(world.hood, recommender.rank(world.sources(), query, NOBODY, 10))
        assert [(item, *rest) for item, _, *rest in alone] == [
            (item, *rest) for item, _, *rest in together[row]
        ]
        assert [line[1] for line in alone] == pytest.approx([line[1] for line in together[row]], rel=1e-5)


@settings(max_examples=30)
@given(SEEDS)
def test_lists_do_not_depend_on_the_order_of_records(seed: int) -> None:
    """Once all have come, and items were compared with neighbours whose records came after their own."""
    world, recommender = some_world(seed), some_recommender(seed)
    other = World({}, world.trending, world.users)
    for name in np.random.default_rng(seed).permutation(list(world.shop)).tolist():
        other.hood.apply([name], [world.shop[name].value()])
    other.hood.liken()
    for one, two in zip(ranked_by(recommender, world), ranked_by(recommender, other), strict=True):
        assert [line[2:] for line in one] == [line[2:] for line in two]
        assert [line[0] for line in one] == [line[0] for line in two]
        assert [line[1] for line in one] == pytest.approx([line[1] for line in two], rel=1e-5)


def test_equal_scores_stand_by_ascending_hash() -> None:
    names = [f"i{at}" for at in range(30)]
    world = World({name: Entry({}, popularity=2.0) for name in names}, names, [User([], {}, 0)])
    (found,) = ranked_by(Recommender(COMPONENTS), world)
    assert [item for item, *_ in found] == sorted(names, key=item_hash)[:10]
    assert {line[2:] for line in found} == {("trending", None)}


@pytest.mark.parametrize("days", [0, 130, 280, 450])
def test_popularity_is_a_share_in_any_year(days: int) -> None:
    """What is kept of it grows without end, and begins anew every 500 half-lives."""
    last = NOW + days * DAY
    shop = {"i0": Entry({}, popularity=3.0, last=last), "i1": Entry({}, popularity=4.0, last=last - 2 * DAY)}
    world = World(shop, ["i0", "i1"], [User([], {}, 0, last)])
    found = Recommender(COMPONENTS).search(world.sources(), world.query()).candidates
    popular = found.values[CHANNELS.index("popular")]
    shares = dict(zip(found.item.tolist(), popular.tolist(), strict=True))
    assert [shares[at] for at in world.ids(["i0", "i1"])] == pytest.approx([0.75, 0.25])


def test_nobody_gets_no_list_and_in_an_empty_shop_nobody_gets_anything() -> None:
    recommender = Recommender(COMPONENTS)
    assert recommender.rank(some_world(1).sources(), some_world(1).query([]), NOBODY, 7).items.shape == (0, 7)
    empty = World({}, [], [User([], {}, 0), User(["i1"], {}, 1)])
    assert ranked_by(recommender, empty) == [[], []]


@settings(max_examples=20)
@given(SEEDS)
def test_what_is_blocked_or_nameless_is_never_listed(seed: int) -> None:
    world = some_world(seed, users=20)
    listed = {line[0] for row in ranked_by(some_recommender(seed), world, 70) for line in row}
    assert listed <= {name for name in NAMED if world.shown(name)}


# Learning


def hand_step(mixture: Mixture, world: World, next_: list[list[str]]) -> dict[str, np.ndarray]:
    """The weights after one batch: gradients of each query summed, then one step of AdaGrad."""
    gradients: dict[str, list[np.ndarray]] = {"theta": [], "phi": [], "v": []}
    kinds, squares = np.zeros_like(mixture.kinds), mixture.squares["kinds"].copy()
    taught = 0
    for user, wanted in zip(world.users, next_, strict=True):
        given_, told = evidence(world, user), features(world, user)
        score = scores(mixture, world, user)
        targets = [item for item in wanted if item in given_]
        if not targets:
            continue
        taught += 1
        parts = {item: shares(mixture, given_, user, item) for item in given_}
        total, root = sum(score.values()), math.sqrt(len(targets))
        delta = {item: (item in targets) / len(targets) - score[item] / total for item in given_}
        theta = np.zeros(len(CHANNELS))
        v = np.zeros(len(mixture.v))
        for item in given_:
            theta += root * delta[item] * np.array(parts[item]) / (1e-9 + sum(parts[item]))
            v += root * delta[item] * np.array(told.get(item, [0.0] * len(v)), dtype=float)
        sums = [sum(value(given_, item, c) for item in given_) for c in CHANNELS]
        gradients["theta"].append(theta)
        gradients["phi"].append(-0.3 * np.log(np.maximum(sums, 1e-12)) * theta)
        gradients["v"].append(v)
        kinds[kind(user)] += theta
        squares[kind(user)] += theta**2
    after = {"kinds": (mixture.kinds + 0.05 * kinds / np.sqrt(squares)) * 0.999**taught}
    for name, rate in (("theta", 0.1), ("phi", 0.05), ("v", 0.1)):
        each = np.array(gradients[name])
        square = mixture.squares[name] + (each**2).sum(axis=0)
        after[name] = getattr(mixture, name) + rate * each.sum(axis=0) / np.sqrt(square)
    after["phi"] = np.clip(after["phi"], 0, 1.3)
    return after


def targets_of(world: World, next_: list[list[str]]) -> Targets:
    pairs = [(row, item) for row, items in enumerate(next_) for item in items]
    item = np.array(world.ids([item for _, item in pairs]), dtype=np.int32)
    return Targets(np.array([row for row, _ in pairs], dtype=np.int64), item, np.ones(len(pairs)))


@settings(max_examples=30)
@given(SEEDS)
def test_a_batch_is_one_step_by_the_formulas(seed: int) -> None:
    """60 items at most are candidates, so all are among the best 100."""
    world, recommender = some_world(seed, users=6), some_recommender(seed)
    rng = np.random.default_rng(seed)
    next_ = [list(dict.fromkeys(rng.choice(NAMED, 3).tolist())) for _ in world.users]
    able = [set(wanted) & set(evidence(world, user)) for user, wanted in zip(world.users, next_, strict=True)]
    before = recommender.mixture.pack()
    if not any(able):
        recommender.learn(world.sources(), world.query(), targets_of(world, next_))
        assert recommender.mixture.pack() == before
        return
    expected = hand_step(recommender.mixture, world, next_)
    recommender.learn(world.sources(), world.query(), targets_of(world, next_))
    assert recommender.mixture.learned == sum(map(bool, able))
    for name, weights in expected.items():
        np.testing.assert_allclose(getattr(recommender.mixture, name), weights, rtol=1e-3, atol=1e-4)


def test_learning_is_deterministic_and_a_stored_mixture_ranks_alike() -> None:
    world = some_world(5, users=CHUNK + 20)
    next_ = [[NAMED[row % len(NAMED)]] for row in range(len(world.users))]
    one, other = Recommender(COMPONENTS), Recommender(COMPONENTS)
    one.learn(world.sources(), world.query(), targets_of(world, next_))
    # A batch of more than a chunk is learned chunk by chunk.
    for low, high in ((0, CHUNK), (CHUNK, CHUNK + 20)):
        part = World(world.shop, world.trending, world.users[low:high], world.neighbors)
        other.learn(part.sources(), part.query(), targets_of(part, next_[low:high]))
    assert one.mixture.pack() == other.mixture.pack() != Recommender(COMPONENTS).mixture.pack()
    stored = Recommender(COMPONENTS)
    stored.mixture = Mixture.unpack(one.mixture.pack(), stored.channels, stored.mixture.features)
    assert ranked_by(stored, world) == ranked_by(one, world)


@pytest.mark.parametrize("channel", ["last", "return", "content", "popular"])
def test_the_channel_that_tells_what_users_do_gets_the_largest_weight(channel: str) -> None:
    recommender = Recommender(COMPONENTS)
    for seed in range(60):
        world, next_ = some_world(seed, users=20), []
        for user in world.users:
            given_ = evidence(world, user)
            best = max(given_, key=lambda item: value(given_, item, channel), default="")
            next_.append([best] if best and value(given_, best, channel) else [])
        recommender.learn(world.sources(), world.query(), targets_of(world, next_))
    assert CHANNELS[int(recommender.mixture.theta.argmax())] == channel


def test_components_can_be_left_out() -> None:
    world = some_world(3)
    for names in (("item-item",), ("popular",), ("repeat", "popular")):
        recommender = Recommender(names)
        for user, listed in zip(world.users, ranked_by(recommender, world, 60), strict=True):
            given_ = evidence(world, user)
            ours = [c for c, full in zip(CHANNELS, ALL, strict=True) if full in recommender.channels]
            assert {item for item, *_ in listed} <= set(given_)
            assert {strategy for _, _, strategy, _ in listed} <= {STRATEGY[c] for c in ours}
