"""Commands that look: `lookup`, `metrics`, `digest`, `doctor`, `mend`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from stream.cli.common import (
    PROBLEM,
    UNKNOWN,
    UNSETTLED,
    BrokerUrl,
    Json,
    StoreUrl,
    codes,
    fail,
    opened,
    opened_store,
    out,
    settings_of,
    show_json,
    wait_for,
)

if TYPE_CHECKING:
    from rich.table import Table

    from state.lookup import Lookup, Rate, ViewedMetrics, ViewItem, ViewList
    from stream.digest import Digest
    from stream.doctor import Finding
    from stream.mend import Mended, Misfit
    from stream.settings import Settings

EPILOG = codes(PROBLEM, UNKNOWN)
lookup = typer.Typer(no_args_is_help=True)
User = Annotated[str, typer.Argument(help="A user, or an anonymous id.")]
Item = Annotated[str, typer.Argument(help="An item's id.")]
Items = Annotated[list[str], typer.Argument(help="Items' ids.")]
Segment = Annotated[
    str, typer.Option(help="rising, season, or a context: device=mobile; default: everything.")
]
Device = Annotated[str | None, typer.Option(help="For somebody without a list: his device.")]
Place = Annotated[str | None, typer.Option(help="For somebody without a list: where he is.")]
Hour = Annotated[int | None, typer.Option(min=0, max=23, help="For somebody without a list: the hour, UTC.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(lookup, name="lookup", help="Read what frontends read, and what is kept of a user.")
    app.command(epilog=EPILOG)(metrics)
    app.command(epilog=codes(PROBLEM, UNSETTLED))(digest)
    app.command(epilog=codes(PROBLEM))(mend)
    app.command(epilog=codes(PROBLEM))(doctor)


@lookup.command(epilog=EPILOG)
def recs(
    user: User,
    device: Device = None,
    place: Place = None,
    hour: Hour = None,
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """A user's list. Somebody without one gets what is trending, where and how he visits if that is told.

    The same as `GET tidewise:recs:USER`.

    Example: `tidewise lookup recs ann --device mobile --place DE`
    """
    told = {"device": device, "place": place, "hour": hour}
    context = {name: value for name, value in told.items() if value is not None}
    _ask(store_url, lambda lookups: lookups.recs(user, context), json, f"recommendations for {user}")


@lookup.command(epilog=EPILOG)
def neighbors(item: Item, store_url: StoreUrl = None, json: Json = False) -> None:
    """Items similar to an item.

    The same as `GET tidewise:neighbors:ITEM`.

    Example: `tidewise lookup neighbors 1082185`
    """
    _ask(store_url, lambda lookups: lookups.neighbors(item), json, f"items similar to {item}")


@lookup.command(epilog=EPILOG)
def cart(user: User, store_url: StoreUrl = None, json: Json = False) -> None:
    """What goes with a user's cart.

    The same as `GET tidewise:cart:USER`.

    Example: `tidewise lookup cart ann`
    """
    _ask(store_url, lambda lookups: lookups.cart(user), json, f"a cart of {user}")


@lookup.command(epilog=EPILOG)
def loyalty(user: User, store_url: StoreUrl = None, json: Json = False) -> None:
    """A user's points, when they expire, his tier and milestones.

    The same as `GET tidewise:loyalty:USER`.

    Example: `tidewise lookup loyalty ann`
    """
    from state.lookup import Lookup

    settings = settings_of(store_url=store_url)
    with Lookup(settings.store_url, settings.prefix, settings.store_timeout_s) as lookups:
        found = lookups.loyalty(user)
    if found is None:
        fail(f"nothing is known of points of {user} yet", UNKNOWN)
    if json:
        show_json(found)
        return
    table = _table("points", "expire")
    for lot in found.lots:
        table.add_row(str(lot.points), lot.expires)
    out.print(f"{found.points} points, tier {escape(found.tier or '-')}", table, highlight=False)
    for name, time in found.reached.items():
        out.print(f"{escape(name)} {time}", highlight=False)


@lookup.command(epilog=EPILOG)
def together(items: Items, store_url: StoreUrl = None, json: Json = False) -> None:
    """What goes with some items, by their lists of similar items.

    Example: `tidewise lookup together 1082185 995242`
    """
    from state.lookup import Lookup

    settings = settings_of(store_url=store_url)
    with Lookup(settings.store_url, settings.prefix, settings.store_timeout_s) as lookups:
        found, what = lookups.together(items), " and ".join(items)
        if not found:
            fail(f"nothing is known that goes with {what} yet", UNKNOWN)
        show_json(found) if json else _show_lines(found, f"with {what}", _names(lookups, found))


@lookup.command(epilog=EPILOG)
def trending(segment: Segment = "", store_url: StoreUrl = None, json: Json = False) -> None:
    """What is popular now, on the rise, or in season.

    The same as `GET tidewise:trending`, or `GET tidewise:trending:SEGMENT`.

    Example: `tidewise lookup trending --segment rising`
    """
    what = f"trending: {segment}" if segment else "trending"
    _ask(store_url, lambda lookups: lookups.trending(segment), json, what)


@lookup.command(epilog=EPILOG)
def user(name: User, store_url: StoreUrl = None, json: Json = False) -> None:
    """What is kept of a user: history, interest, cart, consent, orders, pending timers.

    Reads private state, and passes over all keys when it must look for names: for people, not for frontends.

    Example: `tidewise lookup user ann`
    """
    from stream.inspection import user_state

    async def read(settings: Settings) -> dict[str, object] | None:
        async with opened_store(settings) as store:
            return await user_state(settings, store, name)

    found = wait_for(read(settings_of(store_url=store_url)))
    if found is None:
        fail(f"nothing is known of user {name} yet", UNKNOWN)
    show_json(found) if json else _show_user(found)


def _ask(store_url: str | None, question: Callable[[Lookup], ViewList | None], json: bool, what: str) -> None:
    from state.lookup import Lookup

    settings = settings_of(store_url=store_url)
    with Lookup(settings.store_url, settings.prefix, settings.store_timeout_s) as lookups:
        found = question(lookups)
        if found is None:
            fail(f"nothing is known of {what} yet", UNKNOWN)
        show_json(found) if json else _show_list(found, what, _names(lookups, found.items))


def _names(lookups: Lookup, lines: Iterable[ViewItem]) -> dict[str, str]:
    """What the catalogue calls the items of a list and of its reasons."""
    items = dict.fromkeys(item for line in lines for item in (line.item, *line.because))
    known = {item: lookups.item(item) for item in items}
    return {item: view.name for item, view in known.items() if view is not None and view.name}


def _show_list(found: ViewList, what: str, names: Mapping[str, str]) -> None:
    where = f" ({found.segment})" if found.segment else ""
    title = f"{what}: none yet, so what is trending{where}" if found.fallback else what
    _show_lines(found.items, title, names)
    out.print(f"as of {found.time}, version {found.version}", style="dim", highlight=False)


def _show_lines(lines: Iterable[ViewItem], title: str, names: Mapping[str, str]) -> None:
    def shown(item: str) -> str:
        return escape(f"{names[item]} ({item})" if item in names else item)

    table = _table("", "item", "score", "strategy", "because")
    for rank, line in enumerate(lines, 1):
        because = ", ".join(map(shown, line.because))
        table.add_row(str(rank), shown(line.item), f"{line.score:.4f}", line.strategy, because)
    out.print(f"[bold]{escape(title)}[/]", table, highlight=False)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, show_edge=False)


def _show_user(found: Mapping[str, Any]) -> None:
    """Single facts first, then each list as a table."""
    out.print(f"user [bold]{escape(found['user'])}[/]", highlight=False)
    for name, value in found.items():
        if not isinstance(value, list) and name != "user":
            out.print(f"{name:14} {escape(_said(value))}", highlight=False)
    for name, value in found.items():
        if isinstance(value, list) and value:
            table = _table(*value[0])
            for line in value:
                table.add_row(*(escape(_said(cell)) for cell in line.values()))
            out.print(f"\n[bold]{name}[/]", table)


def _said(value: object) -> str:
    """A value in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_said(each)}" for name, each in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def metrics(store_url: StoreUrl = None, json: Json = False) -> None:
    """What lists bring about: click-through rate, conversions, revenue, by strategy and A/B arm.

    The same as `GET tidewise:metrics`. Intervals and p-values hold however often one looks.

    Example: `tidewise metrics --json`
    """
    from state.lookup import Lookup

    settings = settings_of(store_url=store_url)
    with Lookup(settings.store_url, settings.prefix, settings.store_timeout_s) as lookups:
        found = lookups.metrics()
    if found is None:
        fail("nothing is known of lists that were shown yet", UNKNOWN)
    show_json(found) if json else _show_metrics(found)


