"""Commands that look: `lookup`, `digest`, `doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.table import Table

from stream.cli.common import BrokerUrl, Json, StoreUrl, fail, out, settings_of, show_json
from stream.settings import Settings

T = TypeVar("T")
lookup = typer.Typer(help="Read what frontends read: one GET each.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(lookup, name="lookup")
    app.command()(digest)
    app.command()(doctor)


def _ask(store_url: str | None, question: Callable[[Lookup], ViewList | None], json: bool, what: str) -> None:
    from redis.exceptions import RedisError

    settings = settings_of(store_url=store_url)
    try:
        with Lookup(settings.store_url, settings.prefix) as lookups:
            found = question(lookups)
    except RedisError as error:
        fail(f"store {settings.store_url}: {error}; is it running, and is TIDEWISE_STORE_URL its address?")
    if found is None:
        fail(f"nothing is known of {what} yet", code=4)
    show_json(msgspec.to_builtins(found)) if json else _show_list(found, what)


def _show_list(found: ViewList, what: str) -> None:
    table = Table(title=what, caption=f"as of {found.time}, version {found.version}")
    for name in ("item", "score", "strategy", "because"):
        table.add_column(name)
    for line in found.items:
        table.add_row(line.item, f"{line.score:.4f}", line.strategy, ", ".join(line.because))
    out.print(table)


@lookup.command()
def recs(user: str, store_url: StoreUrl = None, json: Json = False) -> None:
    """A user's list. Somebody nobody knows gets what is trending."""
    _ask(store_url, lambda lookups: lookups.recs(user), json, f"recommendations for {user}")


@lookup.command()
def neighbors(item: str, store_url: StoreUrl = None, json: Json = False) -> None:
    """Items similar to an item."""
    _ask(store_url, lambda lookups: lookups.neighbors(item), json, f"items similar to {item}")


@lookup.command()
def trending(store_url: StoreUrl = None, json: Json = False) -> None:
    """What is popular now."""
    _ask(store_url, lambda lookups: lookups.trending(), json, "trending")


@lookup.command()
def user(name: str, store_url: StoreUrl = None, json: Json = False) -> None:
    """What the state holds of a user: history, interest, cart, consent, timers."""
    from stream.inspection import user_state

    async def read(settings: Settings) -> dict[str, object] | None:
        async with opened(settings) as (store, _):
            return await user_state(settings, store, name)

    found = _run(read, settings_of(store_url=store_url))
    if found is None:
        fail(f"nothing is known of user {name} yet", code=4)
    show_json(found) if json else out.print(found)


def digest(
    broker_url: BrokerUrl = None,
    store_url: StoreUrl = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait until everything is processed.")] = 60.0,
    json: Json = False,
) -> None:
    """One number for what was counted: equal to the bit for the same events, whatever happened on the way."""
    from stream.digest import Unsettled
    from stream.digest import digest as compute

    async def read(settings: Settings) -> dict[str, object]:
        async with opened(settings) as (store, log):
            return msgspec.structs.asdict(await compute(settings, store, log, wait))

    try:
        found = _run(read, settings_of(broker_url=broker_url, store_url=store_url))
    except Unsettled as error:
        fail(str(error), code=5)
    if json:
        show_json(found)
    else:
        for name, value in found.items():
            out.print(f"{name:16} {value}", highlight=False)


def doctor(broker_url: BrokerUrl = None, store_url: StoreUrl = None, json: Json = False) -> None:
    """Examine broker, topics, store and clocks, and say what to do about each finding. Exit 1 on an error."""
    from stream.doctor import examine

    findings = asyncio.run(examine(settings_of(broker_url=broker_url, store_url=store_url)))
    if json:
        show_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        colour = {"ok": "green", "warning": "yellow", "error": "red"}
        for finding in findings:
            out.print(f"[{colour[finding.level]}]{finding.level:8}[/] {finding.what}: {finding.detail}")
            if finding.mend:
                out.print(f"         → {finding.mend}")
    raise SystemExit(any(finding.level == "error" for finding in findings))


def _run(read: Callable[[Settings], Awaitable[T]], settings: Settings) -> T:
    async def main() -> T:
        return await read(settings)

    return asyncio.run(main())
