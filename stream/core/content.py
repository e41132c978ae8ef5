"""What the catalogue says of items, and how alike it makes them: TF-IDF, cosine, content neighbours. Pure.

**Tokens.** An item is a bag of tokens: each attribute ``name=value`` (a list gives one each), ``group=…``,
the words of its name and description. The owner of an item makes them from its catalogue entry
(`item_tokens`) and its record in topic `neighbors` brings them to every worker, as 32-bit hashes with a
weight. In 200,000 tokens about five pairs share a hash.

**TF-IDF.** Every worker weighs them by how rare they are among the N items it knows:

    idf(t) = log((N + 1) / (df(t) + 1)) + 0.1

(Spärck Jones 1972, smoothed; the tenth lets items that share everything be alike in a catalogue where all
do). N and df are rounded down to four binary digits, so that a new item changes the weights of few others,
and the weights depend on which items are known, not on the order in which they came.

**Cosine** of two items is that of their vectors weight · idf. Given vectors (of images or texts, from a model
of the shop's) count as much as all tokens together: x = (tokens, vector), each part of length 1, so that

    cos(i, j) = (cos_tokens + cos_vector) / sqrt(parts of i · parts of j).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.core.items import Items
from stream.core.neighbor_format import MOST_TOKENS
from stream.core.vectors import Vectors

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

T = TypeVar("T", bound=np.generic)

POSTINGS = 500
"""Items looked at for one token of a cold item: the most popular, ties by ascending hash."""
CANDIDATES = 1000
"""Items looked at for one cold item, those of its rarest tokens first; and all that came since the index."""
REINDEX = 250
"""Items that may be missing in the index before it is made anew; or a sixteenth of all, if that is more."""

_NAME, _DESCRIPTION = 0.5, 0.25
_MOST_TIMES = 3
_MOST_TEXT = 4096
_WORD = re.compile(r"[^\W_]{2,}")
_COMMON = 0.1
_WORTH = 24  # comparisons that cost as much as to index an item
_DIGITS = 4
_SCRATCH = 1 << 19  # 2 MB of float32: it stays in cache
_CHUNK = 64

# Tokens of a catalogue entry


def item_tokens(fields: Mapping[str, Any]) -> dict[int, float]:
    """Hashes and weights of a catalogue entry's tokens, at most 24, the heaviest first.

    Attributes and group weigh 1, words of the name 1/2, words of the description 1/4 · sqrt(times), times
    at most 3. Where there are too many, longer words of the description are kept: they are rarer. ~10 µs.
    """
    found: dict[str, float] = {}
    for token in (*_attribute_tokens(fields.get("attributes") or {}), *_group_token(fields.get("group"))):
        found.setdefault(token, 1.0)
    for word in words(fields.get("name") or ""):
        found.setdefault(word, _NAME)
    told = Counter(words(fields.get("description") or ""))
    for word in sorted(told, key=lambda word: -len(word)):
        found.setdefault(word, _DESCRIPTION * math.sqrt(min(told[word], _MOST_TIMES)))
    best = sorted(found.items(), key=lambda token: -token[1])[:MOST_TOKENS]
    return {token_hash(token) & 0xFFFF_FFFF: weight for token, weight in best}


def words(text: str) -> list[str]:
    """Words of a text: runs of two or more letters and digits, in NFKC and lower case."""
    return _WORD.findall(unicodedata.normalize("NFKC", text[:_MOST_TEXT]).lower())


def category_of(fields: Mapping[str, Any]) -> int:
    """64-bit hash of the token of the attribute `category`, else of the first one; 0 without attributes."""
    attributes = fields.get("attributes") or {}
    chosen = {"category": attributes["category"]} if "category" in attributes else attributes
    return next((token_hash(token) for token in _attribute_tokens(chosen)), 0)


@lru_cache(maxsize=65_536)
def token_hash(token: str) -> int:
    """64-bit hash of a token, as in ``category=shoes``; its lower half is the token's hash in records."""
    return int.from_bytes(blake2b(token.encode(), digest_size=8).digest(), "little")


