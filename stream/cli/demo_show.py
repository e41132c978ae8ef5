"""What the demo prints: plain data in, things for rich out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from state.lookup import ViewList
from stream.status import Status
from stream.times import time_text

if TYPE_CHECKING:
    from stream.cli.demo import DemoSummary

Name = Callable[[str], str]
RANKS = 6
"""Entries of a list that are shown."""


@dataclass
class Meter:
    """What is measured while the replay runs."""

    total: int | None = None
    sent: int = 0
    time_ms: int = 0
    done: int = 0
    baskets: int = 0
    rate: float = 0.0
    lag: Mapping[str, int] = field(default_factory=dict)
    latency_s: float | None = None
    _past: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=8))

    def sample(self, now: Status, at_s: float, topics: AbstractSet[str]) -> None:
        """Take over a status; the rate is that of the last seconds."""
        self.done = sum(at for (topic, _), at in now.positions.items() if topic in topics)
        self.baskets, self.lag = now.events, now.lag
        self._past.append((at_s, self.done))
        since, before = self._past[0]
        self.rate = (self.done - before) / (at_s - since) if at_s > since else 0.0


def title(note: str, lines: int) -> RenderableType:
    """What is going to happen, and with which data."""
    text = f"Real-time recommendations from {lines:,} purchase lines of a grocer.\n[dim]{note}[/]"
    return Panel(text, title="[bold]Tidewise[/]", title_align="left", width=78, border_style="cyan")


def started(broker: str, store: str, seconds: float) -> RenderableType:
    """Where everything runs."""
    return f"[green]✓[/] broker, store and a worker are up ({seconds:.1f} s)  [dim]{broker}  {store}[/]\n"


def _heading(text: str, after: str = "") -> Text:
    return Text.from_markup(f"\n[bold cyan]{escape(text)}[/]  [dim]{escape(after)}[/]")


def live(meter: Meter) -> RenderableType:
    """The state of the replay."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", width=11)
    table.add_column(width=60)
    done = f"{meter.done:,} of {meter.total:,}" if meter.total else f"{meter.done:,}"
    table.add_row("", ProgressBar(total=meter.total, completed=meter.done, width=50))
    table.add_row("event time", time_text(meter.time_ms)[:16].replace("T", " ") if meter.time_ms else "-")
    table.add_row("sent", f"{meter.sent:,} messages")
    table.add_row("processed", f"{done} messages, {meter.baskets:,} baskets")
    table.add_row("throughput", f"{meter.rate:,.0f} messages/s")
    table.add_row("lag", "  ".join(f"{topic} {lag:,}" for topic, lag in meter.lag.items()) or "-")
    latency = "-" if meter.latency_s is None else f"{meter.latency_s:.2f} s"
    table.add_row("latency", f"{latency} from sending to a fresh list, the backlog included")
    return Group(
        _heading("Replay", "the catalogue, then the baskets, as fast as possible"), Padding(table, (0, 2))
    )


def _table(*columns: str) -> Table:
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=True, header_style="dim", show_edge=False)


def similar_items(found: Sequence[tuple[str, ViewList]], name: Name) -> RenderableType:
    """A column a product."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for item, _ in found:
        table.add_column(escape(name(item)), width=30, no_wrap=True, header_style="bold")
    for rank in range(RANKS):
        lines = [view.items[rank] if rank < len(view.items) else None for _, view in found]
        table.add_row(*(escape(name(line.item)) if line else "" for line in lines))
    return Group(
        _heading("Similar items", "GET tidewise:neighbors:<item> (different products may share a name)"),
        table,
    )


def household(user: str, item: str, before: ViewList, after: ViewList, name: Name) -> RenderableType:
    """The list before, the purchase, the list after."""
    ranks = {line.item: rank for rank, line in enumerate(before.items, 1)}
    first, second = _table("", "item", "because"), _table("", "was", "item", "because")
    for rank, line in enumerate(before.items[:RANKS], 1):
        first.add_row(str(rank), _short(name, line.item), _because(line.because, name))
    for rank, line in enumerate(after.items[:RANKS], 1):
        was = ranks.get(line.item)
        cells = (str(rank), str(was) if was else "new", _short(name, line.item), _because(line.because, name))
        second.add_row(*cells, style="green" if item in line.because else "")
    return Group(
        _heading(f"Household {user}", f"GET tidewise:recs:{user}"),
        first,
        f"\n  [bold]It buys: {escape(name(item))}[/]\n",
        second,
    )


def _short(name: Name, item: str) -> Text:
    text = Text(name(item), no_wrap=True)
    text.truncate(38, overflow="ellipsis", pad=True)
    return text


def _because(items: Sequence[str], name: Name) -> Text:
    return _short(name, items[0]) if items else Text("it is trending", style="dim")


def carts(
    begin_ms: int, items: Mapping[str, str], nudges: Sequence[Any], decisions: Sequence[Any], name: Name
) -> RenderableType:
    """What two shoppers did, and what was decided."""
    lines = [
        (begin_ms + 2 * 60_000, f"anna puts 2 × {name(items['anna'])} into her cart and leaves"),
        (begin_ms + 2 * 60_000, f"ben puts 2 × {name(items['ben'])} into his cart"),
        (begin_ms + 22 * 60_000, "ben buys them"),
    ]
    table = Table.grid(padding=(0, 2))
    for time_ms, text in lines:
        table.add_row(Text(time_text(time_ms)[11:16], style="dim"), "", escape(text))
    for nudge in nudges:
        what = ", ".join(f"{line['quantity']} × {name(line['item'])}" for line in nudge["items"])
        said = f"[bold green]nudge to {nudge['user']} by {nudge['channel']}:[/] {escape(what)}"
        table.add_row(_clock(nudge["time"]), "[dim]engagements[/]", said)
    for each in sorted(decisions, key=lambda decision: int(decision["time"])):
        reason = f" by {each['reason']}" if each["reason"] else ""
        what = f"{each['campaign']} for {each['user']}, due {_clock(each['due'])}"
        said = f"{what}: [bold]{each['outcome']}{reason}[/]"
        table.add_row(_clock(each["time"]), "[dim]decisions[/]", said)
    return Group(
        _heading("Abandoned carts", "live events; 45 minutes without a change"), Padding(table, (1, 2))
    )


def _clock(time_ms: int) -> str:
    return time_text(time_ms)[11:16]


def summary(found: DemoSummary) -> RenderableType:
    """The figures."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    rows = {
        "events": f"{found.events:,} counted, each once; {found.dead_letters} dead letters",
        "purchase lines": f"{found.lines:,}",
        "throughput": f"{found.events_per_s:,.0f} events/s, {found.lines_per_s:,.0f} purchase lines/s",
        "latency": f"p50 {found.latency_ms['p50']:.0f} ms, p99 {found.latency_ms['p99']:.0f} ms"
        " from an event to its user's fresh list, at 200 events/s",
        "lists": f"{found.recommendations:,} recommendations, {found.neighbors:,} neighbors",
        "engagement": f"nudges: {found.engagements}, decisions: {found.decisions}",
        "took": f"{found.duration_s:.0f} s",
    }
    for row in rows.items():
        table.add_row(*row)
    return Group(_heading("Summary"), Padding(table, (0, 2)), f"\n[dim]{found.note}[/]")
