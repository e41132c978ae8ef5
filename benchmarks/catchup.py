"""P10: a log of Beauty → all lists ready, one worker's seconds ÷ those of a bare Faust agent that reads it.

``python -m benchmarks.catchup --json --data FOLDER [--events 176139] [--kafka]``: ``beauty.txt`` (Amazon
Beauty 5-core as in S3-Rec, RUCAIBox/CIKM2020-S3Rec) is there, 198,502 events; without it the load of
`benchmarks.pipeline`, which is said. Single events, filled in before. Ready: every event and increment is in
the store, and every user has a list; those of items go out before the increments behind them count as in the
store. Both from the first twentieth of the log on.
"""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.pipeline import Message, bare, events, followed, send
from benchmarks.report import Report, arguments, figure, repeated, tell
from benchmarks.servers import Servers, servers, worker
from state.keys import Keys
from state.redis import RedisStore
from stream.admin import create_topics
from stream.evaluation.history import read
from stream.settings import Settings

GOAL = 0.5
EVENTS = 176_139
"""Of Beauty's, without each user's last one: the training part of the usual test."""


def beauty(path: Path, limit: int) -> list[Message]:
    """(key, value) of each interaction in order of time, up to now."""
    history = read(str(path))
    n = min(limit, len(history))
    times = history.time_ms[:n] - int(history.time_ms[n - 1]) + int(time.time() * 1000)
    stamps = np.datetime_as_string(times.astype("datetime64[ms]"))
    rows = zip(history.user[:n].tolist(), history.item[:n].tolist(), stamps.tolist(), strict=True)
    return [
        (
            (user := history.users[at]).encode(),
            f'{{"id":"{n:012d}","type":"view_item","time":"{stamp}Z","user":"{user}",'
            f'"item":"{history.items[item]}"}}'.encode(),
        )
        for n, (at, item, stamp) in enumerate(rows)
    ]


class Race:
    """Runs that each have topics of their own on the same servers."""

    def __init__(self, running: Servers, log: list[Message]) -> None:
        self._running, self._log = running, log
        self._users = len({key for key, _ in log})
        self._runs = 0

    def measure(self) -> dict[str, float]:
        """Both over the same log."""
        self._runs += 1
        settings = self._running.settings(f"race{self._runs}")
        asyncio.run(self._fill(settings))
        agent = bare(settings, len(self._log))
        with worker(settings) as process:
            cost = asyncio.run(followed(settings, len(self._log), {"worker": process.pid}))
            late = asyncio.run(self._listed(settings))
        rest = len(self._log) * 19 / 20
        took = cost.clock * rest + late
        found = {"P10 worker ÷ bare agent": took / (agent.clock * rest), "worker": took, "lists after": late}
        return found | {
            "bare agent": agent.clock * rest,
            "by CPU": cost.cpu["worker"] / agent.cpu["worker"],
        }

    async def _fill(self, settings: Settings) -> None:
        await create_topics(settings)
        await send(settings, self._log, 1)

    async def _listed(self, settings: Settings) -> float:
        """Seconds until every user has a list."""
        store = await RedisStore.open(settings.store_url, Keys(settings.prefix), 5.0)
        keys = [store.keys.recs(user) for user in sorted({key.decode() for key, _ in self._log})]
        begun = 0.0
        try:
            while None in await store.get(keys):
                begun = begun or time.perf_counter()  # looking once is no wait
                if time.perf_counter() > begun + 60:
                    raise RuntimeError("some users have no list")
                await asyncio.sleep(0.05)
            return time.perf_counter() - begun if begun else 0.0
        finally:
            await store.close()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, default=Path(), help="folder of beauty.txt")
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka instead of the embedded broker")
    given = parser.parse_args()
    path = given.data / "beauty.txt"
    if not path.exists():
        print(f"{path} is not there: the load of benchmarks.pipeline instead", file=sys.stderr)
    log = beauty(path, given.events) if path.exists() else events(given.events)
    with servers(given.kafka) as running:
        found = repeated(partial(Race(running, log).measure), given.repeats)
    (name, ratios), *rest = found.items()
    figures = {name: figure(ratios, "× bare agent", most=GOAL)}
    figures |= {each: figure(v, "× bare agent" if each == "by CPU" else "s") for each, v in rest}
    details = {"log": path.stem if path.exists() else "pipeline", "events": len(log), "broker": running.kind}
    tell(Report("catchup", figures, details), given)


if __name__ == "__main__":
    main()
