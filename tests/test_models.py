"""Models of the user-item matrix, against the formulas of their papers worked out densely."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stream.core.interest import Interest
from stream.core.models import ease, nmf, pure_svd
from stream.core.models.matrix import Matrix, matrix, rows_of, value
from stream.core.models.model import NAMES, Chunk, Fitting, Model, chunks, fit, unpack, whole
from stream.core.models.placed import Placed, _reaching, entries
from stream.core.neighbor_format import HIDDEN
from stream.core.neighborhood import Neighborhood
from stream.core.ranking import reaching
from stream.core.recommend.query import Query
from stream.core.weights import Decay
from tests.test_ranking import Entry, hood_of

F64 = NDArray[np.float64]
DECAY = Decay(90 * 86_400_000)
HIDDEN_ITEM = 2
HOW = Fitting(factors=4, penalty=2.0, keep=30)
Users = list[dict[int, int]]
"""Of each user: item and in how many events he had it."""

users_of = st.lists(
    st.dictionaries(st.integers(0, 11), st.integers(1, 9), max_size=8), min_size=1, max_size=12
)


def shop(items: int = 30) -> Neighborhood:
    names = [f"i{at}" for at in range(items)]
    hood = hood_of({names[HIDDEN_ITEM]: Entry({}, flags=HIDDEN)}, complete=False)
    hood.items.add_all(names)
    hood.reserve()
    return hood


HOOD = shop()
LOCAL = HOOD.items.ids(f"i{at}" for at in range(30))
HASHES = HOOD.items.hashes[LOCAL]


def flat(users: Users) -> tuple[Any, Any, Any]:
    """Lengths, hashes and counts, each user's by ascending hash."""
    rows = [sorted((int(HASHES[i]), n) for i, n in user.items()) for user in users]
    length = np.array([len(row) for row in rows], dtype=np.int64)
    item = np.array([h for row in rows for h, _ in row], dtype=np.uint64)
    return length, item, np.array([n for row in rows for _, n in row], dtype=np.uint32)


def data_of(users: Users, most: int = 100) -> Matrix:
    return matrix(*flat(users), most)


def interest_of(users: Users) -> Interest:
    length, item, count = flat(users)
    ones, zeros = np.ones(len(item), dtype=np.uint32), np.zeros(len(users), dtype=np.int64)
    start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    local = HOOD.items.ids_of_hashes(item)
    return Interest(start, local, ones.astype(np.int64), count, ones, ones, ones, length, zeros, length)


def query_of(users: Users) -> Query:
    profile = np.full((len(users), 1), -1, dtype=np.int32)
    return Query(profile, interest_of(users), np.full(len(users), 10**12), DECAY)


def some_users(n: int = 60) -> Users:
    rng = np.random.default_rng(7)
    taste = [[0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14], [20, 21, 22, 23, 24, 25, 26]]
    return [
        {int(i): int(rng.integers(1, 4)) for i in rng.choice(taste[at % 3], 3, replace=False)}
        for at in range(n)
    ]


# The matrix


@given(users_of, st.integers(1, 12))
def test_matrix_holds_log_counts_of_the_items_of_most_users(users: Users, most: int) -> None:
    found = data_of(users, most)
    had = {i: sum(i in user for user in users) for user in users for i in user}
    best = sorted(had, key=lambda i: (-had[i], int(HASHES[i])))[:most]
    assert found.hashes.tolist() == sorted(int(HASHES[i]) for i in best)
    place = {int(h): at for at, h in enumerate(found.hashes)}
    dense = np.zeros((len(users), len(best)))
    for row, user in enumerate(users):
        for i in set(user) & set(best):
            dense[row, place[int(HASHES[i])]] = np.log2(1 + user[i])
    np.testing.assert_allclose(found.rows.toarray(), dense, rtol=1e-6)


# What is fitted


