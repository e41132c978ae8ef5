"""Ranking on one core: µs a ranked user, by configuration, beside plain Python dicts on the same machine.

``python -m benchmarks.ranking --json [--data cj|clicks] [--limit N] [--users N]``. A log is counted first, as
a worker would; then lists of 20 are made for users as they are at its end, in batches of 1,000: by the
default configuration, by `lean`, and by the default without one component. ``learning_us`` is a query of
learning; the default learns from a share of events, so that a ranked user costs ``with_learning_us`` in all.
The baseline ranks some of the same users by item-item and repeat alone, one dict a user. The best of several
repeats, in CPU time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from heapq import nlargest
from itertools import pairwise

import numpy as np

from benchmarks.kernel import clicks
from stream.allocator import keep_freed_memory
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.mixture import Mixture, Targets
from stream.core.recommend.query import Query
from stream.evaluation.engine import Engine, Lines
from stream.evaluation.history import History, read
from stream.evaluation.protocols import settings_for
from stream.settings import Settings

BATCH, SIZE, REPEATS = 1000, 20, 7
LESSONS, BASELINE_USERS = 128, 200
NONE = (np.zeros(0, dtype=np.int32),) * 2


@dataclass(frozen=True)
class Outcome:
    """µs of CPU time a user."""

    data: str
    users: int
    items: int
    interest_items: float
    default_us: float
    learning_us: float
    learn_share: float
    with_learning_us: float
    lean_us: float
    without_us: dict[str, float]
    baseline_us: float
    ratio: float
    machine: str
    python: str
    numpy: str


def history_of(data: str, limit: int | None) -> History:
    """The first events of Complete Journey, or of a seeded stream of clicks."""
    if data == "cj":
        whole = read("complete-journey")
        return whole if limit is None else whole.part(np.arange(len(whole)) < limit)
    stream = clicks(limit or 200_000)
    users, items = int(stream.user.max()) + 1, int(stream.item.max()) + 1
    return History(
        [f"user-{n}" for n in range(users)],
        [f"item-{n}" for n in range(items)],
        stream.user.astype(np.int32),
        stream.item,
        stream.time,
        np.arange(len(stream.user)),
    )


async def counted(history: History, settings: Settings, users: int) -> tuple[Sources, Query, Mixture]:
    """What lists are made from at the log's end, and users drawn from all that are in it."""
    engine = Engine(settings_for(settings), history.users, history.items)
    await engine.open()
    begins = [*history.begins[::BATCH].tolist(), len(history)]
    for low, high in pairwise(begins):
        await engine.count(Lines.of(history, slice(low, high)))
    known = np.unique(history.user)
    drawn = np.sort(np.random.default_rng(7).choice(known, min(users, len(known)), replace=False))
    last = np.zeros(len(history.users), dtype=np.int64)
    last[history.user] = history.time_ms
    lister = engine.worker.contexts.shopping.lister
    return lister.sources, await engine.query(drawn.tolist(), last[drawn]), lister.recommender.mixture


def least_us(work: Callable[[], object], users: int) -> float:
    """CPU time a user, at best."""
    work()
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.process_time()
        work()
        best = min(best, time.process_time() - begun)
    return round(best / users * 1e6, 2)


def rank_us(names: list[str], sources: Sources, query: Query, learned: Mixture | None = None) -> float:
    """By some components."""
    recommender = Recommender(names)
    if learned is not None:
        recommender.mixture = learned
    batches = [query.take(slice(low, low + BATCH)) for low in range(0, len(query), BATCH)]
    return least_us(lambda: [recommender.rank(sources, each, NONE, SIZE) for each in batches], len(query))


def learn_us(names: list[str], sources: Sources, query: Query) -> float:
    """A query; what a user did next is taken to be an item of his list."""
    recommender, some = Recommender(names), query.take(slice(0, LESSONS))
    did = recommender.rank(sources, some, NONE, SIZE).items[:, 3].copy()
    held = np.flatnonzero(did >= 0)
    targets = Targets(held, did[held], np.ones(len(held)))
    return least_us(lambda: recommender.learn(sources, some, targets), len(some))


def dict_us(sources: Sources, query: Query) -> float:
    """By item-item and repeat with fixed weights, a dict a user."""
    hood, some = sources.hood, query.take(slice(0, BASELINE_USERS))
    lists = {
        item: list(zip(hood.cols[item].tolist(), hood.scores[item].tolist(), strict=True))
        for item in {*some.profile.ravel().tolist()} - {-1}
    }
    begins = np.cumsum([0, *some.interest.length.tolist()]).tolist()
    owned, weights = some.interest.item.tolist(), some.interest.weight.tolist()

    def rank() -> None:
        for user, profile in enumerate(some.profile.tolist()):
            scores: dict[int, float] = {}
            for at, item in enumerate(profile):
                for other, score in lists.get(item, ()):
                    scores[other] = scores.get(other, 0.0) + 0.8**at * score
            for entry in range(begins[user], begins[user + 1]):
                scores[owned[entry]] = scores.get(owned[entry], 0.0) + weights[entry]
            nlargest(SIZE, scores.items(), key=lambda pair: pair[1])

    return least_us(rank, len(some))


def measure(data: str, limit: int | None, users: int) -> Outcome:
    """All of it, one after the other."""
    keep_freed_memory()
    settings, history = Settings(), history_of(data, limit)
    sources, query, learned = asyncio.run(counted(history, settings, users))
    sources.hood.reserve()
    names = settings.components
    default, learning = rank_us(names, sources, query, learned), learn_us(names, sources, query)
    baseline = dict_us(sources, query)
    return Outcome(
        data=data,
        users=len(query),
        items=len(history.items),
        interest_items=round(float(query.interest.length.mean()), 1),
        default_us=default,
        learning_us=learning,
        learn_share=settings.learn_share,
        with_learning_us=round(default + settings.learn_share * learning, 2),
        lean_us=rank_us(["lean"], sources, query),
        without_us={
            name: rank_us([each for each in names if each != name], sources, query) for name in names
        },
        baseline_us=baseline,
        ratio=round(baseline / default, 2),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        python=platform.python_version(),
        numpy=np.__version__,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--data", choices=["cj", "clicks"], default="cj")
    parser.add_argument("--limit", type=int, default=None, help="only the first N interactions")
    parser.add_argument("--users", type=int, default=2000)
    given = parser.parse_args()
    outcome = asdict(measure(given.data, given.limit, given.users))
    if given.json:
        print(json.dumps(outcome))
    else:
        print("\n".join(f"{name:24}{value}" for name, value in outcome.items()))


if __name__ == "__main__":
    main()
