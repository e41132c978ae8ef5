"""Commands about campaigns: `campaigns validate`, `diff`, `dry-run`, `publish`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.cli.common import (
    PROBLEM,
    BrokerUrl,
    Json,
    codes,
    err,
    fail,
    out,
    settings_of,
    show_json,
    wait_for,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from producers.source import Source
    from stream.campaign_files import Problem
    from stream.core.campaigns import Campaign, Change, Version
    from stream.core.plan import Held, Schedule
    from stream.dry_run import DryRun
    from stream.settings import Settings

EPILOG = codes(PROBLEM)
campaigns = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="A folder of campaign files, or one file.", exists=True)]
Log = Annotated[str, typer.Option(help="A log (.jsonl, .jsonl.gz), or complete-journey.")]
Consent = Annotated[
    list[str] | None, typer.Option(help="Take it that everybody grants this channel; may be given again.")
]
Old = Annotated[Path, typer.Argument(help="The old folder, or file.", exists=True)]
New = Annotated[
    Path | None,
    typer.Argument(help="The new folder, or file. Left out: OLD with what is published.", exists=True),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(
        campaigns, name="campaigns", help="Check and compare campaigns: who gets which message when."
    )


@campaigns.command(epilog=EPILOG)
def validate(folder: Folder = Path("campaigns"), json: Json = False) -> None:
    """Check campaign files: every `*.yaml` of a folder, one campaign each.

    All problems are told, each with its file, line, field, value, and what would be right. The reference of
    all fields is docs/engagement.md.

    Examples:

    - `tidewise campaigns validate` (the folder ./campaigns)
    - `tidewise campaigns validate campaigns/abandoned-cart.yaml --json`
    """
    from stream.campaign_files import load

    found = load(folder)
    problems = [problem for each in found for problem in each.problems]
    if json:
        show_json({"campaigns": len(found), "problems": len(problems), "found": problems})
    else:
        _tell(problems)
        out.print(f"{len(found):,} campaigns, {len(problems):,} problems", highlight=False)
    raise SystemExit(PROBLEM if problems else 0)


@campaigns.command(epilog=EPILOG)
def diff(old: Old, new: New = None, broker_url: BrokerUrl = None, json: Json = False) -> None:
    """Compare two states of campaigns, field by field, with all defaults: two files, or two folders by id.

    With one file or folder: what `campaigns publish` of it would change. A comment, the order of fields, 24h
    in place of 1d or a default written out is no difference. Both must be valid.

    Examples:

    - `tidewise campaigns diff old/cart.yaml campaigns/cart.yaml`
    - `tidewise campaigns diff live/ campaigns/ --json`
    - `tidewise campaigns diff campaigns/` (with what is published)
    """
    from stream.core.campaigns import diff as differences

    if new is None:
        changed = _to_publish(settings_of(broker_url=broker_url), old)
    elif old.is_dir() != new.is_dir():
        raise typer.BadParameter("give two files, or two folders", param_hint="NEW")
    else:
        pairs = _pairs(checked(old), checked(new), by_id=old.is_dir())
        changes = {name: differences(before, after) for name, before, after in pairs}
        changed = {name: found for name, found in changes.items() if found}
    show_json(changed) if json else _show(changed)


def _to_publish(settings: Settings, place: Path) -> dict[str, list[Change]]:
    """What publishing would change, by campaign."""
    from stream.core.plan import successors
    from stream.publishing import published
    from stream.times import END_MS

    given = _runnable(place)
    known = wait_for(published(settings))
    with _mended():
        versions = successors(known, given, END_MS, whole=place.is_dir())
    return _changes(known, versions)


def _changes(before: Schedule, versions: Iterable[Version]) -> dict[str, list[Change]]:
    """What differs between versions and what was published before, by campaign."""
    from stream.core.campaigns import diff as differences

    old = {name: held.version.campaign for name, held in before.newest().items()}
    return {each.campaign.id: differences(old.get(each.campaign.id), each.campaign) for each in versions}


@campaigns.command("dry-run", epilog=EPILOG)
def dry_run(
    folder: Folder = Path("campaigns"),
    log: Log = "complete-journey",
    consent: Consent = None,
    sample: Annotated[int, typer.Option(min=0, help="Messages to show.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many events of the log.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture: messages by day.")] = None,
    json: Json = False,
) -> None:
    """What campaigns would have done on a recorded log: who would have got what, and why others would not.

    The worker's own code on the log in one process; nothing is sent. The default campaign runs, too, unless
    the settings switch it off. A campaign whose window is yet to begin is tried as if it had none.

    Examples:

    - `tidewise campaigns dry-run --log events.jsonl.gz`
    - `tidewise campaigns dry-run campaigns --log complete-journey --consent email`
    """
    import time

    from stream.dry_run import consenting, without_waiting
    from stream.dry_run import dry_run as tried

    settings = settings_of()
    given, waiting = without_waiting(checked(folder), int(time.time() * 1000))
    for name in waiting:
        err.print(f"{name}: its window is yet to begin; tried as if it had none", highlight=False)
    source = log_of(log, settings, limit)
    entries = consenting(source.entries(), consent) if consent else source.entries()
    with bar() as progress:
        run = wait_for(tried(settings, given, entries, sample, progress))
    if plot is not None:
        _draw(run, plot)
    show_json(_document(run)) if json else _show_run(run)


@campaigns.command(epilog=EPILOG)
def publish(
    folder: Folder = Path("campaigns"),
    effective: Annotated[
        str | None, typer.Option(help="Event time from which they hold (RFC 3339); default: in 10 seconds.")
    ] = None,
    broker_url: BrokerUrl = None,
    json: Json = False,
) -> None:
    """Let the campaigns of a folder run: on all workers, from one event time on.

    Checks them, shows what differs from what was published before, and writes a version of each campaign that
    differs to the topic `campaigns`. A campaign that left the folder is switched off; of a single file only
    that campaign is published. Workers need no restart, and a replay finds every version that held.

    Examples:

    - `tidewise campaigns publish`
    - `tidewise campaigns publish campaigns --effective 2026-12-01T00:00:00+01:00`
    """
    settings = settings_of(broker_url=broker_url)
    given = _runnable(folder)
    with _mended():
        before, held = wait_for(_publish(settings, given, effective, whole=folder.is_dir()))
    changes = _changes(before, (each.version for each in held))
    show_json([_told(each, changes) for each in held]) if json else _show_published(held, changes)


async def _publish(
    settings: Settings, given: list[Campaign], effective: str | None, whole: bool
) -> tuple[Schedule, list[Held]]:
    """What was published before, and what is now."""
    import time

    from stream.publishing import publish as written
    from stream.publishing import published, versions_of
    from stream.times import time_ms

    at = None if effective is None else time_ms(effective)
    known = await published(settings)
    versions = versions_of(known, given, time.time_ns() // 1_000_000, at, whole)
    return known, await written(settings, versions) if versions else []


def _runnable(place: Path) -> list[Campaign]:
    """The campaigns of a file or folder, which must all be able to run; problems end the command."""
    from stream.campaign_files import running

    checked(place)
    try:
        found = running(str(place))
    except ValueError as error:
        fail(str(error))
    return found or fail(f"{place}: there is no campaign. To switch one off, set enabled: false")


@contextmanager
def _mended() -> Iterator[None]:
    """What cannot be published, as a message."""
    from aiokafka.errors import KafkaError

    try:
        yield
    except ValueError as error:
        fail(str(error))
    except KafkaError as error:
        fail(f"broker: {error}")


def _told(held: Held, changes: dict[str, list[Change]]) -> dict[str, Any]:
    from stream.times import time_text

    version = held.version
    head = {"campaign": version.campaign.id, "version": version.number, "effective": time_text(held.since)}
    return head | {"enabled": version.campaign.enabled, "changes": changes[version.campaign.id]}


def _show_published(held: list[Held], changes: dict[str, list[Change]]) -> None:
    from stream.times import time_text

    _show(changes)
    for each in held:
        said = f"{each.version.campaign.id}: version {each.version.number} holds from {time_text(each.since)}"
        out.print(said, highlight=False, markup=False)


def log_of(name: str, settings: Settings, limit: int | None) -> Source:
    """A recorded log, or a data set. Raises BadParameter where there is none."""
    from producers.datasets import DATASETS
    from producers.replay import open_source
    from stream.cli.sources import First

    if name in DATASETS:
        return open_source(name, settings, limit)
    if not Path(name).is_file():
        raise typer.BadParameter(f"no such file: {name}; known are {', '.join(DATASETS)}", param_hint="--log")
    found = open_source(name, settings)
    return found if limit is None else First(found, limit)


@contextmanager
def bar() -> Iterator[Callable[[int], None]]:
    """Events so far, on standard error."""
    from rich.progress import Progress, TextColumn

    columns = (TextColumn("{task.completed:,.0f} events"), TextColumn("{task.elapsed:.0f} s"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done: bar.update(task, completed=done)


def _document(run: DryRun) -> dict[str, Any]:
    decisions = [
        {"rule": rule, "outcome": outcome, "reason": reason, "count": count}
        for (rule, outcome, reason), count in sorted(run.decisions.items())
    ]
    days = [{"day": day, "rule": rule, "messages": n} for (day, rule), n in sorted(run.days.items())]
    head = {"events": run.events, "users": run.users, "reached": run.reached}
    coupons = [
        {"rule": rule, "coupons": n, "cost": run.cost[rule], "offers": _offers(run, rule)}
        for rule, n in sorted(run.coupons.items())
    ]
    return head | {"decisions": decisions, "days": days, "coupons": coupons, "sample": run.sample}


def _offers(run: DryRun, rule: str) -> dict[str, int]:
    """A campaign's coupons by pool or offer, the most frequent first."""
    return {offer: n for (of, offer), n in run.offers.most_common() if of == rule}


