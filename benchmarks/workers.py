"""P9: CPU of an event with 1, 2 and 4 workers on four partitions.

``python -m benchmarks.workers --json [--events 100000] [--workers 1 2 4] [--kafka]``: the load of
`benchmarks.pipeline`, single events. The workers own their partitions before the events are sent, so that no
rebalance is in it; from the first twentieth of the events on, the CPU time of all workers is added up. By
CPU, as two cores are no place for four workers: this is what sharing the work costs, not what it gains.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial

from benchmarks.pipeline import Message, events, followed, send
from benchmarks.report import Report, arguments, figure, repeated, tell
from benchmarks.servers import Servers, servers, worker
from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.settings import Settings
from stream.status import tallies

GOAL = 1.15
CALM_S, DEADLINE_S = 8.0, 120.0


class Fleet:
    """Runs that each have topics of their own on the same servers."""

    def __init__(self, running: Servers, singles: list[Message]) -> None:
        self._running, self._singles = running, singles
        self._runs = 0

    def measure(self, counts: list[int]) -> dict[str, float]:
        """µs of CPU an event by number of workers, and beside one worker's."""
        costs = {count: self._run(count) for count in counts}
        least = costs[min(counts)]
        found = {f"P9 {n} workers": cost / least for n, cost in costs.items() if n > min(counts)}
        return found | {f"CPU, {n} workers": cost for n, cost in costs.items()}

    def _run(self, count: int) -> float:
        self._runs += 1
        settings = self._running.settings(f"fleet{self._runs}")
        with ExitStack() as stack:
            asyncio.run(create_topics(settings))
            started = [stack.enter_context(worker(settings)) for _ in range(count)]
            asyncio.run(owned(settings))
            asyncio.run(send(settings, self._singles, 1))
            pids = {str(n): process.pid for n, process in enumerate(started)}
            cost = asyncio.run(followed(settings, len(self._singles), pids))
        if not all(cost.cpu.values()):
            raise RuntimeError(f"not all of the workers worked: {cost.cpu}")
        return sum(cost.cpu.values()) * 1e6


async def owned(settings: Settings) -> None:
    """Wait until every partition has an owner, and none has changed for a while."""
    store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
    begun = since = time.monotonic()
    last: list[object] = []
    try:
        while None in last or not last or time.monotonic() < since + CALM_S:
            _, heads = await tallies(settings, store)
            now: list[object] = [head.epoch if head else None for head in heads.values()]
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() > begun + DEADLINE_S:
                raise RuntimeError("the workers do not get all partitions")
            await asyncio.sleep(0.2)
    finally:
        await store.close()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    given = parser.parse_args()
    with servers(given.kafka) as running:
        fleet = Fleet(running, events(given.events))
        found = repeated(partial(fleet.measure, given.workers), given.repeats)
    figures = {
        name: figure(values, "× 1 worker", most=GOAL)
        if name.startswith("P9")
        else figure(values, "µs an event")
        for name, values in found.items()
    }
    tell(Report("workers", figures, {"events": given.events, "broker": running.kind}), given)


if __name__ == "__main__":
    main()
