"""The 64 heaviest words of rows (`stream.core.rows`), kept from one ranking to the next. Pure.

Between two rankings few of a row's words change, and those that do grow. Every change is noted; before the
next ranking, what exceeds the lightest word of its row's list is merged into the list, and what it replaces
is taken out. Exact, and cheaper than to rank 512 words. A list is forgotten when its row changes in another
way (a landmark move, a row made anew or dropped), and made from the whole row when it is asked for again.
docs/decisions/kernel-layout.md has what was measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream.core.runs import lengths, starts

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Slots = NDArray[Any]
"""Numbers of rows, of any width."""
Change = tuple[I64, U64, U64]
"""Slots [n], their words as they were (0: none) and as they are [n]."""

KEPT = 64
"""Words of a list; 0 behind those of a shorter row."""
_CHANGES = 32
"""Words that enter or leave a list at once; a list with more is forgotten."""
_BLOCK = 256
"""Lists merged at a time, so that they stay in cache."""
_NOTED = 1 << 18
"""Changes noted at most (6 MB) before they are applied."""
_NONE = np.uint64(2**64 - 1)
"""The lightest word of a list that is not known: nothing exceeds it."""


class Heaviest:
    """Lists by slot, ascending; 520 bytes each."""

    def __init__(self) -> None:
        self._words: U64 = np.zeros((0, KEPT), dtype=np.uint64)
        self._lightest: U64 = np.zeros(0, dtype=np.uint64)
        self._changes: list[Change] = []
        self._noted = 0

    def grow(self, rows: int) -> None:
        """Make room for rows; new ones are unknown."""
        before = len(self._lightest)
        self._words.resize((rows, KEPT), refcheck=False)
        self._lightest.resize(rows, refcheck=False)
        self._lightest[before:] = _NONE

    def forget(self, slots: Slots) -> None:
        """The lists of rows [r] are not known any longer."""
        self._lightest[slots] = _NONE

    def unknown(self, slots: Slots) -> Slots:
        """Those of rows [r] whose lists are not known."""
        found: Slots = slots[self._lightest[slots] == _NONE]
        return found

    def put(self, slots: Slots, words: U64) -> None:
        """The lists [r, 64] of rows [r] as they are now; all changes noted have been applied."""
        self._words[slots], self._lightest[slots] = words, words[:, 0]

    def of(self, slots: Slots) -> U64:
        """The lists [r, 64] of rows [r], which are known."""
        return np.take(self._words, slots, axis=0)

    def note(self, changes: list[Change]) -> None:
        """Words of rows came or grew."""
        self._changes += changes
        self._noted += sum(len(slot) for slot, *_ in changes)
        if self._noted > _NOTED:
            self.apply()

    def apply(self) -> None:
        """Bring the lists that are known up to date. Cheaper than to make them anew."""
        if not self._changes:
            return
        slot, old, new = (np.concatenate(column) for column in zip(*self._changes, strict=True))
        self._changes, self._noted = [], 0
        slot, word = self._crossing(slot, old, new)
        first = starts(slot)
        count = lengths(first, len(slot))
        if (crowded := count > _CHANGES).any():
            self.forget(slot[first[crowded]])
            few = np.repeat(~crowded, count)
            slot, word, count = slot[few], word[few], count[~crowded]
            first = starts(slot)
        place = np.arange(len(slot)) - np.repeat(first - np.arange(len(first)) * (_CHANGES + KEPT), count)
        edges = np.append(first, len(slot))
        for start in range(0, len(first), _BLOCK):
            part = slice(edges[start], edges[min(start + _BLOCK, len(first))])
            rows = slot[first[start : start + _BLOCK]]
            self.put(rows, _merged(self.of(rows), place[part] - start * (_CHANGES + KEPT), word[part]))

    def _crossing(self, slot: I64, old: U64, new: U64) -> tuple[I64, U64]:
        """Words that enter lists, and what they were if it stands there: [m] slots, in order, and words."""
        lightest = self._lightest[slot]
        entering = np.flatnonzero((new > lightest) & (new != old))
        slot, old, new, lightest = slot[entering], old[entering], new[entering], lightest[entering]
        leaving = np.flatnonzero(old >= np.maximum(lightest, 1))
        slot, word = np.concatenate([slot, slot[leaving]]), np.concatenate([new, old[leaving]])
        order = np.sort(slot << 32 | np.arange(len(slot))) & 0xFFFF_FFFF
        return slot[order], word[order]


def _merged(lists: U64, place: I64, word: U64) -> U64:
    """Lists [r, 64] with changes [n], each at its ``place`` in [r, 32]; two equal words cancel each other.

    What a word was stands in the list, or, where it changed twice, among the words that entered.
    """
    both = np.zeros((len(lists), _CHANGES + KEPT), dtype=np.uint64)
    both.reshape(-1)[place] = word
    both[:, _CHANGES:] = lists
    both.sort(axis=1)
    flat = both.reshape(-1)
    single = np.ones(len(flat) + 1, dtype=np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=single[1:-1])
    flat *= single[1:] & single[:-1]
    both.sort(axis=1)
    return both[:, _CHANGES:]
