"""Commands that bring events: `replay`, `validate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.common import (
    PROBLEM,
    BrokerUrl,
    Json,
    codes,
    err,
    out,
    settings_of,
    show_json,
    wait_for,
)

if TYPE_CHECKING:
    from producers.replay import Progress, Summary
    from producers.source import Source
    from stream.reasons import Reason
    from stream.settings import Settings

SIMULATOR = "simulator"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=codes(PROBLEM))(replay)
    app.command(epilog=codes(PROBLEM))(validate)


def replay(
    source: Annotated[
        str,
        typer.Argument(
            help="A log (.jsonl, .jsonl.gz), - for standard input, complete-journey, or simulator."
        ),
    ],
    speed: Annotated[
        float | None, typer.Option(help="A multiple of event time; default: as fast as possible.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after so many events (complete-journey: purchase lines, whole baskets)."
        ),
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="simulator: how many events.")] = 20_000,
    seed: Annotated[int, typer.Option(help="simulator: the same seed gives the same shop.")] = 1,
    array_size: Annotated[
        int, typer.Option(min=1, help="Pack so many events of a partition into one message.")
    ] = 1,
    resume: Annotated[
        Path | None, typer.Option(help="Keep the progress in this file; a later replay goes on from it.")
    ] = None,
    broker_url: BrokerUrl = None,
    json: Json = False,
) -> None:
    """Send recorded or simulated events, in event order, as fast as possible or at a pace.

    Messages keep their event time as the header `received`, so that last year's log is judged as of then.
    What is sent twice counts once.

    Examples:

    - `tidewise replay events.jsonl.gz --resume events.state`
    - `tidewise replay complete-journey --limit 20000`
    - `tidewise replay simulator --speed 1` (traffic as it would come, for a quarter of an hour)
    - `zcat old/*.gz | tidewise replay - --speed 3600` (an hour in a second)
    """
    from producers.replay import replay as send

    settings = settings_of(broker_url=broker_url)
    if source == SIMULATOR and resume is not None:
        raise typer.BadParameter("a simulated shop cannot be resumed: it is simulated up to now")
    if speed is not None and speed <= 0:
        raise typer.BadParameter("must be above 0, for example 60: an hour in a minute", param_hint="--speed")
    opened = _open(source, settings, speed, limit, events, seed)
    with _progress(opened.total) as show:
        summary = wait_for(
            send(opened, settings, speed=speed, resume=resume, array_size=array_size, progress=show)
        )
    show_json(summary) if json else _show_summary(summary)


def _open(
    name: str, settings: Settings, speed: float | None, limit: int | None, events: int, seed: int
) -> Source:
    from producers.datasets import DATASETS
    from producers.replay import open_source
    from stream.cli.sources import First, Simulated

    if name == SIMULATOR:
        return Simulated(seed, min(events, limit or events), speed, time.time_ns() // 1_000_000)
    if name in DATASETS:
        return open_source(name, settings, limit)
    if name != "-" and not Path(name).is_file():
        known = ", ".join(("-", *DATASETS, SIMULATOR))
        raise typer.BadParameter(
            f"no such file: {name}; besides files there are {known}", param_hint="SOURCE"
        )
    log = open_source(name, settings)
    return log if limit is None else First(log, limit)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error, and the function that moves it."""
    from rich import progress as rich_progress

    from stream.times import time_text

    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.fields[at]}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.completed:,.0f}" + (f" of {total:,}" if total is not None else "")),
        rich_progress.TextColumn("{task.fields[rate]:,.0f}/s"),
        rich_progress.TimeRemainingColumn(),
        console=err,
    )
    begin = time.monotonic()
    task = bar.add_task("", total=total, at="", rate=0.0)

    def show(now: Progress) -> None:
        rate = now.acknowledged / max(time.monotonic() - begin, 1e-3)
        bar.update(task, completed=now.skipped + now.acknowledged, at=time_text(now.time_ms)[:16], rate=rate)

    with bar:
        yield show


def _show_summary(summary: Summary) -> None:
    from rich.table import Table

    from stream.times import time_text

    table = Table(title=f"Replayed {summary.source}", show_header=False, title_justify="left")
    skipped = f", after {summary.skipped:,} sent before" if summary.skipped else ""
    table.add_row("events", f"{summary.events:,} ({summary.items:,} of the catalogue){skipped}")
    if summary.first_ms:
        table.add_row("event time", f"{time_text(summary.first_ms)} to {time_text(summary.last_ms)}")
    table.add_row("rate", f"{summary.events_per_s:,.0f} events/s, {summary.duration_s:.1f} s")
    out.print(table)
    if summary.note:
        out.print(summary.note, style="italic")


def validate(
    file: Annotated[
        Path,
        typer.Argument(
            help="A log of events: .jsonl, .jsonl.gz; - reads standard input.",
            exists=True,
            dir_okay=False,
            allow_dash=True,
        ),
    ],
    json: Json = False,
    show: Annotated[int, typer.Option(min=0, help="Tell at most this many problems.")] = 20,
) -> None:
    """Check a log without sending it: one event a line, by the rules that the worker applies.

    Each problem is told with its line, field, value, and what would be right.

    Examples:

    - `tidewise validate events.jsonl.gz`
    - `tidewise validate events.jsonl --json --show 1000`
    """
    import msgspec

    from producers.envelope import faults
    from producers.logs import read_lines
    from stream.codec import Limits

    limits = Limits.of(settings_of())
    lines = problems = 0
    found: list[tuple[int, Reason]] = []
    for number, data in read_lines(file):
        lines += 1
        reasons = faults(data, limits)
        problems += len(reasons)
        found += [(number, reason) for reason in reasons[: max(0, show - len(found))]]
    if json:
        listed = [{"line": number, **msgspec.structs.asdict(reason)} for number, reason in found]
        show_json({"lines": lines, "problems": problems, "found": listed})
    else:
        for number, reason in found:
            out.print(f"{file}:{number}: {reason.message}", highlight=False, markup=False, soft_wrap=True)
        out.print(f"{lines:,} lines, {problems:,} problems", highlight=False)
    raise SystemExit(PROBLEM if problems else 0)
