"""Ranking on one core: µs a ranked user, by configuration, beside plain Python dicts on the same machine.

``python -m benchmarks.ranking --json [--data cj|clicks] [--limit N] [--users N]``. A log is counted first, as
a worker would; then lists of 20 are made for users as they are at its end, in batches of 1,000: by the
default configuration, by `lean`, and by the default without one component. The default learns from a share
of events, so that a ranked user costs that share of a query of learning on top. The baseline ranks some of
the same users by item-item and repeat alone, one dict a user. In CPU time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from heapq import nlargest
from itertools import pairwise

import numpy as np

from benchmarks.kernel import clicks
from benchmarks.report import Report, arguments, figure, tell
from stream.allocator import keep_freed_memory
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.mixture import Mixture, Targets
from stream.core.recommend.query import Query
from stream.evaluation.engine import Engine, Lines
from stream.evaluation.history import History, read
from stream.evaluation.protocols import settings_for
from stream.settings import Settings

BATCH, SIZE = 1000, 20
LESSONS, BASELINE_USERS = 128, 200
NONE = (np.zeros(0, dtype=np.int32),) * 2


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


def each_us(work: Callable[[], object], users: int, repeats: int) -> list[float]:
    """CPU time a user, every time."""
    work()
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append((time.process_time() - begun) / users * 1e6)
    return found


def rank_us(
    names: list[str], sources: Sources, query: Query, repeats: int, learned: Mixture | None = None
) -> list[float]:
    """By some components."""
    recommender = Recommender(names)
    if learned is not None:
        recommender.mixture = learned
    batches = [query.take(slice(low, low + BATCH)) for low in range(0, len(query), BATCH)]

    def work() -> None:
        for each in batches:
            recommender.rank(sources, each, NONE, SIZE)

    return each_us(work, len(query), repeats)


def learn_us(names: list[str], sources: Sources, query: Query, repeats: int) -> list[float]:
    """A query; what a user did next is taken to be an item of his list."""
    recommender, some = Recommender(names), query.take(slice(0, LESSONS))
    did = recommender.rank(sources, some, NONE, SIZE).items[:, 3].copy()
    held = np.flatnonzero(did >= 0)
    targets = Targets(held, did[held], np.ones(len(held)))
    return each_us(lambda: recommender.learn(sources, some, targets), len(some), repeats)


def dict_us(sources: Sources, query: Query, repeats: int) -> list[float]:
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

    return each_us(rank, len(some), repeats)


def measure(data: str, limit: int | None, users: int, repeats: int) -> Report:
    """All of it, one after the other."""
    keep_freed_memory()
    settings, history = Settings(), history_of(data, limit)
    sources, query, learned = asyncio.run(counted(history, settings, users))
    sources.hood.reserve()
    names = settings.components
    default = rank_us(names, sources, query, repeats, learned)
    learning, baseline = learn_us(names, sources, query, repeats), dict_us(sources, query, repeats)
    whole = [one + settings.learn_share * two for one, two in zip(default, learning, strict=True)]
    found = {"default": default, "learning, a query": learning, "default with its share of learning": whole}
    found["lean"] = rank_us(["lean"], sources, query, repeats)
    for name in names:
        found[f"without {name}"] = rank_us([each for each in names if each != name], sources, query, repeats)
    figures = {name: figure(values, "µs a user") for name, values in (found | {"dicts": baseline}).items()}
    ratios = [one / two for one, two in zip(baseline, default, strict=True)]
    figures["ranking ÷ dicts"] = figure(ratios, "× dicts")
    details = {"data": data, "users": len(query), "items": len(history.items)}
    return Report("ranking", figures, details | {"interest": round(float(query.interest.length.mean()), 1)})


def main() -> None:
    parser = arguments(__doc__, repeats=7)
    parser.add_argument("--data", choices=["cj", "clicks"], default="cj")
    parser.add_argument("--limit", type=int, default=None, help="only the first N interactions")
    parser.add_argument("--users", type=int, default=2000)
    given = parser.parse_args()
    tell(measure(given.data, given.limit, given.users, given.repeats), given)


if __name__ == "__main__":
    main()
