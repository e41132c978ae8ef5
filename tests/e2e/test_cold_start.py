"""Newcomers, seen from outside: lists from answers and from context."""

from __future__ import annotations

from stream.topics import CATALOG
from tests.e2e.harness import Outside, eventually, stamp


async def test_a_questionnaire_alone_makes_a_list(shop: Outside) -> None:
    for name, attributes in {
        "red": {"colour": "red"},
        "blue": {"colour": "blue"},
        "tea": {"kind": "tea"},
    }.items():
        await shop.send({"type": "item", "item": name, "attributes": attributes}, topic=CATALOG)

    async def described() -> bool:
        return all([await shop.view(f"item:{name}") for name in ("red", "blue", "tea")])

    await eventually(described, 5.0, lambda: shop.worker.log)
    answers = {"colour": ["red", "blue"], "brand": "never heard of"}
    await shop.send({"type": "preferences", "time": stamp(), "user": "new", "attributes": answers})

    async def listed() -> list[dict[str, object]]:
        found = await shop.view("recs:new")
        return found["items"] if found else []

    found = await eventually(listed, 2.0, lambda: shop.worker.log)
    # Of twenty places of a list one may be lent to an item that nobody knows yet.
    liked = [line for line in found if line["strategy"] == "content"]
    assert {line["item"] for line in liked} == {"red", "blue"}
    assert all(line["because"] == [] for line in liked)
