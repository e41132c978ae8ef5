"""Runs one partition: feeds it bundles, retries, takes it again, acknowledges. Nothing leaves the loop.

Faust would skip a batch whose agent raised, so every error ends here: what may pass is tried again with the
partition taken anew; what cannot pass ends the process with a clear message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError
from faust.types import EventT

from state.store import Doubt, Fenced, StoreFull
from stream.delivery import Delivery, LogMismatch
from stream.transport import BATCH_BYTES, Bundle, bundle_of

log = structlog.get_logger(__name__)

PASSING = (Doubt, StoreFull, KafkaError, OSError, TimeoutError)
"""Errors that time may heal."""
ATTEMPTS = 5
"""A batch that fails this often for a reason that time does not heal ends the process."""
VERIFY_S = 10.0
"""What silence would hide is looked for this often."""
SEEK_AGAIN_S = 5.0
"""After a seek, what Faust held before it comes first, and is a gap still; if this long, seek again."""
_PUT_S = 0.5
BACKOFF_S = (0.05, 0.2, 0.5, 1.0, 2.0)
GIVE_WAY_S = 0.05
"""Longest wait of item partitions for users' partitions: their lists may be later, but not for ever."""


class Side(Protocol):
    """A partition's steps: `Shopper` or `Shelf`."""

    delivery: Delivery

    async def take(self) -> None:
        """Become the owner."""

    async def handle(self, bundles: Sequence[Bundle]) -> None:
        """Process bundles, in order."""

    async def pulse(self, busy: bool) -> bool:
        """What is due without input; ``busy``: more waits. True: all handled so far is stored and sent."""


class Precedence:
    """Who goes first in a worker: partitions of users, while they have something to do.

    On its way to store and broker a batch waits for many turns of the event loop, in each of which the item
    side would do a piece of its work: messages took 1.5 times as long at 1,000 events/s.
    """

    def __init__(self) -> None:
        self._ahead: set[Hashable] = set()
        self._free = asyncio.Event()
        self._free.set()

    def take(self, who: Hashable) -> None:
        """Somebody who goes first has something to do."""
        self._ahead.add(who)
        self._free.clear()

    def leave(self, who: Hashable) -> None:
        """He has done it."""
        self._ahead.discard(who)
        if not self._ahead:
            self._free.set()

    async def give_way(self) -> None:
        """Return when nobody is ahead, or after `GIVE_WAY_S`."""
        if self._ahead:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._free.wait(), GIVE_WAY_S)


