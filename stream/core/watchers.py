"""Who is interested in an item: a bounded list an item, and whom a change of its price or stock concerns.

The item side keeps the list; shoppers tell it what known users look at, put into carts, wish for and buy. On
a change it chooses whom to tell. That is only a choice of people: whether a user gets a message is decided
where his own state is, by a trigger and the guards. Pure; event time decides everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

WATCHERS = 1000
"""Users in an item's list; beyond an eighth more those who showed interest longest ago leave. About 50 bytes
each, and his name."""
WATCHED = 100
"""Items in a user's list, likewise."""
PEOPLE_A_UNIT = 40
"""At most so many people are told in a day for each unit in stock."""

DAY_MS = 86_400_000
PRICE_BOUGHT_MS, STOCK_BOUGHT_MS = 30 * DAY_MS, 7 * DAY_MS
"""Whoever bought the item within this time is told nothing of its price, of its return."""
RECENT_MS = 2 * DAY_MS
"""Whoever was told within this time is told, too, that it no longer holds: his message may be pending."""

PRICE, STOCK = "tidewise.price", "tidewise.stock"
"""The types of the notices."""

VIEW, CART, WISH, BOUGHT, LEFT = range(5)
"""Kinds of interest; `LEFT` ends it: the user is forgotten, or his list is full."""
KIND_OF: Mapping[str, int] = {
    "view_item": VIEW,
    "add_to_cart": CART,
    "add_to_wishlist": WISH,
    "purchase": BOUGHT,
}
"""Event types that show interest in their items, or end it."""

_FORMAT = 1


class Watch(msgspec.Struct, frozen=True, array_like=True):
    """An item in a user's own list: when he last showed interest, wished for it, bought it; 0: never."""

    time: int = 0
    wished: int = 0
    bought: int = 0


class Interest(msgspec.Struct, frozen=True, array_like=True):
    """What a user's event says of an item, as it travels to it. ``source`` is the event's source position,
    before it is mailed its number in the batch; ``price`` is what the event told, if any."""

    source: int
    item: str
    user: str
    kind: Annotated[int, msgspec.Meta(ge=VIEW, le=LEFT)]
    time: int
    price: float | None = None


class Watcher(msgspec.Struct, frozen=True, array_like=True):
    """A user in an item's list. Times in ms, 0: never.

    ``since`` is when he came, or was last told that it is back; ``time`` when he last showed interest, at the
    price ``seen``. ``fell`` is the lowest price he was told since it last rose, ``back`` the highest stock he
    was told since the item was last sold out; ``told`` when he was last told anything.
    """

    since: int
    time: int
    seen: float | None = None
    carted: int = 0
    wished: int = 0
    bought: int = 0
    fell: float | None = None
    back: int = 0
    told: int = 0


class Watchers(msgspec.Struct, array_like=True):
    """An item's list. ``returned`` is when it came back into stock; 0: it is sold out, −1: it never was."""

    format: int = _FORMAT
    returned: int = -1
    users: dict[str, Watcher] = {}

    def pack(self) -> bytes:
        """For the store; equal lists give equal bytes."""
        return _encoder.encode(self)

    @classmethod
    def unpack(cls, data: bytes) -> Watchers:
        """From the store. Raises ValueError on another format."""
        found = _decoder.decode(data)
        if found.format != _FORMAT:
            raise ValueError(f"a list of watchers is not of format {_FORMAT}: upgrade Tidewise")
        return found


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Watchers)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the running campaigns look for: shares a price must fall by, stocks that are a return, stocks
    under which it is low; for each kind the longest time since a user showed interest, in ms."""

    drops: frozenset[float] = frozenset()
    returns: frozenset[int] = frozenset()
    lows: frozenset[int] = frozenset()
    price_ms: int = 0
    return_ms: int = 0
    low_ms: int = 0

    def __or__(self, other: Terms) -> Terms:
        """Those of both."""
        return Terms(
            self.drops | other.drops,
            self.returns | other.returns,
            self.lows | other.lows,
            max(self.price_ms, other.price_ms),
            max(self.return_ms, other.return_ms),
            max(self.low_ms, other.low_ms),
        )


def joined(terms: Iterable[Terms]) -> Terms | None:
    """Those of all; None: nobody looks for anything."""
    found = reduce(Terms.__or__, terms, Terms())
    return None if found == Terms() else found


@dataclass(frozen=True, slots=True)
class Goods:
    """What the catalogue says of an item; None: nothing. A hidden item counts as sold out."""

    price: float | None
    stock: int | None

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Goods:
        """Of a catalogue entry."""
        return cls(fields.get("price"), 0 if fields.get("hidden") else fields.get("stock"))

    @property
    def available(self) -> bool:
        """Whether it can be bought, as far as anybody knows."""
        return self.stock is None or self.stock > 0


class Told(msgspec.Struct, frozen=True):
    """What a user is told: the body of a notice.

    ``old`` and ``new`` are prices or stocks, by the notice's type. ``price`` and ``stock`` are those now,
    ``seen`` is the price that he saw last, ``since`` when he came into the list; ``back``, where the item
    came back, is the highest stock he was told before, 0: none.
    """

    item: str
    old: float
    new: float
    price: float | None
    stock: int | None
    seen: float | None
    since: int
    back: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A catalogue event of an item that changed its price or stock: before and after, and when."""

    item: str
    time: int
    before: Goods
    after: Goods


