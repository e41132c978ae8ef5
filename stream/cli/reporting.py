"""Commands about campaigns that run: `campaigns status`, `campaigns report`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.cli.campaigns import EPILOG, Consent, bar, checked, draw_days, figure_of, log_of
from stream.cli.common import USAGE, BrokerUrl, Json, err, fail, out, settings_of, show_json, wait_for

if TYPE_CHECKING:
    from stream.core.campaigns import Campaign
    from stream.core.lift import Lift
    from stream.report import Register, Standing
    from stream.settings import Settings

Log = Annotated[str | None, typer.Option(help="A recorded log in place of the topics (.jsonl, .jsonl.gz).")]
From = Annotated[
    Path | None, typer.Option("--folder", help="With --log: the campaigns that decide on it.", exists=True)
]


def register(group: typer.Typer) -> None:
    """Add the commands to those about campaigns."""
    group.command(epilog=EPILOG)(status)
    group.command(epilog=EPILOG)(report)


def status(broker_url: BrokerUrl = None, json: Json = False) -> None:
    """What runs: each campaign, its version, since when; and what was decided so far, and why.

    Reads the topics `campaigns` and `decisions` to their ends, so it counts what the broker still keeps.

    Examples:

    - `tidewise campaigns status`
    - `tidewise campaigns status --json`
    """
    settings = settings_of(broker_url=broker_url)
    with _reading() as progress:
        found, register = wait_for(_status(settings, progress))
    decisions = [
        {"campaign": name, "outcome": outcome, "reason": reason, "count": count}
        for (name, outcome, reason), count in sorted(register.outcomes.items())
    ]
    if json:
        show_json({"campaigns": found, "decisions": decisions})
        return
    _show_standing(found)
    _show_outcomes(register)


async def _status(
    settings: Settings, progress: Callable[[int, int], None]
) -> tuple[list[Standing], Register]:
    import time

    from stream.publishing import published
    from stream.report import Register, read_topics, standing
    from stream.topics import DECISIONS

    schedule, register = await published(settings), Register()
    await read_topics(settings, register, DECISIONS, progress=progress)
    return standing(settings, _base(settings), schedule, time.time_ns() // 1_000_000), register


def _base(settings: Settings) -> list[Campaign]:
    """The campaigns of the settings' folder; problems end the command."""
    from stream.campaign_files import running

    try:
        return running(settings.campaigns)
    except (ValueError, OSError) as error:
        fail(f"campaigns cannot be read:\n{error}", USAGE)


def _show_standing(found: list[Standing]) -> None:
    from rich import box
    from rich.table import Table

    table = Table("campaign", "version", "holds from", "", box=box.SIMPLE_HEAD, show_edge=False)
    for each in found:
        since = each.since or ("always" if each.by != "published" else "")
        said = "runs" if each.enabled else "off" if each.version or each.by == "file" else ""
        if each.next is not None:
            said = f"{said}; version {each.next} from {each.from_}".removeprefix("; ")
        table.add_row(each.campaign, str(each.version or each.by), since, said)
    out.print(table, highlight=False)


def _show_outcomes(register: Register) -> None:
    from rich import box
    from rich.table import Table

    table = Table("campaign", "outcome", "reason", "how often", box=box.SIMPLE_HEAD, show_edge=False)
    for (name, outcome, reason), count in sorted(register.outcomes.items()):
        table.add_row(name, outcome, reason, f"{count:,}")
    if register.outcomes:
        out.print(table, highlight=False)
    out.print(f"{register.outcomes.total():,} decisions", highlight=False)


def report(
    campaign: Annotated[str | None, typer.Option(help="Only this campaign.")] = None,
    log: Log = None,
    folder: From = None,
    consent: Consent = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a picture: decisions by day, lift with its interval.")
    ] = None,
    broker_url: BrokerUrl = None,
    json: Json = False,
) -> None:
    """What campaigns add, against users who are held out: conversions and revenue, with 95 % intervals.

    Reads the topics `decisions` and `events` to their ends. Each campaign is measured from the version on
    since which its holdout and goals are what they are. How it is counted stands in docs/engagement.md.

    Examples:

    - `tidewise campaigns report`
    - `tidewise campaigns report --campaign abandoned-cart --plot lift.png`
    - `tidewise campaigns report --log events.jsonl.gz --json`
    """
    settings = settings_of(broker_url=broker_url)
    register = (
        _measured(settings, campaign)
        if log is None
        else _measured_log(settings, campaign, log, folder or Path("campaigns"), consent)
    )
    lifts = register.lifts()
    if plot is not None:
        _draw(register, lifts, plot)
    show_json(_document(register, lifts)) if json else _show(register, lifts)


