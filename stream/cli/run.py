"""Commands that run something: `up`, `worker`, `topics create`, `demo`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from stream.cli.common import (
    BrokerUrl,
    Json,
    StoreUrl,
    configure_logging,
    fail,
    out,
    run_until_signal,
    settings_of,
    show_json,
)
from stream.settings import Settings

topics = typer.Typer(help="Topics on the broker.", no_args_is_help=True)
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what libraries say, too.")]
Port = Annotated[int, typer.Option(help="A fixed port; 0 takes a free one.")]

NEXT = """[bold]Tidewise is up.[/bold]  broker [cyan]{broker}[/cyan]   store [cyan]{store}[/cyan]

In another terminal:

  export TIDEWISE_BROKER_URL={broker} TIDEWISE_STORE_URL={store}
  tidewise replay simulator --events 20000     # a simulated shop's traffic
  tidewise replay complete-journey --limit 20000   # real shopping baskets
  tidewise lookup trending
  tidewise lookup recs USER
  tidewise doctor

Everything here is in memory and ends with this program (Ctrl-C).
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(worker)
    app.add_typer(topics, name="topics")
    app.command()(demo)


def up(
    broker_port: Port = 0,
    store_port: Port = 0,
    partitions: Annotated[int | None, typer.Option(help="Partitions of every topic.")] = None,
    verbose: Verbose = False,
) -> None:
    """Start a broker, a store and a worker on this machine, and stay up. Prints what to try next."""
    from stream.embedded import embedded

    configure_logging(verbose)
    with embedded(broker_port, store_port) as urls:
        settings = settings_of(broker_url=urls.broker, store_url=urls.store, partitions=partitions, **SHORT)
        _work(settings, NEXT.format(broker=urls.broker, store=urls.store))


SHORT = {"session_timeout_s": 6.0, "rebalance_timeout_s": 6.0, "heartbeat_s": 1.0}
"""The embedded broker lets a group join wait out half of the rebalance timeout: keep it short there."""


def worker(broker_url: BrokerUrl = None, store_url: StoreUrl = None, verbose: Verbose = False) -> None:
    """Run one worker against any Kafka and any Redis or Valkey. Run more of them to share the partitions."""
    configure_logging(verbose)
    _work(settings_of(broker_url=broker_url, store_url=store_url), None)


def _work(settings: Settings, banner: str | None) -> None:
    from stream.app import Refused, Worker
    from stream.delivery import LogMismatch

    async def start(stopping: asyncio.Event) -> None:
        from stream.admin import create_topics

        if banner is not None:
            await create_topics(settings)
        one = Worker(settings)
        running = asyncio.create_task(one.run())
        waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(one.ready.wait())]
        await asyncio.wait([running, waits[1], waits[0]], return_when=asyncio.FIRST_COMPLETED)
        if banner is not None and one.ready.is_set():
            out.print(banner, soft_wrap=True)
        await asyncio.wait([running, waits[0]], return_when=asyncio.FIRST_COMPLETED)
        one.stop()
        for wait in waits:
            wait.cancel()
        await running

    try:
        run_until_signal(start, settings.stop_within_s)
    except (Refused, LogMismatch) as error:
        fail(f"worker stopped: {error}", code=3)


@topics.command("create")
def create(broker_url: BrokerUrl = None, json: Json = False) -> None:
    """Create every topic that is not there yet; a topic with another number of partitions is an error."""
    from stream.admin import create_topics

    made = asyncio.run(create_topics(settings_of(broker_url=broker_url)))
    show_json(made) if json else out.print(made)


def demo(
    json: Json = False,
    lines: Annotated[int, typer.Option(help="Purchase lines to replay, at least.")] = 210_000,
) -> None:
    """Replay real shopping through Kafka and watch similar items, personal lists and nudges change."""
    from stream.cli.demo import run_demo

    raise SystemExit(run_demo(lines, json))
