"""``python -m tests.simulation``: many interleavings of the delivery protocol, or one with its trace."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.simulation.run import PLANTS, Cores, Summary, lines, timed, traced

MODULE = "tests.simulation"
FIND_WITHIN = 1000
"""A planted bug must be found in this many interleavings."""


def command(world: str, seed: int, plant: str | None = None) -> str:
    """What repeats one interleaving."""
    planted = f" --plant {plant}" if plant else ""
    return f"python -m {MODULE} --world {world} --seed {seed}{planted} --trace"


def main(
    interleavings: Annotated[int, typer.Option(help="How many, each with a seed of its own.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    world: Annotated[str, typer.Option(help="`counter` (small) or `shop` (the real sides).")] = "counter",
    plants: Annotated[bool, typer.Option(help="Plant each bug, and count how soon it is found.")] = False,
    plant: Annotated[str | None, typer.Option(help="With --trace: the bug to plant.")] = None,
    trace: Annotated[bool, typer.Option(help="Run one seed and print what happened.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Simulate the delivery protocol under faults, and check its guarantee."""
    if trace:
        one = traced(world, seed, plant)
        print("\n".join(lines(one)))
        raise typer.Exit(bool(one.net.violations))
    found = _plants(seed) if plants else _many(world, range(seed, seed + interleavings))
    print(msgspec.json.format(msgspec.json.encode(found)).decode()) if as_json else _show(found)
    raise typer.Exit(not found["ok"])


def _many(world: str, seeds: range) -> dict[str, Any]:
    with Cores() as cores, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(world, total=len(seeds))
        summary, seconds = timed(
            lambda: cores.run(world, seeds, lambda done: progress.update(bar, completed=done))
        )
    assert isinstance(summary, Summary)
    return {
        "ok": not summary.violations,
        "world": world,
        "interleavings": summary.interleavings,
        "seconds": round(seconds, 1),
        "steps": summary.steps,
        "faults": dict(summary.faults.most_common()),
        "violations": [
            {"seed": seed, "what": what, "command": command(world, seed)} for seed, what in summary.violations
        ],
    }


def _plants(seed: int) -> dict[str, Any]:
    with Cores() as cores:
        found, seconds = timed(lambda: cores.find(range(seed, seed + FIND_WITHIN), list(PLANTS)))
    return {
        "ok": all(each.violations for each in found.values()),
        "seconds": round(seconds, 1),
        "plants": {
            name: {
                "interleavings": each.interleavings,
                "found": [
                    {"what": what, "command": command(PLANTS[name].world, at, name)}
                    for at, what in each.violations
                ],
            }
            for name, each in found.items()
        },
    }


def _show(found: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in found.items():
        table.add_row(
            name,
            str(value)
            if not isinstance(value, dict | list)
            else msgspec.json.format(msgspec.json.encode(value)).decode(),
        )
    Console().print(table)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", MODULE, *sys.argv[1:]])
    typer.run(main)
