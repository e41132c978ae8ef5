"""Engagement triggers: small state machines in event time. `triggers_of` is the list of those that run.

A trigger is four methods without I/O or clock, and a state of its own a user. The engine keeps the states,
sets and fires the timers, passes what a trigger proposes through the guards, and writes every outcome down.
A campaign makes a trigger of one of the types in `TYPES`, with its own delays and channels; its id is that of
the campaign. To add a type: a module here with a class of this shape, and a line in `TYPES`;
`tests/test_engagement.py` runs the laws that every trigger obeys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from stream.core.campaigns import DEFAULT, OTHER_PRIORITY, PRIORITIES, Campaign
from stream.core.engaged import Seen, UserState
from stream.core.guards import EngagementConfig
from stream.core.offers import Offered, What
from stream.core.triggers.abandoned_cart import AbandonedCart
from stream.core.triggers.abandoned_checkout import AbandonedCheckout
from stream.core.triggers.back_in_stock import BackInStock
from stream.core.triggers.birthday import Birthday
from stream.core.triggers.browse_abandonment import BrowseAbandonment
from stream.core.triggers.contest_entered import ContestEntered
from stream.core.triggers.event import OnEvent
from stream.core.triggers.low_stock import LowStock
from stream.core.triggers.milestone import MilestoneReached
from stream.core.triggers.next_best_offer import NextBestOffer
from stream.core.triggers.points_expiring import PointsExpiring
from stream.core.triggers.post_purchase import PostPurchase
from stream.core.triggers.price_drop import PriceDrop
from stream.core.triggers.replenishment import Replenishment
from stream.core.triggers.shape import Progress, Proposal, Sequenced
from stream.core.triggers.tier_near import TierNear
from stream.core.triggers.tier_reached import TierReached
from stream.core.triggers.trending_for_you import TrendingForYou
from stream.core.triggers.watched import Watched
from stream.core.triggers.welcome import Welcome
from stream.core.triggers.win_back import WinBack
from stream.core.watchers import Terms, joined

S = TypeVar("S", bound=Progress)


class Trigger(Protocol[S]):
    """A trigger. Its attributes say what it wants and how its messages go out."""

    @property
    def id(self) -> str:
        """Its name in states, decisions and messages, that of its campaign; never renamed."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Those its messages may go out on: the first that the user granted."""

    @property
    def purpose(self) -> str:
        """The purpose they serve; the user must have consented to it."""

    @property
    def priority(self) -> int:
        """Of two that want one user at a time, the greater one has him."""

    @property
    def revoked_by(self) -> Literal["order", "items", "nothing"]:
        """What revokes a nudge if it happened before it and comes late: any order, one of its items, none."""

    @property
    def asks(self) -> What:
        """What it asks for before it can say anything (`stream.core.offers`)."""

    @property
    def kinds(self) -> frozenset[str]:
        """Event types that reach `on_event`."""

    @property
    def state(self) -> type[S]:
        """The struct of its own state a user; without arguments it is that of an unknown user."""

    def on_event(self, own: S, user: UserState, seen: Seen) -> S:
        """Its state after an event that ``user`` already reflects; without a timer the nudge is cancelled."""

    def on_timer(self, own: S, user: UserState, now: int) -> Proposal[S]:
        """What to send now that the timer has fired, and its state once that is sent, or suppressed."""

    def offered(self, proposal: Proposal[S], items: Sequence[Offered]) -> Proposal[S]:
        """Its proposal with what it asked for, which is not empty."""

    def next_timer(self, own: S) -> int | None:
        """When it wants `on_timer` next (ms), by its state alone; after firing, later than before or None."""


TYPES: Mapping[str, type[Sequenced]] = {
    "abandoned-cart": AbandonedCart,
    "abandoned-checkout": AbandonedCheckout,
    "back-in-stock": BackInStock,
    "birthday": Birthday,
    "browse-abandonment": BrowseAbandonment,
    "contest-entered": ContestEntered,
    "event": OnEvent,
    "low-stock": LowStock,
    "milestone": MilestoneReached,
    "next-best-offer": NextBestOffer,
    "points-expiring": PointsExpiring,
    "post-purchase": PostPurchase,
    "price-drop": PriceDrop,
    "replenishment": Replenishment,
    "tier-near": TierNear,
    "tier-reached": TierReached,
    "trending-for-you": TrendingForYou,
    "welcome": Welcome,
    "win-back": WinBack,
}
"""Types of triggers, as campaigns name them."""


def triggers_of(config: EngagementConfig, campaigns: Sequence[Campaign] = ()) -> tuple[Trigger[Any], ...]:
    """Those of the campaigns that are enabled, and of the default one."""
    made = [_made(campaign) for campaign in campaigns if campaign.enabled]
    if not config.cart_enabled or any(campaign.id == DEFAULT for campaign in campaigns):
        return tuple(made)
    usual = AbandonedCart(
        DEFAULT, ("email",), "personalisation", PRIORITIES[DEFAULT], config.cart_after_ms, config.cart_rest_ms
    )
    return (usual, *made)


def kinds_of(campaign: Campaign) -> frozenset[str]:
    """The event types that a campaign looks at, none if it is switched off."""
    if not campaign.enabled:
        return frozenset()
    shown = frozenset(["view_item"]) if campaign.message.items == "viewed" else frozenset[str]()
    return _made(campaign).kinds | shown


def terms_of(triggers: Iterable[Trigger[Any]]) -> Terms | None:
    """What items are to look for on behalf of triggers; None: nothing."""
    return joined(trigger.terms() for trigger in triggers if isinstance(trigger, Watched))


def _made(campaign: Campaign) -> Trigger[Any]:
    kind = TYPES[campaign.trigger.type]
    return kind(
        campaign.id,
        campaign.channels,
        campaign.purpose,
        OTHER_PRIORITY if campaign.priority is None else campaign.priority,
        tuple(map(int, campaign.steps)) or kind.usual_ms,
        int(campaign.rest),
        **kind.options(campaign.trigger.parameters),
    )
