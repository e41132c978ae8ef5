"""Bugs to plant in the protocol: the simulation is worth only what it finds of these."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from faust.types import EventT

from state.model import Head, Position, Write
from state.redis import RedisSession, _changes
from stream.delivery import Delivery
from stream.mail import Increments
from stream.runner import BACKOFF_S, Runner
from stream.shelf import Shelf
from stream.shopper import Shopper
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
    consumer: SimConsumer = self.ports.log.consumer  # type: ignore[attr-defined]
    committed = consumer.committed(topic, self.partition)
    return Position(committed, base=held.base) if committed > held.offset else held


async def _nothing(self: Delivery) -> None:
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


def _all_unseen(self: Shelf, sender: int, entries: Increments) -> Increments:
    return entries


def _forget_once(self: Shopper) -> None:
    """What is in memory stays there when the partition is taken again."""
    if not hasattr(self, "table"):
        _forget(self)


_forget = Shopper._forget_cache
_process, _start, _unread = Runner._process, Delivery._start, Delivery.unread


@dataclass(frozen=True)
class Plant:
    """A bug: what is replaced by what, as (owner, attribute, new), and the world that must find it."""

    patches: Sequence[tuple[object, str, object]]
    world: str = "counter"


PLANTS = {
    "no-head-check": Plant([(RedisSession, "commit", _commit_unchecked)]),
    "acknowledge-first": Plant(
        [(Runner, "_process", _process_acknowledged), (Delivery, "_start", _start_at_committed)]
    ),
    "no-outbox": Plant([(Delivery, "_publish_outbox", _nothing)]),
    "early-cache": Plant([(Counter, "early", True)]),
    "no-gap-check": Plant([(Delivery, "unread", _unread_anyhow)]),
    "mail-repeats": Plant([(Counter, "drops", False), (Keeper, "drops", False)]),
    "old-views": Plant([(Server, "newer", _any_version)]),
    "no-seek": Plant([(Runner, "_start_over", _start_over_here), (Delivery, "_look_ahead", _nothing)]),
    "shelf-mail-repeats": Plant([(Shelf, "_unseen", _all_unseen)], "shop"),
    "shopper-kept-cache": Plant([(Shopper, "_forget_cache", _forget_once)], "shop"),
}
"""By name. Some take away two things, because each alone does no harm: acknowledging early loses nothing
while the store holds the position, a memory ahead of the store is dropped at any failure, and a seek that
was left out is made up for by the next look at what silence hides."""


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a bug for a while."""
    patches = [patch.object(owner, attribute, new) for owner, attribute, new in PLANTS[name].patches]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()
