"""The command `loyalty draw`: who wins a contest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from stream.cli.common import (
    PROBLEM,
    UNKNOWN,
    Json,
    StoreUrl,
    codes,
    fail,
    opened_store,
    out,
    settings_of,
    show_json,
    wait_for,
)

if TYPE_CHECKING:
    from stream.contests import Draw
    from stream.core.loyalty import Entries
    from stream.settings import Settings

loyalty = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(loyalty, name="loyalty", help="The loyalty program: drawing contests.")


@loyalty.callback()
def group() -> None:
    """The loyalty program: drawing contests."""


@loyalty.command("draw", epilog=codes(PROBLEM, UNKNOWN))
def draw_contest(
    contest: Annotated[str, typer.Argument(help="The contest's name.")],
    seed: Annotated[str, typer.Option(help="Published; nobody may know it before entries are closed.")],
    winners: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1,
    purpose: Annotated[
        str, typer.Option(help="They must have granted it; entries of others do not count.")
    ] = "personalisation",
    entries: Annotated[Path | None, typer.Option(help="Write the entry list to this file.")] = None,
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """Draw a contest's winners: the same for the same seed and entries, so that anybody can repeat it.

    Example: `tidewise loyalty draw spring --seed "DAX 22417.83" --winners 3 --entries entries.tsv`
    """
    from stream.contests import drawn, entered

    async def read(settings: Settings) -> tuple[list[Entries], int]:
        async with opened_store(settings) as store:
            return await entered(settings, store, contest, purpose)

    found, left_out = wait_for(read(settings_of(store_url=store_url)))
    if not found:
        fail(f"contest {contest} has no entries of users who may take part ({left_out} left out)", UNKNOWN)
    if entries is not None:
        from stream.core.loyalty import entry_list

        entries.write_bytes(entry_list(found))
    result = drawn(found, left_out, contest, seed, winners)
    show_json(result) if json else _show(result)


def _show(found: Draw) -> None:
    out.print(f"contest {escape(found.contest)}, seed {escape(found.seed)}", highlight=False)
    out.print(f"{found.entries:,} entries of {found.users:,} users; {found.left_out:,} users left out")
    out.print(f"hash of the entry list {found.hash}", highlight=False, soft_wrap=True)
    for rank, one in enumerate(found.winners, 1):
        line = f"{rank}. {escape(one.user)}, entry {one.entry}, ticket {one.ticket}"
        out.print(line, highlight=False, soft_wrap=True)
