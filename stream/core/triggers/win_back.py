"""Win-back: no order for longer than this user's cycle.

The cycle is the greater of ``lapse`` (60 days) and twice the median gap between his orders, of which the last
eight are kept. The first nudge is due a cycle after the last order; any order ends the sequence. After the
last step he is left in peace until he orders again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from stream.core.campaigns import Span
from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import DAY_MS, Entry, Sequence, Sequenced

ORDERS = 8
"""Orders whose times are kept."""


class Lapse(Sequence, frozen=True, array_like=True):
    """``orders`` are the times of the last orders, in ms, ascending; the anchor is the newest."""

    orders: tuple[int, ...] = ()


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``lapse``: the least time without an order."""

    lapse: Span = Span(60 * DAY_MS)


@dataclass(frozen=True)
class WinBack(Sequenced):
    """The trigger. A step's delay counts from the end of the cycle."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "no order for the greater of `lapse` and twice the median gap between the user's last eight "
            "orders; delays count from then"
        ),
        put_off="an order",
        limits="of an even number of gaps the lower middle one is the median",
    )

    lapse_ms: int = 60 * DAY_MS

    kinds: ClassVar[frozenset[str]] = frozenset(["purchase"])
    state: ClassVar[type[Sequence]] = Lapse
    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (0, 14 * DAY_MS, 28 * DAY_MS)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The lapse."""
        return {"lapse_ms": int(parameters.lapse)}

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Lapse:
        """An order begins the wait anew."""
        assert isinstance(own, Lapse)
        orders = tuple(sorted({*own.orders, seen.time}))[-ORDERS:]
        if orders[-1] == own.anchor:
            return replace(own, orders=orders)
        return Lapse(anchor=orders[-1], orders=orders)

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """No items; the last order."""
        return (), (Evidence("purchase", own.anchor),)

    def next_timer(self, own: Sequence) -> int | None:
        """A cycle after the last order, and the step's delay behind it."""
        if not own.anchor or own.step >= len(self.after_ms):
            return None
        assert isinstance(own, Lapse)
        return own.anchor + self.cycle_ms(own.orders) + self.after_ms[own.step]

    def cycle_ms(self, orders: tuple[int, ...]) -> int:
        """How long a user with such orders may be silent, in ms."""
        gaps = [later - earlier for earlier, later in pairwise(orders)]
        return max(self.lapse_ms, 2 * median_low(gaps)) if gaps else self.lapse_ms
