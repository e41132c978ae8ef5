"""The command `refresh`: models fitted from what the store keeps of users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.common import (
    PROBLEM,
    USAGE,
    BrokerUrl,
    Json,
    StoreUrl,
    codes,
    err,
    fail,
    opened_store,
    out,
    settings_of,
    show_json,
    wait_for,
)

if TYPE_CHECKING:
    from stream.refresh import Refreshed
    from stream.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=codes(PROBLEM))(refresh)


def refresh(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="pure-svd, nmf or autoencoder; again for more. Default: those in `components`."
        ),
    ] = None,
    broker_url: BrokerUrl = None,
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """Fit models from the users in the store and hand them to all workers.

    Reads the interests of all users, some at a time, beside running workers; publishes to the topic `models`.
    A worker whose `components` name a model goes over to the new one when it has all of it. Erased users are
    in no model that is fitted after their erasure.

    Examples:

    - `tidewise refresh --model autoencoder`
    - `TIDEWISE_REFRESH_EVERY_S=86400 tidewise worker` (once a day, without this command)
    """
    from stream.core.models.model import NAMES
    from stream.refresh import configured

    settings = settings_of(broker_url=broker_url, store_url=store_url)
    names = list(dict.fromkeys(model or configured(settings)))
    if not names:
        fail(
            f"no model is in the setting `components`: add one, or name it with --model: {', '.join(NAMES)}",
            USAGE,
        )
    if strange := set(names) - set(NAMES):
        fail(f"--model {min(strange)}: there are {', '.join(NAMES)}", USAGE)
    done = wait_for(_refreshed(settings, names))
    for idle in [name for name in names if name not in settings.components]:
        err.print(f"{idle} is not among `components` here: lists use it where a worker's settings name it")
    if json:
        show_json(done)
        return
    for each in done:
        out.print(
            f"{each.model:12} {each.users} users, {each.items} items, {each.chunks} messages,"
            f" {each.seconds:.1f} s",
            highlight=False,
        )


async def _refreshed(settings: Settings, names: list[str]) -> list[Refreshed]:
    import time

    from aiokafka.errors import KafkaError

    from stream.admin import BrokerError, describe
    from stream.kafka import KafkaSender
    from stream.refresh import PARTITION, refresh
    from stream.topics import MODELS

    topic = MODELS.full(settings)
    if topic not in (await describe(settings)).partitions:
        raise BrokerError(f"topic {topic} is missing: run `tidewise topics create`")
    async with opened_store(settings) as store:
        try:
            async with KafkaSender(settings) as sender:
                version = time.time_ns() // 1_000_000
                return await refresh(
                    store, settings, names, version, lambda sent: sender.publish(PARTITION, sent)
                )
        except KafkaError as error:
            raise BrokerError(f"broker {settings.bootstrap}: {error}") from error