def fell(price: float, seen: float, drop: float) -> bool:
    """Whether a price is at least the share ``drop`` below the one seen; 63 is 30 % below 90."""
    return price <= seen * (1 - drop) * (1 + 1e-9)


# The list


def note(watchers: Watchers, interest: Interest, goods: Goods) -> None:
    """Let an interest change the list, in place. The price he saw is the event's, else the catalogue's."""
    old = watchers.users.get(interest.user)
    if interest.kind == LEFT:
        watchers.users.pop(interest.user, None)
    elif interest.kind == BOUGHT:
        if old is not None:
            bought = max(old.bought, interest.time)
            watchers.users[interest.user] = replace(old, bought=bought)
    else:
        if not watchers.users and watchers.returned < 0 and goods.stock == 0:
            watchers.returned = 0
        watchers.users[interest.user] = _looked(old, interest, goods)
        _bound(watchers.users)


def _looked(old: Watcher | None, interest: Interest, goods: Goods) -> Watcher:
    time, price = interest.time, goods.price if interest.price is None else interest.price
    new = Watcher(time, time, price) if old is None else old
    if time >= new.time:
        new = replace(new, time=time, seen=new.seen if price is None else price)
    return replace(
        new,
        carted=max(new.carted, time) if interest.kind == CART else new.carted,
        wished=max(new.wished, time) if interest.kind == WISH else new.wished,
    )


def _bound(users: dict[str, Watcher]) -> None:
    """Many at once, for each time all are looked at."""
    if len(users) > WATCHERS + WATCHERS // 8:
        oldest = sorted(users, key=lambda user: (users[user].time, user))
        for user in oldest[: len(users) - WATCHERS]:
            del users[user]


def watch(watched: dict[str, Watch], item: str, kind: int, time: int) -> list[str]:
    """Let an interest change a user's own list, in place; the items that leave it for want of room."""
    old = watched.get(item, Watch())
    watched[item] = Watch(
        old.time if kind == BOUGHT else max(old.time, time),
        max(old.wished, time) if kind == WISH else old.wished,
        max(old.bought, time) if kind == BOUGHT else old.bought,
    )
    if len(watched) <= WATCHED:
        return []
    first = min(watched, key=lambda name: (max(watched[name].time, watched[name].bought), name))
    del watched[first]
    return [first]


# Whom to tell


def matters(change: Change, terms: Terms) -> bool:
    """Whether a change may concern anybody: that one more piece was sold does mostly not."""
    return any(
        (
            _rose(change),
            _gone(change),
            _enough(change, terms),
            terms.drops and _cheaper(change),
            terms.returns and _more(change),
            _few(change, terms),
        )
    )


def tell(watchers: Watchers, change: Change, terms: Terms) -> list[tuple[str, str, Told]]:
    """Whom a change that `matters` concerns: user, type, and what he is told; the list notes it, in place.

    First those who were told lately what no longer holds, by name; then who is to hear something new, oldest
    interest first: at most `PEOPLE_A_UNIT` for each unit in stock, less those told in the last day. About
    1 µs a user of the list, 5 µs one who is told.
    """
    _note_stock(watchers, change)
    corrected = list(_corrections(watchers, change, terms))
    news = _news(watchers, change, terms)
    room = len(news)
    if news and change.after.stock is not None:
        lately = sum(each.told > change.time - DAY_MS for each in watchers.users.values())
        room = max(0, PEOPLE_A_UNIT * change.after.stock - lately)
    chosen = sorted(news, key=lambda user: (watchers.users[user].since, user))[:room]
    told = [(user, kind, body) for user in chosen for kind, body in news[user]]
    for user, kind, body in told:
        watchers.users[user] = _after(watchers.users[user], kind, body, change.time)
    return corrected + told


