"""Replenishment: what the user buys again and again is about to run out.

An item that he bought at least four times has at least three gaps; it is due ``early`` (0.8) of their median
after the last time, and once more at the upper quartile. Buying it again cancels both. What is due at the
same time goes into one nudge. The last six times of the 40 items bought last are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import HOUR_MS, Entry, Proposal, Sequence, Sequenced

ITEMS, TIMES, GAPS = 40, 6, 3
"""Items kept, times of each, and gaps that it takes."""
TOGETHER_MS = 12 * HOUR_MS
"""What comes due within this time is said at once."""


class Item(msgspec.Struct, frozen=True, array_like=True):
    """``times`` [ms] ascending, when it was bought; ``told`` how many nudges were due since the last."""

    times: tuple[int, ...] = ()
    told: int = 0


class Stock(Sequence, frozen=True, array_like=True):
    """What the user buys, by item."""

    items: dict[str, Item] = msgspec.field(default_factory=dict)


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``early``: the share of the median gap after which the first nudge is due."""

    early: Annotated[float, msgspec.Meta(gt=0, le=1, description="a share above 0, at most 1")] = 0.8


@dataclass(frozen=True)
class Replenishment(Sequenced):
    """The trigger. Its steps are those of each item, so a campaign gives none."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "an item bought at least four times is about to run out: `early` of the median gap after the "
            "last time, and once more at the upper quartile; what is due within 12 hours is one message"
        ),
        cancelled="the item bought again",
        limits="what is due 12 hours later goes into the same message",
    )

    early: float = 0.8

    kinds: ClassVar[frozenset[str]] = frozenset(["purchase"])
    revoked_by: ClassVar[Literal["order", "items", "nothing"]] = "items"
    state: ClassVar[type[Sequence]] = Stock
    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = ()

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The share."""
        return {"early": parameters.early}

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Stock:
        """A purchase begins the wait for its items anew."""
        assert isinstance(own, Stock)
        items = dict(own.items)
        for line in seen.event.lines():
            old = items.get(line.item, Item())
            times = tuple(sorted({*old.times, seen.time}))[-TIMES:]
            items[line.item] = Item(times) if times[-1] > max(old.times, default=0) else Item(times, old.told)
        kept = sorted(items, key=lambda item: (-items[item].times[-1], item))[:ITEMS]
        return replace(own, items={item: items[item] for item in sorted(kept)})

    def due(self, item: Item) -> int | None:
        """When an item's next nudge is due: early of the median gap, then the upper quartile."""
        gaps = sorted(b - a for a, b in pairwise(item.times))
        if len(gaps) < GAPS or item.told > 1:
            return None
        # The median of few gaps is one that was; in whole ms, so that every machine agrees.
        first = round(self.early * median_low(gaps))
        second = max(gaps[(3 * len(gaps)) // 4], first + 1)
        return item.times[-1] + (second if item.told else first)

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """All items that are due about now."""
        assert isinstance(own, Stock)
        begin = self.next_timer(own) or now
        due = {
            name: item
            for name, item in own.items.items()
            if (at := self.due(item)) is not None and at <= max(now, begin) + TOGETHER_MS
        }
        told = {name: replace(item, told=item.told + 1) for name, item in due.items()}
        after = replace(own, items={**own.items, **told})
        return Proposal(
            items=tuple(NudgeItem(name, None, 1) for name in due),
            evidence=tuple(Evidence("purchase", item.times[-1], name) for name, item in due.items()),
            if_sent=after,
            if_not=after,
            since=min((item.times[-1] for item in due.values()), default=0),
        )

    def next_timer(self, own: Sequence) -> int | None:
        """When the first of the items is due."""
        assert isinstance(own, Stock)
        return min((at for item in own.items.values() if (at := self.due(item)) is not None), default=None)