class Runner:
    """One partition's task. Events are acknowledged in order, after the store has them.

    By ``precedence``, partitions that are ``first`` go before the others.
    """

    def __init__(
        self,
        name: str,
        side: Side,
        *,
        batch_events: int,
        pulse_s: float,
        reread: Callable[[Runner], Awaitable[None]],
        fatal: Callable[[BaseException], None],
        precedence: Precedence | None = None,
        first: bool = False,
    ) -> None:
        self.name = name
        self.side = side
        self.owned = True
        self.at_work = False
        self.trouble: BaseException | None = None
        """The newest error, until something succeeds."""
        self._batch_events = batch_events
        self._pulse_s = pulse_s
        self._reread = reread
        self._fatal = fatal
        self._precedence, self._first = precedence or Precedence(), first
        self._inbox: asyncio.Queue[EventT[Any]] = asyncio.Queue(maxsize=8)
        self._held: list[EventT[Any]] = []
        self._stopping = False
        self._verify_at = 0.0
        self._anew, self._seek_after = False, 0.0
        self._failures, self._failed_at = 0, -1

    async def put(self, event: EventT[Any]) -> None:
        """Hand a bundle in; waits while the partition is behind, but not for one that was given up."""
        if self._first and not self._stopping:
            self._precedence.take(self)
        while not self._stopping:
            try:
                # At once where there is room: the partitions of a poll should begin together.
                if self._inbox.full():
                    await asyncio.wait_for(self._inbox.put(event), _PUT_S)
                else:
                    self._inbox.put_nowait(event)
                return
            except TimeoutError:
                continue

    def stop(self) -> None:
        """End after the batch at hand."""
        self._stopping = True

    async def run(self) -> None:
        """Until stopped or fenced for good."""
        try:
            while not self._stopping:
                events = await self._next()
                self.at_work = True
                if not await self._attempt(events):
                    return
                self.at_work = False
        except Exception as error:
            log.exception("partition failed", partition=self.name)
            self._fatal(error)
        finally:
            self._precedence.leave(self)

    async def _next(self) -> list[EventT[Any]]:
        """What waits, up to a batch; an empty list when the pulse is due first."""
        if self._inbox.empty():
            self._precedence.leave(self)
        try:
            events = [await asyncio.wait_for(self._inbox.get(), self._pulse_s)]
        except TimeoutError:
            events = []
        if not self._first:
            await self._precedence.give_way()
        if not events:
            return []
        count, size = self._measure(events[0])
        while count < self._batch_events and size < BATCH_BYTES and not self._inbox.empty():
            events.append(self._inbox.get_nowait())
            more, larger = self._measure(events[-1])
            count, size = count + more, size + larger
        return events

    @staticmethod
    def _measure(event: EventT[Any]) -> tuple[int, int]:
        bundle = bundle_of(event)
        return len(bundle.records), bundle.size

    async def _attempt(self, events: list[EventT[Any]]) -> bool:
        """Process, or read again from the position. False: the partition is lost, or the process must end."""
        try:
            await self._process(events)
            self.trouble = None
            return True
        except LogMismatch as error:
            self._fatal(error)
            return False
        except Fenced as error:
            self.trouble = error
            if not self.owned:
                return False
            log.warning("taking the partition again", partition=self.name, reason=str(error))
        except PASSING as error:
            self.trouble = error
            log.warning("waiting for broker or store", partition=self.name, error=repr(error))
        except Exception as error:
            self.trouble = error
            log.exception("batch failed", partition=self.name, positions=self.side.delivery.reached)
            if self._failed_again() >= ATTEMPTS:
                self._fatal(error)
                return False
        return await self._start_over()

    async def _process(self, events: list[EventT[Any]]) -> None:
        delivery, now = self.side.delivery, asyncio.get_running_loop().time()
        seeking = now >= self._seek_after and (self._anew or delivery.gap())
        if seeking or now >= self._verify_at:
            self._verify_at = now + VERIFY_S
            await delivery.verify()
        if seeking:
            log.info("reading from the position", partition=self.name, missing=delivery.gap())
            self._anew, self._seek_after = False, now + SEEK_AGAIN_S
            await self._reread(self)
        if events:
            await self.side.handle([bundle_of(event) for event in events])
            self._held += [event for event in events if delivery.covers(bundle_of(event))]
            for event in events:
                bundle_of(event).records = ()  # an item partition acknowledges long after
        if await self.side.pulse(not self._inbox.empty()):
            self._acknowledge()

    def _failed_again(self) -> int:
        """How often it failed since a transaction came about."""
        n = self.side.delivery.head.n
        self._failures = self._failures + 1 if n == self._failed_at else 1
        self._failed_at = n
        return self._failures

    async def _start_over(self) -> bool:
        """Forget what came after the newest transaction, take the partition again, read from its position."""
        self._held.clear()
        while not self._inbox.empty():
            self._inbox.get_nowait()
        await asyncio.sleep(BACKOFF_S[0])
        self._anew, self._seek_after = True, 0.0
        return await self.retake()

    async def retake(self) -> bool:
        """Take the partition again; its state is read anew from the store."""
        attempt = 0
        while self.owned and not self._stopping:
            try:
                await self.side.take()
                return True
            except LogMismatch as error:
                self._fatal(error)
                return False
            except (*PASSING, Fenced) as error:
                self.trouble = error
                log.warning("cannot take the partition yet", partition=self.name, error=repr(error))
                await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1
        return False

    def _acknowledge(self) -> None:
        """Batch 5."""
        for event in self._held:
            event.ack()
        self._held.clear()
