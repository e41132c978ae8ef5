"""Price drop: an item costs at least a share ``drop`` (0.1) less than when the user last saw it.

He looked at it, wished for it or put it into the cart within ``lookback`` (30 days), and has not bought it in
the last 30 days. What falls within an hour goes into one message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec

from stream.core.campaigns import Span
from stream.core.engaged import UserState
from stream.core.triggers.shape import DAY_MS, HOUR_MS, Entry
from stream.core.triggers.watched import Offer, Watched
from stream.core.watchers import PRICE_BOUGHT_MS, STOCK, Terms, Watch, fell


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``drop``: the least share of the price seen; ``lookback``: the longest time since it was seen."""

    drop: Annotated[float, msgspec.Meta(gt=0, lt=1, description="a share above 0 and below 1")] = 0.1
    lookback: Span = Span(30 * DAY_MS)


@dataclass(frozen=True)
class PriceDrop(Watched):
    """The trigger."""

    entry: ClassVar[Entry] = Entry(
        starts=(
            "an item costs at least the share `drop` less than when the user last saw it, within "
            "`lookback`; not if he bought it in the last 30 days; what falls within the delay goes into one "
            "message"
        ),
        cancelled="the price up again, the item sold out, seen, or bought",
        limits=(
            "`drop` less is enough; a look `lookback` ago is recent; an order 30 days ago is not; a look "
            "when the price fell was before"
        ),
    )

    drop: float = 0.1
    lookback_ms: int = 30 * DAY_MS

    parameters: ClassVar[type[msgspec.Struct]] = Parameters
    usual_ms: ClassVar[tuple[int, ...]] = (HOUR_MS,)

    @classmethod
    def options(cls, parameters: Any) -> dict[str, Any]:
        """The share, and the time."""
        return {"drop": parameters.drop, "lookback_ms": int(parameters.lookback)}

    def terms(self) -> Terms:
        """Prices that fall so far."""
        return Terms(drops=frozenset([self.drop]), price_ms=self.lookback_ms)

    def wants(self, kind: str, body: Mapping[str, Any]) -> bool | None:
        """A price far enough below the one seen, until it is sold out."""
        if kind == STOCK:
            return False if body["new"] == 0 else None
        far = body["seen"] is not None and fell(body["new"], body["seen"], self.drop)
        # A price that rises, and is still low, is no news.
        return None if far and body["new"] > body["old"] else far

    def holds(self, item: str, offer: Offer, watch: Watch, user: UserState, now: int) -> bool:
        """Seen lately, not since the price fell, and not bought lately."""
        lately = now - self.lookback_ms <= watch.time <= offer.time
        return lately and watch.bought <= max(now - PRICE_BOUGHT_MS, 0)

    def since(self, item: str, user: UserState, now: int) -> int:
        """Not so long ago."""
        return now - PRICE_BOUGHT_MS + 1
