from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.recommend.candidates import Candidates, Entries, unite
from stream.core.recommend.lists import best
from stream.core.recommend.mixture import KINDS, Features, Mixture, Targets, kind_of

Entry = tuple[int, float, int]
"""Item, value, because."""


def part(rows: list[list[Entry]], channels: int = 1) -> Entries:
    """Entries as a component gives them; channel c has c + 1 times the value."""
    width = max((len(row) for row in rows), default=0)
    item = np.full((len(rows), width), -1, dtype=np.int32)
    because = np.full((len(rows), width), -1, dtype=np.int32)
    values = np.zeros((channels, len(rows), width), dtype=np.float32)
    for u, row in enumerate(rows):
        for k, (i, value, why) in enumerate(row):
            item[u, k], because[u, k] = i, why
            values[:, u, k] = value * np.arange(1, channels + 1)
    return Entries(item, tuple(values), because)


def once(rows: list[list[Entry]]) -> list[list[Entry]]:
    """The same without what names an item a second time."""
    return [list({entry[0]: entry for entry in row}.values()) for row in rows]


entry = st.tuples(st.integers(0, 8), st.sampled_from([0.25, 0.5, 1.0, 3.0]), st.integers(0, 5))
batches = st.integers(1, 4).flatmap(
    lambda users: st.tuples(
        st.lists(st.lists(entry, max_size=9), min_size=users, max_size=users),
        st.lists(st.lists(entry, max_size=5), min_size=users, max_size=users),
    )
)


def united(many: list[list[Entry]], few: list[list[Entry]]) -> Candidates:
    return unite([part(once(few)), part(many, channels=2)])


@given(batches)
def test_the_union_sums_what_names_the_same_item(batch: tuple[list[list[Entry]], list[list[Entry]]]) -> None:
    many, few = batch
    found = united(many, few)
    expected: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for u, row in enumerate(many):
        for i, value, _ in row:
            expected[u, i][1] += value
            expected[u, i][2] += 2 * value
    for u, row in enumerate(once(few)):
        for i, value, _ in row:
            expected[u, i][0] += value
    at = list(zip(found.row.tolist(), found.item.tolist(), strict=True))
    assert at == sorted(expected)
    assert found.values.T.tolist() == [expected[key] for key in at]
    assert found.start.tolist() == [sum(u < row for u, _ in at) for row in range(len(many) + 1)]


@given(batches, st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 2.0])] * 3), st.sampled_from([0.0, 0.75, 40.0]))
def test_the_reason_is_the_largest_entry_of_the_component_that_says_most(
    batch: tuple[list[list[Entry]], list[list[Entry]]], weights: tuple[float, ...], everywhere: float
) -> None:
    many, few = batch
    found = united(many, few)
    if everywhere:
        found = replace(found, everywhere={1: np.full(len(found.item), everywhere, dtype=np.float32)})
    weighed = found.weighed(np.repeat(np.array(weights)[:, None], len(many), axis=1))
    channel, because = weighed.reasons(np.arange(len(found.item)), [[0], [1, 2]])
    expected = []
    for u, i in zip(found.row.tolist(), found.item.tolist(), strict=True):
        told: list[tuple[float, int, int, int]] = []
        for rows, own in ((once(few), weights[:1]), (many, weights[1:])):
            # Channel c of a part has c + 1 times the value.
            scale = [weight * (c + 1) for c, weight in enumerate(own)]
            mine = [
                (-value * sum(scale), k, why) for k, (item, value, why) in enumerate(rows[u]) if item == i
            ]
            if mine:
                first = 0 if rows is not many else 1
                told.append(
                    (sum(v for v, *_ in mine), len(told), first + int(np.argmax(scale)), min(mine)[2])
                )
        share, _, best, why = min(told)
        expected.append((1, -1) if everywhere * weights[1] > -share else (best, why))
    assert list(zip(channel.tolist(), because.tolist(), strict=True)) == expected
    strategy, again = weighed.reasons(np.arange(len(found.item)), [[5], [7, 7]])
    assert strategy.tolist() == [5 if channel == 0 else 7 for channel, _ in expected]
    assert again.tolist() == because.tolist()


