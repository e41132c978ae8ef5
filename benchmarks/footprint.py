"""P7: bytes of a user with 20 events and of an item, in the store and in the worker.

``python -m benchmarks.footprint --json [--users 10000 100000] [--lines N]``; a million users is one more
number there (20 minutes, 5 GB). Users: each views 20 times, items of a category, skewed as in
`benchmarks.pipeline`; then `MEMORY USAGE` of all keys of some of them, their list included. Items: those of
Complete Journey's purchase lines, with their row and their neighbours; the median. Both processes' own: what
they grew by, by user, a fifth of an item included; a worker caches no more than `cached_users`. Each size in
a process of its own; sizes depend on the data alone, so there are no repeats.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import mean, median

import numpy as np
from redis import Redis

from benchmarks.inprocess import InProcess, Load, inprocess, visits
from benchmarks.kernel import complete_journey, first
from benchmarks.processes import resident
from benchmarks.report import Report, arguments, figure, tell
from stream.ownership import partition_of

GOAL_USER, GOAL_ITEM = 2700.0, 3500.0
EACH, SAMPLED = 20, 2000
Sizes = dict[str, float]


async def of_users(users: int) -> Sizes:
    """Mean bytes a user; of both processes, with the items they view."""
    async with inprocess() as one:
        load, at_first = visits(users, max(users // 5, 100), EACH, zipf=1.3), _processes(one)
        await one.feed(load)
        grown = {name: (size - at_first[name]) / users for name, size in _processes(one).items()}
        names = [f"user-{n:07d}" for n in np.linspace(0, users - 1, min(SAMPLED, users)).astype(int)]
        keys, parts = one.store.keys, [f"u{partition_of(name, one.settings.partitions)}" for name in names]
        private = [keys.user, keys.engagement, keys.attribution]
        state = used(one, [[of(*at) for of in private] for at in zip(parts, names, strict=True)])
        lists = used(one, [[keys.recs(name)] for name in names])
        whole = [sum(both) for both in zip(state, lists, strict=True)]
        return {"P7 user": mean(whole), "state": mean(state), "list": mean(lists)} | grown


def _processes(one: InProcess) -> Sizes:
    """Bytes of the worker, and of the store: what it allocated, and what is resident."""
    with Redis.from_url(one.settings.store_url) as redis:
        told = redis.info("memory")
    store = {"store, allocated": told["used_memory"], "store, RSS": told["used_memory_rss"]}
    return {"worker, RSS": resident()} | store


async def of_items(lines: int | None) -> Sizes:
    """Median bytes an item."""
    async with inprocess() as one:
        before, stream = resident(), first(complete_journey(), lines)
        load = Load(stream.user, stream.item.astype(np.int64), stream.time)
        await one.feed(load)
        items = int(stream.item.max()) + 1
        grown, keys = (resident() - before) / items, one.store.keys
        names = [f"item-{n:06d}" for n in np.linspace(0, items - 1, min(SAMPLED, items)).astype(int)]
        parts = [f"i{partition_of(name, one.settings.partitions)}" for name in names]
        rows = used(one, [[keys.row(*at)] for at in zip(parts, names, strict=True)])
        lists = used(one, [[keys.neighbors(name)] for name in names])
        whole = [sum(both) for both in zip(rows, lists, strict=True)]
        return {
            "P7 item": median(whole),
            "item, mean": mean(whole),
            "row": median(rows),
            "neighbours": median(lists),
            "worker, RSS": grown,
        }


def used(one: InProcess, groups: list[list[str]]) -> list[float]:
    """`MEMORY USAGE` of some keys each; a key that is not there counts 0."""
    with Redis.from_url(one.settings.store_url) as redis:
        pipe = redis.pipeline(transaction=False)
        for key in (key for group in groups for key in group):
            pipe.execute_command("MEMORY", "USAGE", key, "SAMPLES", "0")
        found = iter(pipe.execute())
        return [sum(next(found) or 0 for _ in group) for group in groups]


def _users(users: int) -> Sizes:
    return {f"{name}, {users:,} users": value for name, value in asyncio.run(of_users(users)).items()}


def _items(lines: int | None) -> Sizes:
    found = asyncio.run(of_items(lines))
    return {name if name.startswith("P7") else f"items: {name}": value for name, value in found.items()}


def main() -> None:
    parser = arguments(__doc__, repeats=1)
    parser.add_argument("--users", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--lines", type=int, default=None, help="only the first N lines of Complete Journey")
    given = parser.parse_args()
    found: Sizes = {}
    for work in [*(partial(_users, users) for users in given.users), partial(_items, given.lines)]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            found |= pool.submit(work).result()
    goals = {name: GOAL_USER if "user" in name else GOAL_ITEM for name in found if name.startswith("P7")}
    figures = {name: figure([value], "bytes", most=goals.get(name)) for name, value in found.items()}
    tell(Report("footprint", figures, {"events a user": EACH, "lines": given.lines}), given)


if __name__ == "__main__":
    main()
