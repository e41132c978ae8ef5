"""Newcomers, seen from outside: lists from answers and from context."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from state.lookup import AsyncLookup
from stream.admin import create_topics
from stream.ownership import partition_of
from stream.settings import Settings
from stream.topics import CATALOG
from tests.e2e.harness import Outside, WorkerProcess, eventually, stamp


@pytest.fixture
async def settings(make_settings: Callable[..., Settings]) -> Settings:
    """With a rule of the app's own, and contexts told soon."""
    rule = {"when": 'device == "app" and item == "blue"', "do": "exclude"}
    made = make_settings(rules=[rule], trending_s=0.1, segments=["device+place", "device", "hour"])
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


@pytest.fixture
async def other(shop: Outside, tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    """A second worker, which has taken half of the partitions."""
    worker = WorkerProcess(shop.settings, tmp_path)
    try:
        await worker.ready()
        yield worker
    finally:
        worker.kill()


ALL = 16 + 20 * 16 / 35 - 0.5
"""What tea scores at least: 16 interactions in the context, and as many of the at most 35 of all."""


async def test_a_stranger_gets_what_is_popular_where_he_is(shop: Outside, other: WorkerProcess) -> None:
    """Whoever counts: users of a context live in all partitions, so with both workers."""

    def looks_at(user: str, item: str, **context: str) -> dict[str, object]:
        return {"type": "view_item", "time": stamp(), "user": user, "item": item, "context": context}

    users = [f"u{n}" for n in range(16)]
    assert {partition_of(user, shop.settings.partitions) for user in users} == {0, 1, 2, 3}
    await shop.send(*(looks_at(user, "tea", device="mobile", place="New York") for user in users))
    await shop.send(*(looks_at(user, "bread", device="web", place="DE") for user in [*users, "v", "w"]))

    async def score(segment: str) -> float:
        view = await shop.view(f"trending:{segment}") or {"items": []}
        return max([line["score"] for line in view["items"] if line["item"] == "tea"], default=0.0)

    async def complete() -> bool:
        return await score("device=mobile") > ALL and await score("device=mobile,place=New%20York") > ALL

    await eventually(complete, 15.0, lambda: shop.worker.log + other.log)
    async with AsyncLookup(shop.settings.store_url, shop.settings.prefix) as lookup:
        mobile = await lookup.recs("stranger", {"device": "mobile", "place": "New York"})
        web = await lookup.recs("stranger", {"device": "web", "place": "FR"})
        nobody = await lookup.recs("stranger", {"device": "fridge"})
    assert mobile is not None and web is not None and nobody is not None
    assert (mobile.segment, mobile.items[0].item) == ("device=mobile,place=New%20York", "tea")
    assert (web.segment, web.items[0].item) == ("device=web", "bread")
    assert nobody.segment is None and nobody.fallback

    shop.worker.kill()
    await shop.send(looks_at("u1", "milk", device="mobile", place="New York"))

    async def goes_on() -> bool:
        return "milk" in await shop.items("trending:device=mobile,place=New%20York")

    await eventually(goes_on, 40.0, lambda: other.log)
    assert await score("device=mobile,place=New%20York") > ALL, "what its owner had counted is not lost"
