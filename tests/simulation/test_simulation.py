"""A part of the simulation, in the test suite's budget; ``python -m tests.simulation`` runs the whole."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from typing import Any

import orjson
import pytest

from tests.simulation.counter import CounterWorld
from tests.simulation.loop import SimLoop, Stuck
from tests.simulation.plants import PLANTS


def simulated(*arguments: str) -> dict[str, Any]:
    """In processes of its own, whose order of sets is fixed: a seed found here repeats everywhere."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments, "--json"],
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert ended.stdout, ended.stderr.decode()
    found: dict[str, Any] = orjson.loads(ended.stdout)
    return found


def loop(seed: int) -> SimLoop:
    return SimLoop(random.Random(seed))  # type: ignore[abstract]


def test_time_jumps_and_chance_is_by_the_seed() -> None:
    async def run() -> tuple[list[int], float]:
        order: list[int] = []

        async def one(n: int) -> None:
            await asyncio.sleep(1000.0)
            order.append(n)

        await asyncio.gather(*map(one, range(20)))
        return order, asyncio.get_running_loop().time()

    found = [loop(seed).run_until_complete(run()) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert [(sorted(order), time) for order, time in found] == [(list(range(20)), 1000.0)] * 3


def test_what_waits_for_ever_is_told() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        loop(1).run_until_complete(wait())


def test_one_seed_is_one_run() -> None:
    def digest(seed: int) -> str:
        world = CounterWorld(seed)
        world.run()
        return world.digest()

    seeds = range(30)
    first = [digest(seed) for seed in seeds]
    assert [digest(seed) for seed in seeds] == first
    assert len(set(first)) == len(seeds)


def test_the_guarantee_holds_in_the_small_world() -> None:
    found = simulated("--interleavings", "1000")
    assert found["violations"] == []
    assert found["interleavings"] == 1000
    assert min(found["faults"].values()) > 50, found["faults"]


def test_the_guarantee_holds_with_the_real_sides() -> None:
    found = simulated("--world", "shop", "--interleavings", "24")
    assert found["violations"] == []


def test_each_planted_bug_is_found() -> None:
    found = simulated("--plants")
    assert found["plants"].keys() == PLANTS.keys()
    assert {name: each["found"] for name, each in found["plants"].items() if not each["found"]} == {}
