"""The command `audience`: whom to address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Literal

import typer

from stream.cli.common import (
    PROBLEM,
    UNKNOWN,
    USAGE,
    BrokerUrl,
    Json,
    StoreUrl,
    codes,
    err,
    fail,
    opened_store,
    settings_of,
    show_json,
    wait_for,
    warnings_only,
)

if TYPE_CHECKING:
    from state.store import Store
    from stream.audience import Audience
    from stream.core.campaigns import Campaign
    from stream.settings import Settings

_LEFT_OUT = {
    "identified": "are not known",
    "consent": "have not granted channel and purpose",
    "holdout": "are held out",
    "bought": "bought it lately",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=codes(PROBLEM, UNKNOWN))(audience)


def audience(
    item: Annotated[str | None, typer.Option(help="Who is likely to want this item.")] = None,
    campaign: Annotated[str | None, typer.Option(help="Whom this campaign is for.")] = None,
    segment: Annotated[str | None, typer.Option(help="The customers of this RFM segment.")] = None,
    top: Annotated[int, typer.Option(min=1, help="At most so many users.")] = 1000,
    channel: Annotated[
        str | None,
        typer.Option(help="They must have granted it; default: the campaign's channels, or email."),
    ] = None,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="A line a user.")] = "jsonl",
    output: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    broker_url: BrokerUrl = None,
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """Whom to address about an item, for a campaign, or of a segment: the best first, with reasons.

    An item: by the chance that it is what the user does something with next. A campaign: whose message is
    pending, or, where it has an audience, who is in it; by money spent. A segment: its customers, by money
    spent. Who has not granted channel and purpose and who is held out is left out; how many, stands on
    standard error.

    Examples:

    - `tidewise audience --item 1082185 --top 500`
    - `tidewise audience --segment cannot-lose --format csv --output letters.csv`
    """
    from stream.audience import Nobody
    from stream.core.campaigns import SEGMENTS

    if sum(each is not None for each in (item, campaign, segment)) != 1:
        fail("give one of --item, --campaign and --segment", USAGE)
    if segment is not None and segment not in SEGMENTS:
        fail(f"--segment {segment}: there are {', '.join(SEGMENTS)}", USAGE)
    settings = settings_of(broker_url=broker_url, store_url=store_url)
    warnings_only()
    try:
        found = wait_for(_found(settings, item, campaign, segment or "", top, channel))
    except Nobody as error:
        fail(str(error), UNKNOWN)
    except ValueError as error:
        fail(str(error))
    _tell_left_out(found)
    if json:
        show_json(found)
    else:
        with _opened(output) as file:
            _write(found, form, file)


async def _found(
    settings: Settings, item: str | None, campaign: str | None, segment: str, top: int, channel: str | None
) -> Audience:
    from stream.audience import for_item, of_campaign, of_segment
    from stream.explaining import caught_up

    async with opened_store(settings) as store:
        settings = await _agreed(settings, store)
        if item is not None:
            async with caught_up(settings) as (items, told):
                return await for_item(settings, store, items, told, item, top, channel)
        if campaign is not None:
            given = await _campaign(settings, campaign)
            return await of_campaign(settings, store, campaign, given, top, channel)
        return await of_segment(settings, store, segment, top, channel)


async def _agreed(settings: Settings, store: Store) -> Settings:
    """With the partitions that the deployment has."""
    agreed = await store.deployment({})
    return settings.model_copy(update={"partitions": int(agreed.get("partitions", settings.partitions))})


async def _campaign(settings: Settings, name: str) -> Campaign | None:
    """The newest version that was published, else the file's; None: the default one."""
    from stream.audience import Nobody
    from stream.campaign_files import running
    from stream.publishing import published

    newest = (await published(settings)).newest()
    if name in newest:
        return newest[name].version.campaign
    files = {each.id: each for each in running(settings.campaigns)}
    if name not in files and name != "abandoned-cart":
        raise Nobody(f"there is no campaign {name}: see `tidewise campaigns status`")
    return files.get(name)


def _tell_left_out(found: Audience) -> None:
    said = [f"{count:,} {_LEFT_OUT[reason]}" for reason, count in found.left_out.items()]
    text = f"{len(found.users):,} users; left out: {', '.join(said) or 'nobody'}"
    err.print(text, highlight=False, soft_wrap=True)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
        return
    with output.open("w", encoding="utf-8", newline="") as file:
        yield file


def _write(found: Audience, form: str, file: IO[str]) -> None:
    """A line a user; CSV as of RFC 4180, the reasons in one field."""
    import csv

    import msgspec

    if form == "jsonl":
        file.writelines(msgspec.json.encode(person).decode() + "\n" for person in found.users)
        return
    rows = csv.writer(file)
    rows.writerow(["user", "score", "channel", "reasons"])
    rows.writerows([each.user, each.score, each.channel, "; ".join(each.reasons)] for each in found.users)
