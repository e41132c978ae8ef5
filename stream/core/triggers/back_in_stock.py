"""Back in stock: an item that was sold out has at least ``stock`` (3) pieces again.

It is told to whoever looked at it or put it into the cart within ``lookback`` (30 days), or wished for it,
and has not seen it since it came back, nor bought it in the last seven days. One a day.
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
from stream.core.watchers import STOCK, STOCK_BOUGHT_MS, Terms, Watch


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stock``: the least number of pieces; ``lookback``: the longest time since a look that was no wish."""

    stock: Annotated[int, msgspec.Meta(ge=1, le=10**9, description="a whole number from 1")] = 3
    lookback: Span = Span(30 * DAY_MS)


@dataclass(frozen=True)
class BackInStock(Watched):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "an item that was sold out has at least `stock` pieces again, and the user wished for it, or "
            "looked at it or put it into the cart within `lookback`; not if he bought it in the last 7 days"
        ),
        cancelled="the item sold out, seen, or bought",
        limits=(
            "`stock` pieces are enough; a look `lookback` ago is recent; an order 7 days ago is not; a look "
            "when it came back was before"
        ),
    )

    stock: int = 3
    lookback_ms: int = 30 * DAY_MS

    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (0,)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The pieces, and the time."""
        return {"stock": parameters.stock, "lookback_ms": int(parameters.lookback)}

    def terms(self) -> Terms:
        """Items that come back with so many pieces."""
        return Terms(returns=frozenset([self.stock]), return_ms=self.lookback_ms)

    def wants(self, kind: str, body: Mapping[str, Any]) -> bool | None:
        """So many pieces, where he was told of fewer; until it is sold out."""
        if kind != STOCK:
            return None
        if body["new"] == 0:
            return False
        return True if body["back"] is not None and body["back"] < self.stock <= body["new"] else None

    def holds(self, item: str, offer: Offer, watch: Watch, user: UserState, now: int) -> bool:
        """Wished for, or seen lately; not seen since it is back, and not bought lately."""
        waits = watch.wished > 0 or watch.time >= now - self.lookback_ms
        return waits and watch.time <= offer.time and watch.bought <= max(now - STOCK_BOUGHT_MS, 0)

    def since(self, item: str, user: UserState, now: int) -> int:
        """Not so long ago."""
        return now - STOCK_BOUGHT_MS + 1
