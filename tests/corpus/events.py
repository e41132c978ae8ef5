"""One valid event of each type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_ENVELOPE = {"time": "2026-05-01T12:30:00.250Z", "user": "u-17"}
_LINES = {"items": [{"item": "A", "price": 19.9, "quantity": 2}, {"item": "B"}]}
_FIELDS: dict[str, dict[str, Any]] = {
    "view_item": {"item": "A", "price": 19.9, "id": "e-1", "source": "web", "session": "s-1"},
    "select_item": {"item": "A"},
    "add_to_cart": {"item": "A", "price": 19.9, "quantity": 2},
    "remove_from_cart": {"item": "A", "quantity": 1},
    "add_to_wishlist": {"item": "A"},
    "begin_checkout": _LINES,
    "purchase": {**_LINES, "order": "o-1", "value": 39.8, "currency": "EUR", "coupon": "SPRING"},
    "refund": {"order": "o-1"},
    "view_item_list": {**_LINES, "list": "shelf-3"},
    "search": {"query": "red shoes"},
    "rate": {"item": "A", "rating": 4.5},
    "share": {"item": "A", "network": "mail"},
    "sign_up": {"anonymous": "d-9"},
    "login": {"anonymous": "d-9"},
    "consent": {"channels": {"email": True}, "purposes": {"personalisation": False}},
    "preferences": {"items": [{"item": "A"}], "attributes": {"size": "M", "colours": ["red"], "age": 40}},
    "forget": {},
    "recommendation_shown": {**_LINES, "list": "0-1-0-recs-0"},
    "recommendation_clicked": {"list": "0-1-0-recs-0", "item": "A"},
    "nudge_delivered": {"nudge": "0-1-0-nudge-0"},
    "nudge_clicked": {"nudge": "0-1-0-nudge-0"},
    "coupon_redeemed": {"coupon": "SPRING", "order": "o-1"},
    "newsletter_read": {"item": "A", "context": {"device": "phone"}},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    kind: {"type": kind, **_ENVELOPE, **fields} for kind, fields in _FIELDS.items()
}


def without(event: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The event less some fields; where it loses its user it keeps a device, so that somebody did it."""
    rest = {name: value for name, value in event.items() if name not in names}
    return rest if {"user", "anonymous"} & rest.keys() else rest | {"anonymous": "d-9"}
