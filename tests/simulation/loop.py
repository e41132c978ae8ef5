"""An event loop with virtual time that picks among the ready callbacks at random, by a seed.

No selector, no threads, no real time: when nothing is ready, the clock jumps to the next timer. The same seed
gives the same run, to the callback, in every process with the same PYTHONHASHSEED.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from asyncio.events import _set_running_loop
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nothing is ready and no timer is set: what waits, waits for ever."""


class SimHandle(asyncio.Handle):
    """A callback to come: asyncio's handle without what only debugging needs (a fifth of all the time)."""

    __slots__ = ()

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], loop: SimLoop, context: Context | None
    ) -> None:
        self._callback = callback
        self._args = args
        self._context = context if context is not None else copy_context()
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True


class SimLoop(asyncio.AbstractEventLoop):
    """The loop. ``steps`` counts the callbacks run; ``now`` is virtual, in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self.now = 0.0
        self.steps = 0
        self._rng = rng
        self._ready: list[SimHandle] = []
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._timer = 0

    def run_until_complete(self, main: Coroutine[Any, Any, T]) -> T:  # type: ignore[override]
        """Run until the coroutine ends. Raises Stuck."""
        task = self.create_task(main)
        self._run(task.done)
        return task.result()

    def drain(self) -> None:
        """Run what is ready, and what that makes ready; no timer."""
        self._run(lambda: not self._ready)

    def _run(self, ended: Callable[[], bool]) -> None:
        ready, choose = self._ready, self._rng.random
        _set_running_loop(self)
        try:
            while not ended():
                if not ready:
                    self._jump()
                at = int(choose() * len(ready))
                handle, ready[at] = ready[at], ready[-1]
                ready.pop()
                if not handle._cancelled:
                    self.steps += 1
                    handle._context.run(handle._callback, *handle._args)
        finally:
            _set_running_loop(None)

    def _jump(self) -> None:
        """To the next timer; all that are due then are ready at once."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise Stuck
        self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            self._ready.append(heapq.heappop(timers)[2])

    # What asyncio asks of a loop

    def time(self) -> float:
        return self.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        handle = SimHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        handle = SimHandle(callback, args, self, context)
        self._timer += 1
        heapq.heappush(self._timers, (when, self._timer, handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        return asyncio.Task(coro, loop=self, name=name or "", context=context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tasks are looked at by the world, which knows which of them may fail."""
