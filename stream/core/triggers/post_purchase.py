"""Post-purchase: a time after an order, for thanks, a review, or what goes with it. A refund cancels it.

The newest order counts: another one before the nudge is due puts it off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, Entry, Sequence, Sequenced

ITEMS = 20
"""Items of an order that are kept."""


class Ordered(Sequence, frozen=True, array_like=True):
    """The order: its id ("" if it has none) and its items."""

    order: str = ""
    items: tuple[NudgeItem, ...] = ()


@dataclass(frozen=True)
class PostPurchase(Sequenced):
    """The trigger; its anchor is the newest order."""

    entry: ClassVar[Entry] = Entry(
        starts="a time after an order; items are those of the order",
        put_off="another order",
        cancelled="a `refund` of the order, or one that names none",
        limits="a refund at the time of the order came after it, another order did not",
    )

    kinds: ClassVar[frozenset[str]] = frozenset(["purchase", "refund"])
    revoked_by: ClassVar[Literal["order", "items", "nothing"]] = "nothing"
    state: ClassVar[type[Sequence]] = Ordered
    usual_ms: ClassVar[tuple[int, ...]] = (7 * DAY_MS,)

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Ordered:
        """A newer order takes the place of the one before; a refund of it ends the wait."""
        assert isinstance(own, Ordered)
        told = seen.event.order or ""
        if seen.type == "refund":
            refunded = seen.time >= own.anchor and told in ("", own.order)
            return Ordered() if refunded else own
        if seen.time <= own.anchor:
            return own
        lines = tuple(NudgeItem(line.item, line.price, line.quantity) for line in seen.event.lines())
        return Ordered(anchor=seen.time, order=told, items=lines[:ITEMS])

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """What was ordered."""
        assert isinstance(own, Ordered)
        return own.items, (Evidence("purchase", own.anchor),)
