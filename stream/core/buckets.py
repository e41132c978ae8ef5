"""Counts of items by spans of time, in whole numbers: a window of buckets an item, behind its newest. Pure.

Additions of integers, and a window that hangs on the item's own events alone: what an item holds is the same
whatever the order of the events and however they are cut into batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.core.items import Items

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

NEVER = -(1 << 30)
"""The newest bucket of an item that has none."""
_MOST = (1 << 28) - 1


class Buckets:
    """Counts by local item id; the arrays grow by doubling with the dictionary. 4·columns + 4 bytes an item.

    Bucket b holds the times from b · ``span_ms`` − ``shift_ms`` on. ``counts`` [cap, columns] int32, in
    eighths of an interaction: bucket b stands in column b mod columns; ``newest`` [cap] the newest bucket of
    each item, at which its window ends. ``dropped`` counts interactions that came after their window.

    A stored section is a count (u16) and entries of ``form``: two fields, the bucket and its count (u32).
    """

    def __init__(
        self, items: Items, columns: int, span_ms: int, form: np.dtype[np.void], shift_ms: int = 0
    ) -> None:
        self._items, self._form = items, form
        self.columns, self.span_ms, self.shift_ms = columns, span_ms, shift_ms
        self.counts: I32 = np.zeros((0, columns), dtype=np.int32)
        self.newest: I32 = np.zeros(0, dtype=np.int32)
        self.dropped = 0
        self.reserve()

    def of(self, time_ms: I64) -> I64:
        """The buckets [n] of times [n] ms."""
        return (time_ms + self.shift_ms) // self.span_ms

    def start_ms(self, bucket: I64) -> I64:
        """Where buckets [n] begin: [n] ms."""
        return bucket * self.span_ms - self.shift_ms

    def add(self, item: I32, time_ms: I64, units: I64) -> None:
        """Count interactions: ``item`` [n], ``time_ms`` [n], ``units`` [n] weights in eighths.

        Weights of 0 leave no trace. A bucket saturates at 2^28 − 1. ~0.5 µs an interaction.
        """
        self.reserve()
        bucket = self.of(time_ms)
        bounds = np.iinfo(self._form[0])
        counted = (units > 0) & (bucket >= bounds.min) & (bucket <= bounds.max)
        item, bucket, units = item[counted], bucket[counted], units[counted]
        self._advance(item, bucket)
        fresh = bucket > self.newest[item] - self.columns
        self.dropped += len(item) - int(np.count_nonzero(fresh))
        places = item[fresh] * np.int64(self.columns) + bucket[fresh] % self.columns
        at, which = np.unique(places, return_inverse=True)
        sums = np.zeros(len(at), dtype=np.int64)
        np.add.at(sums, which, units[fresh])
        flat = self.counts.reshape(-1)
        flat[at] = np.minimum(flat[at] + sums, _MOST)

    def aged(self, items: I32, now: I64, ages: range | None = None) -> I64:
        """Counts of items [m] at ages 0, 1, … (or ``ages``) as of buckets ``now`` [m]: [m, ages].

        ``now`` is at or after the newest bucket of each. ~1 µs an item with 54 ages.
        """
        self.reserve()
        bucket = now[:, None] - np.array(ages or range(self.columns))
        found = np.take_along_axis(self.counts[items], bucket % self.columns, axis=1)
        return np.where(bucket > self.newest[items].astype(np.int64)[:, None], 0, found).astype(np.int64)

    def drop(self, items: I32) -> None:
        """Forget items [m]."""
        self.reserve()
        self.counts[items] = 0
        self.newest[items] = NEVER

    def pack(self, items: I32) -> list[bytes]:
        """Sections of items [m]: u16 count, then the entries, oldest first. ~1 µs an item."""
        newest = self.newest_of(items)
        counts = self.aged(items, newest)[:, ::-1]
        row, at = np.nonzero(counts)
        entries = np.empty(len(row), dtype=self._form)
        bucket, count = self._form.names or ()
        entries[bucket], entries[count] = newest[row] - (self.columns - 1) + at, counts[row, at]
        data, size = entries.tobytes(), self._form.itemsize
        lengths = np.bincount(row, minlength=len(items))
        ends = (np.cumsum(lengths) * size).tolist()
        return [
            length.to_bytes(2, "little") + data[start:end]
            for length, start, end in zip(lengths.tolist(), [0, *ends], ends, strict=False)
        ]

    def unpack(self, items: I32, blobs: Sequence[bytes]) -> list[bytes]:
        """Load items [m], all different, from their sections; returns what stands behind each.

        Nothing at all is an item never seen. Raises ValueError, and loads none, on a section that is shorter
        than its count says, or holds what no counting makes.
        """
        lengths = np.array([int.from_bytes(blob[:2], "little") for blob in blobs], dtype=np.int64)
        ends = np.where([bool(blob) for blob in blobs], 2 + self._form.itemsize * lengths, 0).tolist()
        if any(len(blob) < end for blob, end in zip(blobs, ends, strict=True)):
            raise ValueError(
                "a popularity section is not as long as its count says: the stored bytes are damaged"
            )
        joined = b"".join([blob[2:end] for blob, end in zip(blobs, ends, strict=True)])
        entries = np.frombuffer(joined, dtype=self._form)
        of, at, counts = np.repeat(items, lengths), *self._fields(entries)
        if (lengths > self.columns).any() or (counts > _MOST).any():
            raise ValueError("a popularity section holds too much: the stored bytes are damaged")
        self.drop(items)
        self._advance(of, at)
        self.counts[of, at % self.columns] = counts
        return [blob[end:] for blob, end in zip(blobs, ends, strict=True)]

    def newest_of(self, items: I32) -> I64:
        """The newest buckets of items [m]: [m]."""
        self.reserve()
        return self.newest[items].astype(np.int64)

    def reserve(self) -> None:
        """Make room for every item of the dictionary."""
        more = max(len(self._items), 1024) - len(self.newest)
        if more > 0:
            more = max(more, len(self.newest))
            self.counts = np.concatenate([self.counts, np.zeros((more, self.columns), dtype=np.int32)])
            self.newest = np.concatenate([self.newest, np.full(more, NEVER, dtype=np.int32)])

    def _fields(self, entries: NDArray[np.void]) -> tuple[I64, I64]:
        """Bucket and count of entries [n]: [n] each."""
        bucket, count = self._form.names or ()
        return entries[bucket].astype(np.int64), entries[count].astype(np.int64)

    def _advance(self, item: I32, bucket: I64) -> None:
        """Move the windows of items [n] to buckets [n], where those are newer; empty what leaves."""
        later = bucket > self.newest[item]
        moved = np.unique(item[later])
        before = self.newest[moved].astype(np.int64)
        np.maximum.at(self.newest, item[later], bucket[later].astype(np.int32))
        newest = self.newest[moved].astype(np.int64)
        # The bucket each column stands for, once the window has moved.
        stands = newest[:, None] - (newest[:, None] - np.arange(self.columns)) % self.columns
        self.counts[moved] = np.where(stands > before[:, None], 0, self.counts[moved])