def test_pure_svd_is_the_dense_decomposition() -> None:
    rows = data_of(some_users()).rows
    dense = rows.toarray().astype(np.float64)
    _, _, right = np.linalg.svd(dense, full_matrices=False)
    for factors in (1, 3, 5):
        found = pure_svd.fit(rows, factors)
        np.testing.assert_allclose(found.T @ found, np.eye(factors), atol=1e-5)
        near = dense @ right[:factors].T @ right[:factors]
        np.testing.assert_allclose(pure_svd.vectors(rows, found) @ found.T, near, atol=1e-4)


def test_pure_svd_by_iteration_is_the_dense_one() -> None:
    """A matrix whose sides are both long: the other way through `fit`."""
    rng = np.random.default_rng(3)
    hashes = np.arange(150, dtype=np.uint64)
    picks = [np.sort(rng.choice(150, 6, replace=False)) for _ in range(200)]
    rows = rows_of(
        hashes,
        np.full(200, 6),
        np.concatenate(picks).astype(np.uint64),
        value(rng.integers(1, 9, 1200).astype(np.uint32)),
    )
    found = pure_svd.fit(rows, 10)
    assert np.array_equal(found, pure_svd.fit(rows, 10))
    assert (np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0) > 0).all()
    _, _, right = np.linalg.svd(rows.toarray().astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(found @ found.T, right[:10].T @ right[:10], atol=1e-4)


@given(users_of)
def test_pure_svd_has_no_more_factors_than_rank(users: Users) -> None:
    rows = data_of(users).rows
    found = pure_svd.fit(rows, 5)
    rank = int(np.linalg.matrix_rank(rows.toarray())) if min(rows.shape) else 0
    assert found.shape == (rows.shape[1], min(rank, 5))


@pytest.mark.parametrize(("users", "items"), [(200, 40), (40, 200), (120, 90)])
def test_pure_svd_takes_rounding_for_no_factor(users: int, items: int) -> None:
    rng = np.random.default_rng(5)
    dense = (rng.random((users, 3)) @ rng.random((3, items))).astype(np.float32)
    assert pure_svd.fit(csr_array(dense), 20).shape == (items, 3)


def peak(work: Callable[[], object]) -> int:
    """Bytes that are held at a time at most, beside what was before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_a_fit_is_what_operations_says() -> None:
    """Of many users with 30 items each: bytes an entry, and a user where items are few."""
    users, rng = 2000, np.random.default_rng(5)
    length, item = np.full(users, 30), rng.integers(0, 4000, users * 30).astype(np.uint64)
    count = np.ones(users * 30, dtype=np.uint32)
    assert peak(lambda: matrix(length, item, count, 3000)) < 36 * len(item)
    rows = csr_array((rng.random((users, 60)) < 0.1).astype(np.float32))
    factors = 16
    assert peak(lambda: pure_svd.fit(rows, factors)) < 8 * (factors + 2) * (users + 60) + 20 * rows.nnz


def loss(rows: F64, h: NDArray[Any], w: NDArray[Any]) -> float:
    return float(((rows - h @ w.T) ** 2).sum())


def test_nmf_loss_never_rises_and_ends_near_the_best_of_any_sign() -> None:
    rows = data_of(some_users()).rows
    dense = rows.toarray().astype(np.float64)
    losses = []
    for rounds in (0, 1, 2, 5, 10, 30, 60):
        w = nmf.fit(rows, 3, rounds)
        assert (w >= 0).all()
        losses.append(loss(dense, nmf.vectors(rows, w, 200), w))
    assert losses == sorted(losses, reverse=True)
    values = np.linalg.svd(dense, compute_uv=False)
    assert losses[-1] < 1.02 * float((values[3:] ** 2).sum())


@given(users_of, st.integers(1, 4))
def test_folding_in_never_raises_the_loss_of_any_user(users: Users, factors: int) -> None:
    rows = data_of(users).rows
    w = nmf.fit(rows, factors)
    dense, before = rows.toarray().astype(np.float64), np.inf
    for steps in (1, 2, 5, 20):
        h = nmf.vectors(rows, w, steps)
        assert h.shape == (len(users), factors) and (h >= 0).all()
        after = ((dense - h.astype(np.float64) @ w.T) ** 2).sum(axis=1)
        assert (after <= before * (1 + 1e-4) + 1e-5).all()
        before = after


@given(users_of.filter(any), st.floats(0.5, 50))
def test_ease_is_the_closed_form(users: Users, penalty: float) -> None:
    rows = data_of(users).rows
    dense = rows.toarray().astype(np.float64)
    p = np.linalg.inv(dense.T @ dense + penalty * np.eye(dense.shape[1]))
    expected = np.eye(len(p)) - p @ np.diag(1 / np.diag(p))
    found = ease.weights(rows, penalty)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert not found.diagonal().any()


def test_ease_in_more_than_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = data_of(some_users()).rows
    expected = ease.weights(rows, 3.0)
    columns = ease.largest(expected, 4)
    monkeypatch.setattr(ease, "_ROWS", 5)
    np.testing.assert_allclose(ease.weights(rows, 3.0), expected, atol=1e-6)
    for one, other in zip(ease.largest(expected, 4), columns, strict=True):
        np.testing.assert_array_equal(one, other)


def test_ease_keeps_the_largest_entries() -> None:
    dense = np.array([[0, -3, 1, 2], [4, 0, 5, -6], [0.1, 0.2, 0, 0.3], [1, 2, 3, 0]], dtype=np.float32)
    columns, values = ease.largest(dense, 2)
    assert columns.tolist() == [[1, 3], [2, 3], [1, 3], [1, 2]]
    np.testing.assert_array_equal(values, np.take_along_axis(dense, columns.astype(np.int64), axis=1))
    assert ease.largest(dense, 9)[0].shape == (4, 4)


def test_ease_says_what_to_mend() -> None:
    rows = data_of([{0: 1, 1: 1}] * 3).rows
    with pytest.raises(ValueError, match="autoencoder_penalty higher"):
        ease.weights(rows, 0.0)


# On its way


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("most", [1, 300, 10**6])
def test_a_model_comes_back_whole_from_its_chunks(name: str, most: int) -> None:
    model = fit(name, data_of(some_users()), HOW)
    made = [unpack(msgspec.msgpack.encode(chunk)) for chunk in chunks(model, 17, most)]
    assert all(len(c.values) + len(c.columns) + len(c.hashes) <= most or len(c.hashes) == 8 for c in made)
    parts: dict[int, Chunk] = {}
    for chunk in reversed(made):
        assert not parts or whole(parts) is None
        parts[chunk.number] = chunk
    found = whole(parts)
    assert found is not None and found.name == name
    np.testing.assert_array_equal(found.hashes, model.hashes)
    np.testing.assert_array_equal(found.values, model.values)
    assert (found.columns is None) == (model.columns is None)
    if found.columns is not None:
        np.testing.assert_array_equal(found.columns, model.columns)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"values": b"1234"}, {"columns": b"1234"}, {"hashes": b"123"}, {"number": 5},
        {"number": -1}, {"model": 3},
    ],
)  # fmt: skip
def test_damaged_chunks_are_refused(change: dict[str, Any]) -> None:
    (chunk,) = chunks(fit("pure-svd", data_of(some_users()), HOW), 17, 10**6)
    with pytest.raises(ValueError, match="chunk"):
        unpack(msgspec.msgpack.encode(msgspec.structs.replace(chunk, **change)))
    with pytest.raises(ValueError, match="no chunk"):
        unpack(b"\xff nothing")


# Candidates


def scores_of(model: Model, row: F64) -> F64:
    """Plain formulas, densely, of one user's row [I]."""
    if model.columns is not None:
        dense = np.zeros((len(row), len(row)))
        np.put_along_axis(dense, model.columns.astype(np.int64), model.values.astype(np.float64), axis=1)
        return row @ dense
    v = model.values.astype(np.float64)
    if model.name == "pure-svd":
        return row @ v @ v.T
    h = np.ones(v.shape[1])
    for _ in range(nmf.STEPS):
        h = h * (row @ v) / np.maximum(h @ (v.T @ v), 1e-9)
    return h @ v.T


def speaks(model: Model, own: int, weight: float, other: int) -> float:
    """What an own column adds to another."""
    if model.columns is None:
        return weight * float(model.values[own].astype(np.float64) @ model.values[other])
    return weight * float(model.values[own] @ (model.columns[own] == other))


ASKED: Users = [{0: 3, 1: 1}, {}, {10: 1, 20: 5, 29: 2}, {29: 1}, {4: 1, 5: 2, 13: 1, 21: 1}] * 30


@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_the_best_items_a_user_does_not_have(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.core.models.placed.MOST", 5)
    model = fit(name, data_of(some_users()), HOW)
    placed = Placed.of(model, HOOD.items)
    found = entries(HOOD, {name: placed}, name, query_of(ASKED))
    (values,) = found.values
    assert values is not None
    place = {int(h): at for at, h in enumerate(model.hashes)}
    names = {int(HASHES[i]): i for i in range(30)}
    some = 0
    for row, user in enumerate(ASKED):
        own = {place[int(HASHES[i])]: np.log2(1 + n) for i, n in user.items() if int(HASHES[i]) in place}
        dense = np.zeros(len(place))
        dense[list(own)] = list(own.values())
        scores = scores_of(model, dense)
        scores[[*own, place[int(HASHES[HIDDEN_ITEM])]]] = 0
        wanted = np.sort(scores[scores > 1e-5])[::-1][:5]
        assert found.because is not None
        held = values[row][values[row] > 1e-5]
        np.testing.assert_allclose(held, wanted, rtol=1e-3, atol=1e-5)
        for item, value_, because in zip(found.item[row], values[row], found.because[row], strict=True):
            if value_ <= 1e-5:
                continue
            some += 1
            at = place[int(HOOD.items.hashes[item])]
            assert abs(scores[at] - value_) < 1e-3 * value_ + 1e-5
            reason = place[int(HOOD.items.hashes[because])]
            assert names[int(model.hashes[reason])] in user
            parts = {c: speaks(model, c, w, at) for c, w in own.items()}
            assert parts[reason] >= max(parts.values()) * (1 - 1e-4)
    assert some > 200


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 300))
def test_no_position_that_reaches_the_best_is_missed(seed: int, size: int, width: int) -> None:
    scores = np.random.default_rng(seed).integers(-3, 40, (3, width)).astype(np.float32)
    exact = set(reaching(scores.view(np.int32), size).tolist())
    found = _reaching(scores.view(np.int32), size)
    assert exact <= set(found.tolist()) and (scores.ravel()[found] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_before_there_is_a_model_nor_from_an_empty_one(name: str) -> None:
    query = query_of([{0: 1}, {}])
    empty = Placed.of(fit(name, data_of([{}, {}]), HOW), HOOD.items)
    for models in (None, {}, {name: empty}):
        found = entries(HOOD, models, name, query)
        assert found.item.shape == (2, 0) and len(found.values) == 1


def test_items_that_came_after_the_model_are_passed_over() -> None:
    hood = shop()
    placed = Placed.of(fit("pure-svd", data_of(some_users()), HOW), hood.items)
    later = hood.items.add("later")
    hood.reserve()
    interest = interest_of([{0: 1}])
    other = Interest(
        np.array([0, 2]),
        np.array([interest.item[0], later], dtype=np.int32),
        np.repeat(interest.weight, 2), np.repeat(interest.count, 2), np.repeat(interest.first, 2),
        np.repeat(interest.last, 2), np.repeat(interest.at, 2),
        interest.added, interest.base, interest.events,
    )  # fmt: skip
    np.testing.assert_array_equal(placed.rows(other).toarray(), placed.rows(interest).toarray())


def test_vectors_are_those_of_the_factorisation() -> None:
    data = data_of(some_users())
    for name, fold in (("pure-svd", pure_svd.vectors), ("nmf", nmf.vectors)):
        model = fit(name, data, HOW)
        found = Placed.of(model, HOOD.items).vectors(interest_of(some_users()))
        np.testing.assert_allclose(found, fold(data.rows, model.values), rtol=1e-5)
    with pytest.raises(ValueError, match="no vectors"):
        Placed.of(fit("autoencoder", data, HOW), HOOD.items).vectors(interest_of(ASKED))
