"""`python -m tests.fuzz`: generated messages against the laws of the pure path, on all cores.

Ends with 1 when a law broke: each failing case is made smaller and written to a file, with the command that
repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz import trial
from tests.fuzz.messages import text_of

WORST = 10
"""Failures after which the run ends."""


def _outcomes(seed: int, jobs: int, numbers: Iterator[int]) -> Iterator[trial.Outcome]:
    """Batches as they end; one waits a core, so that none is made in vain."""
    with ProcessPoolExecutor(jobs) as pool:
        pending: set[Future[trial.Outcome]] = set()
        try:
            while True:
                while len(pending) < 2 * jobs:
                    pending.add(pool.submit(trial.run, text_of(seed, next(numbers))))
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        finally:
            pool.shutdown(cancel_futures=True)


def fuzz(events: int, seed: int, jobs: int, console: Console) -> trial.Outcome:
    """Batches until so many events were sent."""
    total = trial.Outcome()
    columns = (TextColumn("fuzz"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("events", total=events)
        for outcome in _outcomes(seed, jobs, count()):
            total.tally.add(outcome.tally)
            total.packed += outcome.packed
            total.failures += outcome.failures
            progress.update(task, completed=min(total.tally.sent, events))
            for case in outcome.failures:
                _report(case, console)
            if total.tally.sent >= events or len(total.failures) >= WORST:
                return total
    return total


def _report(case: trial.Case, console: Console) -> None:
    path = case.save(Path.cwd())
    console.print(case.error, markup=False, highlight=False)
    console.print(
        f"{len(case.messages)} messages. Repeat: python -m tests.fuzz --case {path.name}", style="bold"
    )


def _summary(total: trial.Outcome, seed: int, seconds: float) -> dict[str, object]:
    tally = asdict(total.tally)
    equal = total.tally.accepted + total.tally.dead == total.tally.sent
    return {
        "seed": seed,
        **tally,
        "packed": total.packed,
        "failures": len(total.failures),
        "sums_equal": equal,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="events to send (default: a million)")
    parser.add_argument("--seed", type=int, default=None, help="makes the same run again")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.add_argument("--json", action="store_true", help="the summary as JSON on standard output")
    parser.add_argument("--case", type=Path, help="repeat one failing case from its file")
    given = parser.parse_args()
    if given.case is not None:
        trial.again(trial.Case.load(given.case))
        print("the case passes")
        return 0
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    console, started = Console(stderr=True), time.monotonic()
    console.print(f"seed {seed}")
    total = fuzz(given.events, seed, given.jobs, console)
    summary = _summary(total, seed, time.monotonic() - started)
    print(json.dumps(summary) if given.json else "\n".join(f"{k}: {v}" for k, v in summary.items()))
    return 0 if summary["sums_equal"] and not total.failures else 1


if __name__ == "__main__":
    sys.exit(main())
