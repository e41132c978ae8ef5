"""The quality of lists on public data sets, by one default configuration: `make eval DATA=folder`.

In the folder: ``beauty.txt`` and ``beauty_attributes.json`` (Amazon Beauty 5-core as in S3-Rec,
RUCAIBox/CIKM2020-S3Rec), ``yoochoose-clicks-100k_train_full.txt`` and ``…_test.txt`` (session-rec). Complete
Journey comes with the extra `datasets`. What is not there is left out, and said.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from stream.evaluation.coupons import coupons
from stream.evaluation.history import History, read
from stream.evaluation.live import live
from stream.evaluation.measures import Catalog, Measure, by_week, measured, since
from stream.evaluation.protocols import answers, popularity, split_ms, vectors
from stream.settings import Settings

GOALS: dict[str, dict[str, float]] = {
    "beauty, leave-one-out": {"recall@10": 0.0890, "ndcg@10": 0.0560},
    "beauty with attributes, leave-one-out": {"recall@10": 0.0970, "ndcg@10": 0.0600},
    "yoochoose, sessions": {"hit@20": 0.690, "mrr@20": 0.370},
    "yoochoose, sessions, learning on": {"hit@20": 0.700, "mrr@20": 0.375},
    "complete-journey, next-basket": {"recall@10": 0.224, "ndcg@10": 0.234},
    "complete-journey, coupons": {"auc": 0.89, "ap": 0.07},
}
_KS = (10, 20)
_WARM_WEEKS = 4


class Result(msgspec.Struct):
    """One data set by one protocol: its measures, and how long it took."""

    name: str
    queries: int
    seconds: float
    metrics: dict[str, Measure]


def main() -> None:
    """Run all of it; exit 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="part of a name")
    parser.add_argument("--live", action="store_true", help="compare 2,000 lists with a live worker's, too")
    given = parser.parse_args()
    missed = False
    for result in results(given.data, given.only or "", given.live):
        goals = GOALS.get(result.name, {})
        short = {name: goal for name, goal in goals.items() if result.metrics[name].value < goal}
        missed |= bool(short)
        if given.json:
            print(msgspec.json.encode(result).decode(), flush=True)
        else:
            _show(result, goals)
    sys.exit(1 if missed else 0)


def _show(result: Result, goals: Mapping[str, float]) -> None:
    print(f"{result.name}: {result.queries:,} queries, {result.seconds:.0f} s")
    for name, one in result.metrics.items():
        goal = f"   goal {goals[name]}" if name in goals else ""
        print(f"    {name:14} {one.value:.4f}  ({one.low:.4f} to {one.high:.4f}){goal}", flush=True)


def results(folder: Path, only: str, lively: bool) -> Iterator[Result]:
    """One after the other, so that memory is that of the largest."""
    beauty, about = folder / "beauty.txt", folder / "beauty_attributes.json"
    clicks = [
        next(folder.rglob(f"yoochoose-clicks-100k_{part}.txt"), None) for part in ("train_full", "test")
    ]
    settings = Settings()
    if not beauty.exists():
        print(f"{beauty} is not there: left out", file=sys.stderr)
    if beauty.exists():
        for name, attributes in (("beauty", None), ("beauty with attributes", about)):
            if only in name:
                yield _run(f"{name}, leave-one-out", settings, "leave-one-out", read(str(beauty), attributes))
    if clicks[0] is None or clicks[1] is None:
        print(f"{folder}: no yoochoose-clicks-100k files: left out", file=sys.stderr)
    elif only in "yoochoose":
        train, test = read(str(clicks[0])), read(str(clicks[1]))
        yield _run("yoochoose, sessions", settings, "sessions", train, test)
        yield _run("yoochoose, sessions, learning on", settings, "sessions", train, test, online=True)
    if only in "complete-journey":
        yield from _journey(settings)
    if only in "coupons":
        begin, metrics = time.monotonic(), coupons()
        yield Result("complete-journey, coupons", 489_292, time.monotonic() - begin, metrics)
    if lively and clicks[0] is not None:
        yield _live(settings, read(str(clicks[0])))


def _run(
    name: str,
    settings: Settings,
    protocol: str,
    history: History,
    test: History | None = None,
    online: bool = False,
) -> Result:
    begin = time.monotonic()
    found, run = asyncio.run(answers(settings, protocol, history, test, online=online))
    catalog = Catalog(popularity(run.history), vectors(run.history))
    return Result(name, len(found), time.monotonic() - begin, measured(found, catalog, _KS))


def _journey(settings: Settings) -> Iterator[Result]:
    """Test, then learn, through the year: its curve by week, and the baskets of the last nine weeks."""
    begin, history = time.monotonic(), read("complete-journey")
    found, run = asyncio.run(answers(settings, "prequential", history, size=20, alone=True))
    catalog, took = Catalog(popularity(history), vectors(history)), time.monotonic() - begin
    last = since(found, split_ms(history, 9 / 53))
    yield Result("complete-journey, next-basket", len(last), took, measured(last, catalog, _KS))
    curve, single = by_week(found, "ndcg", 10), [by_week(one, "ndcg", 10) for one in run.single().values()]
    best = {week: max(one[week] for one in single) for week in curve}
    behind = sum(curve[week] < best[week] for week in list(curve)[_WARM_WEEKS:])
    metrics = {f"week {n}": exact(curve[week]) for n, week in enumerate(curve, 1)}
    metrics |= {f"week {n}, best channel": exact(best[week]) for n, week in enumerate(curve, 1)}
    metrics["weeks behind the best channel"] = exact(behind)
    yield Result("complete-journey, prequential ndcg@10", len(found), took, metrics)


def exact(value: float) -> Measure:
    """A number without interval."""
    return Measure(value, value, value)


def _live(settings: Settings, history: History) -> Result:
    begin = time.monotonic()
    found = asyncio.run(live(settings, history, lambda done, total: None))
    same = found.equal / found.users
    return Result(
        "live equals in process", found.users, time.monotonic() - begin, {"equal": Measure(same, same, same)}
    )


if __name__ == "__main__":
    main()
