"""Quotas: at most so many items of a kind in a list. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.core.slate.facts import I32, I64, U64, Bool

_ANY = 1 << 30


@dataclass(frozen=True, slots=True)
class Quota:
    """At most ``most`` candidates with the same ``key`` [U, N] (0: not counted)."""

    key: U64
    most: int


def within(quotas: Sequence[Quota], live: Bool, first: Bool) -> Bool:
    """Which candidates [U, N] remain when taken greedily, best first, as far as all quotas have room.

    ``live`` [U, N] may be taken at all; ``first`` [U, N], in any column, are taken whatever the quotas say,
    and count before all others. Of what remains any part satisfies every quota, but for the first themselves.
    ~3 µs a user and quota with N = 60.
    """
    taken, open_ = live & first, live & ~first
    row = np.arange(len(live))
    tables = [_Table.of(quota, taken) for quota in quotas]
    for column in np.flatnonzero(open_.any(axis=0)).tolist():
        room = open_[:, column].copy()
        for table in tables:
            room &= table.left[row, table.code[:, column]] > 0
        for table in tables:
            table.left[row, table.code[:, column]] -= room
        taken[:, column] |= room
    return taken


@dataclass(frozen=True, slots=True)
class _Table:
    """``code`` [U, N] numbers a row's keys, 0 the uncounted; ``left`` [U, N + 1] room by number."""

    code: I64
    left: I32

    @classmethod
    def of(cls, quota: Quota, taken: Bool) -> _Table:
        """With what is ``taken`` already."""
        order = np.argsort(quota.key, axis=1)
        ordered = np.take_along_axis(quota.key, order, axis=1)
        begins = np.diff(ordered, axis=1, prepend=np.uint64(0)) != 0
        code: I64 = np.empty(quota.key.shape, dtype=np.int64)
        np.put_along_axis(code, order, np.cumsum(begins, axis=1), axis=1)
        width = quota.key.shape[1] + 1
        left: I32 = np.full((len(code), width), quota.most, dtype=np.int32)
        left[:, 0] = _ANY
        row, column = np.nonzero(taken)
        np.subtract.at(left.reshape(-1), row * width + code[row, column], 1)
        return cls(code, left)
