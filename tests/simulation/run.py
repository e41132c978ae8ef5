"""Runs many interleavings on all cores, and one of them with its trace."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import structlog

from tests.simulation.counter import CounterWorld
from tests.simulation.plants import PLANTS, planted
from tests.simulation.shop import ShopWorld
from tests.simulation.world import World

WORLDS: dict[str, type[World]] = {"counter": CounterWorld, "shop": ShopWorld}


@dataclass(slots=True)
class Summary:
    """What some interleavings came to. ``violations`` holds (seed, what is wrong)."""

    interleavings: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        self.interleavings += other.interleavings
        self.steps += other.steps
        self.faults += other.faults
        self.violations += other.violations


def prepare() -> None:
    """Nothing is logged, and the collector does not walk over what stays."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run_some(world: str, seeds: range, plant: str | None, first_only: bool) -> Summary:
    """Interleavings one after the other; ``first_only``: until one is wrong."""
    summary = Summary()
    with planted(plant) if plant else nullcontext():
        for seed in seeds:
            one = WORLDS[world](seed)
            summary.violations += [(seed, what) for what in one.run()[:1]]
            summary.interleavings += 1
            summary.steps += one.loop.steps
            summary.faults += one.tally()
            if first_only and summary.violations:
                break
    return summary


class Cores:
    """A process a core, each with nothing else to do."""

    def __init__(self) -> None:
        # The same order of every set of strings, everywhere: else a seed would not say it all.
        assert os.environ.get("PYTHONHASHSEED") == "0"
        self.count = os.cpu_count() or 1
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self.count, context, initializer=prepare)

    def __enter__(self) -> Cores:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, world: str, seeds: range, tell: Callable[[int], None]) -> Summary:
        """All of them. ``tell`` gets how many are done, now and then."""
        size = max(1, min(200, len(seeds) // (4 * self.count)))
        parts = [seeds[at : at + size] for at in range(0, len(seeds), size)]
        whole = Summary()
        for part in [self._pool.submit(run_some, world, part, None, False) for part in parts]:
            whole.add(part.result())
            tell(whole.interleavings)
        return whole

    def find(self, seeds: range, plants: list[str]) -> dict[str, Summary]:
        """Each planted bug alone, until it is found."""
        parts: dict[str, Future[Summary]] = {
            name: self._pool.submit(run_some, PLANTS[name].world, seeds, name, True) for name in plants
        }
        return {name: part.result() for name, part in parts.items()}


def traced(world: str, seed: int, plant: str | None) -> World:
    """One interleaving; what the code logs stands in its trace too."""
    one = WORLDS[world](seed)

    def note(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        one.net.note("log", *(f"{name}={value}" for name, value in event.items()))
        raise structlog.DropEvent

    structlog.configure(processors=[note])
    with planted(plant) if plant else nullcontext():
        one.run()
    structlog.reset_defaults()
    return one


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and the seconds it took."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def lines(world: World) -> Iterator[str]:
    """The trace to read."""
    for at, *what in world.net.trace:
        yield f"{at:8.4f}  " + "  ".join(str(each) for each in what)


__all__ = ["PLANTS", "WORLDS", "Cores", "Summary", "lines", "prepare", "run_some", "timed", "traced"]
