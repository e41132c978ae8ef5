"""`tidewise explain` against a running deployment: it adds up to the scores that frontends read."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.core.recommend.explain import Channel, Explanation
from stream.explaining import Explained, Unexplained, explained
from stream.settings import Settings
from stream.topics import CATALOG, TRENDING
from tests.e2e.harness import Outside, WorkerProcess, environment, eventually, outside, stamp

USERS, ITEMS = [f"u{n}" for n in range(16)], [f"i{n}" for n in range(24)]


@pytest.fixture
async def shop(make_settings: Callable[..., Settings], tmp_path: Path) -> AsyncIterator[Outside]:
    """A worker whose mixture stands still, so that yesterday's scores can be told today."""
    settings = make_settings(learn=False, list_items=8)
    await create_topics(settings)
    async with outside(settings) as out:
        out.worker = WorkerProcess(settings, tmp_path)
        try:
            await out.worker.ready()
            yield out
        finally:
            out.worker.kill()


async def tell(shop: Outside, user: str, item: str) -> Explained:
    store = await RedisStore.open(shop.settings.store_url, Keys(shop.settings.prefix), 5.0)
    try:
        return await explained(shop.settings, store, user, item)
    finally:
        await store.close()


async def tidewise(shop: Outside, *words: str) -> tuple[int, str, str]:
    """A command as an operator runs it: exit code, output, errors."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "stream.cli", *words],
        env=environment(shop.settings) | {"COLUMNS": "160"},
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


async def looked(shop: Outside, events: int) -> None:
    """Everybody looks around and some buy; one item is sold out."""
    rng = random.Random(4)
    await shop.send({"type": "item", "item": "i1", "stock": 0}, topic=CATALOG)
    for n in range(events):
        user, item = USERS[n % len(USERS)], f"i{min(int(rng.expovariate(0.15)), 23)}"
        event = {"type": "view_item", "time": stamp(n - 90_000), "user": user, "item": item}
        if n % 12 == 0:
            event |= {"type": "purchase", "order": f"o{n}"}
        await shop.send(event)
    code, _, error = await tidewise(shop, "digest", "--wait", "40")
    assert code == 0, error + shop.worker.log


async def listed_anew(shop: Outside) -> None:
    """Once nothing changes any more, an event that counts for no item has everybody's list made anew."""
    before = -1
    for _ in range(20):
        if before == (before := len(await shop.records(TRENDING))):
            break
        await asyncio.sleep(3 * shop.settings.trending_s)
    versions = {user: (await shop.view(f"recs:{user}") or {})["version"] for user in USERS}
    for user in USERS:
        await shop.send({"type": "consent", "time": stamp(), "user": user, "channels": {"email": True}})

    async def anew() -> bool:
        views = [await shop.view(f"recs:{user}") for user in USERS]
        return all(view and view["version"] > versions[view["user"]] for view in views)

    await eventually(anew, 10, lambda: shop.worker.log)


def main_component(parts: Explanation) -> list[Channel]:
    """The channels of the component that gives most to a score."""
    given: dict[str, float] = defaultdict(float)
    for each in parts.channels:
        given[each.component] += each.contribution
    most = max(given, key=lambda name: given[name])
    return [each for each in parts.channels if each.component == most]


async def test_explanations_add_up_to_the_published_scores(shop: Outside) -> None:
    """Within a millionth: JSON has the float32 that the list was scored in."""
    await looked(shop, 240)
    await listed_anew(shop)
    told, scored = 0, 0
    for user in USERS[::2]:
        view: Any = await shop.view(f"recs:{user}")
        for place, line in list(enumerate(view["items"], 1))[::3]:
            found = await tell(shop, user, line["item"])
            assert found.published is not None
            assert (found.published.place, found.published.score) == (place, line["score"])
            assert found.steps[-1].place == place
            assert found.time == view["time"]
            told += 1
            if line["score"] > 0:
                parts = found.explanation
                whole = parts.least + sum(each.contribution for each in parts.channels)
                assert whole * parts.factor == pytest.approx(line["score"], rel=1e-6)
                if line["strategy"] not in ("new", "pinned"):
                    main = main_component(parts)
                    assert line["strategy"] in {each.strategy for each in main}
                    reasons = {entry.because for each in main for entry in each.entries}
                    assert (line["because"] or [None])[0] in reasons
                scored += 1
    assert told >= 20 and scored >= 16


async def test_the_command_tells_what_is_asked_and_says_what_is_missing(shop: Outside) -> None:
    await looked(shop, 48)
    user, view = "u3", await shop.view("recs:u3")
    assert view is not None
    # The list may be older than the news that i1 is sold out.
    line = next(line for line in view["items"] if line["item"] != "i1")
    await shop.send({"type": "item", "item": line["item"], "name": "Red mug"}, topic=CATALOG)

    async def named() -> bool:
        return bool(await shop.view(f"item:{line['item']}"))

    await eventually(named, 10, lambda: shop.worker.log)
    code, said, _ = await tidewise(shop, "explain", user, line["item"])
    assert code == 0
    assert f"Red mug ({line['item']}) for u3" in said
    assert "item-item far" in said and "count" in said and "place in the list" in said
    code, said, _ = await tidewise(shop, "explain", user, line["item"], "--json")
    parts = orjson.loads(said)["explanation"]
    whole = parts["least"] + sum(each["contribution"] for each in parts["channels"])
    assert whole * parts["factor"] == pytest.approx(parts["score"], rel=1e-12)
    assert {"item-item", "repeat", "popular"} <= {each["component"] for each in parts["channels"]}

    code, said, _ = await tidewise(shop, "explain", user, "i1")
    assert (code, "it is out of stock" in said) == (0, True)
    code, _, error = await tidewise(shop, "explain", user, "no-such-item")
    assert (code, error.strip()) == (4, "nothing is known of item no-such-item yet")
    with pytest.raises(Unexplained, match="nothing is known of user nobody yet"):
        await tell(shop, "nobody", "i1")

    await shop.send({"type": "purchase", "time": stamp(), "user": "u5", "order": "last", "item": "i2"})

    async def left_out() -> bool:
        return (await tell(shop, "u5", "i2")).explanation.status == "barred"

    await eventually(left_out, 15, lambda: shop.worker.log)
    found = await tell(shop, "u5", "i2")
    (reason,) = found.explanation.reasons
    assert reason.startswith("it was bought at 20") and "exclude_bought_s" in reason
    assert found.published is None and {step.place for step in found.steps} == {None}
