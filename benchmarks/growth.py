"""P8: CPU of an event with ten times the users, and with ten times the items.

``python -m benchmarks.growth --json [--users 10000] [--items 20000] [--visits 2000]``: the worker in this
process on a real store, without broker. Every user has had 20 events; then visits of 8 events of some users
are timed in batches of 500: CPU of worker and store. What is done at intervals is done as at 5,000 events/s.
Ten times the items come with ten times the users, so that rows are as full; what a batch touches is nearly
all different in every size, so that a batch does as much. What is compared is what the size itself costs.
Each size in a process of its own.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from benchmarks.inprocess import Load, inprocess, visits
from benchmarks.report import Report, arguments, figure, repeated, tell

GOAL = 1.15
EACH, TIMES = 20, 10
VISIT, BATCH, RATE = 8, 500, 5000.0


async def event_us(users: int, items: int, timed: int) -> dict[str, float]:
    """µs of CPU an event."""
    async with inprocess(RATE) as one:
        before = visits(users, items, EACH)
        await one.feed(before)
        after = visits(users, items, VISIT, seed=8, start_ms=int(before.time_ms[-1]) + 1000)
        some = slice(0, timed * VISIT)
        load = Load(after.user[some], after.item[some], after.time_ms[some])
        begun, published = one.cpu(), one.published
        for batch in load.batches(BATCH):
            await one.feed(batch)
        ended, n = one.cpu(), len(load)
        return {
            "worker": (ended.worker - begun.worker) / n * 1e6,
            "store": (ended.store - begun.store) / n * 1e6,
            "lists of items": (one.published - published) / n,
        }


def _fresh(users: int, items: int, timed: int) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_run, users, items, timed).result()


def _run(users: int, items: int, timed: int) -> dict[str, float]:
    return asyncio.run(event_us(users, items, timed))


def measure(users: int, items: int, timed: int) -> dict[str, float]:
    """Three sizes, and what the larger ones cost beside the first."""
    sizes = {
        "base": (users, items),
        f"{TIMES} × users": (users * TIMES, items),
        f"{TIMES} × items": (users * TIMES, items * TIMES),
    }
    costs = {name: _fresh(*size, timed) for name, size in sizes.items()}
    sums = {name: cost["worker"] + cost["store"] for name, cost in costs.items()}
    found = {f"P8 {name}": each / sums["base"] for name, each in sums.items() if name != "base"}
    return found | {f"{name}, {of}": each for name, cost in costs.items() for of, each in cost.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--visits", type=int, default=2000, help="of 8 events, timed")
    given = parser.parse_args()
    found = repeated(partial(measure, given.users, given.items, given.visits), given.repeats)
    figures = {
        name: figure(values, "× base", most=GOAL) if name.startswith("P8") else figure(values, "µs an event")
        for name, values in found.items()
    }
    details = {"users": given.users, "items": given.items, "timed": given.visits * VISIT}
    tell(Report("growth", figures, details), given)


if __name__ == "__main__":
    main()
