"""One holdout for nudges and lists: the same users, by the same hash."""

from __future__ import annotations

import asyncio
from typing import Any

from stream.core.arms import Arms
from stream.core.guards import EngagementConfig, bucket, held_out
from stream.settings import Settings
from tests.test_cold_start import Worker

HELD = next(f"u{n}" for n in range(1000) if bucket(f"u{n}", "tidewise") < 2000)
FREE = next(f"u{n}" for n in range(1000) if bucket(f"u{n}", "tidewise") >= 2000)


def lists(**given: Any) -> dict[str, list[tuple[str, str]]]:
    """Both look at the red mug, which goes with the green one; what they get, with the strategy."""

    async def run() -> dict[str, list[tuple[str, str]]]:
        worker = Worker(components=["item-item", "popular"], learn=False, **given)
        await worker.start({"red": {}, "green": {}, "blue": {}, "hat": {}})
        for n in range(8):
            await worker.send(f"v{n}", "view_item", n, item="red")
            await worker.send(f"v{n}", "view_item", n + 1, item="green")
            await worker.send(f"w{n}", "view_item", n, item="hat")
        await worker.settle()
        for shelf in worker.local.shelves:
            await shelf.publish_trending()
            for output in worker.local.outputs.take("trending", shelf.partition):
                worker.local.follower.rise(shelf.partition, output)
        for name in (HELD, FREE):
            await worker.send(name, "purchase", 100, item="hat")
            await worker.send(name, "view_item", 101, item="red")
        return {
            name: [(line["item"], line["strategy"]) for line in worker.list_of(name)] for name in (HELD, FREE)
        }

    return asyncio.run(run())


def test_held_out_users_get_personal_lists_unless_the_setting_says_popular_ones() -> None:
    usual, measured = lists(holdout_percent=20), lists(holdout_percent=20, holdout_lists=True)
    assert usual[HELD] == usual[FREE] == measured[FREE]
    assert "item-item" in {strategy for _, strategy in usual[HELD]}
    assert measured[HELD] and {strategy for _, strategy in measured[HELD]} == {"trending"}
    assert "hat" not in dict(measured[HELD]), "what they bought is left out all the same"
    assert lists(holdout_percent=0, holdout_lists=True) == dict.fromkeys((HELD, FREE), usual[FREE])


def test_the_arms_of_an_experiment_say_nothing_of_the_holdout() -> None:
    """The same hash function with a salt of its own, and even with the same salt another part of it."""
    for salt in ("tidewise-arms", "tidewise"):
        own = Settings(holdout_percent=20, arms={"a": 50, "b": 50}, arm_salt=salt)
        arms, config = Arms.of(own), EngagementConfig.of(own)
        users = [f"u{n}" for n in range(4000)]
        held = [user for user in users if held_out(user, config)]
        share = sum(arms.of_user(user) == "a" for user in held) / len(held)
        assert abs(len(held) / 4000 - 0.2) < 0.025 and abs(share - 0.5) < 0.07
