"""The simulated shop: reproducible, consistent with itself, and with something in it to be found."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest

from producers.envelope import faults
from producers.simulator import CATEGORY_ITEMS, Shop
from stream.codec import Limits
from stream.settings import Settings
from stream.times import time_ms

START = 1_700_000_000_000
N = 20_000


def made(seed: int = 1, n: int = N) -> list[dict[str, Any]]:
    return list(Shop(seed, users=100, items=210).events(n, START, rate=50))


EVENTS = made()


def test_same_seed_same_bytes_and_another_seed_others() -> None:
    assert msgspec.json.encode(EVENTS) == msgspec.json.encode(made())
    assert msgspec.json.encode(made(2, 100)) != msgspec.json.encode(EVENTS[:100])
    first, again = Shop(1, 10, 20), Shop(1, 10, 20)
    assert list(first.catalog(START)) == list(again.catalog(START))


def test_visits_go_on_in_the_next_call() -> None:
    shop = Shop(5, users=20, items=60)
    first = list(shop.events(300, START, 10))
    second = list(shop.events(300, START + 60_000, 10))
    assert len(first) == len(second) == 300
    assert time_ms(second[0]["time"]) >= START + 60_000
    asked = [event["user"] for event in first + second if event["type"] == "consent"]
    assert len(asked) == len(set(asked))


def test_the_worker_takes_every_event_and_every_item() -> None:
    limits = Limits.of(Settings.model_validate({}))
    everything = [*EVENTS, *Shop(1, 10, 210).catalog(START)]
    assert [fault for event in everything for fault in faults(msgspec.json.encode(event), limits)] == []


def test_the_clock_is_the_callers() -> None:
    times = [time_ms(event["time"]) for event in EVENTS]
    assert times == sorted(times)
    assert times[0] >= START
    assert (times[-1] - START) / 1000 == pytest.approx(N / 50, rel=0.05)


def test_carts_hold_what_was_put_in() -> None:
    carts: dict[str, Counter[str]] = defaultdict(Counter)
    orders = []
    for event in EVENTS:
        cart = carts[_person(event)]
        lines = Counter({line["item"]: line["quantity"] for line in event.get("items", [])})
        if event["type"] == "add_to_cart":
            cart[event["item"]] += event["quantity"]
        elif event["type"] == "remove_from_cart":
            assert cart.pop(event["item"]) == event["quantity"]
        elif event["type"] in ("begin_checkout", "purchase"):
            assert lines == cart
            assert cart
        if event["type"] == "purchase":
            worth = sum(line["price"] * line["quantity"] for line in event["items"])
            assert event["value"] == pytest.approx(worth, abs=0.005)
            orders.append(event["order"])
            cart.clear()
    assert len(orders) > 100
    assert len(orders) == len(set(orders))


def test_consent_and_sign_up_come_once_and_in_order() -> None:
    known: set[str] = set()
    asked: set[str] = set()
    for event in EVENTS:
        person = _person(event)
        if event["type"] == "sign_up":
            assert event["user"] == "u" + event["anonymous"][1:]
            assert person not in known
        if "user" in event:
            known.add(person)
            if event["type"] == "consent":
                assert person not in asked
                asked.add(person)
            elif event["type"] != "sign_up":
                assert person in asked, "whoever has an account is asked before anything else"
        else:
            assert person not in known, "a device is not seen again after it signed up"
    agreed = [event["channels"]["email"] for event in EVENTS if event["type"] == "consent"]
    assert 0.5 < np.mean(agreed) < 0.9


def test_what_is_viewed_together_is_of_one_category() -> None:
    shop = Shop(1, users=100, items=210)
    viewed: dict[str, list[int]] = defaultdict(list)
    for event in EVENTS:
        if event["type"] == "view_item":
            viewed[_person(event)].append(shop.category_of(int(event["item"][1:])))
    same = [a == b for categories in viewed.values() for a, b in pairwise(categories)]
    assert shop.categories == 11
    assert np.mean(same) > 0.6
    items = Counter(int(event["item"][1:]) for event in EVENTS if event["type"] == "view_item")
    assert items.keys() <= set(range(210))
    assert min(items[at] for at in range(0, 200, CATEGORY_ITEMS)) > max(
        items[at] for at in range(19, 200, 20)
    )


def test_names_differ() -> None:
    names = [item["name"] for item in Shop(1, 1, 1000).catalog(START)]
    assert len(set(names)) == 1000


def _person(event: dict[str, Any]) -> str:
    who: str = event.get("user") or event["anonymous"]
    return who[1:]
