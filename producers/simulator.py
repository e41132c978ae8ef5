"""A seeded shop for tests and demo traffic: people who look, fill carts, buy, sign up and consent.

A visit stays mostly within one category, so that items of a category are seen together and a recommender
has something to find. The same seed and the same calls give the same events, to the byte.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stream.times import time_text

Event = dict[str, Any]

CATEGORY_ITEMS = 20
VISIT_VIEWS = 6
"""Views of a visit, on average."""
EVENT_GAP_S = 20.0
"""Time between two events of a visit, on average: how many visits go on at a time follows from it."""
STAY, CART, REMOVE, CHECKOUT, BUY = 0.85, 0.25, 0.1, 0.6, 0.8
"""Chances: the next view stays in the category; a view goes into the cart; what was put there is taken out
again; a cart is checked out at the end of a visit; a checkout ends in a purchase."""
ANONYMOUS, SIGN_UP, CONSENT = 0.3, 0.4, 0.7
"""Shares: people who begin without an account; their visits that make one; people who consent."""

_THINGS = (
    "mug",
    "lamp",
    "scarf",
    "kettle",
    "chair",
    "rug",
    "clock",
    "vase",
    "pillow",
    "bowl",
    "jacket",
    "boot",
    "tent",
    "puzzle",
    "candle",
    "shelf",
)
_LOOKS = (
    "red",
    "blue",
    "green",
    "black",
    "white",
    "small",
    "large",
    "round",
    "wooden",
    "steel",
    "woollen",
    "plain",
    "striped",
    "folding",
)


@dataclass
class _Person:
    """Who comes to the shop. ``known``: has an account; ``asked``: has been asked for consent."""

    number: int
    known: bool
    likes: list[int]
    asked: bool = False
    cart: dict[int, int] = field(default_factory=dict)

    @property
    def who(self) -> dict[str, str]:
        """The envelope's field that names them."""
        return {"user": f"u{self.number}"} if self.known else {"anonymous": f"d{self.number}"}


