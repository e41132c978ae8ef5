"""What a shop sees from outside, with plain aiokafka and plain redis-py."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from stream.ownership import partition_of
from stream.topics import (
    CATALOG,
    DEAD_LETTERS,
    DECISIONS,
    ENGAGEMENTS,
    EVENTS,
    NEIGHBORS,
    RECOMMENDATIONS,
    TRENDING,
)
from tests.e2e.harness import Outside, eventually, stamp


def view_item(user: str, item: str, seconds: float = 0.0) -> dict[str, Any]:
    return {"type": "view_item", "time": stamp(seconds), "user": user, "item": item}


async def test_thirty_views_make_neighbours_and_a_list_with_its_reason(shop: Outside) -> None:
    for n in range(30):
        await shop.send(view_item(f"u{n}", "A", -1), view_item(f"u{n}", "B"))

    async def neighbours() -> bool:
        return "B" in await shop.items("neighbors:A")

    await eventually(neighbours, 1.0, lambda: shop.worker.log)
    await shop.send(view_item("u31", "A"))

    async def listed() -> list[dict[str, Any]]:
        found = await shop.view("recs:u31")
        return [line for line in found["items"] if line["item"] == "B"] if found else []

    (line,) = await eventually(listed, 1.0, lambda: shop.worker.log)
    assert line["because"] == ["A"]
    assert line["strategy"] == "item-item"
    view = await shop.view("recs:u31")
    assert view is not None and next(iter(view)) == "version"
    published = [m for m in await shop.messages(RECOMMENDATIONS) if m["user"] == "u31"]
    assert published[-1] == view, "the topic carries the same bytes"

    async def trending() -> bool:
        return set(await shop.items("trending")) == {"A", "B"}

    await eventually(trending, 5.0, lambda: shop.worker.log)
    assert await shop.records(NEIGHBORS) and await shop.records(TRENDING)


def cart_left(user: str) -> list[dict[str, Any]]:
    two_hours = -7200.0
    consent = {"channels": {"email": True}, "purposes": {"personalisation": True, "marketing": True}}
    return [
        {"type": "consent", "time": stamp(two_hours - 60), "user": user, **consent},
        {
            "type": "add_to_cart",
            "time": stamp(two_hours),
            "user": user,
            "item": "tea",
            "price": 4.5,
            "quantity": 2,
        },
    ]


async def time_passes(shop: Outside) -> None:
    """Something else happens in every partition."""
    await shop.send(*(view_item(f"passer-by-{n}", "bread") for n in range(40)))


async def test_a_cart_that_is_left_fires_once_and_a_bought_one_never(shop: Outside) -> None:
    purchase = {"type": "purchase", "time": stamp(-6600), "user": "buyer", "order": "o1", "item": "tea"}
    await shop.send(*cart_left("leaver"), *cart_left("buyer"), purchase)
    await time_passes(shop)

    async def nudged() -> list[dict[str, Any]]:
        return await shop.messages(ENGAGEMENTS)

    (nudge,) = await eventually(nudged, 10.0, lambda: shop.worker.log)
    assert (nudge["user"], nudge["type"], nudge["campaign"]) == ("leaver", "nudge", "abandoned-cart")
    assert [(line["item"], line["quantity"]) for line in nudge["items"]] == [("tea", 2)]
    await time_passes(shop)
    outcomes = {(d["user"], d["outcome"]) for d in await shop.messages(DECISIONS)}
    assert outcomes == {("leaver", "sent"), ("buyer", "cancelled")}
    assert len(await shop.messages(ENGAGEMENTS)) == 1


async def test_a_silent_partition_gets_a_tick(shop: Outside) -> None:
    """Nobody else does anything: the timer fires because time passes, and the tick stands in the log."""
    now = [{**event, "time": stamp(-2690 - 60 * n)} for n, event in enumerate(reversed(cart_left("quiet")))]
    await shop.send(*reversed(now))

    async def nudged() -> list[dict[str, Any]]:
        return await shop.messages(ENGAGEMENTS)

    (nudge,) = await eventually(nudged, 30.0, lambda: shop.worker.log)
    assert nudge["user"] == "quiet"
    ticks = [m for m in await shop.messages(EVENTS) if m["type"] == "tidewise.tick"]
    assert len(ticks) == 1


GARBAGE: dict[str, bytes] = {
    "not-json": b"\x00\x01 garbage",
    "wrong-type": orjson.dumps({"type": "view_item", "time": stamp(), "user": 7, "item": "A"}),
    "missing-field": orjson.dumps({"type": "view_item", "user": "u", "item": "A"}),
    "year-2999": b'{"type":"view_item","time":"2999-01-01T00:00:00Z","user":"u","item":"A"}',
    "tomorrow": orjson.dumps({"type": "view_item", "time": stamp(86_400), "user": "u", "item": "A"}),
    "brackets": b"[" * 1_000_000,
    "not-utf8": b'{"type":"view_item","time":"2026-01-01T00:00:00Z","user":"\xff\xfe","item":"A"}',
}


async def test_what_cannot_be_read_goes_to_dead_letters_and_nothing_else_is_lost(shop: Outside) -> None:
    topic = EVENTS.full(shop.settings)
    sent = {}
    for name, value in GARBAGE.items():
        record = await shop.producer.send_and_wait(topic, value, key=name.encode())
        sent[name] = (record.partition, record.offset)
    good, bad = view_item("u", "next"), {"type": "purchase", "time": stamp(), "user": "u"}
    await shop.producer.send_and_wait(topic, orjson.dumps([good, bad, good]), key=b"u")

    async def counted() -> bool:
        return "next" in await shop.items("neighbors:next") or await shop.view("recs:u") is not None

    async def letters() -> bool:
        return len(await shop.records(DEAD_LETTERS)) >= len(GARBAGE) + 1

    await eventually(counted, 5.0, lambda: shop.worker.log)
    await eventually(letters, 10.0, lambda: shop.worker.log)
    found = {}
    for record in await shop.records(DEAD_LETTERS):
        headers = dict(record.headers)
        place = (int(headers["source-partition"]), int(headers["source-offset"]))
        found[place] = (record.value, orjson.loads(headers["reason"]), headers)
    for name, place in sent.items():
        value, reason, headers = found[place]
        assert value == GARBAGE[name], name
        assert headers["source-topic"] == b"events"
        assert reason["code"] and reason["expected"], name
    codes = {name: found[place][1]["code"] for name, place in sent.items()}
    assert codes["year-2999"] == "bad-time"
    assert codes["tomorrow"] == "future"
    assert codes["missing-field"] == "missing-field"
    assert codes["wrong-type"] == "wrong-type"
    (from_array,) = [entry for place, entry in found.items() if place not in sent.values()]
    assert orjson.loads(from_array[0]) == bad
    assert from_array[2]["source-index"] == b"1"
    assert shop.worker.process.poll() is None


async def test_out_of_stock_and_hidden_items_leave_the_lists(shop: Outside) -> None:
    await shop.send({"type": "item", "item": "C", "name": "Cocoa", "stock": 0}, topic=CATALOG)
    await shop.send({"type": "item", "item": "H", "name": "Herbs", "hidden": True}, topic=CATALOG)
    for n in range(5):
        await shop.send(*(view_item(f"u{n}", item) for item in "ABCH"))

    async def settled() -> bool:
        return set(await shop.items("neighbors:A")) == {"B"}

    await eventually(settled, 5.0, lambda: shop.worker.log)
    item = await shop.view("item:C")
    assert item is not None and item["name"] == "Cocoa"
    await shop.send({"type": "item", "item": "C", "stock": 3}, topic=CATALOG)

    async def back() -> bool:
        return set(await shop.items("neighbors:A")) == {"B", "C"}

    await eventually(back, 5.0, lambda: shop.worker.log)


async def test_what_was_bought_is_not_recommended_again(shop: Outside) -> None:
    for n in range(5):
        await shop.send(view_item(f"u{n}", "A"), view_item(f"u{n}", "B"), view_item(f"u{n}", "C"))

    async def known() -> bool:
        return set(await shop.items("neighbors:A")) == {"B", "C"}

    await eventually(known, 5.0, lambda: shop.worker.log)
    order = {"type": "purchase", "time": stamp(), "user": "x", "order": "o", "item": "B"}
    await shop.send(view_item("x", "A"), order)

    async def listed() -> list[str]:
        items = await shop.items("recs:x")
        return items if "C" in items and "B" not in items else []

    await eventually(listed, 5.0, lambda: shop.worker.log)


async def test_a_catalogue_event_in_the_wrong_partition_reaches_its_item(shop: Outside) -> None:
    owner = partition_of("lamp", shop.settings.partitions)
    wrong = (owner + 1) % shop.settings.partitions
    lamp = orjson.dumps({"type": "item", "item": "lamp", "name": "Lamp", "price": 20.0})
    await shop.producer.send_and_wait(CATALOG.full(shop.settings), lamp, key=b"lamp", partition=wrong)

    async def listed() -> Any:
        return await shop.view("item:lamp")

    view = await eventually(listed, 10.0, lambda: shop.worker.log)
    assert (view["name"], view["price"]) == ("Lamp", 20.0)
    prefix = shop.settings.prefix
    kept = {key async for key in shop.redis.scan_iter(f"{prefix}:{{i*lamp")}
    assert f"{prefix}:{{i{wrong}}}:catalog:lamp".encode() not in kept


async def test_forget_erases_a_user(shop: Outside) -> None:
    await shop.send(*cart_left("gone"), view_item("gone", "A"))

    async def known() -> bool:
        """Consent alone makes a list; a cart that is filled and forgotten in one batch never has a view."""
        return None not in (await shop.view("recs:gone"), await shop.view("cart:gone"))

    await eventually(known, 5.0, lambda: shop.worker.log)
    await shop.send({"type": "forget", "time": stamp(), "user": "gone"})

    public = {f"{shop.settings.prefix}:{view}:gone".encode() for view in ("recs", "cart")}

    async def erased() -> bool:
        """Only tombstones are left. Views follow their transaction, so the expiry is the last to come."""
        left = {key async for key in shop.redis.scan_iter(f"{shop.settings.prefix}:*gone")}
        return left == public and all([0 < await shop.redis.ttl(key) <= 86_400 for key in left])

    await eventually(erased, 5.0, lambda: shop.worker.log)
    for view in ("recs:gone", "cart:gone"):
        assert (await shop.view(view) or {})["items"] == []


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
async def test_a_worker_stops_when_asked(shop: Outside, signal_name: str) -> None:
    import signal

    await shop.send(view_item("u", "A"))
    shop.worker.process.send_signal(signal.Signals[signal_name])
    assert shop.worker.process.wait(60) == 0, shop.worker.log
