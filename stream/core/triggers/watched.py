"""What price drop, back in stock and low stock have in common: the item side tells a user of a change.

A notice (`stream.core.watchers`) puts its item into the user's next message; what comes within the delay of
the first step goes into the same one. A later notice, or what the user does, takes it out again: one that no
longer holds is not sent. Of what an item's list says only the change is believed; that the user is interested
and has not bought it is looked up in his own state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import msgspec
from msgspec.structs import replace

from stream.core.engaged import Seen, UserState
from stream.core.messages import Evidence, NudgeItem
from stream.core.triggers.shape import Proposal, Sequence, Sequenced
from stream.core.watchers import PRICE, STOCK, Terms, Watch
from stream.events import Told

ITEMS = 20
"""Items of a message; those told last stay."""


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """An item that a user is to be told of, when he was told, and its price then."""

    time: int
    price: float | None


class Offers(Sequence, frozen=True, array_like=True):
    """What the next message is about, by item; the anchor is the first notice."""

    items: dict[str, Offer] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Watched(Sequenced):
    """Base of the three; subclasses say which notices they want, and for how long an item may be told of."""

    kinds: ClassVar[frozenset[str]] = frozenset(
        [PRICE, STOCK, "view_item", "add_to_cart", "add_to_wishlist", "remove_from_cart", "purchase"]
    )
    revoked_by: ClassVar[Literal["order", "items", "nothing"]] = "items"
    state: ClassVar[type[Sequence]] = Offers

    def terms(self) -> Terms:
        """What the item side is to look for."""
        raise NotImplementedError

    def wants(self, kind: str, body: Mapping[str, Any]) -> bool | None:
        """Whether a notice makes an item worth a message; False: it no longer is, None: neither."""
        raise NotImplementedError

    def holds(self, item: str, offer: Offer, watch: Watch, user: UserState, now: int) -> bool:
        """Whether the user is still interested in an item, and may be told of it."""
        raise NotImplementedError

    def since(self, item: str, user: UserState, now: int) -> int:
        """An order of an item from before this time (ms) would not have kept it back."""
        raise NotImplementedError

    def on_event(self, own: Sequence, user: UserState, seen: Seen) -> Sequence:
        """A notice brings an item or takes it out; whatever else happens may take out more."""
        assert isinstance(own, Offers)
        items = own.items
        if isinstance(seen.event, Told):
            items = self._noticed(items, seen.type, seen.event.body, seen.time)
        items = self._true(items, user, seen.time)
        if not items:
            return self.state()
        return replace(own, items=items) if own.anchor else Offers(anchor=seen.time, items=items)

    def _noticed(
        self, items: dict[str, Offer], kind: str, body: Mapping[str, Any], time: int
    ) -> dict[str, Offer]:
        item, wanted = body["item"], self.wants(kind, body)
        rest = {name: offer for name, offer in items.items() if name != item}
        if wanted is False:
            return rest
        if wanted:
            return dict([*rest.items(), (item, Offer(time, body["price"]))][-ITEMS:])
        if item in items and kind == PRICE:
            return {**items, item: replace(items[item], price=body["price"])}
        return items

    def _true(self, items: dict[str, Offer], user: UserState, now: int) -> dict[str, Offer]:
        watching = user.watching
        return {
            item: offer
            for item, offer in items.items()
            if item in watching and self.holds(item, offer, watching[item], user, now)
        }

    def on_timer(self, own: Sequence, user: UserState, now: int) -> Proposal[Sequence]:
        """The message, of what still holds."""
        assert isinstance(own, Offers)
        true = self._true(own.items, user, now)
        made = super().on_timer(replace(own, items=true or own.items), user, now)
        after = made.if_sent if true and made.if_sent.step < len(self.after_ms) else self.state()
        if_not = made.if_not if true and made.if_not.step < len(self.after_ms) else self.state()
        since = min((self.since(item, user, now) for item in true), default=0)
        return Proposal(made.items, made.evidence, after, if_not, made.untrue if true else "gone", since)

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        """The items at their newest prices, the one told last first, and the notices."""
        assert isinstance(own, Offers)
        kind, told = PRICE if self.terms().drops else STOCK, list(reversed(own.items.items()))
        return (
            tuple(NudgeItem(item, offer.price, 1) for item, offer in told),
            tuple(Evidence(kind, offer.time, item) for item, offer in told),
        )
