"""Everybody's neighbour lists, as a worker follows them: arrays by local item id, ready for ranking. Pure.

Similarity, by default the damped conditional of directed, decayed co-occurrence counts C(i→j) ("j after i"):

    S(i→j) = C(i→j)^p / ((n_i + d)^a · n_j^b)

with n_i the row sum of i and n_j the column sum of j (`stream.core.similarity` has the others). A record
holds the K largest C of a row: these are ranked by S, whichever it is.

The first factor changes only with i's own record and is kept ready in ``scores``. The column factor n_j^−b
changes with every record of j, so it is kept once an item in ``column`` and multiplied in when ranking: the
lists then depend on the newest record of each item alone, not on the order in which records came (a worker
that starts reads half of its lists before it has seen their neighbours). An item without record, or with a
column sum of 0, counts n_j = 1. An item whose name is not known yet is not shown; its own record brings the
name.

What is no product of the two is made when ranking, too, from the newest sums (`Neighborhood.whole`): there C
itself stands in ``scores``, and 1 in ``column``. N is the sum of all row sums, each as its item's newest
record has it.

C and n_i are decayed to the time of i's last event, n_j to that of j's: a column that rested one half-life
longer is rated 2^−b (10 %) too low.

An item that nobody saw beside another yet has no list of its own. If the catalogue says anything of it, its
list is made of the items that are most like it (`stream.core.content`), with a pseudo-count in place of C:

    S(i→j) = (cos(i, j) · sqrt((1 + p_j) / (1 + p_max)))^p / (1 + d)^a

with p_j the popularity of j and p_max the greatest in the list: at most what one count in an empty row gives.
With the other similarities likewise, n_i being 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stream.core.content import Content
from stream.core.items import Items
from stream.core.neighbor_format import HAS_PRICE, HIDDEN, OUT_OF_STOCK, Records, unpack_records
from stream.core.similarity import Similarity
from stream.settings import Settings

Bool = NDArray[np.bool_]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

T = TypeVar("T", bound=np.generic)

_HOUR_MS = 3_600_000
_LIVES = 500
"""Half-lives of popularity that one scale holds; then it moves on."""
_NEVER = np.iinfo(np.int64).min
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Applied:
    """What records changed, as local ids.

    ``renewed`` items took a newer record. ``stale`` ones were overwritten by an older record in the topic
    (a compacted topic keeps the last, not the newest): their owner publishes again. ``flagged`` ones went in
    or out of stock, or were hidden or shown: lists that hold them are due. Of ``described`` ones the
    catalogue says something new: lists of items like them are due, where these have none of their own.
    """

    renewed: I32
    stale: list[int]
    flagged: list[int]
    described: list[int]


class Neighborhood:
    """Neighbour lists by local item id; the arrays grow by doubling with the dictionary.

    ``cols`` [cap, K] int32 local ids, −1 padded; ``scores`` [cap, K] row parts of S; ``column`` [cap] column
    part of S, 0 for an item that is not shown; ``blocked`` [cap] hidden or out of stock; ``row_sum``,
    ``col_sum`` [cap]; ``term``, ``n`` [cap] version (−1 = no record); ``last`` [cap] ms.

    ``price`` [cap] float32, NaN unknown; ``popularity`` [cap] decayed to the hour of the item's newest event,
    ``usual`` [cap] what is usual for it, ``season`` [cap] what last year had (`Records`); ``born`` [cap] ms,
    0 unknown; ``group``, ``category`` [cap] uint64, 0 none; ``tokens`` [cap, T] local token ids,
    ``token_weights`` [cap, T] (`Content`, which is ``content``).

    ``heat`` [cap] float64: popularity as of one moment for all, in units that only a quotient can do without;
    ``likeness`` [cap, K] uint8: cosine of an item with each of its neighbours by content, in 255ths.

    ``by_content`` [cap]: the list in ``cols`` and ``scores`` was made by `fill_cold`.

    9·K + 12·T + 114 bytes an item, T the most tokens that any item has, and up to 128 of `HashIndex`.
    """

    def __init__(
        self,
        items: Items,
        neighbors: int = 50,
        similarity: Similarity | None = None,
        popularity_half_life_s: float = 86_400.0,
        usual_half_life_s: float = 28 * 86_400.0,
    ) -> None:
        self.items = items
        self._usual_half_life_h = usual_half_life_s / 3600
        self._half_life_h = popularity_half_life_s / 3600
        self._moment = 0
        self.similarity = similarity or Similarity()
        self.cols: I32 = np.zeros((0, neighbors), dtype=np.int32)
        self.scores: F32 = np.zeros((0, neighbors), dtype=np.float32)
        self.column: F32 = np.zeros(0, dtype=np.float32)
        self.blocked: Bool = np.zeros(0, dtype=np.bool_)
        self.row_sum: F64 = np.zeros(0)
        self.col_sum: F64 = np.zeros(0)
        self.term: I64 = np.zeros(0, dtype=np.int64)
        self.n: I64 = np.zeros(0, dtype=np.int64)
        self.last: I64 = np.zeros(0, dtype=np.int64)
        self.price: F32 = np.zeros(0, dtype=np.float32)
        self.popularity: F32 = np.zeros(0, dtype=np.float32)
        self.usual: F32 = np.zeros(0, dtype=np.float32)
        self.season: F32 = np.zeros(0, dtype=np.float32)
        self.born: I64 = np.zeros(0, dtype=np.int64)
        self.group: U64 = np.zeros(0, dtype=np.uint64)
        self.category: U64 = np.zeros(0, dtype=np.uint64)
        self.content = Content(items)
        self.heat: F64 = np.zeros(0)
        self.likeness: U8 = np.zeros((0, neighbors), dtype=np.uint8)
        self.by_content: Bool = np.zeros(0, dtype=np.bool_)
        self._bare: Bool = np.zeros(0, dtype=np.bool_)
        self._filled: I64 = np.zeros(0, dtype=np.int64)
        self._renewals = 0
        self._summed = (-1, 0.0)
        self.watched = False
        self._changed: list[I32] = []
        self._newest = _NEVER
        self._seen = self._seen_later = 0
        self._index = HashIndex(items)
        self.reserve()

    @classmethod
    def of(cls, items: Items, settings: Settings) -> Neighborhood:
        """With the constants of the settings."""
        half_lives_s = settings.trending_half_life_s, settings.usual_half_life_s
        return cls(items, settings.neighbors, Similarity.of(settings), *half_lives_s)

    @property
    def newest(self) -> int:
        """Time of the newest event of all items, in ms; of none the least number there is."""
        return self._newest

    @property
    def renewals(self) -> int:
        """How often records came; what is made from all of them is out of date when it grew."""
        return self._renewals

    @property
    def total(self) -> float:
        """N, the sum of all row sums; added up again once records came. ~0.2 ms a million items."""
        if self._summed[0] != self._renewals:
            self._summed = self._renewals, float(self.row_sum.sum())
        return self._summed[1]

    def at_once(self, n: int) -> tuple[F32, F32]:
        """Popularity and usual popularity of items 0 to n − 1 as of the newest hour of all: [n] each.

        ~3 ns an item.
        """
        hour = max(self._newest, 0) // _HOUR_MS
        age = (hour - np.maximum(self.last[:n], 0) // _HOUR_MS).astype(np.float32)
        now: F32 = self.popularity[:n] * np.exp2(age * np.float32(-1 / self._half_life_h))
        usual: F32 = self.usual[:n] * np.exp2(age * np.float32(-1 / self._usual_half_life_h))
        return now, usual

    @property
    def tokens(self) -> I32:
        """Local token ids: [cap, T], 0 behind an item's last."""
        return self.content.tokens

    @property
    def token_weights(self) -> F32:
        """Weights of the tokens: [cap, T], 0 behind an item's last."""
        return self.content.weights

    def changes(self) -> list[I32]:
        """Items with new records since this was asked last, if somebody watches (``watched``)."""
        changed, self._changed = self._changed, []
        return changed

    def reserve(self) -> None:
        """Make room for every item of the dictionary, and show those that got a name. Free where none did."""
        more = max(len(self.items), 1024) - len(self.cols)
        if more > 0:
            self._grow(max(more, len(self.cols)))
        if self._seen < len(self.items) or self._seen_later < len(self.items.named_later):
            self._admit()

    def _grow(self, more: int) -> None:
        self.cols = _grown(self.cols, more, -1)
        self.scores = _grown(self.scores, more, 0)
        self.column = _grown(self.column, more, 0)
        self.blocked = _grown(self.blocked, more, 0)
        self.row_sum, self.col_sum = _grown(self.row_sum, more, 0), _grown(self.col_sum, more, 0)
        self.term, self.n = _grown(self.term, more, -1), _grown(self.n, more, -1)
        self.last = _grown(self.last, more, _NEVER)
        self.price = _grown(self.price, more, np.nan)
        for name in ("popularity", "usual", "season", "born", "group", "category"):
            setattr(self, name, _grown(getattr(self, name), more, 0))
        self.by_content, self._bare = _grown(self.by_content, more, 0), _grown(self._bare, more, 0)
        self._filled = _grown(self._filled, more, 0)
        self.heat, self.likeness = _grown(self.heat, more, 0), _grown(self.likeness, more, 0)
        self.content.reserve(len(self.cols))

    def _admit(self) -> None:
        names, later = self.items.names, self.items.named_later
        new = [at for at in range(self._seen, len(names)) if names[at] is not None]
        named = np.array([*new, *later[self._seen_later :]], dtype=np.int64)
        self._seen, self._seen_later = len(names), len(later)
        self.column[named[self.term[named] < 0]] = 1

    def apply(self, names: Sequence[str], values: Sequence[bytes]) -> Applied:
        """Take records of the topic, in its order; of each item the greatest version counts.

        Raises ValueError, and changes nothing, when a value cannot be read. ~2.5 µs a record.
        """
        records = unpack_records(values)
        ids = self.items.ids(names)
        self.reserve()
        order = np.lexsort((records.n, records.term, ids))
        best = order[_ends_of_runs(ids[order])]
        at = ids[best]
        newer = _older(self.term[at], self.n[at], records.term[best], records.n[best])
        best, at = best[newer], at[newer]
        flagged = self._renew(at, best, records)
        described = self._describe(at, best, records)
        self._warm(at)
        self._liken(at)
        if self.watched:
            self._changed.append(at)
        arrived = np.argsort(ids, kind="stable")
        final = arrived[_ends_of_runs(ids[arrived])]
        held = ids[final]
        stale = held[_older(records.term[final], records.n[final], self.term[held], self.n[held])]
        return Applied(at, stale.tolist(), flagged.tolist(), described.tolist())

    def similarities(self, ids: I32) -> F32:
        """S(i→j) of the lists of items [m]: [m, K] beside ``cols[ids]``; 0 for pads and items not shown."""
        self.reserve()
        cols = self.cols[ids]
        column = np.where(cols < 0, np.float32(0), self.column.take(cols, mode="clip"))
        # By content, popularity has been considered already.
        by_content = self.by_content[ids][:, None]
        found: F32 = self.scores[ids] * np.where(by_content, column > 0, column)
        if self.similarity.needs_total:
            found = np.where(by_content, found, self.whole(ids[:, None], cols, found))
        return found

    def whole(self, owner: I32, cols: I32, parts: F32) -> F32:
        """S(i→j) of ``parts`` [m, n], row part times column part, of items ``owner`` and ``cols`` [m, n].

        One owner a row [m, 1] will do; a part of 0 gives 0. Costs nothing with conditional and cosine; of 350
        pairs, as of a user with 10 items, about 1 µs with lift, 13 with pearson and 32 with llr.
        """
        if not self.similarity.needs_total:
            return parts
        row_sum = np.where(
            self.by_content.take(owner, mode="wrap"), 1.0, self.row_sum.take(owner, mode="wrap")
        )
        found = self.similarity.whole(
            parts.reshape(-1),
            np.broadcast_to(row_sum, parts.shape).reshape(-1),
            self.col_sum.take(cols, mode="wrap").reshape(-1),
            self.total,
        )
        return found.reshape(parts.shape)

    def fill_cold(self, items: I32) -> None:
        """Give those of the items [m] that have no list of their own the items most like them.

        Until then, and for items of which the catalogue says nothing, such a list is empty. A list is made
        again once anything has changed since. ~0.1 ms a list that is made.
        """
        self.reserve()
        cold = self.cold(np.unique(items))
        cold = cold[self._filled[cold] != self._renewals]
        if not len(cold):
            return
        cols, values = self.content.neighbors(cold, self.cols.shape[1], self.popularity, self.column > 0)
        listed = np.where(cols < 0, np.float32(0), self.popularity.take(cols, mode="clip"))
        counts = values / np.sqrt(1 + listed.max(axis=1))[:, None]
        self.cols[cold] = cols
        self.scores[cold] = self.similarity.row_part(counts, np.ones(len(cold)))
        self.by_content[cold], self._filled[cold] = True, self._renewals

    def cold(self, items: I32) -> I32:
        """Those of the items [m] that have no list of their own, but content."""
        self.reserve()
        return items[self._bare[items] & self.content.described(items)]

    def cold_kin(self, items: I32) -> I32:
        """Items without a list of their own that are among those most like the items [m]: [c], ascending."""
        self.reserve()
        known = items[self.content.described(items)]
        kin, _ = self.content.neighbors(known, self.cols.shape[1], self.popularity, self.column > 0)
        found = np.unique(kin[kin >= 0])
        return found[self._bare[found]]

    def active(self, ids: I32, hours: int) -> I32:
        """Those of the items [m] whose last event is less than ``hours`` older than the newest of all."""
        self.reserve()
        if self._newest == _NEVER:
            return ids[:0]
        return ids[self.last[ids] > self._newest - hours * _HOUR_MS]

    def _renew(self, at: I32, of: I64, records: Records) -> I32:
        """Write records ``of`` [m] to items ``at`` [m], all different; returns those (un)blocked by it."""
        width = min(records.hashes.shape[1], self.cols.shape[1])
        held = np.arange(width) < records.k[of, None]
        cols = np.full((len(at), self.cols.shape[1]), -1, dtype=np.int32)
        cols[:, :width][held] = self._index.ids(records.hashes[of, :width][held])
        self.reserve()
        self.cols[at] = cols
        scores = np.zeros(cols.shape, dtype=np.float32)
        scores[:, :width] = self.similarity.row_part(records.weights[of, :width], records.row_sum[of])
        self.scores[at] = scores
        blocked = (records.flags[of] & (HIDDEN | OUT_OF_STOCK)) != 0
        flagged: I32 = at[blocked != self.blocked[at]]
        self.blocked[at] = blocked
        self.column[at] = np.where(blocked, np.float32(0), self.similarity.column_part(records.col_sum[of]))
        self.row_sum[at], self.col_sum[at] = records.row_sum[of], records.col_sum[of]
        self.term[at], self.n[at], self.last[at] = records.term[of], records.n[of], records.last[of]
        self._newest = max(self._newest, int(records.last[of].max(initial=_NEVER)))
        self.by_content[at], self._bare[at] = False, records.k[of] == 0
        self._renewals += 1
        return flagged

    def _describe(self, at: I32, of: I64, records: Records) -> I32:
        """Write what else the records ``of`` [m] say of items ``at`` [m]; returns those of new content."""
        priced = (records.flags[of] & HAS_PRICE) != 0
        self.price[at] = np.where(priced, records.price[of], np.nan)
        for name in ("popularity", "usual", "season", "born", "group", "category"):
            getattr(self, name)[at] = getattr(records, name)[of]
        weights = np.where(
            np.arange(records.tokens.shape[1]) < records.t[of, None], records.token_weights[of], 0
        )
        return self.content.learn(at, records.tokens[of], weights, records.dims[of], records.vectors[of])

    def _warm(self, at: I32) -> None:
        """Bring the popularity of items [m], each as of its own ``last``, to one moment, in ``heat``."""
        lives = self.last[at] // _HOUR_MS / self._half_life_h
        # The moment depends on the newest event alone, so that all workers reckon alike.
        if len(at) and (moment := int(lives.max()) // _LIVES * _LIVES) > self._moment:
            self.heat *= np.exp2(float(max(self._moment - moment, -1100)))
            self._moment = moment
        lives -= self._moment
        self.heat[at] = self.popularity[at] * np.exp2(lives)

    def liken(self) -> None:
        """Compare all items with their neighbours, once the catalogue's word on all is known. ~6 µs an item.

        An item is compared when its own record comes; of neighbours whose records come later it knows nothing
        yet, as of most when a worker starts.
        """
        for start in range(0, len(self.items), _CHUNK):
            self._liken(np.arange(start, min(start + _CHUNK, len(self.items)), dtype=np.int32))

    def _liken(self, at: I32) -> None:
        """Compare items [m] with their neighbours, where the catalogue says something of them. ~6 µs each."""
        at = at[self.content.described(at)]
        if len(at):
            alike = self.content.cosine(at[:, None], np.ones((len(at), 1), dtype=np.float32), self.cols[at])
            self.likeness[at] = np.rint(alike * 255).clip(0, 255)


class HashIndex:
    """Local ids of hashes, vectorised: a table by a hash's top bits, in front of the dictionary of `Items`.

    The dictionary alone costs 80 ns a hash, and a record has 50. Where two items share an entry the table
    holds one of them, and the dictionary answers for the other. 32–128 bytes an item.
    """

    def __init__(self, items: Items) -> None:
        self._items = items
        self._table: I32 = np.zeros(1 << 14, dtype=np.int32)
        self._known = 0

    def ids(self, hashes: U64) -> I32:
        """Local ids [n] of hashes [n]; an unknown hash gets an id without a name."""
        if not len(self._items):
            return self._items.ids_of_hashes(hashes)
        self._learn()
        found = self._table.take(self._entries(hashes))
        wrong = np.flatnonzero(self._items.hashes.take(found) != hashes)
        if len(wrong):
            found[wrong] = self._items.ids_of_hashes(hashes[wrong])
        return found

    def _learn(self) -> None:
        n = len(self._items)
        if n * 8 > len(self._table):
            self._table = np.zeros(1 << (n * 16 - 1).bit_length(), dtype=np.int32)
            self._known = 0
        self._table[self._entries(self._items.hashes[self._known : n])] = np.arange(self._known, n)
        self._known = n

    def _entries(self, hashes: U64) -> I64:
        return (hashes >> np.uint64(65 - len(self._table).bit_length())).astype(np.int64)


def _grown(array: NDArray[T], more: int, value: float) -> NDArray[T]:
    added = np.full((more, *array.shape[1:]), value, dtype=array.dtype)
    return np.concatenate([array, added])


def _ends_of_runs(ordered: I32) -> Bool:
    """Where runs of equal values end: [n]."""
    ends = np.ones(len(ordered), dtype=np.bool_)
    ends[:-1] = ordered[1:] != ordered[:-1]
    return ends


def _older(term: I64, n: I64, than_term: I64, than_n: I64) -> Bool:
    """Whether versions [m] are less than others [m]."""
    less: Bool = (term < than_term) | ((term == than_term) & (n < than_n))
    return less