class Shop:
    """``users`` people and ``items`` items in categories of 20. About 6 µs an event.

    Items are named ``i<n>``; item n belongs to category n // 20. Users are ``u<n>``, their devices, which
    act until they sign up, ``d<n>``.
    """

    def __init__(self, seed: int, users: int = 1000, items: int = 400) -> None:
        self._rng = np.random.default_rng(seed)
        self._draws = self._uniform()
        self.items = items
        self.categories = -(-items // CATEGORY_ITEMS)
        self.prices: list[float] = (self._rng.lognormal(3.0, 0.8, items).round() + 0.9).round(2).tolist()
        self._stock: list[int] = self._rng.integers(1, 500, items).tolist()
        # Popularity within a category falls as 1 / rank.
        self._popular = np.cumsum(1.0 / np.arange(1, CATEGORY_ITEMS + 1)).tolist()
        self._idle = [self._person(number) for number in range(users)]
        self._visits: list[tuple[_Person, Iterator[Event]]] = []
        self._orders = 0

    def catalog(self, time_ms: int) -> Iterator[Event]:
        """One catalogue event an item."""
        for item in range(self.items):
            yield {
                "type": "item",
                "item": f"i{item}",
                "time": time_text(time_ms),
                "name": self.name_of(item),
                "attributes": {"category": self._category_name(item)},
                "price": self.prices[item],
                "stock": self._stock[item],
            }

    def events(self, n: int, start_ms: int, rate: float) -> Iterator[Event]:
        """The next ``n`` events, from ``start_ms`` on, ``rate`` a second of event time on average.

        Visits go on in the next call: call again with a later start for the next stretch of time.
        """
        at_once = max(1, min(int(rate * EVENT_GAP_S), len(self._idle) + len(self._visits)))
        time = float(start_ms)
        for gap in self._rng.exponential(1000 / rate, n).tolist():
            time += gap
            person, event = self._next(at_once)
            yield {"type": event.pop("type"), "time": time_text(int(time)), **person, **event}

    def name_of(self, item: int) -> str:
        """What the catalogue calls an item: unlike any other."""
        look = _LOOKS[item % CATEGORY_ITEMS % len(_LOOKS)]
        return f"{look.capitalize()} {self._category_name(item)} no. {item}"

    def category_of(self, item: int) -> int:
        """Number of an item's category."""
        return item // CATEGORY_ITEMS

    def _category_name(self, item: int) -> str:
        return _THINGS[self.category_of(item) % len(_THINGS)]

    # Chance

    def _uniform(self) -> Iterator[float]:
        while True:  # by the block: a single draw costs ten times as much
            yield from self._rng.random(4096).tolist()

    def _chance(self, share: float) -> bool:
        return next(self._draws) < share

    def _below(self, n: int) -> int:
        return int(next(self._draws) * n)

    def _item(self, category: int) -> int:
        """An item of the category, by popularity."""
        first = category * CATEGORY_ITEMS
        size = min(CATEGORY_ITEMS, self.items - first)
        return first + bisect_right(self._popular, next(self._draws) * self._popular[size - 1], 0, size - 1)

    def _person(self, number: int) -> _Person:
        likes = [self._below(self.categories) for _ in range(3)]
        return _Person(number, not self._chance(ANONYMOUS), likes)

    # Visits

    def _next(self, at_once: int) -> tuple[dict[str, str], Event]:
        """The next event of any visit, and whose it is; ended visits make room for new ones."""
        while True:
            if len(self._visits) < at_once:
                person = self._idle.pop(self._below(len(self._idle)))
                self._visits.append((person, self._visit(person)))
            at = self._below(len(self._visits))
            person, visit = self._visits[at]
            event = next(visit, None)
            if event is not None:
                return person.who, event
            self._visits[at] = self._visits[-1]
            self._visits.pop()
            self._idle.append(person)

    def _visit(self, person: _Person) -> Iterator[Event]:
        """What a person does in one visit."""
        yield from self._hello(person)
        category = person.likes[self._below(len(person.likes))]
        while True:
            yield from self._look(person, self._item(category))
            if self._chance(1 / VISIT_VIEWS):
                break
            if not self._chance(STAY):
                category = self._below(self.categories)
        if person.cart and self._chance(CHECKOUT):
            yield from self._check_out(person)

    def _hello(self, person: _Person) -> Iterator[Event]:
        """Signing up joins device and user; whoever has an account is asked for consent, once."""
        if not person.known and self._chance(SIGN_UP):
            device = person.who
            person.known = True
            yield {"type": "sign_up", **device}
        if person.known and not person.asked:
            person.asked = True
            agrees = self._chance(CONSENT)
            yield {"type": "consent", "channels": {"email": agrees}, "purposes": {"personalisation": agrees}}

    def _look(self, person: _Person, item: int) -> Iterator[Event]:
        yield {"type": "view_item", "item": f"i{item}", "price": self.prices[item]}
        if self._chance(CART):
            person.cart[item] = person.cart.get(item, 0) + 1
            yield {"type": "add_to_cart", **self._line(item, 1)}
            if self._chance(REMOVE):
                yield {"type": "remove_from_cart", **self._line(item, person.cart.pop(item))}

    def _check_out(self, person: _Person) -> Iterator[Event]:
        lines = [self._line(item, quantity) for item, quantity in person.cart.items()]
        yield {"type": "begin_checkout", "items": lines}
        if self._chance(BUY):
            self._orders += 1
            value = round(sum(line["price"] * line["quantity"] for line in lines), 2)
            person.cart = {}
            order = f"o{self._orders}"
            yield {"type": "purchase", "order": order, "value": value, "currency": "EUR", "items": lines}

    def _line(self, item: int, quantity: int) -> Event:
        return {"item": f"i{item}", "price": self.prices[item], "quantity": quantity}
