"""Who goes first among the partitions of a worker: `stream.runner`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stream import runner as module
from stream.runner import GIVE_WAY_S, Precedence, Runner
from stream.topics import EVENTS
from stream.transport import Bundle, StockRecord


class Delivery:
    """That of a partition that has nothing to check, and counts all it is given."""

    head = SimpleNamespace(n=0)

    async def verify(self) -> None:
        pass

    def gap(self) -> str:
        return ""

    def covers(self, bundle: Bundle) -> bool:
        return True


class Slow:
    """A side that notes when it is given something, and goes on when it is told to."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said, self.go = name, said, asyncio.Event()
        self.delivery = cast(Any, Delivery())

    async def take(self) -> None:
        pass

    async def handle(self, bundles: Sequence[Bundle]) -> None:
        self.said.append(f"{self.name} begins")
        await self.go.wait()
        self.said.append(f"{self.name} ends")

    async def pulse(self, busy: bool) -> bool:
        return True


def runner(side: Slow, precedence: Precedence, first: bool) -> Runner:
    async def reread(_: Runner) -> None:
        pass

    def fatal(error: BaseException) -> None:
        raise error

    return Runner(
        side.name,
        side,
        batch_events=10,
        pulse_s=60,
        reread=reread,
        fatal=fatal,
        precedence=precedence,
        first=first,
    )


def event() -> Any:
    bundle = Bundle(EVENTS.name, 0, [StockRecord(0, 0, None, b"", ())], 0, 1)
    return SimpleNamespace(message=SimpleNamespace(bundle=bundle), ack=lambda: None)


async def test_items_wait_until_users_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_WAY_S", 60)
    monkeypatch.setattr(module, "bundle_of", lambda event: event.message.bundle)
    said, precedence = list[str](), Precedence()
    users, items = Slow("users", said), Slow("items", said)
    items.go.set()
    runners = [runner(users, precedence, True), runner(items, precedence, False)]
    async with asyncio.timeout(10):
        for each in runners:
            await each.put(event())
        tasks = [asyncio.create_task(each.run()) for each in reversed(runners)]
        while "users begins" not in said:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert said == ["users begins"]
        users.go.set()
        while "items ends" not in said:
            await asyncio.sleep(0)
    assert said == ["users begins", "users ends", "items begins", "items ends"]
    for task in tasks:
        task.cancel()


async def test_items_do_not_wait_for_ever() -> None:
    precedence, loop = Precedence(), asyncio.get_running_loop()
    precedence.take("users")
    begin = loop.time()
    await precedence.give_way()
    assert loop.time() - begin >= GIVE_WAY_S


async def test_all_who_are_ahead_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_WAY_S", 60)
    precedence = Precedence()
    precedence.take("a")
    precedence.take("b")
    waiting = asyncio.create_task(precedence.give_way())
    for gone in ("a", "b"):
        await asyncio.sleep(0)
        assert not waiting.done()
        precedence.leave(gone)
    async with asyncio.timeout(10):
        await waiting
        await precedence.give_way()
