"""Calls of several tasks made as one: `stream.together`, and what the lister does by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from stream.core.attribution import NOTHING
from stream.core.ranking import Ranked
from stream.lister import Wanted
from stream.local import LocalWorker, bundle
from stream.settings import Settings
from stream.times import time_text
from stream.together import TURNS, WAIT_S, Together
from stream.topics import EVENTS
from stream.transport import StockRecord

NOW, DAY = 1_800_000_000_000, 86_400_000


class Doubling:
    """Doubles numbers, except 13; keeps what it was asked at a time."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.ask = Together(self._double)

    def _double(self, asked: Sequence[int]) -> list[int]:
        self.calls.append(list(asked))
        if 13 in asked:
            raise ValueError("13")
        return [2 * each for each in asked]

    async def later(self, number: int, turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await self.ask(number)


async def test_tasks_that_ask_at_about_the_same_time_share_a_call() -> None:
    work = Doubling()
    assert await asyncio.gather(*(work.later(n, n) for n in range(TURNS))) == [2 * n for n in range(TURNS)]
    assert work.calls == [list(range(TURNS))]


async def test_who_asks_later_is_answered_by_another_call() -> None:
    work = Doubling()
    assert list(await asyncio.gather(work.later(1, 0), work.later(2, TURNS + 3))) == [2, 4]
    assert work.calls == [[1], [2]]


async def test_those_on_their_way_are_waited_for() -> None:
    """From when they are expected; and until it is known that they do not come."""
    work = Doubling()

    async def slow(number: int) -> list[int]:
        with work.ask.coming(number):
            await asyncio.sleep(WAIT_S / 10)
            answers = [work.ask(number)] if number else []
        return [await answer for answer in answers]

    work.ask.expect(2)
    work.ask.expect(0)
    found = await asyncio.gather(slow(2), work.later(1, 0), slow(0))
    assert list(found) == [[4], 2, []]
    assert sorted(work.calls[0]) == [1, 2]


async def test_those_who_never_come_are_not_waited_for_again() -> None:
    work, loop = Doubling(), asyncio.get_running_loop()
    work.ask.expect("nobody")
    begin = loop.time()
    assert await work.ask(1) == 2
    assert loop.time() - begin >= WAIT_S
    answer = work.ask(2)
    for _ in range(TURNS + 2):
        await asyncio.sleep(0)
    assert answer.done()


async def test_an_ask_that_fails_fails_alone() -> None:
    work = Doubling()
    found = await asyncio.gather(*map(work.ask, (1, 13, 2)), return_exceptions=True)
    assert [each if isinstance(each, int) else str(each) for each in found] == [2, "13", 4]
    with pytest.raises(ValueError, match="13"):
        await work.ask(13)


async def test_who_was_cancelled_is_left_out() -> None:
    work = Doubling()
    gone, here = work.ask(1), work.ask(2)
    gone.cancel()
    assert await here == 4
    assert work.calls == [[2]]


async def test_lists_for_several_partitions_are_those_that_each_would_get() -> None:
    """Also where only one of them knows what its users were shown, told or what happened around them."""
    worker = LocalWorker(Settings(partitions=1), b"k", [])
    await worker.take()
    users = [f"u{n}" for n in range(8)]
    acts = [(user, f"i{(3 * n + k * k) % 11}") for k in range(6) for n, user in enumerate(users)]
    records = [StockRecord(at, NOW, None, view(at, *act), ()) for at, act in enumerate(acts)]
    await worker.shoppers[0].handle([bundle(EVENTS.name, 0, records)])
    await worker.fold()
    await worker.shelves[0].publish()
    lister, time = worker.contexts.shopping.lister, np.full(4, NOW + DAY)
    rows = [await worker.shoppers[0].users(some) for some in (users[:4], users[4:])]
    parts = [
        Wanted(users[:4], rows[0], time, touches=[NOTHING] * 4),
        Wanted(users[4:], rows[1], time, told=[{"device": "app"}] * 4),
    ]
    alone = [await lister.serve(part) for part in parts]
    shared = await asyncio.gather(*map(lister.serve, parts))
    assert any((each.items >= 0).any() for each in alone)
    for one, other in zip(alone, shared, strict=True):
        assert_equal(one, other)


def view(at: int, user: str, item: str) -> bytes:
    said = {"type": "view_item", "time": time_text(NOW + at), "user": user, "item": item}
    return msgspec.json.encode(said)


def assert_equal(one: Ranked, other: Ranked) -> None:
    for name in ("items", "scores", "because", "strategy"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
