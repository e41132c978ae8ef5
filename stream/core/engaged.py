"""What engagement knows of one user: the facts that triggers and guards judge by, and how events change them.

Facts hold whatever the triggers: consent, zone, cart, orders. A late event counts at its own time: the newest
answer, order or checkout stays the newest, and a purchase takes out only what was in the cart by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from datetime import tzinfo
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import msgspec

from stream.core import rfm
from stream.core.choice import NO_TASTE, Taste
from stream.core.loyalty import NO_POINTS, Loyalty
from stream.core.rfm import NOBODY, Rfm
from stream.core.watchers import Watch
from stream.events import ENGAGEMENT_KINDS

if TYPE_CHECKING:
    from stream.events import Event

CART_ITEMS = 50
"""Items kept in a cart; the one put in longest ago leaves first."""
CONSENT_NAMES = 16
"""Channels, and purposes, whose consent is kept; what is not kept is denied."""
PREFERENCES, VALUES, VALUE_LENGTH = 32, 16, 256
"""Attributes a user may prefer, values of each, and characters of a value; what is more is not kept."""

NUDGED, REVOCABLE_MS = 8, 3 * 86_400_000
"""Sent nudges that are kept, and for how long, in case an order from before them comes late."""
VIEWED = 10
"""Items looked at last that are kept, while a campaign wants to know."""

_FORMAT = 1
_Value = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as engagement sees it: ``at`` is its number in the batch, times are ms since 1970 UTC."""

    at: int
    time: int
    received: int
    type: str
    event: Event


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """What a user answered, and when."""

    granted: bool
    time: int


class CartLine(msgspec.Struct, frozen=True, array_like=True):
    """An item in the cart: pieces, newest price told (None: never), when it was last put in."""

    quantity: int
    price: float | None
    time: int


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """A pending nudge: it fires at ``at``, after it was ``due`` only if its event was late or it was held.

    With ``asked`` it waits for what it is to show: the number of the ask, from 1; with ``coupon`` for a
    coupon: the number of the request, from 1.
    """

    at: int
    due: int
    held: bool = False
    asked: int = 0
    coupon: int = 0


class Preference(msgspec.Struct, frozen=True, array_like=True):
    """What a user prefers of an attribute, and when he said so."""

    value: _Value
    time: int


class Nudged(msgspec.Struct, frozen=True, array_like=True):
    """A nudge that was sent, and may be revoked: what, when it was sent, and the items it was about (empty:
    any order revokes it). Orders from before ``since`` do not."""

    rule: str
    channel: str
    step: int
    due: int
    time: int
    items: tuple[str, ...] = ()
    since: int = 0


class Viewed(msgspec.Struct, frozen=True, array_like=True):
    """An item that was looked at, when last, and the price told then (None: none)."""

    item: str
    time: int
    price: float | None


