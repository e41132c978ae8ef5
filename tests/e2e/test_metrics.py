"""Live metrics from outside: a list is shown, clicked and bought from, and Redis says so."""

from __future__ import annotations

from typing import Any

from stream.core.metrics import read, total
from stream.topics import METRICS
from tests.e2e.harness import Outside, eventually, stamp


def visit(user: str, click: bool, buy: bool) -> list[dict[str, Any]]:
    """A user is shown a list of two; clicks on the first perhaps, and perhaps buys it."""
    who, name = {"user": user}, f"list-of-{user}"
    items = [{"item": "A", "strategy": "item-item"}, {"item": "B", "strategy": "trending"}]
    found: list[dict[str, Any]] = [
        {"type": "recommendation_shown", "time": stamp(-30), **who, "list": name, "items": items}
    ]
    if click:
        found.append({"type": "recommendation_clicked", "time": stamp(-20), **who, "list": name, "item": "A"})
    if buy:
        found.append({"type": "purchase", "time": stamp(-10), **who, "item": "A", "price": 2.5})
    return found


async def test_a_click_through_rate_in_redis(shop: Outside) -> None:
    for n in range(20):
        await shop.send(*visit(f"u{n}", click=n < 5, buy=n < 2))

    async def measured() -> dict[str, Any] | None:
        view = await shop.view("metrics")
        return (
            view if view and view["arms"][0]["conversions"] == 2 and view["arms"][0]["lists"] == 20 else None
        )

    view = await eventually(measured, 15.0, lambda: shop.worker.log)
    assert view is not None
    (arm,) = view["arms"]
    assert (arm["users"], arm["clickers"], arm["buyers"], arm["ctr"]) == (20, 5, 2, 5 / 40)
    ctr = {one["strategy"]: (one["ctr"]["value"], one["revenue"]) for one in view["strategies"]}
    assert ctr == {"item-item": (0.25, 5.0), "trending": (0.0, 0.0)}
    newest = {record.partition: read(record.value) for record in await shop.records(METRICS)}
    counts = total(newest.values())
    assert sum(row[0] for key, row in counts.items() if key.table == "lists") == 20
