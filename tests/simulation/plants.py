"""Bugs to plant in the protocol: the simulation is worth only what it finds of these."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from faust.types import EventT

from state.model import Head, Position, Write
from state.redis import RedisSession, _changes
from stream.delivery import Delivery
from stream.runner import BACKOFF_S, Runner
from stream.transport import Bundle
from tests.simulation.counter import Counter, Keeper
from tests.simulation.ports import Server
from tests.simulation.world import SimConsumer


async def _commit_unchecked(self: RedisSession, held: Head, new: Head, writes: Sequence[Write]) -> None:
    await self._wire.trip([("MULTI",), *_changes(self._key, new.pack(), writes), ("EXEC",)])


async def _process_acknowledged(self: Runner, events: list[EventT[Any]]) -> None:
    """Acknowledge, then handle: what fails in between is lost, if the next owner believes the group."""
    for event in events:
        event.ack()
    await _process(self, events)


async def _start_at_committed(self: Delivery, topic: str, head: Head) -> Position:
    held = await _start(self, topic, head)
    consumer: SimConsumer = self.ports.log._committer.__self__.consumer  # type: ignore[attr-defined]
    committed = consumer.committed(topic, self.partition)
    return Position(committed, base=held.base) if committed > held.offset else held


async def _publish_nothing(self: Delivery) -> None:
    pass


async def _unread_anyhow(self: Delivery, bundles: Sequence[Bundle]) -> Any:
    return await _unread(self, [replace(bundle, first=None) for bundle in bundles])


async def _start_over_here(self: Runner) -> bool:
    """Take the partition again, and wait for what comes next."""
    self._held.clear()
    await asyncio.sleep(BACKOFF_S[0])
    return await self.retake()


def _any_version(self: Server, old: bytes, new: bytes) -> bool:
    return True


_process, _start, _unread = Runner._process, Delivery._start, Delivery.unread

PLANTS: dict[str, Sequence[tuple[object, str, object]]] = {
    "no-head-check": [(RedisSession, "commit", _commit_unchecked)],
    "acknowledge-first": [
        (Runner, "_process", _process_acknowledged),
        (Delivery, "_start", _start_at_committed),
    ],
    "no-outbox": [(Delivery, "_publish_outbox", _publish_nothing)],
    "early-cache": [(Counter, "early", True)],
    "no-gap-check": [(Delivery, "unread", _unread_anyhow)],
    "mail-repeats": [(Counter, "drops", False), (Keeper, "drops", False)],
    "old-views": [(Server, "newer", _any_version)],
    "no-seek": [(Runner, "_start_over", _start_over_here)],
}
"""Name → what is replaced by what. ``docs/delivery.md`` names the step each takes away."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug for a while."""
    patches = [patch.object(owner, attribute, new) for owner, attribute, new in PLANTS[name]]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