def _show_run(run: DryRun) -> None:
    from rich import box
    from rich.table import Table

    from stream.times import time_text

    table = Table("campaign", "outcome", "reason", "how often", box=box.SIMPLE_HEAD, show_edge=False)
    for (rule, outcome, reason), count in sorted(run.decisions.items()):
        table.add_row(rule, outcome, reason, f"{count:,}")
    out.print(table, highlight=False)
    sent = f"{sum(run.days.values()):,} messages to {run.reached:,}"
    out.print(f"{run.events:,} events of {run.users:,} users; {sent}", highlight=False)
    for rule, n in sorted(run.coupons.items()):
        offers = _offers(run, rule)
        which = ", ".join(f"{offer} {n:,}" for offer, n in offers.items()) if len(offers) > 1 else ""
        said = f"  {rule}: {n:,} coupons, worth {run.cost[rule]:,.2f}"
        out.print(f"{said}: {which}" if which else said, highlight=False)
    for message in run.sample:
        items = ", ".join(line["item"] for line in message["items"][:5])
        when, what = time_text(message["time"])[:16], f"{message['campaign']} {message['step']}"
        said = f"  {when}  {what} to {message['user']} by {message['channel']}: {items or 'no items'}"
        out.print(said, highlight=False, markup=False)


def _draw(run: DryRun, path: Path) -> None:
    """Messages by day, a line a campaign."""
    figure = figure_of(10, 4)
    axes = figure.subplots()
    draw_days(axes, run.days, "messages a day")
    figure.savefig(path)