@given(batches)
def test_the_first_part_leads_to_its_entries(batch: tuple[list[list[Entry]], list[list[Entry]]]) -> None:
    many, few = batch
    at, entry = united(many, few).leading()
    numbered = [(u, i) for u, row in enumerate(once(few)) for i, *_ in row]
    assert sorted(entry.tolist()) == list(range(len(numbered)))
    found = united(many, few)
    assert [numbered[e] for e in entry.tolist()] == list(
        zip(found.row[at].tolist(), found.item[at].tolist(), strict=True)
    )


@given(batches, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=5))
def test_find_tells_where_a_candidate_stands(
    batch: tuple[list[list[Entry]], list[list[Entry]]], wanted: list[tuple[int, int]]
) -> None:
    found = united(*batch)
    at = list(zip(found.row.tolist(), found.item.tolist(), strict=True))
    row = np.array([u for u, _ in wanted], dtype=np.int64)
    item = np.array([i for _, i in wanted], dtype=np.int32)
    assert found.find(row, item).tolist() == [at.index(key) if key in at else -1 for key in wanted]


@given(batches, st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_best_are_by_score_then_hash(
    batch: tuple[list[list[Entry]], list[list[Entry]]], size: int, random: object
) -> None:
    found = united(*batch)
    rng = np.random.default_rng(len(found.item))
    scores = rng.choice(np.array([0.0, 0.5, 0.5, 2.0], dtype=np.float32), len(found.item))
    hashes = rng.permutation(9).astype(np.uint64) << np.uint64(40)
    at, place = best(found, scores, hashes, size)
    for u in range(len(batch[0])):
        mine = [
            (-float(scores[j]), int(hashes[found.item[j]]), j)
            for j in np.flatnonzero(found.row == u).tolist()
            if scores[j] > 0
        ]
        listed = at[found.row[at] == u]
        assert listed.tolist() == [j for *_, j in sorted(mine)[:size]]
        assert place[found.row[at] == u].tolist() == list(range(len(listed)))


def test_too_many_items_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="set profile_items or neighbors lower"):
        unite([part([[(1 << 31 - 1, 1.0, 0)] * 4])])


# The mixture, against its formulas, one user at a time


def mixture_of(found: Candidates, features: int) -> Mixture:
    channels = tuple(f"c{c}" for c in range(len(found.values)))
    mixture = Mixture(channels, tuple(f"f{d}" for d in range(features)))
    rng = np.random.default_rng(7)
    mixture.theta += rng.normal(size=mixture.theta.shape) / 4
    mixture.kinds += rng.normal(size=mixture.kinds.shape) / 4
    mixture.phi -= rng.random(mixture.phi.shape) / 2
    mixture.v += rng.normal(size=mixture.v.shape) / 4
    return mixture


def some(users: int = 3, seed: int = 3) -> tuple[Candidates, Features, np.ndarray]:
    rng = np.random.default_rng(seed)

    def rows(n: int) -> list[list[Entry]]:
        return [
            [(int(i), float(v), 0) for i, v in zip(rng.integers(0, 30, n), rng.random(n) + 0.1, strict=True)]
            for _ in range(users)
        ]

    many, few = rows(20), once(rows(6))
    found = unite([part(few), part(many, channels=2)])
    at, entry = found.leading()
    values = rng.random((2, len(at))).astype(np.float32)
    return found, Features(at, entry, values), kind_of(np.arange(users) * 6)


def slow_scores(mixture: Mixture, found: Candidates, features: Features, kind: np.ndarray) -> np.ndarray:
    g = np.zeros((len(mixture.v), len(found.item)))
    g[:, features.at] = features.values[:, features.entry]
    scores = np.zeros(len(found.item))
    for u in range(len(found.start) - 1):
        mine = np.flatnonzero(found.row == u)
        f = found.values[:, mine].astype(float)
        total = np.full(len(mine), 1e-9)
        for c in range(len(f)):
            if f[c].sum() > 0:
                exponent = mixture.theta[c] + mixture.kinds[kind[u], c] - mixture.phi[c] * np.log(f[c].sum())
                total += np.exp(exponent) * f[c]
        scores[mine] = np.log(total) + mixture.v @ g[:, mine]
    return scores


def scores_of(mixture: Mixture, found: Candidates, features: Features, kind: np.ndarray) -> np.ndarray:
    return mixture.scores(found.weighed(mixture.factors(found, kind)), features)


