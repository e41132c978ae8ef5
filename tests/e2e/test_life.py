"""A worker's beginning and end: SIGTERM ends it in any state, and what is not there yet is waited for."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stream.admin import create_topics
from stream.cli.common import LATE, REFUSED
from tests.e2e.harness import WorkerProcess, eventually
from tests.e2e.places import STOP_S, Place, place, silence

SLACK_S = 2.0

SLOW_CATCH_UP = """
import asyncio
from stream.follower import Follower
Follower.poll = lambda self, timeout_ms=0: asyncio.sleep(0.1)
async def never(self): await asyncio.sleep(1000)
Follower.catch_up = never
"""
BLOCKED_LOOP = """
import asyncio, time
from stream.follower import Follower
async def block(self): print("blocking", flush=True); time.sleep(1000)
Follower.catch_up = block
"""


async def waits_for_a_store_that_is_silent(here: Place) -> None:
    silence(here.store)
    here.work()
    await here.reach("waiting for the store")


async def waits_for_a_store_that_is_not_there(here: Place) -> None:
    here.store.stop()
    here.work()
    await here.reach("waiting for the store")


async def waits_for_a_broker_that_is_silent(here: Place) -> None:
    silence(here.broker)
    here.work()
    await here.reach("waiting for the broker")


async def waits_for_a_broker_that_is_not_there(here: Place) -> None:
    here.broker.stop()
    here.work()
    await here.reach("waiting for the broker")


async def catches_up(here: Place) -> None:
    here.work(SLOW_CATCH_UP)
    await here.reach("catching up")


async def joins_the_group(here: Place) -> None:
    here.work()
    await here.reach("joining the group")


async def joins_the_group_of_a_silent_broker(here: Place) -> None:
    here.work()
    await here.reach("joining the group")
    silence(here.broker)


async def takes_partitions_without_a_store(here: Place) -> None:
    here.work()
    await here.reach("joining the group")
    silence(here.store)
    await here.reach("taking partitions")


async def is_idle(here: Place) -> None:
    here.work()
    await here.reach("working")


async def works(here: Place) -> None:
    await is_idle(here)
    await here.send(50)


async def has_lost_the_store(here: Place) -> None:
    await is_idle(here)
    here.store.stop()
    await here.send(50)


async def waits_for_an_answer_of_the_store(here: Place) -> None:
    await is_idle(here)
    silence(here.store)
    await here.send(50)


async def has_lost_the_broker(here: Place) -> None:
    await works(here)
    here.broker.stop()
    await asyncio.sleep(1.0)


async def waits_for_an_answer_of_the_broker(here: Place) -> None:
    await works(here)
    silence(here.broker)
    await asyncio.sleep(1.0)


BEGINNINGS = (
    waits_for_a_store_that_is_silent,
    waits_for_a_store_that_is_not_there,
    waits_for_a_broker_that_is_silent,
    waits_for_a_broker_that_is_not_there,
    catches_up,
    joins_the_group,
    joins_the_group_of_a_silent_broker,
)
MIDDLES = (
    takes_partitions_without_a_store,
    is_idle,
    works,
    has_lost_the_store,
    waits_for_an_answer_of_the_store,
    has_lost_the_broker,
    waits_for_an_answer_of_the_broker,
)

Case = Callable[[Place], Awaitable[None]]


async def end(worker: WorkerProcess) -> tuple[int, float]:
    """SIGTERM: the exit code, and how long it took."""
    begin = time.monotonic()
    worker.process.terminate()

    async def over() -> bool:
        return worker.process.poll() is not None

    await eventually(over, STOP_S + SLACK_S, lambda: worker.log)
    return worker.process.returncode, time.monotonic() - begin


async def ended(case: Case, folder: Path) -> str:
    """What is wrong with a worker's end in this state; nothing when it ends in order and in time."""
    async with place(folder) as here:
        await case(here)
        assert here.worker is not None
        try:
            code, seconds = await end(here.worker)
        except AssertionError as error:
            return f"{case.__name__}: {error}"
        return "" if code == 0 else f"{case.__name__}: {code} after {seconds:.1f} s\n{here.worker.log}"


@pytest.mark.parametrize("cases", [BEGINNINGS, MIDDLES], ids=["at the start", "in the middle"])
async def test_sigterm_ends_a_worker_in_order_and_in_time(cases: tuple[Case, ...], tmp_path: Path) -> None:
    wrong = await asyncio.gather(*(ended(case, tmp_path) for case in cases))
    assert not any(wrong), "\n".join(wrong)


async def test_an_event_loop_that_is_blocked_is_ended_and_said(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        worker = here.work(BLOCKED_LOOP)
        await here.said("blocking")
        code, seconds = await end(worker)
    assert code == LATE
    assert seconds >= STOP_S
    assert f"not stopped within {STOP_S:g} s" in worker.log


async def test_a_worker_waits_for_store_broker_and_topics_and_says_so(tmp_path: Path) -> None:
    async with place(tmp_path, running=False) as here:
        worker = here.work()
        await here.reach("waiting for the store")
        async with here.store:
            await here.reach("waiting for the broker")
            async with here.broker:
                await here.reach("waiting for topic events: run `tidewise topics create`")
                await create_topics(here.settings)
                await here.reach("working")
                await here.send(3)
                assert (await end(worker))[0] == 0
    said = re.findall(r"waiting for (?:the \w+|topic .*?`.*?`)", worker.log)
    missing = "waiting for topic events: run `tidewise topics create`"
    assert list(dict.fromkeys(said)) == ["waiting for the store", "waiting for the broker", missing]


async def test_a_health_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    async with place(tmp_path, running=False) as here:
        taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", here.settings.health_port)
        async with taken:
            worker = here.work()
            assert await asyncio.to_thread(worker.process.wait, 20) == REFUSED
    assert "health port cannot be opened" in worker.log
