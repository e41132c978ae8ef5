"""What is popular in a context: decayed counts by segment and item, and their merged top lists. Pure.

    c_s(i) = Σ w · 2^(−(now − t) / half-life)

over the interactions with i in events of segment s (`state.segments`), t to the hour. Users of a segment live
in all partitions, so a partition's counts are a part: they are added up when they are merged, and smoothed by
what is popular with all (Dirichlet prior: Zhai and Lafferty, SIGIR 2001):

    score_s(i) = c_s(i) + μ · p(i),   p(i) = share of i in what is popular

so that a segment of which little is known shows what all like, with its own items first. Counts are soft:
a worker that takes a partition begins with the partition's newest records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from state.segments import BANDS, TEXTS, name_of, parse, value_of
from stream.core.items import Items, item_hash
from stream.core.runs import begins, lengths
from stream.core.trending import Top
from stream.core.weights import TYPE_BITS

Bool = NDArray[np.bool_]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

SEGMENTS = 200
"""Segments a partition keeps, with slack to half as many more: those with the greatest sums of counts."""
ITEMS = 400
"""Items a segment keeps, with slack to half as many more: those with the greatest counts."""
TOP_ITEMS = 100
"""Items of a segment that are told to others."""
LEAST = 1.0
"""Decayed interactions of a segment below which it is not told."""
PRIOR = 20.0
"""μ: interactions that what all like is worth in a segment."""
_FOLD = 4096
_HOUR_MS = 3_600_000
_THURSDAY = 3  # 1 January 1970; Monday is 0
_FAR = 64
"""Half-lives after which the landmark moves: weights stay far below 2^128, where float32 ends."""

Told = Mapping[int, Mapping[str, Any]]
"""Event number → its `context`, for events that carry one."""


class Segments:
    """Counts of one partition: about 20 bytes a segment and item, so at most 1.8 MB with all slack.

    Weights stand relative to a landmark hour, so that only what comes is touched. What came is folded in once
    it is 4,096 counts, and half as many as there are.
    """

    def __init__(self, items: Items, wanted: Sequence[str], half_life_s: float) -> None:
        self._items = items
        self._wanted = [parse(each) for each in wanted]
        self._timed = any(not set(each) <= set(TEXTS) for each in self._wanted)
        self._texts = [name for name in TEXTS if any(name in each for each in self._wanted)]
        self._half_life_h = half_life_s / 3600
        self.names: dict[str, int] = {}
        self._next = 0
        self._landmark = 0
        self.hour = 0
        self._key: I64 = np.zeros(0, dtype=np.int64)
        self._weight: F64 = np.zeros(0)
        self._came: list[tuple[I64, F64]] = []
        self._waiting = 0
        self.changed: set[str] = set()

    # Counting

    def add(self, told: Told, event: I32 | I64, item: I32, time_ms: I64, units: I64) -> None:
        """Count interactions: ``event`` [n] numbers as in ``told``, ``item`` [n], ``time_ms`` [n], ``units``
        [n] weights in eighths. Nothing is done where no event is in a segment; ~3 µs an event in three.
        """
        if not self._wanted or not len(event) or not (told or self._timed):
            return
        kind, number = self._kinds(told, event, time_ms)
        slots = self._slots(kind)[number]
        row, column = np.nonzero(slots >= 0)
        if len(row):
            hour = time_ms[row] // _HOUR_MS
            self._move(int(hour.max()))
            weight = np.exp2((hour - self._landmark) / self._half_life_h) * units[row]
            self._put(slots[row, column] << 32 | item[row], weight / (1 << TYPE_BITS))

    def _kinds(self, told: Told, event: I32 | I64, time_ms: I64) -> tuple[list[dict[str, str]], I64]:
        """The different contexts [k] of interactions, as values by dimension, and the number [n] of each."""
        every: list[dict[str, str]] = [{}]
        known: dict[tuple[object, ...], int] = {}
        of = np.zeros(int(event.max()) + 1, dtype=np.int64)
        for at, context in told.items():
            if at < len(of):
                of[at] = self._number(context, known, every)
        if not self._timed:
            codes, number = np.unique(of[event], return_inverse=True)
            return [every[code] for code in codes.tolist()], number
        band, weekday = time_ms // _HOUR_MS % 24 // 6, (time_ms // (24 * _HOUR_MS) + _THURSDAY) % 7
        codes, number = np.unique((of[event] * 4 + band) * 7 + weekday, return_inverse=True)
        times = [{"hour": BANDS[code // 7 % 4], "weekday": str(code % 7)} for code in codes.tolist()]
        return [every[code // 28] | time for code, time in zip(codes.tolist(), times, strict=True)], number

    def _number(
        self, context: Mapping[str, Any], known: dict[tuple[object, ...], int], every: list[dict[str, str]]
    ) -> int:
        """The place of a context's texts in ``every``, by what it says as it stands."""
        raw = tuple(map(context.get, self._texts))
        try:
            return known[raw]
        except (KeyError, TypeError):  # a list has no hash
            values = {name: value_of(name, text) for name, text in zip(self._texts, raw, strict=True)}
        found = {name: value for name, value in values.items() if value is not None}
        if not found:
            return 0
        every.append(found)
        if all(text is None or isinstance(text, str) for text in raw):
            known[raw] = len(every) - 1
        return len(every) - 1

    def _slots(self, kinds: Sequence[Mapping[str, str]]) -> I64:
        """Numbers [k, wanted] of the segments of contexts, −1 where there is none; new ones are named."""
        found = np.full((len(kinds), len(self._wanted)), -1, dtype=np.int64)
        for row, values in enumerate(kinds):
            for column, wanted in enumerate(self._wanted):
                if all(name in values for name in wanted):
                    found[row, column] = self._slot(name_of((name, values[name]) for name in wanted))
        return found

    def _slot(self, name: str) -> int:
        if (slot := self.names.get(name)) is None:
            slot = self.names[name] = self._next
            self._next += 1
        return slot

    def _move(self, hour: int) -> None:
        """Let time pass: the landmark follows before powers of two outgrow floats."""
        self.hour = max(self.hour, hour)
        if not len(self._key) and not self._came:
            self._landmark = self.hour
        elif self.hour - self._landmark > _FAR * self._half_life_h:
            self.fold()
            self._weight *= 2.0 ** ((self._landmark - self.hour) / self._half_life_h)
            self._landmark = self.hour

    def _put(self, key: I64, weight: F64) -> None:
        self._came.append((key, weight))
        self._waiting += len(key)
        if self._waiting > max(_FOLD, len(self._key) // 2):
            self.fold()

    def fold(self) -> None:
        """Add up what came, and keep to the bounds."""
        if not self._came:
            return
        keys, weights = zip(*self._came, strict=True)
        came, self._came, self._waiting = np.concatenate(keys), [], 0
        named = dict(zip(self.names.values(), self.names, strict=True))
        self.changed.update(named[slot] for slot in np.unique(came >> 32).tolist())
        self._key, at = np.unique(np.concatenate([self._key, came]), return_inverse=True)
        self._weight = _sums(at, np.concatenate([self._weight, *weights]))
        self._cut_items()
        self._cut_segments()

    def _cut_items(self) -> None:
        first = np.unique(self._key >> 32, return_index=True)[1]
        length = lengths(first, len(self._key))
        long = length > ITEMS + ITEMS // 2
        if long.any():
            held = np.repeat(~long, length)
            held[self._heaviest_items(np.flatnonzero(~held), ITEMS)] = True
            self._keep(held)

    def _cut_segments(self) -> None:
        if len(self.names) <= SEGMENTS + SEGMENTS // 2:
            return
        kept = self.heaviest()
        self.names = {name: slot for name, slot in self.names.items() if name in kept}
        self.changed &= kept.keys()
        self._keep(np.isin(self._key >> 32, list(self.names.values())))

    def _keep(self, held: Bool) -> None:
        self._key, self._weight = self._key[held], self._weight[held]

    def _heaviest_items(self, at: I64, n: int) -> I64:
        """Of counts ``at`` [m] (ascending) the ``n`` greatest of each segment: [k], in no order that means
        anything; to the precision of float32."""
        slot = self._key[at] >> 32
        new = begins(slot)
        first = np.flatnonzero(new)
        number = np.cumsum(new) - 1
        words = ~self._weight[at].astype(np.float32).view(np.uint32)
        order = np.argsort(number << 32 | words)
        rank = np.arange(len(at)) - np.repeat(first, lengths(first, len(at)))
        return at[order[rank < n]]

    # What is told

    def heaviest(self) -> dict[str, float]:
        """The segments that are kept, at most `SEGMENTS`, and their decayed sums as of the newest hour."""
        self.fold()
        slot, at = np.unique(self._key >> 32, return_inverse=True)
        sums = dict(zip(slot.tolist(), self._now(_sums(at, self._weight)).tolist(), strict=True))
        known = {name: sums.get(number, 0.0) for name, number in self.names.items()}
        best = sorted(known.items(), key=lambda each: (-each[1], each[0]))
        return dict(best[:SEGMENTS])

    def _now(self, weights: F64) -> F64:
        found: F64 = weights * 2.0 ** ((self._landmark - self.hour) / self._half_life_h)
        return found

    def tops(self, names: Iterable[str]) -> dict[str, list[tuple[str, float]]]:
        """The best `TOP_ITEMS` of segments, (item, decayed interactions) as of the newest hour, ties by hash.

        A segment that nobody knows has none.
        """
        self.fold()
        best = self._heaviest_items(np.arange(len(self._key)), TOP_ITEMS)
        key, weight = self._key[best], self._weight[best]
        order = np.lexsort((self._items.hashes[key & 0xFFFF_FFFF], -weight, key >> 32))
        scores = self._now(weight[order]).tolist()
        found: dict[int, list[tuple[str, float]]] = {}
        for place, score in zip(key[order].tolist(), scores, strict=True):
            if score > 0:
                found.setdefault(place >> 32, []).append((self._items.name(place & 0xFFFF_FFFF), score))
        return {name: found.get(self.names.get(name, -1), []) for name in names}

    def restore(self, tops: Mapping[str, Top]) -> None:
        """Begin with what a partition told last."""
        if not tops:
            return
        self._move(max(top.hour for top in tops.values()))
        for name, top in tops.items():
            item = self._items.ids([line.item for line in top.items]).astype(np.int64)
            weight = np.array([line.score for line in top.items])
            weight *= 2.0 ** ((top.hour - self._landmark) / self._half_life_h)
            self._put(self._slot(name) << 32 | item, weight)
        self.fold()
        self.changed.clear()


def _sums(at: I64, weights: F64) -> F64:
    return np.bincount(at, weights=weights).astype(np.float64, copy=False)


# Between partitions


def segment_record(
    partition: int,
    segment: str,
    version: str,
    hour: int,
    half_life_s: float,
    top: Sequence[tuple[str, float]],
) -> bytes:
    """The value in topic `trending` of what one partition knows of a segment as of an hour."""
    return orjson.dumps(
        {
            "version": version,
            "partition": partition,
            "segment": segment,
            "time": f"{np.datetime64(hour, 'h')}:00:00.000Z",
            "hour": hour,
            "half_life_s": half_life_s,
            "items": [{"item": item, "score": score} for item, score in top],
        }
    )


@dataclass(frozen=True, slots=True)
class Everywhere:
    """What all partitions tell: by segment, by partition; and what is popular, (item, score) best first."""

    tops: Mapping[str, Mapping[int, Top]]
    popular: Sequence[tuple[str, float]]

    def hour(self) -> int:
        """The newest hour that anybody told of."""
        return max((top.hour for parts in self.tops.values() for top in parts.values()), default=0)

    def sums(self, segment: str, hour: int) -> dict[str, float]:
        """Decayed interactions by item, of all partitions, as of an hour."""
        found: dict[str, float] = {}
        for _, top in sorted(self.tops.get(segment, {}).items()):
            factor = 2.0 ** (-(hour - top.hour) * 3600 / top.half_life_s)
            for line in top.items:
                found[line.item] = found.get(line.item, 0.0) + line.score * factor
        return found

    def heaviest(self) -> list[str]:
        """Segments worth telling: at most `SEGMENTS`, those with the greatest sums, of at least `LEAST`."""
        hour = self.hour()
        sums = {name: sum(self.sums(name, hour).values()) for name in self.tops}
        told = [name for name, total in sums.items() if total >= LEAST]
        return sorted(told, key=lambda name: (-sums[name], name))[:SEGMENTS]

    def merged(
        self, segment: str, hour: int, n: int, shown: Callable[[Sequence[str]], Bool]
    ) -> list[tuple[str, float]]:
        """The ``n`` best (item, score_s), ties by ascending hash, of those that ``shown`` lets through.

        Of what is of the segment or popular with all. ~0.3 ms.
        """
        total = sum(score for _, score in self.popular)
        found = self.sums(segment, hour)
        for item, score in self.popular if total > 0 else ():
            found[item] = found.get(item, 0.0) + PRIOR * score / total
        held = list(compress(found.items(), shown(list(found)).tolist()))
        least = sorted(score for _, score in held)[-n] if n < len(held) else 0.0
        best = [each for each in held if each[1] >= least]
        return sorted(best, key=lambda each: (-each[1], item_hash(each[0])))[:n]
