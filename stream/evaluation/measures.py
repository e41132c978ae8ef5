"""Measures of ranked lists, a value a query, and their means with bootstrap confidence intervals. Pure.

Of a query with targets T and its list of k, h_r = 1 where place r (from 1) holds a target:

    precision = Σ h_r / k        recall = Σ h_r / |T|        f1 = their harmonic mean      hit = any h_r
    mrr = 1 / (first r with h_r)  (0: none)
    ndcg = Σ h_r / log2(r + 1)  /  Σ_{r ≤ min(k, |T|)} 1 / log2(r + 1)      (Järvelin, Kekäläinen, TOIS 2002)

Of all lists together: coverage (share of the catalogue that is in any), gini of how often items are listed
(0: all alike), novelty (mean −log2 of an item's share of all interactions; Vargas, Castells, RecSys 2011),
popularity (mean percentile of listed items by interactions), diversity (1 − mean cosine of two items of a
list; Ziegler et al., WWW 2005).

Intervals: percentile bootstrap (Efron) over users, so that the many baskets of one user are not taken for
independent; seeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

WEEK_MS = 7 * 86_400_000
MONDAY_MS = 4 * 86_400_000 + 5 * 3_600_000
"""The first Monday of 1970 began, at midnight in New York in winter."""
RESAMPLES = 400
_LEVEL = 0.95
_BLOCK = 50


@dataclass(frozen=True, slots=True)
class Answers:
    """Q queries: ``lists`` [Q, K] item numbers, −1 padded; the targets of query q are ``targets[start[q]:
    start[q + 1]]``, all different; ``user`` [Q] whose it was; ``time_ms`` [Q] when."""

    lists: I32
    start: I64
    targets: I32
    user: I32
    time_ms: I64

    def __len__(self) -> int:
        return len(self.lists)


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is known of items, by number: ``counts`` of interactions, ``vectors`` of attributes, length 1."""

    counts: I64
    vectors: sparse.csr_array | None = None


class Measure(msgspec.Struct, frozen=True):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float


def hits(answers: Answers) -> Bool:
    """Which places hold a target: [Q, K]. ~20 ns a place."""
    row = np.repeat(np.arange(len(answers)), np.diff(answers.start))
    wanted = np.sort(row << 32 | answers.targets)
    keys = np.arange(len(answers))[:, None] << 32 | answers.lists.astype(np.int64)
    if not len(wanted):
        return np.zeros(keys.shape, dtype=np.bool_)
    at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    found: Bool = (wanted[at] == keys) & (answers.lists >= 0)
    return found


def per_query(answers: Answers, ks: Sequence[int]) -> dict[str, F64]:
    """Precision, recall, F1, NDCG, MRR and hit rate at each k: [Q] each."""
    found, sizes = hits(answers), np.maximum(np.diff(answers.start), 1)
    gains = 1 / np.log2(np.arange(max(ks)) + 2)
    ideal = np.cumsum(gains)
    values: dict[str, F64] = {}
    for k in ks:
        near = found[:, :k]
        count = np.count_nonzero(near, axis=1)
        precision, recall = count / k, count / sizes
        first = np.where(count > 0, near.argmax(axis=1) + 1, np.inf)
        values[f"precision@{k}"], values[f"recall@{k}"] = precision, recall
        values[f"f1@{k}"] = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        dcg = (near * gains[: near.shape[1]]).sum(axis=1)
        values[f"ndcg@{k}"] = dcg / ideal[np.minimum(sizes, k) - 1]
        values[f"mrr@{k}"], values[f"hit@{k}"] = 1 / first, (count > 0).astype(np.float64)
    return values


def of_lists(lists: I32, catalog: Catalog, k: int) -> dict[str, float]:
    """Coverage, Gini, novelty, popularity and diversity of the first k places of lists [Q, K]."""
    near = lists[:, :k]
    listed = near[near >= 0]
    shown = np.bincount(listed, minlength=len(catalog.counts))
    share = np.maximum(catalog.counts, 1) / max(int(catalog.counts.sum()), 1)
    rank = np.searchsorted(np.sort(catalog.counts), catalog.counts, side="right") / len(catalog.counts)
    values = {
        f"coverage@{k}": np.count_nonzero(shown) / len(shown),
        f"gini@{k}": gini(shown),
        f"novelty@{k}": float(-np.log2(share[listed]).mean()) if len(listed) else 0.0,
        f"popularity@{k}": float(rank[listed].mean()) if len(listed) else 0.0,
    }
    if catalog.vectors is not None:
        values[f"diversity@{k}"] = _diversity(near, catalog.vectors)
    return values


def gini(counts: I64) -> float:
    """Gini coefficient of counts [n]: 0 where all are equal, near 1 where one has all."""
    ordered, n = np.sort(counts).astype(np.float64), len(counts)
    total = ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0