class UserState(msgspec.Struct, array_like=True):
    """Everything engagement knows of one user. 0 stands for "never" in times.

    ``changed`` is when the cart last changed, ``checkout`` and ``ordered`` when a checkout last began and an
    order was last placed. By trigger: ``triggers`` its own state, packed, and ``pending`` its timer. ``sent``
    has by channel the times of messages of the last 7 days, ``campaigns`` when each campaign last sent one.
    ``asked`` are the positions of logins whose anonymous user has not come yet; ~position where a `forget`
    came between (`stream.core.merge`). ``attributes`` are what the user prefers, by attribute. ``nudged`` are
    the last nudges that a late order could revoke, ``viewed`` the items looked at last, newest first, and not
    ordered since; they are noted while a campaign runs that wants to know. ``watching`` are the items whose
    own lists may have this user (`stream.core.watchers`), likewise. ``rfm`` is what he bought,
    ``coupons`` the last codes that he was sent, by campaign, ``loyalty`` his points (`stream.core.loyalty`),
    ``requests`` how often a coupon was requested for him, ``taste`` is by what one of several coupons is
    chosen for him, noted while a campaign has several.
    """

    format: int = _FORMAT
    identified: bool = False
    channels: dict[str, Choice] = {}
    purposes: dict[str, Choice] = {}
    zone: str = ""
    zone_time: int = 0
    cart: dict[str, CartLine] = {}
    changed: int = 0
    checkout: int = 0
    ordered: int = 0
    triggers: dict[str, bytes] = {}
    pending: dict[str, Timer] = {}
    sent: dict[str, tuple[int, ...]] = {}
    campaigns: dict[str, int] = {}
    asked: tuple[int, ...] = ()
    attributes: dict[str, Preference] = {}
    nudged: tuple[Nudged, ...] = ()
    viewed: tuple[Viewed, ...] = ()
    watching: dict[str, Watch] = {}
    rfm: Rfm = NOBODY
    coupons: dict[str, tuple[str, ...]] = {}
    loyalty: Loyalty = NO_POINTS
    requests: int = 0
    taste: Taste = NO_TASTE

    @classmethod
    def unpack(cls, data: bytes | None) -> UserState:
        """From the store; None or nothing is an empty state. Raises ValueError on another format."""
        if not data:
            return cls()
        try:
            state = _decoder.decode(data)
        except msgspec.ValidationError:
            state = None
        if state is None or state.format != _FORMAT:
            raise ValueError(
                f"engagement state is not of format {_FORMAT}: upgrade Tidewise or use another prefix"
            )
        return state

    def pack(self) -> bytes:
        """For the store: equal states give equal bytes; an empty state gives none."""
        return b"" if self == _EMPTY else _encoder.encode(self)

    def copy(self) -> UserState:
        """One that can be changed without changing this one."""
        new = copy(self)
        for name in _MAPS:
            setattr(new, name, dict(getattr(self, name)))
        return new

    def granted(self, channel: str, purpose: str) -> bool:
        """Whether both the channel and the purpose were granted; who never answered has denied."""
        given = (self.channels.get(channel), self.purposes.get(purpose))
        return all(choice is not None and choice.granted for choice in given)

    def next_due(self) -> int | None:
        """When the first timer fires, in ms."""
        return min((timer.at for timer in self.pending.values()), default=None)


_EMPTY = UserState()
_MAPS = [name for name, value in msgspec.structs.asdict(_EMPTY).items() if isinstance(value, dict)]
_decoder = msgspec.msgpack.Decoder(UserState)
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def digest_fields(state: UserState) -> dict[str, object]:
    """What the digest covers of a state: all but times of sending, which are readings of the watermark, and
    positions in the log."""
    return {
        "identified": state.identified,
        "channels": state.channels,
        "purposes": state.purposes,
        "zone": state.zone,
        "cart": state.cart,
        "times": [state.changed, state.checkout, state.ordered],
        "pending": {rule: timer.due for rule, timer in state.pending.items()},
        "sent": {channel: len(times) for channel, times in state.sent.items()},
        "campaigns": sorted(state.campaigns),
        "coupons": dict(sorted(state.coupons.items())),
        "attributes": {name: liked.value for name, liked in sorted(state.attributes.items())},
        **({"watching": sorted(state.watching)} if state.watching else {}),
        **({"rfm": state.rfm} if state.rfm != NOBODY else {}),
        **({"loyalty": state.loyalty} if state.loyalty != NO_POINTS else {}),
        **({"taste": state.taste} if state.taste != NO_TASTE else {}),
    }


# How events change the facts


def observe(state: UserState, seen: Seen) -> None:
    """Let an event change the facts of a state, in place. What only some triggers look at changes none."""
    if seen.type not in ENGAGEMENT_KINDS:
        return
    state.identified = state.identified or seen.event.user is not None
    _observe_zone(state, seen)
    change = _CHANGES.get(seen.type)
    if change is not None:
        change(state, seen)
    state.rfm = rfm.after(state.rfm, seen)


def observe_view(state: UserState, seen: Seen) -> None:
    """Note what was looked at, in place; what comes later than an order made after it is ignored."""
    if seen.time <= state.ordered:
        return
    known = {each.item: each for each in state.viewed}
    for line in seen.event.lines():
        old = known.get(line.item)
        if old is None or old.time <= seen.time:
            price = line.price if old is None or line.price is not None else old.price
            known[line.item] = Viewed(line.item, seen.time, price)
    newest = sorted(known.values(), key=lambda each: (-each.time, each.item))
    state.viewed = tuple(newest[:VIEWED])