def figure_of(width: float, height: float) -> Figure:
    """An empty picture; without matplotlib a message ends the command."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        fail("pictures need matplotlib: pip install 'tidewise[plot]'")
    return Figure(figsize=(width, height), layout="constrained")


def draw_days(axes: Axes, counts: Mapping[tuple[str, str], int], label: str) -> None:
    """Counts by day and name, a line a name; on a day that is not among them there were none."""
    import numpy as np

    told = [np.datetime64(day) for day, _ in counts]
    days = np.arange(min(told), max(told) + 1) if told else np.array([], "datetime64[D]")
    for name in sorted({name for _, name in counts}):
        line = [counts.get((str(day), name), 0) for day in days]
        axes.plot(days, line, label=name, marker=".", linewidth=1)
    axes.set_ylabel(label)
    if counts:
        axes.legend(frameon=False)
        axes.tick_params("x", rotation=30)


def checked(place: Path) -> list[Campaign]:
    """The campaigns of a file or folder; problems end the command."""
    from stream.campaign_files import load

    found = load(place)
    problems = [problem for each in found for problem in each.problems]
    if problems:
        _tell(problems, err)
        raise SystemExit(PROBLEM)
    return [each.campaign for each in found if each.campaign is not None]


def _pairs(
    old: list[Campaign], new: list[Campaign], by_id: bool
) -> list[tuple[str, Campaign | None, Campaign | None]]:
    if not by_id:
        return [(new[0].id, old[0], new[0])]
    before, after = ({each.id: each for each in some} for some in (old, new))
    return [(name, before.get(name), after.get(name)) for name in sorted(before | after)]


def _tell(problems: Iterable[Problem], console: Any = out) -> None:
    for problem in problems:
        console.print(problem.message, highlight=False, markup=False, soft_wrap=True)


def _show(changed: dict[str, list[Change]]) -> None:
    for name, changes in changed.items():
        out.print(f"{name}{_fate(changes)}", highlight=False, markup=False)
        for each in changes:
            text = f"  {each.field}: {_value(each.old)} → {_value(each.new)}"
            out.print(text, highlight=False, markup=False, soft_wrap=True)
    if not changed:
        out.print("no difference")


def _fate(changes: list[Change]) -> str:
    """Whether the campaign itself is new or gone: every one has an id."""
    fates = {(each.old is None, each.new is None) for each in changes if each.field == "id"}
    return " (new)" if (True, False) in fates else " (gone)" if (False, True) in fates else ""


def _value(value: Any) -> str:
    import orjson

    if value is None:
        return "–"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
