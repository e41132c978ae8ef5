"""Every fault, on three nodes of Apache Kafka and a Valkey with its AOF: ``python -m tests.faults``.

Ends with 1 when anything was lost or counted twice, a digest differs, a worker ended as nobody asked it to,
or a fault did not come to pass often enough. Needs Java 17 and Maven.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.faults.faults import ANYWHERE, FAULTS, Fault
from tests.faults.rounds import Bench, Result, run_round, whole_bench

SECONDS, COUNT = 45.0, 3000
"""How long a round's workload plays, and how many messages it has."""
QUICK_SECONDS, QUICK_COUNT = 20.0, 1200


@dataclass
class Summary:
    """What came of all rounds of a fault."""

    name: str
    fault: Fault
    trials: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    lost: int = 0
    twice: int = 0
    digest_equal: bool = True
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    elements: int = 0

    def add(self, result: Result) -> None:
        """One more round."""
        self.rounds += 1
        self.trials += result.trials
        self.lost += result.verdict.lost
        self.twice += result.verdict.twice
        self.digest_equal &= result.verdict.digest_equal
        self.problems += result.verdict.problems
        self.seconds += result.seconds
        self.elements += result.verdict.counted["elements"]

    @property
    def enough(self) -> bool:
        """Whether the fault struck as often, and in as many ways, as it should."""
        return (
            self.trials.total() >= self.fault.trials
            and len(self.trials.keys() - {ANYWHERE}) >= self.fault.every
        )

    @property
    def good(self) -> bool:
        """Nothing wrong."""
        return not (self.lost or self.twice or self.problems) and self.digest_equal

    def row(self) -> dict[str, Any]:
        """For the JSON summary."""
        return {
            "fault": self.name,
            "trials": self.trials.total(),
            "lost": self.lost,
            "twice": self.twice,
            "digest_equal": self.digest_equal,
            "rounds": self.rounds,
            "elements": self.elements,
            "seconds": round(self.seconds),
            "by_kind": dict(sorted(self.trials.items())),
            "problems": self.problems,
        }


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="FAULT", default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count up")
    parser.add_argument("--rounds", type=int, help="so many of each fault, whatever comes of them")
    parser.add_argument("--quick", action="store_true", help="one short round of each fault")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on standard output")
    return parser.parse_args(given)


async def _run(given: argparse.Namespace, folder: Path, show: Progress, say: Console) -> list[Summary]:
    whole = show.add_task("starting servers", total=len(given.only))
    summaries = []
    async with whole_bench(folder) as bench:
        for name in given.only:
            summary = Summary(name, FAULTS[name])
            summaries.append(summary)
            most = given.rounds or (1 if given.quick else summary.fault.rounds)
            while summary.rounds < most and (given.rounds or not summary.enough):
                show.update(whole, description=_state(summary))
                await _one(bench, summary, given, say)
            show.advance(whole)
    return summaries


def _state(summary: Summary) -> str:
    trials = f"{summary.trials.total()} of {summary.fault.trials} trials"
    return f"{summary.name}, round {summary.rounds + 1}, {trials}"


async def _one(bench: Bench, summary: Summary, given: argparse.Namespace, say: Console) -> None:
    seed = given.seed + summary.rounds
    seconds, count = (QUICK_SECONDS, QUICK_COUNT) if given.quick else (SECONDS, COUNT)
    result = await run_round(bench, summary.name, summary.fault.disturb, seed, seconds=seconds, count=count)
    summary.add(result)
    await bench.mend()
    if not result.verdict.good:
        again = ["--only", summary.name, "--seed", str(seed), "--rounds", "1", *(["--quick"] * given.quick)]
        say.print(f"[red]{summary.name}, seed {seed}[/]: logs in {result.folder}; again with")
        say.print(f"  python -m tests.faults {shlex.join(again)}", highlight=False)
        for problem in result.verdict.problems:
            say.print(problem, markup=False, highlight=False, soft_wrap=True)


def _table(summaries: Sequence[Summary], seconds: float) -> Table:
    table = Table(title=f"Faults, {seconds / 60:.0f} minutes", title_justify="left")
    for name in ("fault", "trials", "rounds", "events", "lost", "twice", "digest equal"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for each in summaries:
        numbers = (each.trials.total(), each.rounds, each.elements, each.lost, each.twice)
        table.add_row(each.name, *(f"{n:,}" for n in numbers), "yes" if each.digest_equal else "no")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, show, and tell by the exit code."""
    given = _arguments(arguments)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers die here, and it tells of each attempt
    started = time.monotonic()
    say = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    folder = Path(tempfile.mkdtemp(prefix="tidewise-faults-"))
    with Progress(*columns, console=say) as show:
        summaries = asyncio.run(_run(given, folder, show, say))
    seconds = time.monotonic() - started
    if not any(folder.iterdir()):
        folder.rmdir()
    if given.json:
        print(orjson.dumps([each.row() for each in summaries], option=orjson.OPT_INDENT_2).decode())
    else:
        Console().print(_table(summaries, seconds))
    few = [each.name for each in summaries if not (each.enough or given.quick or given.rounds)]
    if few:
        say.print(f"too few trials: {', '.join(few)}")
    return 1 if few or not all(each.good for each in summaries) else 0


if __name__ == "__main__":
    sys.exit(main())