def _attribute_tokens(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name, value in attributes.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"{name}={_text(each)}"


def _group_token(group: str | None) -> list[str]:
    return [f"group={group}"] if group is not None else []


def _text(value: str | float | bool) -> str:
    """Whole numbers are mostly sizes and codes and stand as they are, others in half octaves."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not value.is_integer():
        mantissa, exponent = math.frexp(value)
        return f"2^{exponent - (abs(mantissa) < math.sqrt(0.5)) / 2}{'-' if value < 0 else ''}"
    return str(int(value)) if isinstance(value, float) else str(value)


# Tokens of all items


class Tokens:
    """Dense local ids of token hashes; 0 stands for none. ``df`` [len] is the number of items with each."""

    def __init__(self) -> None:
        self._by_hash: dict[int, int] = {-1: 0}
        self._hashes: U32 = np.zeros(0, dtype=np.uint32)
        self.df: I32 = np.zeros(1024, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._by_hash)

    @property
    def hashes(self) -> U32:
        """32-bit hashes by local id: [len]; 0 of the one that stands for none. ~20 ns each that is new."""
        if (known := len(self._hashes)) < len(self._by_hash):
            new = np.fromiter(islice(self._by_hash, known, None), dtype=np.int64)
            self._hashes = np.concatenate([self._hashes, np.maximum(new, 0).astype(np.uint32)])
        return self._hashes

    def ids(self, hashes: U32) -> I32:
        """Local ids of hashes of any shape; unknown ones are added. ~0.1 µs a hash."""
        known = self._by_hash
        distinct, which = np.unique(hashes, return_inverse=True)
        found = [known.setdefault(value, len(known)) for value in distinct.tolist()]
        if (more := len(known) - len(self.df)) > 0:
            self.df = np.concatenate([self.df, np.zeros(max(more, len(self.df)), dtype=np.int32)])
        return np.array(found, dtype=np.int32)[which].reshape(hashes.shape)

    def known(self, hashes: U32) -> I32:
        """Local ids of hashes of any shape, 0 of unknown ones, which are not added. ~0.1 µs a hash."""
        distinct, which = np.unique(hashes, return_inverse=True)
        found = [self._by_hash.get(value, 0) for value in distinct.tolist()]
        return np.array(found, dtype=np.int32)[which].reshape(hashes.shape)


class Content:
    """Tokens and vectors by local item id; the arrays grow with the dictionary.

    ``tokens`` [cap, T] int32 local token ids, 0 (none) behind the last, ``weights`` [cap, T] as in the
    records; T is the most that any item has, so that a catalogue of a few attributes is scored at the cost of
    these. 12·T + 16 bytes an item, T ≤ 24, and its vector. ``known`` is the number of items with tokens or a
    vector.
    """

    def __init__(self, items: Items) -> None:
        self._items = items
        self.vocabulary = Tokens()
        self.vectors = Vectors()
        self.tokens: I32 = np.zeros((0, 1), dtype=np.int32)
        self.weights: F32 = np.zeros((0, 1), dtype=np.float32)
        self.known = self._worded = 0
        self._units: F32 = np.zeros((0, 1), dtype=np.float32)
        self._mark: U64 = np.zeros(0, dtype=np.uint64)
        self._idf: F32 = np.zeros(0, dtype=np.float32)
        self._changed: list[I32] = []
        self._index = _Index.empty()
        self._unindexed: I32 = np.zeros(0, dtype=np.int32)
        self._table: F32 = np.zeros(0, dtype=np.float32)

    def reserve(self, items: int) -> None:
        """Make room for local ids below ``items``."""
        if (more := items - len(self._mark)) > 0:
            self.tokens, self.weights = _longer(self.tokens, more), _longer(self.weights, more)
            self._units, self._mark = _longer(self._units, more), _longer(self._mark, more)
            self.vectors.reserve(items)

    def described(self, items: I32) -> Bool:
        """Which of the items [m] have tokens or a vector."""
        found: Bool = (self.weights[items, 0] > 0) | (self.vectors.dims[items] > 0)
        return found

    # Learning

    def learn(self, items: I32, tokens: U32, weights: F32, dims: I64, vectors: I8) -> I32:
        """What records say of items [m], all different: ``tokens``, ``weights`` [m, T] (weight 0: none),
        ``dims`` [m] and ``vectors`` [m, D]. Returns the items of which it is new.

        ~50 ns an item whose content stayed, ~3 µs one that is new.
        """
        mark = _marks(tokens, weights, dims, vectors)
        changed = np.flatnonzero(mark != self._mark[items])
        if not len(changed):
            return items[:0]
        at = items[changed]
        self._mark[at] = mark[changed]
        self._count(at, -1)
        self._write(at, tokens[changed], weights[changed])
        self.vectors.learn(at, dims[changed], vectors[changed])
        self._count(at, 1)
        self._changed.append(at)
        self._unindexed = np.union1d(self._unindexed, at).astype(np.int32)
        return at

    def _count(self, at: I32, by: int) -> None:
        held = self.weights[at] > 0
        np.add.at(self.vocabulary.df, self.tokens[at][held], by)
        self._worded += by * int(np.count_nonzero(held[:, 0]))
        self.known += by * int(np.count_nonzero(self.described(at)))

    def _write(self, at: I32, tokens: U32, weights: F32) -> None:
        width = min(int(np.count_nonzero(weights > 0, axis=1).max(initial=1)), weights.shape[1])
        if (more := width - self.tokens.shape[1]) > 0:
            self.tokens, self.weights = _wider(self.tokens, more), _wider(self.weights, more)
            self._units = _wider(self._units, more)
        weights = weights[:, :width]
        held = weights > 0
        ids = np.zeros(held.shape, dtype=np.int32)
        ids[held] = self.vocabulary.ids(tokens[:, :width][held])
        self.tokens[at], self.weights[at] = 0, 0
        self.tokens[at, :width], self.weights[at, :width] = ids, weights

    # Weighing

    def units(self) -> F32:
        """Vectors weight · idf of all items, of length 1 each: [cap, T], beside ``tokens``.

        Brought up to date first, where items changed: ~1 ns a token to see which, ~20 ns one that did.
        """
        if self._changed:
            changed, self._changed = np.unique(np.concatenate(self._changed)), []
            idf = _idf(self._worded, self.vocabulary.df[: len(self.vocabulary)])
            # Tokens that are new are those of changed items only.
            moved = np.zeros(len(idf), dtype=np.bool_)
            moved[: len(self._idf)] = idf[: len(self._idf)] != self._idf
            self._idf = idf
            if moved.any():
                changed = np.union1d(changed, np.flatnonzero(moved[self.tokens].any(axis=1)))
            self._weigh(changed)
        return self._units

    def _weigh(self, items: I32) -> None:
        self._units[items] = _unit(self.weights[items] * self._idf[self.tokens[items]])

    def cosine(self, profile: I32, weights: F32, candidates: I32) -> F32:
        """Cosine of users' attribute profiles with candidate items: [U, J], 0 where either has no token.

        A profile is the weighted sum of the vectors of a user's items: ``profile`` [U, n] local ids, −1
        padded, ``weights`` [U, n]; ``candidates`` [U, J], −1 padded. Given vectors do not count here.
        ~6 µs a user with n = 10, J = 200, T = 6 in a catalogue of 12,000 items.
        """
        row = np.repeat(np.arange(len(candidates)), candidates.shape[1])
        return self.cosine_of(profile, weights, row, candidates.ravel()).reshape(candidates.shape)

    def cosine_of(self, profile: I32, weights: F32, row: I64, item: I32) -> F32:
        """The same for candidates ``item`` [C] (−1: none) of users ``row`` [C], ascending: [C].

        A user's profile is laid out over all tokens, where each candidate reads its own.
        """
        units = self.units()
        found = np.zeros(len(item), dtype=np.float32)
        rows = self._spread(len(profile))
        starts = range(0, len(profile), rows)
        bounds = np.searchsorted(row, [*starts, len(profile)]).tolist()
        for start, low, high in zip(starts, bounds[:-1], bounds[1:], strict=True):
            part = profile[start : start + rows]
            parts = units[part] * np.where(part < 0, 0, weights[start : start + rows])[:, :, None]
            found[low:high] = self._compare(self.tokens[part], parts, row[low:high] - start, item[low:high])
        return found

    def _spread(self, users: int) -> int:
        """How many of so many users are laid out over all tokens at a time; there is room for them then."""
        size = len(self.vocabulary)
        rows = max(min(_SCRATCH // size, _CHUNK, users), 1)
        if len(self._table) < rows * size:
            self._table = np.zeros(max(rows * size, _SCRATCH), dtype=np.float32)
        return rows

    def _compare(self, tokens: I32, parts: F32, row: I64, item: I32) -> F32:
        """Of users with ``tokens`` and ``parts`` [u, n, T] of their profiles, and their candidates [c]."""
        first = np.arange(len(tokens), dtype=np.int32) * np.int32(len(self.vocabulary))
        place, table = (tokens + first[:, None, None]).ravel(), self._table
        np.add.at(table, place, parts.ravel())
        # Each part times the whole at its token adds up to the square of the whole.
        squares = (parts.ravel() * table[place]).reshape(len(tokens), -1).sum(axis=1)
        at = self.tokens.take(item, axis=0, mode="wrap")
        at += first[row][:, None]
        found = table.take(at, mode="clip")
        found *= self._units.take(item, axis=0, mode="wrap")
        table[place] = 0
        # A product with ones adds up short rows several times faster than a sum along them.
        sums = found @ np.ones(found.shape[1], dtype=np.float32)
        sums *= _inverse(np.sqrt(squares))[row]
        return np.where(item < 0, np.float32(0), sums)

    def item_cosine(self, i: I32, j: I32) -> F32:
        """Cosine of pairs of items ``i``, ``j`` [m] by tokens and given vectors: [m]. ~0.5 µs a pair."""
        units = self.units()
        found = np.zeros(len(i), dtype=np.float32)
        for start in range(0, len(i), 4096):
            part = slice(start, start + 4096)
            a, b = i[part], j[part]
            same = self.tokens[a][:, :, None] == self.tokens[b][:, None, :]
            found[part] = np.einsum("ms,mst,mt->m", units[a], same, units[b], optimize=True)
        found += self.vectors.cosine(i, j)
        return found * self._parts(i) * self._parts(j)

    def _parts(self, items: I32) -> F32:
        """1/sqrt(parts) of items [m]: tokens, vector or both."""
        both = (self.weights[items, 0] > 0) & (self.vectors.dims[items] > 0)
        return np.where(both, np.float32(math.sqrt(0.5)), np.float32(1))

    # Neighbours

    def neighbors(self, items: I32, k: int, popularity: F32, shown: Bool) -> tuple[I32, F32]:
        """The ``k`` best of others for items [m] by cos(i, j) · sqrt(1 + popularity of j), ties by hash.

        ``popularity``, ``shown`` [cap] by local id. Returns ids [m, k], −1 padded, and the products [m, k].
        Exact among the candidates: of an inverted index at most `POSTINGS` items a token, rarest tokens
        first, `CANDIDATES` in all, what came since the index was made, and the best by given vectors.
        ~0.1 ms an item.
        """
        self._reindex(popularity, len(items))
        rows = max(4 * _SCRATCH // (CANDIDATES + len(self._unindexed) + k), 1)
        parts = [
            self._best(items[start : start + rows], k, popularity, shown)
            for start in range(0, len(items), rows)
        ]
        if not parts:
            return np.zeros((0, k), dtype=np.int32), np.zeros((0, k), dtype=np.float32)
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([values for _, values in parts])

    def matching(self, tokens: U32, weights: F32, k: int, popularity: F32, shown: Bool) -> tuple[I32, F32]:
        """The ``k`` best items for tokens of users' own: hashes [m, T] with ``weights`` [m, T], 0: none.

        By cos(tokens · idf, j) · sqrt(1 + popularity of j), as `neighbors` of an item without a vector.
        Tokens that no item has count for nothing. ~0.2 ms a user.
        """
        best, values = np.full((len(tokens), k), -1, dtype=np.int32), np.zeros((len(tokens), k), np.float32)
        if not self.known:
            return best, values
        ids = np.where(weights > 0, self.vocabulary.known(tokens), 0)
        self.units()
        own = np.where(self.vocabulary.df[ids] > 0, weights * self._idf[ids], np.float32(0))
        self._reindex(popularity, len(ids))
        rows = self._spread(len(ids))
        for start in range(0, len(ids), rows):
            at = slice(start, start + rows)
            best[at], values[at] = self._matched(ids[at], own[at], k, popularity, shown)
        return best, values

    def _matched(self, ids: I32, own: F32, k: int, popularity: F32, shown: Bool) -> tuple[I32, F32]:
        recent = np.broadcast_to(self._unindexed, (len(ids), len(self._unindexed)))
        found = _distinct(np.concatenate([self._index.of(ids, self.vocabulary.df), recent], axis=1))
        row = np.repeat(np.arange(len(found)), found.shape[1])
        values = self._compare(ids[:, None], own[:, None], row, found.ravel())
        values *= self._parts(found.ravel())
        held = (found >= 0) & shown.take(found, mode="wrap")
        return self._first(found, held, values.reshape(found.shape), k, popularity)

    def _best(self, items: I32, k: int, popularity: F32, shown: Bool) -> tuple[I32, F32]:
        candidates = _distinct(self._candidates(items, k, popularity, shown))
        held = (candidates >= 0) & (candidates != items[:, None])
        held &= shown.take(candidates, mode="wrap")
        values = self.cosine(items[:, None], np.ones((len(items), 1), dtype=np.float32), candidates)
        values = self._with_vectors(items, candidates, held, values)
        return self._first(candidates, held, values, k, popularity)

    def _first(self, candidates: I32, held: Bool, values: F32, k: int, popularity: F32) -> tuple[I32, F32]:
        """The ``k`` best of candidates [m, C] by cosines ``values`` [m, C], with popularity."""
        values *= np.sqrt(1 + np.maximum(popularity.take(candidates, mode="wrap"), 0))
        values = np.where(held, np.maximum(values, 0), np.float32(0))
        hashes = self._items.hashes.take(candidates, mode="wrap")
        order = np.lexsort((hashes, -values), axis=1)[:, :k]
        best = np.take_along_axis(values, order, axis=1)
        ids = np.where(best > 0, np.take_along_axis(candidates, order, axis=1), np.int32(-1))
        short = ((0, 0), (0, k - best.shape[1]))
        return np.pad(ids, short, constant_values=-1), np.pad(best, short)

    def _with_vectors(self, items: I32, candidates: I32, held: Bool, values: F32) -> F32:
        if not self.vectors.any(items):
            return (
                values * self._parts(items)[:, None] * self._parts(candidates.ravel()).reshape(values.shape)
            )
        row, column = np.nonzero(held)
        j = candidates[row, column]
        values[row, column] += self.vectors.cosine(items[row], j)
        values[row, column] *= self._parts(items)[row] * self._parts(j)
        return values

    def _candidates(self, items: I32, k: int, popularity: F32, shown: Bool) -> I32:
        """Ids [m, C], −1 padded, some twice."""
        recent = np.broadcast_to(self._unindexed, (len(items), len(self._unindexed)))
        parts = [self._index.of(self.tokens[items], self.vocabulary.df), recent]
        if self.vectors.any(items):
            parts.append(self.vectors.nearest(items, 2 * k, popularity, shown))
        return np.concatenate(parts, axis=1)

    def _reindex(self, popularity: F32, asked: int) -> None:
        """Make the index anew when it lacks too many items, or is asked so often that it costs less."""
        lacking = len(self._unindexed)
        if lacking > max(REINDEX, self.known // 16) or lacking * asked > _WORTH * self.known:
            items = np.flatnonzero(self.weights[: len(self._items), 0] > 0)
            order = np.lexsort((self._items.hashes[items], -popularity[items]))
            self._index = _Index.of_items(items[order], self.tokens, len(self.vocabulary))
            self._unindexed = self._unindexed[:0]


class _Index:
    """Items by token: those of token t stand from ``starts[t]`` to ``starts[t + 1]`` of ``items``."""

    def __init__(self, starts: I64, items: I32) -> None:
        self._starts, self._items = starts, items

    @classmethod
    def empty(cls) -> _Index:
        """Of no items."""
        return cls(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32))

    @classmethod
    def of_items(cls, items: I64, tokens: I32, size: int) -> _Index:
        """Of items [m], the best first, with ``tokens`` [cap, T] below ``size``."""
        of = tokens[items].ravel()
        order = np.argsort(of, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=size))])
        return cls(starts, items[order // tokens.shape[1]].astype(np.int32))

    def of(self, tokens: I32, df: I32) -> I32:
        """Items that share one of ``tokens`` [m, T], rarest tokens first: [m, ≤ `CANDIDATES`], −1 padded."""
        rarest = np.argsort(np.where(tokens > 0, df[tokens], np.iinfo(np.int32).max), axis=1, kind="stable")
        tokens = np.take_along_axis(tokens, rarest, axis=1)
        # A token that is younger than the index has no items in it; token 0 is none.
        known = np.where((tokens > 0) & (tokens < len(self._starts) - 1), tokens, 0)
        starts = self._starts[known]
        ends = self._starts[np.minimum(known + 1, len(self._starts) - 1)]
        counts = np.where(known > 0, np.minimum(ends - starts, POSTINGS), 0)
        before = np.cumsum(counts, axis=1) - counts
        counts = np.minimum(counts, np.maximum(CANDIDATES - before, 0))
        return self._gathered(starts.ravel(), counts)

    def _gathered(self, starts: I64, counts: I64) -> I32:
        total = counts.sum(axis=1)
        width = int(total.max(initial=0))
        flat = counts.ravel()
        first = np.repeat(starts - (np.cumsum(flat) - flat), flat)
        found = np.full((len(counts), width), -1, dtype=np.int32)
        found[np.arange(width) < total[:, None]] = self._items[first + np.arange(int(flat.sum()))]
        return found


def _marks(tokens: U32, weights: F32, dims: I64, vectors: I8) -> U64:
    """A 64-bit mark [m] of each record's content, which is 0 where there is none."""
    mark = dims.astype(np.uint64)
    mark += _mixed(np.where(weights > 0, tokens, 0).astype(np.uint64), 0)
    mark += _mixed(np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32).astype(np.uint64), 1 << 10)
    if vectors.shape[1]:
        mark += _mixed(vectors.astype(np.uint8).astype(np.uint64), 1 << 11)
    return mark


