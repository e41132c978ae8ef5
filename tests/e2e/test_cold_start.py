"""Newcomers, seen from outside: lists from answers and from context."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stream.admin import create_topics
from stream.settings import Settings
from stream.topics import CATALOG
from tests.e2e.harness import Outside, eventually, stamp


@pytest.fixture
async def settings(make_settings: Callable[..., Settings]) -> Settings:
    """With a rule of the app's own."""
    rule = {"when": 'device == "app" and item == "blue"', "do": "exclude"}
    made = make_settings(rules=[rule])
    await create_topics(made)
    return made


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


async def test_rules_see_the_context_of_the_newest_event(shop: Outside) -> None:
    def looks_at(user: str, item: str) -> dict[str, object]:
        context = {"device": user if user in ("app", "web") else "other"}
        return {"type": "view_item", "time": stamp(), "user": user, "item": item, "context": context}

    async def both_have_lists() -> bool:
        await shop.send(looks_at("web", "red"), looks_at("app", "red"))
        return "blue" in await shop.items("recs:web") and bool(await shop.items("recs:app"))

    await shop.send(*(looks_at(f"u{n}", item) for n in range(3) for item in ("red", "blue", "green")))
    await eventually(both_have_lists, 10.0, lambda: shop.worker.log)
    assert "blue" not in await shop.items("recs:app")
