"""What is popular now: decayed counts in hourly integer buckets, and the merged top list. Pure.

    score(i) = Σ_h c_ih · 2^(−(now − h) / half-life)

over the last 72 hours. The counts are integers and the factors integers from a table (2^18 = 1), and 72
products stay below 2^53: floats of 64 bits add them exactly. So a score, and with it the order, is the same
on every machine and whatever the order of the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Annotated

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from stream.core.items import Items, item_hash
from stream.core.weights import TYPE_BITS

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

HOURS = 72
"""Buckets an item keeps."""

_HOUR_MS = 3_600_000
_SCALE_BITS = 18
_MOST = (1 << 28) - 1
_NEVER = -(1 << 30)
_ENTRY = np.dtype([("hour", "<i4"), ("count", "<u4")])


class Popularity:
    """Hourly counts by local item id; the arrays grow by doubling with the dictionary. 292 bytes an item.

    ``counts`` [cap, 72] int32, in eighths of an interaction: hour h stands in column h mod 72; ``newest``
    [cap] the newest hour of each item, at which its window of 72 hours ends. What an item holds depends on
    its own events alone, in any order. ``dropped`` counts interactions that came after their window.
    """

    hours = HOURS

    def __init__(self, items: Items) -> None:
        self._items = items
        self.counts: I32 = np.zeros((0, HOURS), dtype=np.int32)
        self.newest: I32 = np.zeros(0, dtype=np.int32)
        self.dropped = 0
        self._reserve()

    def add(self, item: I32, time_ms: I64, units: I64) -> None:
        """Count interactions: ``item`` [n], ``time_ms`` [n], ``units`` [n] weights in eighths.

        Weights of 0 leave no trace. A bucket saturates at 2^28 − 1. ~0.2 µs an interaction.
        """
        self._reserve()
        counted = units > 0
        item, hour, units = item[counted], time_ms[counted] // _HOUR_MS, units[counted]
        self._advance(item, hour)
        fresh = hour > self.newest[item] - HOURS
        self.dropped += len(item) - int(np.count_nonzero(fresh))
        at, which = np.unique(item[fresh] * np.int64(HOURS) + hour[fresh] % HOURS, return_inverse=True)
        sums = np.zeros(len(at), dtype=np.int64)
        np.add.at(sums, which, units[fresh])
        flat = self.counts.reshape(-1)
        flat[at] = np.minimum(flat[at] + sums, _MOST)

    def scores(self, items: I32, half_life_s: float, now_hour: int) -> F64:
        """Decayed interactions of items [m] as of an hour, or of their newest if that is later: [m]."""
        now = max(now_hour, self.newest_hour(items))
        return self._integers(items, half_life_s, now) / (1 << (_SCALE_BITS + TYPE_BITS))

    def rested(self, items: I32, half_life_s: float) -> F64:
        """Decayed interactions of items [m], each as of its own newest hour: [m]. ~0.3 µs an item."""
        self._reserve()
        age = (self.newest[items].astype(np.int64)[:, None] - np.arange(HOURS)) % HOURS
        scores: F64 = np.einsum("ij,ij->i", self.counts[items].astype(np.float64), _table(half_life_s)[age])
        return scores / (1 << (_SCALE_BITS + TYPE_BITS))

    def newest_hour(self, items: I32) -> int:
        """The newest hour of any of the items [m]; 0 when none has any."""
        self._reserve()
        return max(int(self.newest[items].max(initial=_NEVER)), 0)

    def newest_ms(self, items: I32) -> I64:
        """Start of the newest hour of each of the items [m], in ms; 0 for an item that has none."""
        self._reserve()
        return np.maximum(self.newest[items].astype(np.int64), 0) * _HOUR_MS

    def top(self, items: I32, n: int, half_life_s: float, now_hour: int | None = None) -> tuple[I32, F64]:
        """The ``n`` best of the items [m], all different, with their scores; ties by ascending hash.

        ``now_hour`` is hours since 1970; the newest hour of these items stands for none or an earlier one.
        Items without any score are not listed. ~0.3 ms for a thousand items.
        """
        now = max(self.newest_hour(items), now_hour or 0)
        alive = items[self.newest[items] > now - HOURS]
        scores = self._integers(alive, half_life_s, now)
        least = np.partition(scores, -n)[-n] if n < len(scores) else 0
        reach = np.flatnonzero((scores >= least) & (scores > 0))
        best = reach[np.lexsort((self._items.hashes[alive[reach]], -scores[reach]))[:n]]
        return alive[best], scores[best] / (1 << (_SCALE_BITS + TYPE_BITS))

    def drop(self, items: I32) -> None:
        """Forget items [m]."""
        self._reserve()
        self.counts[items] = 0
        self.newest[items] = _NEVER

    def pack(self, items: I32) -> list[bytes]:
        """Sections of items [m]: u16 count, then (hour i32, count u32) each, oldest first. ~1 µs an item."""
        self._reserve()
        newest = self.newest[items].astype(np.int64)
        hour = newest[:, None] - np.arange(HOURS - 1, -1, -1)
        counts = np.take_along_axis(self.counts[items], hour % HOURS, axis=1)
        row, at = np.nonzero(counts)
        entries = np.empty(len(row), dtype=_ENTRY)
        entries["hour"], entries["count"] = hour[row, at], counts[row, at]
        data = entries.tobytes()
        lengths = np.bincount(row, minlength=len(items))
        ends = (np.cumsum(lengths) * _ENTRY.itemsize).tolist()
        return [
            length.to_bytes(2, "little") + data[start:end]
            for length, start, end in zip(lengths.tolist(), [0, *ends], ends, strict=False)
        ]

    def unpack(self, items: I32, sections: Sequence[bytes]) -> None:
        """Load items [m], all different, from their sections; an empty section is an item never seen.

        Raises ValueError on a section that does not have the length its count says.
        """
        self.drop(items)
        lengths = np.array([int.from_bytes(section[:2], "little") for section in sections], dtype=np.int64)
        expected = [
            2 + _ENTRY.itemsize * length if section else 0
            for section, length in zip(sections, lengths, strict=True)
        ]
        if expected != [len(section) for section in sections]:
            raise ValueError(
                "a popularity section is not as long as its count says: the stored bytes are damaged"
            )
        entries = np.frombuffer(b"".join([section[2:] for section in sections]), dtype=_ENTRY)
        of = np.repeat(items, lengths)
        hour = entries["hour"].astype(np.int64)
        self._advance(of, hour)
        self.counts[of, hour % HOURS] = entries["count"]

    def _advance(self, item: I32, hour: I64) -> None:
        """Move the windows of items [n] to hours [n], where those are newer; empty what leaves."""
        later = hour > self.newest[item]
        moved = np.unique(item[later])
        before = self.newest[moved].astype(np.int64)
        np.maximum.at(self.newest, item[later], hour[later].astype(np.int32))
        newest = self.newest[moved].astype(np.int64)
        # The hour each column stands for, once the window has moved.
        stands = newest[:, None] - (newest[:, None] - np.arange(HOURS)) % HOURS
        self.counts[moved] = np.where(stands > before[:, None], 0, self.counts[moved])

    def _integers(self, items: I32, half_life_s: float, now: int) -> F64:
        """Scores of items [m] times 2^21, whole numbers: [m]."""
        age = (now - np.arange(HOURS)) % HOURS
        # A column younger than the item's newest hour holds an hour that has left the window.
        behind = np.minimum(now - self.newest[items].astype(np.int64), HOURS)
        counts = np.where(age >= behind[:, None], self.counts[items], 0.0)
        scores: F64 = np.einsum("ij,j->i", counts, _table(half_life_s)[age])
        return scores

    def _reserve(self) -> None:
        more = max(len(self._items), 1024) - len(self.newest)
        if more > 0:
            more = max(more, len(self.newest))
            self.counts = np.concatenate([self.counts, np.zeros((more, HOURS), dtype=np.int32)])
            self.newest = np.concatenate([self.newest, np.full(more, _NEVER, dtype=np.int32)])


@lru_cache
def _table(half_life_s: float) -> F64:
    """``round(2^(−age · 3600 / half_life) · 2^18)`` for ages 0..71 h; by decimal arithmetic."""
    hours = Decimal(str(half_life_s)) / 3600
    powers = [Decimal(2) ** (_SCALE_BITS - Decimal(age) / hours) for age in range(HOURS)]
    return np.array([int(power.to_integral_value()) for power in powers], dtype=np.float64)


def top_record(
    partition: int, version: str, now_hour: int, half_life_s: float, top: Sequence[tuple[str, float]]
) -> bytes:
    """The value of topic `trending`: a partition's top list, (name, score) as of an hour."""
    return orjson.dumps(
        {
            "version": version,
            "partition": partition,
            "time": f"{np.datetime64(now_hour, 'h')}:00:00.000Z",
            "hour": now_hour,
            "half_life_s": half_life_s,
            "items": [{"item": name, "score": score} for name, score in top],
        }
    )


class _Scored(msgspec.Struct):
    item: str
    score: float


class _Top(msgspec.Struct):
    """What is read of a record of topic `trending`."""

    hour: int
    half_life_s: Annotated[float, msgspec.Meta(gt=0)]
    items: list[_Scored]


_decoder = msgspec.json.Decoder(_Top)


def merge(records: Iterable[bytes], n: int) -> list[tuple[str, float]]:
    """One top list of ``n`` (name, score) from those of the partitions, ties by ascending hash.

    A partition that fell silent was scored at an earlier hour: its scores are decayed to the newest of all.
    Raises ValueError when bytes are no such record.
    """
    parts = [_decoder.decode(record) for record in records]
    now = max((part.hour for part in parts), default=0)
    best: dict[str, float] = {}
    for part in parts:
        factor = 2.0 ** (-(now - part.hour) * 3600 / part.half_life_s)
        for entry in part.items:
            best[entry.item] = max(best.get(entry.item, 0.0), entry.score * factor)
    return sorted(best.items(), key=lambda found: (-found[1], item_hash(found[0])))[:n]