def test_scores_are_the_formula() -> None:
    found, features, kind = some()
    mixture = mixture_of(found, 2)
    expected = slow_scores(mixture, found, features, kind)
    assert np.log(scores_of(mixture, found, features, kind)) == pytest.approx(expected, abs=1e-5)


def test_learning_follows_the_gradient_of_the_loss() -> None:
    """∂θ and ∂v against numeric differences of the cross-entropy over all candidates (fewer than 100)."""
    found, features, kind = some()
    mixture = mixture_of(found, 2)
    targets = Targets(found.row[[2, 5, 30]], found.item[[2, 5, 30]], np.ones(3))
    rows = targets.row.tolist()

    def gain() -> float:
        """Σ_u √n · Σ_targets (1/n) · log p."""
        scores, total = slow_scores(mixture, found, features, kind), 0.0
        for u in set(rows):
            mine = found.row == u
            log_p = scores - np.log(np.exp(scores[mine]).sum())
            at = [j for j in (2, 5, 30) if found.row[j] == u]
            total += np.sqrt(len(at)) * log_p[at].mean()
        return total

    before = mixture.pack()
    for name in ("theta", "v"):
        numeric = []
        weights = getattr(mixture, name)
        for c in range(len(weights)):
            weights[c] += 1e-5
            up = gain()
            weights[c] -= 2e-5
            numeric.append((up - gain()) / 2e-5)
            weights[c] += 1e-5
        learned = Mixture.unpack(before, mixture.channels, mixture.features)
        learned.learn(found, features, kind, targets)
        step = getattr(learned, name) - weights
        # AdaGrad divides by the root of 1 + Σ_u g_u²: the direction of each weight is that of its gradient.
        assert np.sign(step).tolist() == np.sign(numeric).tolist()
        squares = learned.squares[name]
        assert step * np.sqrt(squares) / 0.1 == pytest.approx(numeric, rel=2e-3, abs=1e-4)


def test_what_users_do_next_rises() -> None:
    found, features, kind = some(users=40)
    mixture = Mixture(("c0", "c1", "c2"), ("f0", "f1"))
    # Everybody goes on to the candidate with the most evidence in the last channel.
    chosen = np.array(
        [lo + found.values[2, lo:hi].argmax() for lo, hi in zip(found.start, found.start[1:], strict=False)]
    )
    targets = Targets(found.row[chosen], found.item[chosen], np.ones(len(chosen)))
    before = mixture.theta.copy()
    for _ in range(50):
        mixture.learn(found, features, kind, targets)
    assert mixture.learned == 50 * 40
    gained = mixture.theta - before
    assert gained[2] > max(gained[0], gained[1])
    assert 0 <= mixture.phi.min() <= mixture.phi.max() <= 1.3


def test_nothing_is_learned_where_no_target_is_a_candidate() -> None:
    found, features, kind = some()
    mixture = mixture_of(found, 2)
    before = mixture.pack()
    mixture.learn(found, features, kind, Targets(np.array([0]), np.array([999], dtype=np.int32), np.ones(1)))
    assert mixture.pack() == before


def test_a_stored_mixture_comes_back_unless_its_components_changed() -> None:
    found, features, kind = some()
    mixture = mixture_of(found, 2)
    mixture.learn(found, features, kind, Targets(found.row[:1], found.item[:1], np.ones(1)))
    again = Mixture.unpack(mixture.pack(), mixture.channels, mixture.features)
    assert again.pack() == mixture.pack()
    told, kept = (scores_of(one, found, features, kind).tolist() for one in (again, mixture))
    assert told == kept
    other = Mixture.unpack(mixture.pack(), ("c0", "x", "c2"), mixture.features)
    assert other.learned == 0
    assert other.theta.tolist() == Mixture(("c0", "x", "c2"), ("f0", "f1")).theta.tolist()


def test_kinds_are_by_number_of_events() -> None:
    kinds = [KINDS[k] for k in kind_of(np.array([0, 1, 2, 3, 4, 5, 9, 10, 24, 25, 900])).tolist()]
    assert kinds == [
        "new", "new", "second", "browsing", "browsing", "settling", "settling",
        "returning", "returning", "regular", "regular",
    ]  # fmt: skip
