"""Low stock: of an item in the user's cart, or that he wished for, fewer than ``below`` (5) pieces are left.

He put it there within ``lookback`` (14 days), and has not bought it since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec

from stream.core.campaigns import Span
from stream.core.engaged import UserState
from stream.core.triggers.shape import DAY_MS, Entry
from stream.core.triggers.watched import Offer, Watched
from stream.core.watchers import STOCK, Terms, Watch


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``below`` how many pieces it is low; ``lookback``: the longest time since it was put there."""

    below: Annotated[int, msgspec.Meta(ge=2, le=10**9, description="a whole number from 2")] = 5
    lookback: Span = Span(14 * DAY_MS)


@dataclass(frozen=True)
class LowStock(Watched):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "fewer than `below` pieces are left of an item that the user put into the cart, or wished for, "
            "within `lookback`"
        ),
        cancelled="the item bought, taken out of the cart, sold out, or more of it there",
        limits=(
            "`below` pieces are not few; put there `lookback` ago is recent; an order at the time of the "
            "wish came after it"
        ),
    )

    below: int = 5
    lookback_ms: int = 14 * DAY_MS

    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (0,)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The pieces, and the time."""
        return {"below": parameters.below, "lookback_ms": int(parameters.lookback)}

    def terms(self) -> Terms:
        """Items of which so few are left."""
        return Terms(lows=frozenset([self.below]), low_ms=self.lookback_ms)

    def wants(self, kind: str, body: Mapping[str, Any]) -> bool | None:
        """A stock that fell below it; until there is more, or nothing left."""
        if kind != STOCK:
            return None
        if not 0 < body["new"] < self.below:
            return False
        return True if body["old"] >= self.below else None

    def holds(self, item: str, offer: Offer, watch: Watch, user: UserState, now: int) -> bool:
        """In the cart, or wished for and not bought since; lately."""
        return _wanted(item, watch, user) >= max(now - self.lookback_ms, 1)

    def since(self, item: str, user: UserState, now: int) -> int:
        """When he put it there."""
        return _wanted(item, user.watching[item], user)


def _wanted(item: str, watch: Watch, user: UserState) -> int:
    """When he put an item into the cart, or wished for it and has not bought it since (ms); 0: he did not."""
    line = user.cart.get(item)
    return max(0 if line is None else line.time, watch.wished if watch.wished > watch.bought else 0)