def _note_stock(watchers: Watchers, change: Change) -> None:
    """Sold out: whoever waits has been told of no stock. Back: from now on whoever looks sees it."""
    stock = change.after.stock
    if stock == 0:
        watchers.returned = 0
        _each(watchers, lambda each: each.back > 0, lambda each: replace(each, back=0))
    elif stock is not None and watchers.returned == 0:
        # −1: when it came back nobody listened.
        watchers.returned = -1 if change.before.stock else change.time


def _each(watchers: Watchers, which: Callable[[Watcher], bool], do: Callable[[Watcher], Watcher]) -> None:
    watchers.users |= {user: do(each) for user, each in watchers.users.items() if which(each)}


def _corrections(watchers: Watchers, change: Change, terms: Terms) -> Iterator[tuple[str, str, Told]]:
    rose, gone, enough = _rose(change), _gone(change), _enough(change, terms)
    if not (rose or gone or enough):
        return
    lately = sorted(user for user, each in watchers.users.items() if each.told > change.time - RECENT_MS)
    for user in lately:
        each = watchers.users[user]
        if rose:
            yield user, PRICE, _told(each, change, PRICE)
        if gone or (enough and (each.carted or each.wished)):
            yield user, STOCK, _told(each, change, STOCK)
    if rose:
        _each(watchers, lambda each: each.fell is not None, lambda each: replace(each, fell=None))


def _news(watchers: Watchers, change: Change, terms: Terms) -> dict[str, list[tuple[str, Told]]]:
    """What is new to whom."""
    found: dict[str, list[tuple[str, Told]]] = {}
    cheaper, back, few = _cheaper(change), watchers.returned > 0 and _more(change), _few(change, terms)
    for user, each in watchers.users.items() if cheaper or back or few else ():
        if cheaper and _wants_cheaper(each, change, terms):
            found.setdefault(user, []).append((PRICE, _told(each, change, PRICE)))
        if back and each.time <= watchers.returned and _wants_back(each, change, terms):
            body = replace(_told(each, change, STOCK), back=each.back)
            found.setdefault(user, []).append((STOCK, body))
        elif few and _wants_few(each, change, terms):
            found.setdefault(user, []).append((STOCK, _told(each, change, STOCK)))
    return found


# What a change is


def _rose(change: Change) -> bool:
    before, after = change.before.price, change.after.price
    return before is not None and after is not None and after > before


def _gone(change: Change) -> bool:
    return change.after.stock == 0 and change.before.stock != 0


def _enough(change: Change, terms: Terms) -> bool:
    """Whether it was low, and is no longer."""
    before, after = change.before.stock or 0, change.after.stock or 0
    return any(before < low <= after for low in terms.lows)


def _cheaper(change: Change) -> bool:
    """Whether a price is lower than before, or can be paid again; the first one ever loaded is neither."""
    before, after = change.before, change.after
    if after.price is None or before.price is None or not after.available:
        return False
    return after.price < before.price or not before.available


def _more(change: Change) -> bool:
    return (change.after.stock or 0) > (change.before.stock or 0)


def _few(change: Change, terms: Terms) -> bool:
    before, after = change.before.stock, change.after.stock
    return before is not None and bool(after) and any((after or 0) < low <= before for low in terms.lows)


# Whom it concerns


def _wants_cheaper(each: Watcher, change: Change, terms: Terms) -> bool:
    price = change.after.price
    if price is None or each.seen is None or each.time < change.time - terms.price_ms:
        return False
    new = each.fell is None or price < each.fell
    far = any(fell(price, each.seen, drop) for drop in terms.drops)
    return new and far and not _bought(each, change.time - PRICE_BOUGHT_MS)


def _wants_back(each: Watcher, change: Change, terms: Terms) -> bool:
    waits = each.wished > 0 or each.time >= change.time - terms.return_ms
    enough = any(each.back < least <= (change.after.stock or 0) for least in terms.returns)
    return waits and enough and not _bought(each, change.time - STOCK_BOUGHT_MS)


def _wants_few(each: Watcher, change: Change, terms: Terms) -> bool:
    wanted = max(each.carted, each.wished)
    return wanted > each.bought and wanted >= change.time - terms.low_ms


def _bought(each: Watcher, after: int) -> bool:
    return each.bought > max(after, 0)


def _told(each: Watcher, change: Change, kind: str) -> Told:
    before, after = change.before, change.after
    old, new = (before.price, after.price) if kind == PRICE else (before.stock, after.stock)
    return Told(change.item, old or 0, new or 0, after.price, after.stock, each.seen, each.since)


def _after(each: Watcher, kind: str, body: Told, time: int) -> Watcher:
    """A user in the list once he was told. Who heard that it is back stands at the end of the queue."""
    each = replace(each, told=max(each.told, time))
    if kind == PRICE:
        return replace(each, fell=body.new)
    return each if body.back is None else replace(each, back=int(body.new), since=time)