def _measured(settings: Settings, only: str | None) -> Register:
    with _reading() as progress:
        return wait_for(_from_topics(settings, only, progress))


async def _from_topics(
    settings: Settings, only: str | None, progress: Callable[[int, int], None]
) -> Register:
    from stream.publishing import published
    from stream.report import Register, measures, read_topics
    from stream.topics import DECISIONS, EVENTS

    known = measures(settings, _base(settings), await published(settings))
    register = Register(_only(known, only))
    await read_topics(settings, register, DECISIONS, EVENTS, progress=progress)
    return register


def _measured_log(
    settings: Settings, only: str | None, log: str, folder: Path, consent: list[str] | None
) -> Register:
    from stream.core.plan import Schedule
    from stream.dry_run import consenting
    from stream.report import Register, measures, read_log

    if not folder.exists():
        raise typer.BadParameter(f"path '{folder}' does not exist", param_hint="--folder")
    given: list[Campaign] = checked(folder)
    register = Register(_only(measures(settings, given, Schedule()), only))
    source = log_of(log, settings, None)
    entries = consenting(source.entries(), consent) if consent else source.entries()
    with bar() as progress:
        wait_for(read_log(settings, given, entries, register, progress))
    return register


def _only(known: dict[str, Any], name: str | None) -> dict[str, Any]:
    if name is None:
        return known
    if name not in known:
        fail(f"there is no campaign {name}; known are {', '.join(sorted(known)) or 'none'}")
    return {name: known[name]}


@contextmanager
def _reading() -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=0)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _document(register: Register, lifts: dict[str, Lift]) -> dict[str, Any]:
    import msgspec

    from stream.core.lift import ALL

    told = {name: msgspec.to_builtins(lift) for name, lift in lifts.items()}
    together = told.pop(ALL, None)
    days = [
        {"day": day, "outcome": outcome, "count": count} for (day, outcome), count in register.days.items()
    ]
    return {"all": together, "campaigns": told, "days": days}


def _show(register: Register, lifts: dict[str, Lift]) -> None:
    from rich import box
    from rich.table import Table

    from stream.core.lift import ALL

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for name in (
        "campaign",
        "users",
        "held out",
        "bought",
        "held out",
        "difference, points",
        "revenue a user",
    ):
        table.add_column(name, justify="left" if name == "campaign" else "right")
    for name, each in sorted(lifts.items()):
        if name != ALL or len(lifts) > 2:
            table.add_row(name or "all", *_cells(each))
    if lifts:
        out.print(table, highlight=False)
    for name, each in sorted(lifts.items()):
        if name != ALL or len(lifts) > 2:
            out.print(f"{name or 'all'}: {each.sentence}", highlight=False, markup=False)
    bought = sum(map(len, register.bought.values()))
    out.print(f"{register.outcomes.total():,} decisions, {bought:,} purchases", highlight=False)


def _cells(lift: Lift) -> tuple[str, ...]:
    treated, held = lift.treated, lift.holdout
    points = [
        f"{100 * each:+.2f}" for each in (lift.difference.value, lift.difference.low, lift.difference.high)
    ]
    money = [f"{each:+,.2f}" for each in (lift.per_user.value, lift.per_user.low, lift.per_user.high)]
    rates = [f"{100 * group.conversion.value:.2f} %" for group in (treated, held)]
    shown = [f"{value} ({low} to {high})" for value, low, high in (points, money)]
    return (f"{treated.users:,}", f"{held.users:,}", *rates, *shown)


def _draw(register: Register, lifts: dict[str, Lift], path: Path) -> None:
    """Decisions by day, a line an outcome; beside it each campaign's difference with its interval."""
    figure = figure_of(11, 4)
    left, right = figure.subplots(1, 2)
    draw_days(left, register.days, "decisions a day")
    names = sorted(lifts, reverse=True)
    for row, name in enumerate(names):
        points = [100 * end for end in (lifts[name].difference.low, lifts[name].difference.high)]
        right.plot(points, [row, row], color="tab:blue")
        right.plot([100 * lifts[name].difference.value], [row], "o", color="tab:blue")
    right.axvline(0, color="grey", linewidth=1)
    right.set_yticks(range(len(names)), [name or "all" for name in names])
    right.set_xlabel("lift: percentage points of users who bought, with 95 % interval")
    figure.savefig(path)
