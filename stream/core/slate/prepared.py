"""What the steps after scoring need of items, worked out once an item when its facts change. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream.core.slate import diversity
from stream.core.slate.expressions import Expression, ItemValues, SlateValues
from stream.core.slate.facts import I32, I64, Bool, Facts, Slates
from stream.settings import Rule

I8 = NDArray[np.int8]

_MOST_PINNED = 16


class Prepared:
    """Masks of the rules' expressions by local id, and the items' sketches for diversity.

    ``masks`` [n, cap]; ``sketches`` [cap, 64] (`stream.core.slate.diversity`), empty unless they are wanted.
    n + 64 bytes an item.
    """

    def __init__(self, rules: Sequence[Rule] = (), diverse: bool = False) -> None:
        self.rules = tuple(rules)
        self._expressions = [Expression.of(rule.when) for rule in rules]
        counts = [len(each.fixed) for each in self._expressions]
        self._begin = [sum(counts[:number]) for number in range(len(counts))]
        self._fixed = [term for expression in self._expressions for term in expression.fixed]
        self._numbers: dict[str, list[int]] = {}
        for number, rule in enumerate(rules):
            self._numbers.setdefault(rule.do, []).append(number)
        self._pins: I32 | None = None
        self._diverse = diverse
        self._known = 0
        self.masks: Bool = np.zeros((sum(counts), 0), dtype=np.bool_)
        self.sketches: I8 = np.zeros((0, diversity.DIMENSIONS), dtype=np.int8)

    def reserve(self, facts: Facts) -> None:
        """Learn the items that came since."""
        if len(facts) > self._known:
            self.learn(facts, np.arange(self._known, len(facts)))
            self._known = len(facts)

    def learn(self, facts: Facts, items: I32 | I64) -> None:
        """The facts of items [m] are new or have changed. ~20 ns an item and rule, ~1 µs its sketch."""
        if self._fixed or self._diverse:
            self._grow(len(facts))
        if self._fixed:
            self._learn_masks(ItemValues(facts, items))
        if self._diverse:
            self.sketches[items] = diversity.sketches(facts, items)

    def _learn_masks(self, values: ItemValues) -> None:
        self._pins = None
        with np.errstate(all="ignore"):  # 1 / 0 is infinite and inf − inf unknown, as rules go
            for mask, term in zip(self.masks, self._fixed, strict=True):
                mask[values.at] = term.value(values)

    def _grow(self, size: int) -> None:
        if (more := size - self.masks.shape[1]) > 0:
            more = max(more, self.masks.shape[1], 1024)
            self.masks = np.pad(self.masks, ((0, 0), (0, more)))
            if self._diverse:
                self.sketches = np.pad(self.sketches, ((0, more), (0, 0)))

    def matches(self, number: int, facts: Facts, slates: Slates) -> Bool:
        """Which candidates [U, N] a rule applies to; of pads it says anything. ~0.2 µs a user."""
        expression, begin = self._expressions[number], self._begin[number]
        values = SlateValues(facts, slates, self.masks[begin : begin + len(expression.fixed)])
        with np.errstate(all="ignore"):
            found = expression.whole.value(values)
        matching: Bool = np.broadcast_to(found, slates.items.shape)
        return matching

    def numbers(self, do: str) -> Sequence[int]:
        """The rules of one kind, in the order of the settings."""
        return self._numbers.get(do, ())

    def pinned(self, facts: Facts) -> I32:
        """Items that rules may pin, ascending; a rule that fits more than 16 pins only what is in a slate."""
        self.reserve(facts)
        if self._pins is None:
            self._pins = self._pinned(facts)
        return self._pins

    def _pinned(self, facts: Facts) -> I32:
        found = [np.zeros(0, dtype=np.int64)]
        for number in self.numbers("pin"):
            if (needed := self._expressions[number].needed) is not None:
                at = np.flatnonzero(self.masks[self._begin[number] + needed, : len(facts)])
                found.append(at[: len(at) if len(at) <= _MOST_PINNED else 0])
        return np.unique(np.concatenate(found)).astype(np.int32)
