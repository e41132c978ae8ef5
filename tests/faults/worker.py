"""The real worker, which kills itself at a named point of the protocol: ``python -m tests.faults.worker``.

``--kill POINT:COUNT`` is kill −9 at the COUNT-th passing of a point in this process, ``--trace`` names on
standard error the points that were passed, ``--wedge SECONDS`` stops fetching that long after the first
fetch, while process and heartbeats go on. Settings are those of `tidewise worker`. Methods are wrapped from
outside: a name that has gone is an AttributeError.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import inspect
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from state.redis import RedisSession, RedisStore
from stream.cli import main as tidewise
from stream.delivery import Delivery
from stream.kafka import KafkaSender
from stream.runner import Runner
from stream.shelf import Shelf
from stream.shopper import Shopper

Passed = Callable[[], None]

_WHERE: ContextVar[frozenset[str]] = ContextVar("where", default=frozenset())
"""What the running task is in: side `u` or `i` of a running partition, `lists` of the item side."""


def _replace(owner: type, method: str, wrapped: Callable[..., Any]) -> None:
    setattr(owner, method, functools.wraps(getattr(owner, method))(wrapped))


@dataclass(frozen=True)
class Point:
    """Before or after a method, while the task is in all of ``where``; ``when`` is asked before the call."""

    owner: type
    method: str
    after: bool
    where: frozenset[str] = frozenset()
    when: Callable[[Any], object] = lambda _: True

    def install(self, passed: Passed) -> None:
        """Wrap the method."""
        original = getattr(self.owner, self.method)

        async def around(owner: Any, *args: Any, **kwargs: Any) -> Any:
            with self._passing(owner, passed):
                return await original(owner, *args, **kwargs)

        def around_plain(owner: Any, *args: Any, **kwargs: Any) -> Any:
            with self._passing(owner, passed):
                return original(owner, *args, **kwargs)

        wrapped = around if inspect.iscoroutinefunction(original) else around_plain
        _replace(self.owner, self.method, wrapped)

    @contextmanager
    def _passing(self, owner: Any, passed: Passed) -> Iterator[None]:
        counts = self.where <= _WHERE.get() and bool(self.when(owner))
        if counts and not self.after:
            passed()
        yield
        if counts and self.after:
            passed()


@dataclass
class Sends:
    """Those of one publication."""

    begun: int = 0
    first: asyncio.Event = field(default_factory=asyncio.Event)


_SENDS: ContextVar[Sends | None] = ContextVar("sends", default=None)


class PartlySent:
    """In a shopper partition's publication: the broker has the first topic's messages and no others.

    The sends overlap otherwise; here the others wait for the first, so that a kill leaves just that.
    """

    def install(self, passed: Passed) -> None:
        """Wrap the publication and its sends."""
        _within(Delivery, "publish", lambda _: {_SENDS: Sends()})
        send = KafkaSender._send

        async def wrapped(*args: Any, **kwargs: Any) -> None:
            sends = _SENDS.get()
            if sends is None or "u" not in _WHERE.get():
                return await send(*args, **kwargs)
            sends.begun += 1
            if sends.begun > 1:
                await sends.first.wait()
                return await send(*args, **kwargs)
            try:
                await send(*args, **kwargs)
                if sends.begun > 1:
                    passed()
            finally:
                sends.first.set()

        _replace(KafkaSender, "_send", wrapped)


def _held(runner: Any) -> object:
    return runner._held


def _before(owner: type, method: str, *where: str, when: Callable[[Any], object] = lambda _: True) -> Point:
    return Point(owner, method, False, frozenset(where), when)


def _after(owner: type, method: str, *where: str, when: Callable[[Any], object] = lambda _: True) -> Point:
    return Point(owner, method, True, frozenset(where), when)


POINTS: Mapping[str, Point | PartlySent] = {
    "take-1-claimed": _after(RedisSession, "claim"),
    "take-3-outbox-sent": _after(Delivery, "_publish_outbox"),
    "take-taken": _after(Runner, "retake"),
    "batch-1-taken": _before(Shopper, "handle", "u"),
    "batch-2-stepped": _before(Delivery, "transact", "u"),
    "batch-3-before-exec": _before(RedisSession, "commit", "u"),
    "batch-3-after-exec": _after(RedisSession, "commit", "u"),
    "batch-4-partly-sent": PartlySent(),
    "batch-4-before-views": _before(RedisStore, "put_views", "u"),
    "batch-4-after-views": _after(RedisStore, "put_views", "u"),
    "batch-5-before-ack": _before(Runner, "_acknowledge", "u", when=_held),
    "batch-5-after-ack": _after(Runner, "_acknowledge", "u", when=_held),
    "item-folded": _after(Shelf, "_fold", "i"),
    "item-lists-sent": _before(RedisStore, "put_views", "i", "lists"),
    "item-lists-viewed": _after(Shelf, "_publish", "i"),
    "item-before-exec": _before(RedisSession, "commit", "i"),
    "item-after-exec": _after(RedisSession, "commit", "i"),
    "item-before-ack": _before(Runner, "_acknowledge", "i", when=_held),
    "item-after-ack": _after(Runner, "_acknowledge", "i", when=_held),
}
"""Every point, by the step of docs/delivery.md that it belongs to; `batch` is the shopper side."""


def _within(owner: type, method: str, put: Callable[[Any], Mapping[ContextVar[Any], object]]) -> None:
    """Set context variables while a method runs."""
    original = getattr(owner, method)

    async def wrapped(owner: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = [(variable, variable.set(value)) for variable, value in put(owner).items()]
        try:
            return await original(owner, *args, **kwargs)
        finally:
            for variable, token in tokens:
                variable.reset(token)

    _replace(owner, method, wrapped)


def install(hooks: Mapping[str, Passed]) -> None:
    """Call a hook whenever its point is passed."""
    for name, passed in hooks.items():
        POINTS[name].install(passed)
    _within(Runner, "run", lambda runner: {_WHERE: _WHERE.get() | {runner.name[0]}})
    _within(Shelf, "_publish", lambda _: {_WHERE: _WHERE.get() | {"lists"}})


def killing(count: int) -> Passed:
    """A hook that is the end of this process at its ``count``-th call."""
    left = iter(range(count - 1, -1, -1))

    def passed() -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    return passed


def tracing(name: str) -> Passed:
    """A hook that names the point at its first call."""
    calls = iter([f"passed {name}\n"])

    def passed() -> None:
        sys.stderr.write(next(calls, ""))

    return passed


def wedge(seconds: float) -> None:
    """Fetch nothing any more that long after the first fetch."""
    fetch: Callable[..., Awaitable[Any]] = AIOKafkaConsumerThread._fetch_records
    end = functools.cache(lambda: time.monotonic() + seconds)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if end() > time.monotonic():
            return await fetch(*args, **kwargs)
        await asyncio.sleep(0.1)
        return {}

    _replace(AIOKafkaConsumerThread, "_fetch_records", wrapped)


def main() -> None:
    """Wrap, and be `tidewise worker`."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.worker", description=__doc__)
    parser.add_argument("--kill", metavar="POINT:COUNT", help=", ".join(POINTS))
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--wedge", metavar="SECONDS", type=float)
    given = parser.parse_args()
    hooks = {name: tracing(name) for name in POINTS} if given.trace else {}
    if given.kill:
        name, count = given.kill.split(":")
        hooks[name] = killing(int(count))
    install(hooks)
    if given.wedge is not None:
        wedge(given.wedge)
    sys.argv = ["tidewise", "worker"]
    tidewise()


if __name__ == "__main__":
    main()
