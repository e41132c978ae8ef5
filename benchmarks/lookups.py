"""P6: lookups of users' lists: round trips, and lists/s ÷ bare GETs of the same bytes.

``python -m benchmarks.lookups --json [--users 1000] [--lookups 20000]``: lists of 20 as a worker made them.
`Lookup.recs` finds and decodes a list; the bare GET is redis-py's own, of the same keys, and decodes nothing.
By turns of 500 in the same process, by the clock. Round trips are what the store counts as reads from its
connections (`total_reads_processed`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.inprocess import InProcess, inprocess, visits
from benchmarks.report import Report, arguments, figure, repeated, tell
from state.lookup import Lookup

TURN, EACH = 500, 20


def seconds(look: Callable[[str], object], names: Sequence[str]) -> float:
    """What looking each up takes."""
    begun = time.perf_counter()
    for name in names:
        look(name)
    return time.perf_counter() - begun


def trips(redis: Redis, lookup: Lookup, names: Sequence[str]) -> float:
    """Round trips a lookup. The question itself is one."""
    before = int(redis.info("stats")["total_reads_processed"])
    seconds(lookup.recs, names)
    return (int(redis.info("stats")["total_reads_processed"]) - before - 1) / len(names)


def measure(url: str, names: Sequence[str], lookups: int) -> dict[str, float]:
    """Both by turns."""
    with Lookup(url) as lookup, Redis.from_url(url, retry=Retry(NoBackoff(), 1)) as redis:
        keys = [lookup.keys.recs(name) for name in names]
        taken = {"list": 0.0, "GET": 0.0}
        seconds(lookup.recs, names[:TURN])
        seconds(redis.get, keys[:TURN])
        for turn in range(max(lookups // TURN, 1)):
            some = [(turn * TURN + n) % len(names) for n in range(TURN)]
            taken["GET"] += seconds(redis.get, [keys[at] for at in some])
            taken["list"] += seconds(lookup.recs, [names[at] for at in some])
        done = max(lookups // TURN, 1) * TURN
        found = {"P6 lists ÷ GETs": taken["GET"] / taken["list"], "P6 trips": trips(redis, lookup, names)}
        return found | {f"{name}s": done / each for name, each in taken.items()}


async def lists(one: InProcess, users: int) -> list[str]:
    """Names of users that have lists."""
    await one.feed(visits(users, max(users // 2, 200), EACH))
    return [f"user-{user:07d}" for user in range(users)]


async def run(users: int, lookups: int, repeats: int) -> dict[str, list[float]]:
    """Values by figure."""
    async with inprocess() as one:
        names = await lists(one, users)
        work = partial(measure, one.settings.store_url, names, lookups)
        return await asyncio.to_thread(repeated, work, repeats)


def main() -> None:
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--lookups", type=int, default=20_000)
    given = parser.parse_args()
    found = asyncio.run(run(given.users, given.lookups, given.repeats))
    figures = {
        "P6 lists ÷ GETs": figure(found.pop("P6 lists ÷ GETs"), "× GETs", least=0.9),
        "P6 trips": figure(found.pop("P6 trips"), "a lookup", most=1.0),
    }
    figures |= {name: figure(values, "a second") for name, values in found.items()}
    tell(Report("lookups", figures, {"users": given.users, "lookups": given.lookups}), given)


if __name__ == "__main__":
    main()