def _show_metrics(found: ViewedMetrics) -> None:
    strategies = _table("strategy", "impressions", "clicks", "click-through rate", "conversions", "revenue")
    for one in found.strategies:
        counted = (str(one.impressions), str(one.clicks), _rate(one.ctr), str(one.conversions))
        strategies.add_row(escape(one.strategy), *counted, f"{one.revenue:.2f}")
    arms = _table("arm", "users", "who clicked", "who bought", "click-through rate", "conversions", "revenue")
    for arm in found.arms:
        rates = (_rate(arm.click_rate), _rate(arm.conversion), f"{100 * arm.ctr:.2f} %")
        arms.add_row(escape(arm.arm), str(arm.users), *rates, str(arm.conversions), f"{arm.revenue:.2f}")
    out.print(strategies, "", arms, highlight=False)
    for test in found.tests:
        said = f"{test.by}, {test.arm} against {test.against}: {_ratio(test.ratio)}, p = {test.p_value:.3g}"
        out.print(escape(said), highlight=False)
    out.print(
        f"as of {found.time}; intervals of {1 - found.alpha:.0%}, always valid", style="dim", highlight=False
    )


def _rate(rate: Rate) -> str:
    value, low, high = (100 * (each or 0.0) for each in (rate.value, rate.low, rate.high))
    return f"{value:.2f} % ({low:.2f} to {high:.2f})"


