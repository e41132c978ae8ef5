"""All benchmarks, one after the other: `make bench`, and in five minutes `make bench-quick`.

``python -m benchmarks.all [--quick] [--only NAME …] [--data FOLDER] [--out build/bench]``: a JSON line and a
plot of each in the folder ``out``, and a table of all figures that have goals. Where Java and Maven are, the
long form runs on Apache Kafka, else, and the quick one always, on the embedded broker. Exits 1 when a
benchmark could not run; a missed goal is a figure, not a failure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

QUICK: dict[str, str] = {
    "pipeline": "--events 20000 --repeats 1",
    "kernel": "--limit 50000 --repeats 1",
    "refresh": "--limit 200000 --repeats 1",
    "freshness": "--seconds 5 --repeats 1",
    "lookups": "--users 300 --lookups 5000 --repeats 3",
    "footprint": "--users 1000 --lines 20000",
    "growth": "--users 600 --items 6000 --visits 200 --repeats 1",
    "workers": "--events 20000 --workers 1 2 --repeats 1",
    "catchup": "--events 30000 --repeats 1",
    "memory": "--events 80000",
    "traffic": "--events 10000 --partitions 4",
    "steps": "--events 20000 --repeats 1",
    "ranking": "--limit 30000 --users 500 --repeats 3",
}
"""Arguments of the quick form, in order of the goals' rows; the long one has the defaults."""
LONG = [*QUICK, "latency"]
ON_BROKER = {"pipeline", "freshness", "workers", "catchup", "latency", "steps"}


def command(name: str, given: argparse.Namespace) -> list[str]:
    """How a benchmark is run."""
    more = QUICK[name].split() if given.quick else []
    if name == "catchup" and given.data:
        more += ["--data", str(given.data)]
    if name in ON_BROKER and not given.quick and shutil.which("java") and shutil.which("mvn"):
        more.append("--kafka")
    plot = given.out / f"{name}.png"
    return [sys.executable, "-m", f"benchmarks.{name}", "--json", "--plot", str(plot), *more]


def run(name: str, given: argparse.Namespace) -> dict[str, Any] | None:
    """What it reports, also kept as a file; None: it failed. What it logs goes to a file of its own."""
    with (given.out / f"{name}.log").open("w") as log:
        done = subprocess.run(
            command(name, given), stdout=subprocess.PIPE, stderr=log, text=True, check=False
        )
    if done.returncode:
        return None
    line = done.stdout.splitlines()[-1]
    (given.out / f"{name}.json").write_text(line + "\n")
    found: dict[str, Any] = json.loads(line)
    return found


def rows(report: dict[str, Any]) -> list[str]:
    """A line a figure with a goal."""
    found = []
    for name, one in report["figures"].items():
        if one["goal"] is not None:
            goal = f"{'≤' if one['at_most'] else '≥'} {one['goal']:g}"
            spread = f"{one['low']:g} to {one['high']:g}"
            met = "met" if one["met"] else "missed"
            found.append(f"{name:30} {one['median']:>10g} {one['unit']:14} {spread:24} {goal:12} {met}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, single runs")
    parser.add_argument("--only", nargs="+", choices=LONG, help="some of them")
    parser.add_argument("--data", type=Path, help="folder of data sets, as for `make eval`")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in given.only or (QUICK if given.quick else LONG):
        begun = time.monotonic()
        report = run(name, given)
        if report is None:
            failed.append(name)
        print(f"— {name}: {time.monotonic() - begun:.0f} s", flush=True)
        print("\n".join(rows(report) if report else [f"failed: {given.out / name}.log"]), flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
