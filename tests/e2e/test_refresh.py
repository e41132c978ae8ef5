"""Fitted models and models trained elsewhere, seen from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from stream.admin import create_topics
from stream.settings import Settings
from stream.topics import MODEL_SCORES
from tests.e2e.harness import Outside, WorkerProcess, environment, eventually, outside, stamp

COMPONENTS = ["autoencoder", "pure-svd", "external", "popular"]


@pytest.fixture
async def settings(make_settings: Callable[..., Settings]) -> Settings:
    """With all kinds of models, and small ones."""
    given: dict[str, Any] = {"factors": 2, "autoencoder_penalty": 1.0, "explore_share": 0.0}
    made = make_settings(components=COMPONENTS, **given)
    await create_topics(made)
    return made


def view_item(user: str, item: str) -> dict[str, Any]:
    return {"type": "view_item", "time": stamp(), "user": user, "item": item}


async def fill(shop: Outside) -> None:
    """Two shelves; each user had three of four items of one, and the shop is known to be so."""
    for n in range(24):
        shelf = "ab"[n % 2]
        await shop.send(*(view_item(f"u{n}", f"{shelf}{at}") for at in range(4) if at != n // 2 % 4))

    async def listed() -> bool:
        return all([await shop.view(f"recs:u{n}") for n in range(24)])

    await eventually(listed, 20.0, lambda: shop.worker.log)


async def strategies(shop: Outside, user: str, item: str) -> dict[str, str]:
    """Strategy by item of the list after one more event."""
    before = await shop.view(f"recs:{user}")
    await shop.send(view_item(user, item))

    async def newer() -> dict[str, Any] | None:
        found = await shop.view(f"recs:{user}")
        return found if found != before else None

    view = await eventually(newer, 10.0, lambda: shop.worker.log)
    assert view is not None
    return {line["item"]: line["strategy"] for line in view["items"]}


async def test_refresh_by_hand_brings_a_model_into_lists(shop: Outside) -> None:
    await fill(shop)
    assert {"autoencoder", "factors"}.isdisjoint((await strategies(shop, "ann", "a0")).values())
    done = subprocess.run(
        [sys.executable, "-m", "stream.cli", "refresh", "--json"],
        env=environment(shop.settings), capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    told = orjson.loads(done.stdout)
    assert [(each["model"], each["users"], each["items"]) for each in told] == [
        ("pure-svd", 25, 8),
        ("autoencoder", 25, 8),
    ]

    async def modelled() -> set[str]:
        found = await strategies(shop, "ann", "a1")
        return {item for item, by in found.items() if by in ("autoencoder", "factors")}

    items = await eventually(modelled, 20.0, lambda: shop.worker.log)
    assert items <= {"a2", "a3"}
    keys = [key async for key in shop.redis.scan_iter(f"{shop.settings.prefix}:*:vector:ann")]
    assert len(keys) == 1
    await shop.send({"type": "forget", "time": stamp(), "user": "ann"})

    async def gone() -> bool:
        return not await shop.redis.exists(*keys)

    await eventually(gone, 10.0, lambda: shop.worker.log)


async def test_scores_of_a_model_trained_elsewhere_come_into_lists(shop: Outside) -> None:
    await fill(shop)
    good = {"user": "bob", "model": "sasrec", "items": ["b2"], "scores": [4.0]}
    await shop.send({"user": "bob", "scores": "bad"}, good, topic=MODEL_SCORES)

    async def scored() -> bool:
        return (await strategies(shop, "bob", "a0")).get("b2") == "model"

    await eventually(scored, 20.0, lambda: shop.worker.log)


async def test_refresh_says_what_is_missing(shop: Outside) -> None:
    for words, code, said in (
        (["--model", "svd"], 2, "there are pure-svd, nmf, autoencoder"),
        (["--broker-url", "kafka://127.0.0.1:1"], 1, "broker"),
    ):
        command = [sys.executable, "-m", "stream.cli", "refresh", *words]
        done = subprocess.run(command, env=environment(shop.settings), capture_output=True, timeout=60)
        assert done.returncode == code and said in done.stderr.decode()


async def test_a_worker_refreshes_on_schedule(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    given: dict[str, Any] = {"components": ["nmf", "popular"], "factors": 2, "refresh_every_s": 2.0}
    settings = make_settings(**given)
    await create_topics(settings)
    async with outside(settings) as shop:
        shop.worker = WorkerProcess(settings, tmp_path)
        try:
            await shop.worker.ready()
            await fill(shop)

            async def modelled() -> bool:
                return "factors" in (await strategies(shop, "ann", "a0")).values()

            await eventually(modelled, 30.0, lambda: shop.worker.log)
            assert shop.worker.stop() == 0
        finally:
            shop.worker.kill()