def _ratio(ratio: Rate) -> str:
    value, low, high = (
        "∞" if each is None else f"{each:.3f}" for each in (ratio.value, ratio.low, ratio.high)
    )
    return f"{value} times as many ({low} to {high})"


def digest(
    broker_url: BrokerUrl = None,
    store_url: StoreUrl = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until everything is processed.")] = 60.0,
    json: Json = False,
) -> None:
    """One number for what was counted: equal to the bit for the same events, whatever happened on the way.

    Waits until the workers have reached the ends of the logs. Covers users, items, decisions; neither offsets
    nor lists. Compare two deployments, or one before and after a crash.

    Example: `tidewise digest --wait 300 --json`
    """
    from stream.digest import digest as compute
    from stream.digest import members

    async def read(settings: Settings) -> Digest:
        async with opened(settings) as (store, log):
            return await compute(settings, store, log, wait)

    found = wait_for(read(settings_of(broker_url=broker_url, store_url=store_url)))
    if json:
        show_json(found)
    else:
        for name, value in members(found):
            out.print(f"{name:16} {value}", highlight=False)


def mend(
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="beginning: the log was made anew. end, or an offset: go on there. Left out: only look.",
            metavar="beginning|end|OFFSET",
        ),
    ] = None,
    broker_url: BrokerUrl = None,
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """Look for positions that do not fit their logs, and set them where you say.

    A worker refuses to run when a topic was deleted and made again, was cut, or lost events to retention
    before they were read. What happened only you know:

    - made anew: `--from beginning`; all of the new log counts, what was unread in the old one is lost.
    - cut (a broker lost its newest records): `--from end`; nothing that was counted counts twice.
    - retention: `--from beginning`; what was removed unread is lost.

    The state stays as it is. To be exact instead, restore a backup, or replay the events under a new prefix.

    Example: `tidewise mend`, then `tidewise mend --from beginning`
    """
    from stream.mend import examine
    from stream.mend import mend as set_positions

    if start is not None and start not in ("beginning", "end") and not start.isdecimal():
        raise typer.BadParameter(f"{start} is neither beginning, end nor an offset", param_hint="--from")

    async def work(settings: Settings) -> tuple[list[Misfit], list[Mended]]:
        async with opened(settings) as (store, log):
            misfits = await examine(settings, store, log)
            return misfits, await set_positions(settings, store, misfits, start) if start else []

    misfits, mended = wait_for(work(settings_of(broker_url=broker_url, store_url=store_url)))
    if json:
        show_json({"misfits": misfits, "mended": mended})
    else:
        _show_mended(misfits, mended)
    raise SystemExit(PROBLEM if misfits and not mended else 0)


def _show_mended(misfits: list[Misfit], mended: list[Mended]) -> None:
    for each in misfits:
        out.print(
            f"{each.why}; the log now holds {each.begin} to {each.end}", highlight=False, soft_wrap=True
        )
    for one in mended:
        out.print(f"{one.topic}/{one.partition}: position {one.was} set to {one.now}", highlight=False)
    if not misfits:
        out.print("every position fits its log", highlight=False)


COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(broker_url: BrokerUrl = None, store_url: StoreUrl = None, json: Json = False) -> None:
    """Examine broker, topics, store and clocks, and say what to do about each finding. Changes nothing.

    Ends with 1 on an error; a warning is no error.

    Example: `tidewise doctor --broker-url kafka://broker:9092 --store-url redis://store:6379/0`
    """
    from stream.doctor import examine

    findings = wait_for(examine(settings_of(broker_url=broker_url, store_url=store_url)))
    show_json(findings) if json else _show_findings(findings)
    raise SystemExit(PROBLEM if any(finding.level == "error" for finding in findings) else 0)


def _show_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        level = f"[{COLOURS[finding.level]}]{finding.level:8}[/]"
        out.print(f"{level} {escape(f'{finding.what}: {finding.detail}')}", highlight=False, soft_wrap=True)
        if finding.mend:
            out.print(f"         → {escape(finding.mend)}", highlight=False, soft_wrap=True)
