"""Quotas: at most so many items of a kind in a list. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stream.core.slate.facts import I64, U64, Bool, picked

_ANY = 1 << 30


@dataclass(frozen=True)
class Quota:
    """At most ``most`` candidates with the same ``key`` [U, N] (0: not counted)."""

    key: U64
    most: int

    @cached_property
    def code(self) -> I64:
        """Numbers of the keys of each row, 0 of what is not counted: [U, N]."""
        users, width = self.key.shape
        order = self.key.argsort(axis=1)
        ordered = picked(self.key, order)
        begins = ordered > 0
        begins[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        code = np.empty(self.key.shape, dtype=np.int64)
        code.ravel()[order + np.arange(users)[:, None] * width] = begins.cumsum(axis=1)
        return code


def within(quotas: Sequence[Quota], live: Bool, first: Bool) -> Bool:
    """Which candidates [U, N] remain when taken greedily, best first, as far as all quotas have room.

    ``live`` [U, N] may be taken at all; ``first`` [U, N], in any column, are taken whatever the quotas say,
    and count before all others. Of what remains any part satisfies every quota, but for the first themselves.
    ~2 µs a user and quota with N = 60.
    """
    taken, left, at = live & first, *_room(quotas)
    # Each column's together in memory, for they are gone through one by one.
    able = np.ascontiguousarray((live & ~first).T)
    if taken.any():
        left -= np.bincount(at.transpose(1, 2, 0)[:, taken].ravel(), minlength=len(left))
    for column in np.flatnonzero(able.any(axis=1)).tolist():
        places = at[column]
        room = left.take(places)
        able[column] &= np.minimum.reduce(room) > 0
        room -= able[column]
        left[places] = room
    taken |= able.T
    return taken


def _room(quotas: Sequence[Quota]) -> tuple[I64, I64]:
    """The room of each quota, user and number of a key, and where that of each candidate is: [N, Q, U]."""
    users, width = quotas[0].key.shape
    left = np.empty((len(quotas), users, width + 1), dtype=np.int64)
    left[:] = np.array([quota.most for quota in quotas])[:, None, None]
    left[:, :, 0] = _ANY
    begin = np.arange(len(quotas) * users).reshape(len(quotas), users) * (width + 1)
    at = np.stack([quota.code.T for quota in quotas], axis=1)
    return left.ravel(), at + begin
