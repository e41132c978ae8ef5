from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.core.content import Content
from stream.core.items import Items
from stream.core.vectors import Vectors, quantised

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def cosine(a: object, b: object) -> float:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def worst(dims: int, count: int, alike: float) -> float:
    """The greatest error of a cosine among vectors that share a part."""
    rng = np.random.default_rng(dims)
    given = rng.normal(size=(count, dims)) + alike * rng.normal(size=dims)
    kept = [quantised(vector.tolist()) for vector in given]
    return max(
        abs(cosine(given[i], given[j]) - cosine(kept[i], kept[j])) for i in range(count) for j in range(i)
    )


@pytest.mark.parametrize("dims", [16, 64, 256])
@pytest.mark.parametrize("alike", [0.0, 1.0, 5.0])
def test_small_whole_numbers_change_cosines_by_less_than_a_hundredth(dims: int, alike: float) -> None:
    assert worst(dims, 60, alike) < 0.01


@pytest.mark.parametrize("dims", [257, 1024, 4096])
@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_projected_cosines_are_near(dims: int, alike: float) -> None:
    # 1,770 pairs: about four standard errors of 1/16.
    assert worst(dims, 60, alike) < 4.5 / 16


def test_signs_stay_for_ever() -> None:
    """Column c of the projection: the bits of blake2b of c, as four bytes, the highest bit first."""
    vector = np.zeros(300)
    vector[299] = 1.0
    digest = blake2b((299).to_bytes(4, "little"), digest_size=32).digest()
    assert "".join("1" if sign > 0 else "0" for sign in quantised(vector.tolist()).tolist()) == "".join(
        f"{byte:08b}" for byte in digest
    )
    assert digest.hex().startswith("40d80183")


@given(st.lists(FINITE, max_size=300))
def test_every_vector_is_kept_or_refused_whole(vector: list[float]) -> None:
    kept = quantised(vector)
    assert kept.dtype == np.int8
    assert len(kept) == (min(len(vector), 256) if any(vector) else 0)
    if len(kept):
        assert np.abs(kept.astype(int)).max() == 127


@pytest.mark.parametrize("vector", [None, [], [0.0, -0.0], [1.0, math.inf], [math.nan, 1.0]])
def test_what_has_no_direction_is_no_vector(vector: list[float] | None) -> None:
    assert len(quantised(vector)) == 0


def test_great_numbers_keep_their_direction() -> None:
    assert quantised([1e308, -1e308, 0.0]).tolist() == [127, -127, 0]
    assert quantised([1e308] * 300).any()


# Held by item

COMPONENT = st.integers(-127, 127)
VECTOR = st.sampled_from([0, 2, 3]).flatmap(lambda dims: st.lists(COMPONENT, min_size=dims, max_size=dims))
NEWS = st.lists(st.dictionaries(st.integers(0, 7), VECTOR, min_size=1, max_size=8), max_size=4)


def learn(vectors: Vectors, news: dict[int, list[int]]) -> None:
    width = max(map(len, news.values()))
    rows = np.zeros((len(news), width), dtype=np.int8)
    for row, vector in zip(rows, news.values(), strict=True):
        row[: len(vector)] = vector
    dims = np.array([len(vector) for vector in news.values()], dtype=np.int64)
    vectors.learn(np.array(list(news), dtype=np.int32), dims, rows)


def expected(held: dict[int, list[int]], i: int, j: int) -> float:
    a, b = held.get(i, []), held.get(j, [])
    return cosine(a, b) if len(a) == len(b) and any(a) and any(b) else 0.0


@settings(max_examples=200)
@given(NEWS, st.integers(1, 9), st.sets(st.integers(0, 7), max_size=2))
@example([{0: [-1, 1], 1: [3, 3]}], 1, set())
def test_cosines_and_nearest_are_those_of_brute_force(
    news: list[dict[int, list[int]]], k: int, hidden: set[int]
) -> None:
    vectors, held = Vectors(), dict[int, list[int]]()
    vectors.reserve(8)
    for batch in news:
        learn(vectors, batch)
        held |= batch
    i, j = (grid.ravel().astype(np.int32) for grid in np.mgrid[:8, :8])
    pairs = [expected(held, a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    np.testing.assert_allclose(vectors.cosine(i, j), pairs, atol=1e-5)
    popularity, shown = np.arange(8, dtype=np.float32), np.ones(8, dtype=np.bool_)
    shown[list(hidden)] = False
    found = vectors.nearest(np.arange(8, dtype=np.int32), k, popularity, shown)
    for a, row in enumerate(found.tolist()):
        every = {b: expected(held, a, b) * math.sqrt(1 + b) for b in range(8) if b != a and b not in hidden}
        best = sorted((value for value in every.values() if value > 1e-6), reverse=True)[:k]
        listed = [b for b in row if b >= 0]
        assert len(set(listed)) == len(listed)
        np.testing.assert_allclose(sorted((every[b] for b in listed), reverse=True), best, rtol=1e-4)


def test_many_vectors_are_compared_in_blocks() -> None:
    rng = np.random.default_rng(1)
    count, dims = 9000, 8
    rows = rng.integers(-127, 128, (count, dims), dtype=np.int8)
    vectors = Vectors()
    vectors.reserve(count)
    ids = rng.permutation(count).astype(np.int32)
    for start in range(0, count, 1000):
        part = slice(start, start + 1000)
        vectors.learn(ids[part], np.full(1000, dims), rows[part])
    popularity, shown = np.zeros(count, dtype=np.float32), np.ones(count, dtype=np.bool_)
    found = vectors.nearest(ids[:5], 10, popularity, shown)
    exact = rows.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1)[:, None]
    for at, row in enumerate(found.tolist()):
        cosines = exact @ exact[at]
        cosines[at] = -1
        assert set(row) == set(ids[np.argsort(-cosines)[:10]].tolist())


# With tokens


def test_tokens_and_vector_count_alike() -> None:
    items = Items()
    ids = items.ids(["both", "other", "vector", "tokens", "nothing"])
    content = Content(items)
    content.reserve(5)
    tokens = np.array([[1, 2], [1, 3], [0, 0], [1, 2], [0, 0]], dtype=np.uint32)
    weights = (tokens > 0).astype(np.float32)
    vectors = np.array([[127, 0], [127, 127], [127, 0], [0, 0], [0, 0]], dtype=np.int8)
    content.learn(ids, tokens, weights, np.array([2, 2, 2, 0, 0]), vectors)
    assert content.described(ids).tolist() == [True, True, True, True, False]
    by_tokens = float(content.cosine(ids[:1, None], np.ones((1, 1), dtype=np.float32), ids[None, 1:2])[0, 0])
    found = content.item_cosine(ids[[0, 0, 0, 0, 0, 2]], ids[[0, 1, 2, 3, 4, 3]])
    half = math.sqrt(0.5)
    np.testing.assert_allclose(found, [1.0, (by_tokens + half) / 2, half, half, 0.0, 0.0], atol=1e-6)
    popularity, shown = np.array([0, 3, 0, 0, 0], dtype=np.float32), np.ones(5, dtype=np.bool_)
    listed, values = content.neighbors(ids[:1], 4, popularity, shown)
    np.testing.assert_allclose(values[0], [found[1] * 2, half, half, 0.0], atol=1e-6)
    assert listed[0, 0] == ids[1] and set(listed[0, 1:3].tolist()) == {ids[2], ids[3]}
    assert listed[0, 3] == -1