def _diversity(lists: I32, vectors: sparse.csr_array) -> float:
    """1 − the mean cosine of two different places of a list, over lists of two and more."""
    held = lists >= 0
    size = np.count_nonzero(held, axis=1)
    row = np.repeat(np.arange(len(lists)), size)
    picked = sparse.csr_array((np.ones(len(row)), (row, lists[held])), shape=(len(lists), vectors.shape[0]))
    whole = picked @ vectors
    # The square of the sum holds every pair twice, and each item with itself.
    alone = picked @ np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel()
    pairs = np.asarray(whole.multiply(whole).sum(axis=1)).ravel() - alone
    many = size > 1
    return float(1 - (pairs[many] / (size[many] * (size[many] - 1))).mean()) if many.any() else 0.0


def measured(answers: Answers, catalog: Catalog, ks: Sequence[int], seed: int = 0) -> dict[str, Measure]:
    """All measures with their intervals. ~1 s for 25,000 queries."""
    found = _intervals(per_query(answers, ks), answers.user, seed)
    for k in ks:
        found |= _of_lists(answers, catalog, k, seed)
    return found


def resamples(users: int, seed: int, times: int = RESAMPLES) -> Iterator[I64]:
    """Bootstrap samples of users: how often each is drawn, [users]. ~50 ns a user and sample."""
    rng, chances = np.random.default_rng(seed), np.full(users, 1 / max(users, 1))
    for _ in range(times):
        yield rng.multinomial(users, chances)


def _intervals(values: Mapping[str, F64], user: I32, seed: int) -> dict[str, Measure]:
    """Means of values [Q], with intervals by bootstrap over users. Memory: 8 bytes a value and user."""
    users, which = np.unique(user, return_inverse=True)
    sums = np.array([np.bincount(which, weights=value, minlength=len(users)) for value in values.values()])
    counts = np.bincount(which, minlength=len(users))
    drawn = (((sums @ times) / max(int(counts @ times), 1)) for times in resamples(len(users), seed))
    low, high = np.quantile(np.array(list(drawn)), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
    return {
        name: Measure(float(value.mean()) if len(value) else 0.0, float(low[at]), float(high[at]))
        for at, (name, value) in enumerate(values.items())
    }


def _of_lists(answers: Answers, catalog: Catalog, k: int, seed: int) -> dict[str, Measure]:
    """Measures of all lists together, with fewer resamples.

    A resample has fewer different lists, so that its coverage is less and its Gini coefficient more than of
    all: the spread of resamples is told around the value, not around their own middle.
    """
    whole, drawn = of_lists(answers.lists, catalog, k), _drawn(answers, catalog, k, seed)
    return {name: _around(value, drawn[name]) for name, value in whole.items()}


def _drawn(answers: Answers, catalog: Catalog, k: int, seed: int) -> dict[str, F64]:
    """Measures of all lists together in resamples: [times] each. The same users for the same seed."""
    found = []
    users, which = np.unique(answers.user, return_inverse=True)
    for times in resamples(len(users), seed, _BLOCK):
        some = np.repeat(np.arange(len(answers)), times[which])
        found.append(of_lists(answers.lists[some], catalog, k))
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def _around(value: float, drawn: F64) -> Measure:
    low, middle, high = np.quantile(drawn, [(1 - _LEVEL) / 2, 0.5, (1 + _LEVEL) / 2])
    return Measure(float(value), float(value + low - middle), float(value + high - middle))


def since(answers: Answers, time_ms: int) -> Answers:
    """The queries of a moment and after."""
    keep = answers.time_ms >= time_ms
    sizes = np.diff(answers.start)
    start = np.concatenate([[0], np.cumsum(sizes[keep])])
    targets = answers.targets[np.repeat(keep, sizes)]
    return Answers(answers.lists[keep], start, targets, answers.user[keep], answers.time_ms[keep])


def difference(a: F64, b: F64, user: I32, seed: int = 0) -> Measure:
    """b − a of the same queries, by paired bootstrap over users."""
    return _intervals({"": b - a}, user, seed)[""]


def differences(
    a: Answers, b: Answers, catalog: Catalog, ks: Sequence[int], seed: int = 0
) -> dict[str, Measure]:
    """b − a of all measures, of the same queries, by paired bootstrap over users."""
    first, second = per_query(a, ks), per_query(b, ks)
    found = _intervals({name: second[name] - first[name] for name in first}, a.user, seed)
    for k in ks:
        one, two = of_lists(a.lists, catalog, k), of_lists(b.lists, catalog, k)
        drawn, other = _drawn(a, catalog, k, seed), _drawn(b, catalog, k, seed)
        found |= {name: _around(two[name] - one[name], other[name] - drawn[name]) for name in one}
    return found


def by_week(answers: Answers, name: str, k: int) -> dict[int, float]:
    """The mean of a measure in each week, counted from 1970."""
    values = per_query(answers, [k])[f"{name}@{k}"]
    week = (answers.time_ms - MONDAY_MS) // WEEK_MS
    return {int(one): float(values[week == one].mean()) for one in np.unique(week)}


def line(data: str, protocol: str, found: Mapping[str, Measure]) -> bytes:
    """The one line of JSON that tells a result."""
    return msgspec.json.encode({"data": data, "protocol": protocol, "metrics": found})