def _mixed(values: U64, seed: int) -> U64:
    """The sum [m] of values [m, n], each times an odd number of its column's."""
    column = np.arange(seed, seed + values.shape[1], dtype=np.uint64)
    factor = (column * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(0xD1B54A32D192ED03)) | np.uint64(1)
    found: U64 = ((values ^ values << np.uint64(29)) * factor).sum(axis=1, dtype=np.uint64)
    return found


def _idf(items: int, df: I32) -> F32:
    n, coarse = _coarse(np.array([items])), _coarse(df)
    found: F32 = (np.log((n + 1) / (coarse + 1)) + _COMMON).astype(np.float32)
    return found


def _coarse(counts: NDArray[np.integer[Any]]) -> F64:
    """Counts rounded down to four binary digits."""
    mantissa, exponent = np.frexp(counts.astype(np.float64))
    found: F64 = np.ldexp(np.floor(np.ldexp(mantissa, _DIGITS)), exponent - _DIGITS)
    return found


def _unit(vectors: F32) -> F32:
    """Vectors [m, T] of length 1; those of length 0 stay."""
    return vectors * _inverse(np.sqrt(np.einsum("mt,mt->m", vectors, vectors)))[:, None]


def _inverse(values: F32) -> F32:
    """1 / values, 0 of 0."""
    return np.where(values > 0, 1 / np.where(values > 0, values, 1), 0).astype(np.float32)


def _distinct(ids: I32) -> I32:
    """Rows of ids [m, C] sorted, with all but the last of equal ones −1."""
    ids = np.sort(ids, axis=1)
    ids[:, :-1][ids[:, 1:] == ids[:, :-1]] = -1
    return ids


def _longer(array: NDArray[T], more: int) -> NDArray[T]:
    """With ``more`` rows of zeros."""
    return np.concatenate([array, np.zeros((more, *array.shape[1:]), dtype=array.dtype)])


def _wider(array: NDArray[T], more: int) -> NDArray[T]:
    """With ``more`` columns of zeros."""
    return np.concatenate([array, np.zeros((len(array), more), dtype=array.dtype)], axis=1)
