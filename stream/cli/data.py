"""Commands that bring events: `replay`, `validate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.cli.common import (
    PROBLEM,
    BrokerUrl,
    Json,
    StoreUrl,
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
    from stream.offline import Replayed
    from stream.reasons import Reason
    from stream.settings import Settings

SIMULATOR = "simulator"
Into = Literal["broker", "memory"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=codes(PROBLEM))(replay)
    app.command(epilog=codes(PROBLEM))(validate)


def replay(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A log (.jsonl, .jsonl.gz), - for standard input, complete-journey, or simulator. "
            "With --into memory it may be left out: then the log on the broker."
        ),
    ] = None,
    into: Annotated[
        Into, typer.Option(help="broker: send the events. memory: process them here, touching nothing.")
    ] = "broker",
    digest: Annotated[
        bool, typer.Option("--digest", help="With --into memory: print the digest, as `tidewise digest`.")
    ] = False,
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
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """Send recorded or simulated events, in event order, as fast as possible or at a pace.

    Messages keep their event time as the header `received`, so that last year's log is judged as of then.
    What is sent twice counts once.

    With --into memory they are processed in this process instead, and nothing is touched. Without SOURCE
    that is the log as it stands on the broker, mail and ticks included: its digest is the one that the
    workers must have reached, whatever happened to them on the way.

    Examples:

    - `tidewise replay events.jsonl.gz --resume events.state`
    - `tidewise replay complete-journey --limit 20000`
    - `tidewise replay simulator --speed 1` (traffic as it would come, for a quarter of an hour)
    - `zcat old/*.gz | tidewise replay - --speed 3600` (an hour in a second)
    - `tidewise replay --into memory --digest` (compare with `tidewise digest`)
    """
    from producers.replay import replay as send

    settings = settings_of(broker_url=broker_url, store_url=store_url)
    if source is None and into == "broker":
        raise typer.BadParameter("what to send: a file, a data set or simulator", param_hint="SOURCE")
    if source == SIMULATOR and resume is not None:
        raise typer.BadParameter("a simulated shop cannot be resumed: it is simulated up to now")
    if speed is not None and speed <= 0:
        raise typer.BadParameter("must be above 0, for example 60: an hour in a minute", param_hint="--speed")
    opened = None if source is None else _open(source, settings, speed, limit, events, seed)
    if opened is None or into == "memory":
        _show_replayed(_into_memory(settings, opened), digest, json)
        return
    with _progress(opened.total) as show:
        summary = wait_for(
            send(opened, settings, speed=speed, resume=resume, array_size=array_size, progress=show)
        )
    show_json(summary) if json else _show_summary(summary)


def _into_memory(settings: Settings, source: Source | None) -> Replayed:
    """Replay a source, or what stands on the broker; the store is only asked for the key that signs mail."""
    from stream.cli.common import opened_store
    from stream.cli.sources import in_memory
    from stream.offline import replay, replay_topics

    async def on_broker() -> Replayed:
        async with opened_store(settings) as store:
            key = settings.signing_key or (await store.deployment({})).get("signing_key", b"").decode()
        return await replay_topics(settings, key.encode())

    if source is None:
        return wait_for(on_broker())
    return wait_for(replay(settings, b"", in_memory(source, settings.partitions)))


def _show_replayed(replayed: Replayed, digest: bool, json: bool) -> None:
    from stream.digest import members

    messages = {topic: len(sent) for topic, sent in sorted(replayed.outputs.items())}
    found = {
        "messages": messages,
        "mail_missing": len(replayed.missing),
        "mail_unexplained": len(replayed.strange),
    }
    if digest:
        found = dict(members(replayed.digest))
    if json:
        show_json(found)
    else:
        for name, value in found.items():
            out.print(f"{name:16} {value}", highlight=False)


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
