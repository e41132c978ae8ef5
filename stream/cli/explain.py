"""The command `tidewise explain`: why this item for this user."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from stream.cli.common import (
    PROBLEM,
    UNKNOWN,
    BrokerUrl,
    Json,
    StoreUrl,
    codes,
    fail,
    opened_store,
    out,
    settings_of,
    show_json,
    wait_for,
    warnings_only,
)

if TYPE_CHECKING:
    from rich.table import Table

    from stream.core.recommend.explain import Channel, Entry, Explanation
    from stream.explaining import Explained, Step
    from stream.settings import Settings

_MOST_ENTRIES = 3
"""Entries of a channel that are shown; `--json` has all."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=codes(PROBLEM, UNKNOWN))(explain)


def explain(
    user: Annotated[str, typer.Argument(help="A user, or an anonymous id.")],
    item: Annotated[str, typer.Argument(help="An item's id.")],
    broker_url: BrokerUrl = None,
    store_url: StoreUrl = None,
    json: Json = False,
) -> None:
    """Why this item for this user: every part of its score, and what came after scoring.

    Makes the user's list anew, by the worker's own code, from what the worker reads: use its settings.

    Example: `tidewise explain ann 1082185`
    """
    from stream.explaining import Unexplained, explained

    warnings_only()

    async def read(settings: Settings) -> Explained:
        async with opened_store(settings) as store:
            return await explained(settings, store, user, item)

    try:
        found = wait_for(read(settings_of(broker_url=broker_url, store_url=store_url)))
    except Unexplained as error:
        fail(str(error), UNKNOWN)
    show_json(found) if json else _show(found)


def _show(found: Explained) -> None:
    said, told = found.explanation, _Names(found.names)
    title = f"[bold]{told(found.item)}[/] for [bold]{escape(found.user)}[/], a {said.kind} user"
    out.print(title, highlight=False, soft_wrap=True)
    out.print(_verdict(said), highlight=False, soft_wrap=True)
    for reason in said.reasons:
        out.print(f"  {escape(reason)}", highlight=False, soft_wrap=True)
    if any(each.evidence for each in said.channels):
        out.print("", _channels(said, told), highlight=False)
    if said.features:
        out.print("", _features(said), highlight=False)
    if said.score:
        _show_sum(said)
    out.print("", _steps(found.steps), highlight=False)
    _show_published(found)
    for note in found.notes:
        out.print(f"note: {note}", style="dim", highlight=False, soft_wrap=True)


class _Names(dict[str, str]):
    """What the catalogue calls items."""

    def __call__(self, item: str) -> str:
        return escape(f"{self[item]} ({item})" if item in self else item)


def _verdict(said: Explanation) -> str:
    if said.place is not None:
        return f"score {said.score:.6g}, place {said.place} of {said.candidates} candidates"
    if said.score:
        return f"score {said.score:.6g}, but it may not be listed:"
    return f"not among the user's {said.candidates} candidates:"


def _table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    return table


def _channels(said: Explanation, told: _Names) -> Table:
    numbers = ("evidence", "weight", "contribution")
    table = _table("component", "channel", *numbers, "because", numbers=numbers)
    for each in said.channels:
        if each.evidence:
            figures = (f"{each.evidence:.4g}", f"{each.weight:.4g}", f"{each.contribution:.6f}")
            table.add_row(each.component, each.channel, *figures, _because(each, told))
    return table


def _because(channel: Channel, told: _Names) -> str:
    entries = channel.entries[:_MOST_ENTRIES]
    lines = [_reason(entry, told) for entry in entries]
    more = len(channel.entries) - len(entries)
    return "\n".join([*lines, *([f"and {more} more"] if more else [])])


def _reason(entry: Entry, told: _Names) -> str:
    figures = [said.format(entry.figures[name]) for name, said in _SAID.items() if name in entry.figures]
    subject = [told(entry.because)] if entry.because else []
    return ": ".join([*subject, *([", ".join(figures)] if figures else [])])


_SAID = {
    "count": "count {:.4g}",
    "row sum": "row {:.4g}",
    "column sum": "column {:.4g}",
    "total": "total {:.4g}",
    "discount": "× {:.3g}",
    "likeness": "× alike {:.3g}",
    "cosine": "cosine {:.3g}",
    "times": "times {:.0f}",
    "days ago": "{:.3g} days ago",
    "popularity": "popularity {:.4g}",
    "now": "now {:.4g}",
    "usual": "usual {:.4g}",
    "season": "season {:.4g}",
}
"""How figures of an entry are shown; `--json` has all."""


def _features(said: Explanation) -> Table:
    numbers = ("value", "weight", "contribution")
    table = _table("feature", *numbers, numbers=numbers)
    for each in said.features:
        if each.contribution:
            table.add_row(each.feature, f"{each.value:.4g}", f"{each.weight:.4g}", f"{each.contribution:.6f}")
    return table


def _show_sum(said: Explanation) -> None:
    total = sum(each.contribution for each in said.channels) + said.least
    exponent = sum(each.contribution for each in said.features)
    line = f"channels {total:.6g} × features exp({exponent:.6g}) = {said.factor:.6g}: score {said.score:.6g}"
    out.print(f"\n{line}", highlight=False, soft_wrap=True)


def _steps(steps: Iterable[Step]) -> Table:
    table = _table("after", "place in the list", numbers=("place in the list",))
    for step in steps:
        table.add_row(step.step, "not in it" if step.place is None else str(step.place))
    return table


def _show_published(found: Explained) -> None:
    line = found.published
    shown = (
        "not in it" if line is None else f"place {line.place}, score {line.score:.6g} by what was known then"
    )
    out.print(f"\npublished list of {found.time}: {shown}", highlight=False, soft_wrap=True)
    out.print(f"the mixture has learned from {found.learned} events", style="dim", highlight=False)
