"""Makes the personal lists of a worker's users, and lets their mixture learn from what they do next.

One for all partitions of a worker. What it learned is soft state: each partition keeps the newest mixture
beside its own state, and a worker that takes one goes on from the one that learned most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.codec import Columns
from stream.core.attribution import NOTHING, Impressions, Touches, impressions
from stream.core.engaged import UserState
from stream.core.guards import EngagementConfig, held_out
from stream.core.items import Items
from stream.core.models.external import NAME as EXTERNAL
from stream.core.models.vectors import pack as pack_vectors
from stream.core.preferences import preferred
from stream.core.ranking import NO_LISTS, Ranked
from stream.core.recommend import position
from stream.core.recommend.alike import Kin
from stream.core.recommend.complement import MOST as MOST_TOGETHER
from stream.core.recommend.complement import together
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.mixture import Mixture, Targets
from stream.core.recommend.peers import NAME as USER_USER
from stream.core.recommend.peers import Peers
from stream.core.recommend.query import Query
from stream.core.recommend.trend import Trends
from stream.core.step import Result, View
from stream.core.users import BOUGHT, Bounds, Rows, bought, joined
from stream.core.weights import Decay
from stream.events import CODE, REQUEST
from stream.follower import Followed
from stream.settings import Settings
from stream.shaper import Shaper
from stream.together import Together

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

FIRST = 100_000
"""While a mixture has learned less, it learns from every event it can."""
_ENDS = (CODE["forget"], REQUEST)
"""After these, counting begins anew for their user."""
MOST = 128
"""Queries of one batch that are learned from: they cost as much as lists."""

Exclude = tuple[I32, I32]
"""Rows [m] and items [m] that must not appear."""
Preferred = tuple[U32, F32]
"""Token hashes and weights [U, T] of what users say they like (`Query.preferred`)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Users [U] who get lists as of times [U]; ``states`` and ``told`` as for `Lister.lists`.

    ``touches`` [U] is what attribution knows of them; empty: nobody was ever shown anything.
    """

    names: list[str]
    rows: Rows
    time_ms: I64
    touches: Sequence[Touches] = ()
    states: Mapping[str, UserState] = field(default_factory=dict)
    told: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    """What users did next: rows [n] of those in ``wanted``, who are as they were before, and items [n]."""

    wanted: Wanted
    row: I64
    item: I32


def whole(parts: Sequence[Wanted]) -> Wanted:
    """The users of all parts, in order; no user is in two."""
    if len(parts) == 1:
        return parts[0]
    touched, told = any(part.touches for part in parts), any(part.told for part in parts)
    return Wanted(
        [name for part in parts for name in part.names],
        joined([part.rows for part in parts]),
        np.concatenate([part.time_ms for part in parts]),
        [one for part in parts for one in part.touches or [NOTHING] * len(part.names)] if touched else (),
        {name: state for part in parts for name, state in part.states.items()},
        [one for part in parts for one in part.told or [{}] * len(part.names)] if told else (),
    )


def bounds_of(settings: Settings) -> Bounds:
    """What is kept of a user; what he bought only where that is left out of lists."""
    most = BOUGHT if settings.exclude_bought_s else 0
    return Bounds(settings.history, settings.interest_items, settings.dedupe_ids, most)


class Lister:
    """``recommender`` holds the mixture; ``learning`` can be switched off, and so can ``publishing`` lists
    after every batch, for evaluation asks for them.

    ``serve`` and ``learn`` answer the tasks of partitions together: with lists, and when a lesson is learned.
    """

    def __init__(self, settings: Settings, items: Items, follower: Followed) -> None:
        self._settings, self._items, self._follower = settings, items, follower
        self._decay = Decay(int(settings.interest_half_life_s * 1000))
        self._kin, self._trends = Kin(), Trends()
        self._shaper = Shaper(settings, items, follower.hood)
        self._engagement = EngagementConfig.of(settings)
        self._stored: dict[str, int] = {}
        met = USER_USER in settings.components
        self.peers = Peers(settings.peers, settings.user_similarity) if met else None
        self.recommender = Recommender(settings.components)
        self.learning, self.publishing = settings.learn, True
        self.serve, self.learn = Together(self._serve), Together(self._learn)

    @property
    def sources(self) -> Sources:
        """What candidates are made from, as it is now."""
        told, models = self._follower, self._follower.models.placed
        return Sources(told.hood, told.fill, self._kin, self.peers, models=models, trends=self._trends)

    def query(self, names: Sequence[str], rows: Rows, time_ms: I64, liked: Preferred | None = None) -> Query:
        """Ask for users [U] as of times [U]."""
        query = Query.of(rows, time_ms, self._decay, self._settings.profile_items, liked)
        if EXTERNAL in self._settings.components:
            query = replace(query, scored=self._follower.external.of(names))
        return query if self.peers is None else replace(query, own=self.peers.slots(names))

    def rank(
        self,
        names: Sequence[str],
        rows: Rows,
        time_ms: I64,
        size: int | None = None,
        exclude: Exclude | None = None,
        liked: Preferred | None = None,
    ) -> Ranked:
        """The best items for users [U] at times [U]; what they bought lately is left out unless told."""
        exclude = self._bought(rows, time_ms) if exclude is None else exclude
        size = size or self._settings.list_items
        return self.recommender.rank(self.sources, self.query(names, rows, time_ms, liked), exclude, size)

    def lists(
        self,
        names: Sequence[str],
        rows: Rows,
        time_ms: I64,
        seen: Impressions | None = None,
        states: Mapping[str, UserState] | None = None,
        told: Sequence[Mapping[str, Any]] = (),
        exclude: Exclude | None = None,
    ) -> Ranked:
        """The lists that users [U] are shown at times [U]: ranked, then shaped.

        ``states`` has those of whom little is known who may have told what they like; ``told`` [U] are the
        contexts of their newest events (empty: none has any). What they bought lately is left out unless
        ``exclude`` says what is.
        """
        exclude = self._bought(rows, time_ms) if exclude is None else exclude
        whose = names
        if self._settings.holdout_lists:
            whose, rows = self._without_held_out(names, rows)
        liked = preferred(whose, rows.seen, states) if states else None
        ranked = self.rank(whose, rows, time_ms, self._shaper.width(seen), exclude, liked)
        return self._shaper.shape(ranked, names, time_ms, exclude, seen, told)

    def _serve(self, asks: Sequence[Wanted]) -> list[Ranked]:
        """Lists of the users of several partitions."""
        wanted = whole(asks)
        if not wanted.names:
            return [NO_LISTS] * len(asks)
        seen = impressions(wanted.touches) if wanted.touches else None
        ranked = self.lists(wanted.names, wanted.rows, wanted.time_ms, seen, wanted.states, wanted.told)
        ends = np.cumsum([0, *(len(ask.names) for ask in asks)]).tolist()
        return [ranked.part(start, end) for start, end in pairwise(ends)]

    def _without_held_out(self, names: Sequence[str], rows: Rows) -> tuple[list[str], Rows]:
        """Users [U] with strangers ("") in the place of those who are held out."""
        held = [at for at, name in enumerate(names) if held_out(name, self._engagement)]
        whose = list(names)
        for at in held:
            whose[at] = ""
        return whose, rows.replaced(np.array(held, dtype=np.int64), Rows.blank(len(held), rows.bounds))

    def report(self) -> dict[str, Any]:
        """What the steps after scoring did (`Shaper.report`)."""
        return self._shaper.report()

    def carts(self, carts: Sequence[Sequence[int]]) -> Ranked:
        """What goes with each of U carts: local ids of items, those put in last first."""
        sets = np.full((len(carts), max(map(len, carts), default=0)), -1, dtype=np.int32)
        for row, cart in enumerate(carts):
            sets[row, : len(cart)] = cart
        return together(self._follower.hood, sets[:, :MOST_TOGETHER], self._settings.list_items)

    def rising(self, rows: Rows, size: int) -> tuple[I32, F32]:
        """What rises in the category that one user likes most and he has not met (`Trends.rising_for`)."""
        met = np.unique(np.concatenate([rows.interest.item, rows.item[rows.item >= 0]]))
        return self._trends.rising_for(self._follower.hood, rows.interest, met, size)

    def _bought(self, rows: Rows, time_ms: I64) -> Exclude:
        since = time_ms // 1000 - int(self._settings.exclude_bought_s)
        return bought(rows, since)

    def vectors(self, rows: Rows) -> list[bytes]:
        """Users [U] folded into the factorisations in use, as the store keeps them; b"" without any."""
        models = self._follower.models
        found = {
            name: (models.versions[name], placed.vectors(rows.interest))
            for name, placed in models.placed.items()
            if placed.model.columns is None
        }
        return pack_vectors(found, len(rows))

    # Learning

    def lesson(self, view: View, columns: Columns, result: Result, user: I64) -> Lesson | None:
        """What users of a batch did first, to learn from; None: nothing."""
        if not self.learning or self.recommender.mixture.fixed:
            return None
        lines, row = self._lessons(view, columns, result, user)
        if not len(lines):
            return None
        event = columns.event[lines]
        firsts = event[np.searchsorted(row, np.arange(int(row[-1]) + 1))]
        key = np.unique(row << 32 | columns.item[lines])
        rows = view.rows.take(user[firsts])
        names = [columns.user[at] for at in firsts.tolist()]
        shown = result.attributed.states
        touches = [shown.get(name) or view.touches.get(name, NOTHING) for name in names]
        item = (key & 0xFFFF_FFFF).astype(np.int32)
        return Lesson(Wanted(names, rows, columns.time[firsts], touches, view.preferring), key >> 32, item)

    def _learn(self, asked: Sequence[Lesson | None]) -> list[None]:
        """Test, then learn: what users did, against the lists they would have got."""
        if lessons := [lesson for lesson in asked if lesson is not None]:
            self._learn_from(lessons)
        return [None] * len(asked)

    def _learn_from(self, lessons: Sequence[Lesson]) -> None:
        wanted = whole([lesson.wanted for lesson in lessons])
        starts = np.cumsum([0, *(len(lesson.wanted.names) for lesson in lessons[:-1])])
        row = np.concatenate([lesson.row + start for lesson, start in zip(lessons, starts, strict=True)])
        item = np.concatenate([lesson.item for lesson in lessons])
        seen, size = impressions(wanted.touches), self._settings.list_items
        targets = Targets(row, item, position.weights(row, self._items.hashes[item], seen, size))
        liked = preferred(wanted.names, wanted.rows.seen, wanted.states) if wanted.states else None
        query = self.query(wanted.names, wanted.rows, wanted.time_ms, liked)
        self.recommender.learn(self.sources, query, targets)

    def _lessons(self, view: View, columns: Columns, result: Result, user: I64) -> tuple[I64, I64]:
        """Interactions [n] to learn from, and the number [n] of the query that each belongs to.

        Those of each user's first counted event of the batch, if it is in the sample and he has a history.
        """
        held = _counted(columns, result)
        event = columns.event[held].astype(np.int64)
        _, at = np.unique(user[event], return_index=True)
        first = np.sort(event[at])
        known = (view.rows.interest.events[user[first]] > 0) & ~result.tests[user[first]]
        first = first[known & self._sampled(columns, first)][:MOST]
        number = np.searchsorted(first, event)
        mine = first.take(number, mode="clip") == event if len(first) else np.zeros(len(event), np.bool_)
        return held[mine], number[mine]

    def _sampled(self, columns: Columns, event: I64) -> Bool:
        """Whether events [n] are in the sample: by their place in the log, so that a replay picks them."""
        if self.recommender.mixture.learned < FIRST:
            return np.ones(len(event), dtype=np.bool_)
        place = columns.offset[event].astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
        place ^= columns.index[event].astype(np.uint64) * np.uint64(0xC2B2_AE3D_27D4_EB4F)
        share: Bool = (place >> np.uint64(40)) < np.uint64(self._settings.learn_share * (1 << 24))
        return share

    # Users beside users

    def note(self, partition: int, view: View, columns: Columns, result: Result, user: I64) -> None:
        """Remember whom the batch was about, and forget whom it made forgotten, also those who came back."""
        if self.peers is None:
            return
        ends = np.flatnonzero(result.fresh & np.isin(columns.kind, _ENDS))
        self.peers.forget({columns.user[at] for at in ends.tolist()} | result.forgotten)
        began = np.full(len(view.names), -1, dtype=np.int64)
        np.maximum.at(began, user[ends], ends)
        lines = _counted(columns, result)
        event = columns.event[lines]
        lines = lines[(event > began[user[event]]) & ~result.tests[user[event]]]
        whole = user[columns.event[lines]]
        rows, before = np.unique(whole[::-1], return_index=True)
        rows = rows[np.argsort(-before)]
        place = np.empty(len(view.names), dtype=np.int64)
        place[rows] = np.arange(len(rows))
        names, interest = [view.names[at] for at in rows.tolist()], result.rows.interest.take(rows)
        self.peers.note(partition, names, interest, place[whole], columns.item[lines])

    def release(self, partition: int) -> None:
        """The users of a partition are another worker's now, or read anew."""
        if self.peers is not None:
            self.peers.release(partition)

    def unstored(self, part: str) -> bytes | None:
        """The mixture, for a partition whose copy is older; None otherwise."""
        learned = self.recommender.mixture.learned
        if learned == self._stored.get(part, 0):
            return None
        self._stored[part] = learned
        return self.recommender.mixture.pack()

    def adopt(self, stored: bytes | None) -> None:
        """Go on from a stored mixture, if it learned more than this one."""
        if stored is not None:
            mixture = self.recommender.mixture
            found = Mixture.unpack(stored, mixture.channels, mixture.features)
            if found.learned > mixture.learned:
                self.recommender.mixture = found


def _counted(columns: Columns, result: Result) -> I64:
    """The interactions [n] of a batch that are no repeats and no noise."""
    counts = result.fresh & ~result.uncounted & (columns.units > 0)
    return np.flatnonzero(counts[columns.event])