def _put_in(state: UserState, seen: Seen) -> None:
    if seen.time <= state.ordered:
        return  # an order that we know already came after it, and may have taken it out again
    for line in seen.event.lines():
        held = state.cart.get(line.item, CartLine(0, None, 0))
        newer = seen.time >= held.time and line.price is not None
        state.cart[line.item] = CartLine(
            held.quantity + line.quantity,
            line.price if newer or held.price is None else held.price,
            max(held.time, seen.time),
        )
        state.changed = max(state.changed, seen.time)
    _bound(state.cart)


def _take_out(state: UserState, seen: Seen) -> None:
    for line in seen.event.lines():
        held = state.cart.pop(line.item, None)
        if held is None:
            continue
        state.changed = max(state.changed, seen.time)
        if held.quantity > line.quantity:
            state.cart[line.item] = CartLine(held.quantity - line.quantity, held.price, held.time)


def _buy(state: UserState, seen: Seen) -> None:
    state.ordered = max(state.ordered, seen.time)
    for line in seen.event.lines():
        if line.item in state.cart and state.cart[line.item].time <= seen.time:
            del state.cart[line.item]
    if state.viewed:
        bought = {line.item for line in seen.event.lines()}
        state.viewed = tuple(
            each for each in state.viewed if each.time > seen.time or each.item not in bought
        )


def _check_out(state: UserState, seen: Seen) -> None:
    state.checkout = max(state.checkout, seen.time)


def _choose(state: UserState, seen: Seen) -> None:
    _note_choices(state.channels, seen.event.channels, seen.time)
    _note_choices(state.purposes, seen.event.purposes, seen.time)


def _prefer(state: UserState, seen: Seen) -> None:
    """The newest answer counts, of two at the same time the later; an empty list takes one back."""
    for name, told in (seen.event.attributes or {}).items():
        old = state.attributes.get(name)
        if old is not None and old.time > seen.time:
            continue
        if (value := _kept(told)) in (None, []):
            state.attributes.pop(name, None)
        elif old is not None or len(state.attributes) < PREFERENCES:
            state.attributes[name] = Preference(value, seen.time)


def _kept(told: _Value) -> _Value | None:
    """A value within the bounds; whole numbers have 64 bits."""
    if isinstance(told, list):
        return [each for each in told if len(each) <= VALUE_LENGTH][:VALUES]
    if isinstance(told, str):
        return told if len(told) <= VALUE_LENGTH else None
    return told if isinstance(told, float) or -(2**63) <= told < 2**63 else None


_CHANGES: Mapping[str, Callable[[UserState, Seen], None]] = {
    "add_to_cart": _put_in,
    "remove_from_cart": _take_out,
    "purchase": _buy,
    "begin_checkout": _check_out,
    "consent": _choose,
    "preferences": _prefer,
}


def _note_choices(known: dict[str, Choice], told: Mapping[str, bool] | None, time: int) -> None:
    """The newest answer counts; of two at the same time, the refusal."""
    for name, granted in (told or {}).items():
        old = known.get(name)
        if old is None and len(known) >= CONSENT_NAMES:
            continue
        if old is None or (time, not granted) > (old.time, not old.granted):
            known[name] = Choice(granted, time)


def _bound(cart: dict[str, CartLine]) -> None:
    if len(cart) <= CART_ITEMS:
        return
    for item in sorted(cart, key=lambda item: (cart[item].time, item))[: len(cart) - CART_ITEMS]:
        del cart[item]


@cache
def zone_names() -> frozenset[str]:
    """Time zones of the package `tzdata`, not of the machine, so that replay agrees everywhere."""
    return frozenset(files("tzdata").joinpath("zones").read_text("utf-8").split())


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo:
    """A time zone of the package `tzdata`."""
    with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)


def _observe_zone(state: UserState, seen: Seen) -> None:
    context = seen.event.context or {}
    for name in ("zone", "timezone"):
        told = context.get(name)
        if (
            isinstance(told, str)
            and told in zone_names()
            and (seen.time, told) > (state.zone_time, state.zone)
        ):
            state.zone, state.zone_time = told, seen.time
            return
