"""Commands that measure: `evaluate`, `compare`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stream.cli.common import PROBLEM, Json, codes, err, fail, out, show_json, wait_for

if TYPE_CHECKING:
    from rich.table import Table

    from stream.evaluation.compare import Compared
    from stream.evaluation.history import History
    from stream.evaluation.measures import Answers, Catalog, Measure
    from stream.evaluation.protocols import Progress
    from stream.settings import Settings

Protocol = Literal["leave-one-out", "sessions", "next-basket", "prequential", "coupons"]
Data = Annotated[
    str, typer.Argument(help="A file of one of the forms in docs/quality.md, or complete-journey.")
]

_HAD = 0.05
"""Share of targets that cannot be found from which on it is told."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=codes(PROBLEM))(evaluate)
    app.command(epilog=codes(PROBLEM))(compare)


def evaluate(
    data: Data,
    protocol: Annotated[Protocol, typer.Option(help="What is predicted from what.")] = "prequential",
    attributes: Annotated[
        Path | None, typer.Option(exists=True, help="JSON of items' attributes: {item: [value, …]}.")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(exists=True, help="sessions: what is predicted; by default the last fifth."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(exists=True, help="Settings (TOML); default: as everywhere.")
    ] = None,
    other: Annotated[
        Path | None,
        typer.Option("--compare", exists=True, help="Another configuration, on the same queries."),
    ] = None,
    components: Annotated[
        bool, typer.Option("--components", help="Also each component alone, and all without it.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Also: are lists through broker, worker and store the same?")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="sessions: the test counts and teaches as it comes.")
    ] = False,
    static: Annotated[
        bool, typer.Option("--static", help="next-basket: nothing of the test period counts for items.")
    ] = False,
    k: Annotated[str, typer.Option(help="Lengths of lists, with commas.")] = "5,10,20",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many interactions.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture: by week, or bars.")] = None,
    json: Json = False,
) -> None:
    """Measure the lists on recorded data: precision, recall, NDCG, MRR, coverage and more, with intervals.

    The same code as in the worker, with the same settings. Each number has a 95 % interval by bootstrap over
    users. With --json the last line is one JSON object.

    Examples:

    - `tidewise evaluate beauty.txt --protocol leave-one-out --attributes beauty_attributes.json`
    - `tidewise evaluate train.txt --test test.txt --protocol sessions`
    - `tidewise evaluate complete-journey --protocol next-basket --json`
    - `tidewise evaluate complete-journey --plot weeks.png` (test, then learn: the curve by week)
    """
    from stream.evaluation.history import HistoryError

    _demand("--test, --online", protocol == "sessions", test is not None or online, "sessions")
    _alone(protocol, any((attributes, config, other, components, live, plot, limit)) or k != "5,10,20")
    _demand("--static", protocol == "next-basket", static, "next-basket")
    try:
        if plot is not None:
            _demand_picture(plot)
        if protocol == "coupons":
            _coupons(data, json)
            return
        job = _Job(data, protocol, attributes, test, k, limit, online, static, json)
        job.show("all", config)
        if components:
            job.components(config)
        if other is not None:
            job.compare(config, other)
        if live:
            job.live(config)
        if plot is not None:
            job.plot(plot)
        if json:
            job.finish()
    except HistoryError as error:
        fail(str(error))


def compare(
    a: Annotated[Path, typer.Argument(exists=True, help="Settings (TOML).")],
    b: Annotated[Path, typer.Argument(exists=True, help="Other settings.")],
    log: Data,
    k: Annotated[int, typer.Option(help="Length of the lists.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many interactions.")] = None,
    json: Json = False,
) -> None:
    """Which lists would change under other settings, whose and how, and what that does to each metric.

    Example: `tidewise compare tidewise.toml candidate.toml events.jsonl.gz`
    """
    from stream.evaluation.compare import compared
    from stream.evaluation.history import HistoryError, read

    try:
        history = _first(read(log), limit)
        with _progress("two configurations") as progress:
            found = wait_for(compared(settings_at(a), settings_at(b), history, k, progress))
    except HistoryError as error:
        fail(str(error))
    show_json(found) if json else _show_compared(found)


def settings_at(path: Path | None) -> Settings:
    """Settings of a TOML file on top of the environment; of none, those of everywhere."""
    import os

    from stream.settings import Settings

    if path is None:
        return Settings()
    before = os.environ.get("TIDEWISE_CONFIG")
    os.environ["TIDEWISE_CONFIG"] = str(path)
    try:
        return Settings()
    finally:
        if before is None:
            del os.environ["TIDEWISE_CONFIG"]
        else:
            os.environ["TIDEWISE_CONFIG"] = before


def _demand(options: str, fits: bool, given: bool, protocol: str) -> None:
    if given and not fits:
        raise typer.BadParameter(f"means something with --protocol {protocol} alone", param_hint=options)


def _alone(protocol: Protocol, given: bool) -> None:
    if protocol == "coupons" and given:
        raise typer.BadParameter("ranks coupons, not lists: it takes --json alone", param_hint="coupons")


def _demand_picture(path: Path) -> None:
    """Before the work is done, not after it."""
    from stream.evaluation.picture import formats

    if path.suffix[1:].lower() not in (known := formats()):
        raise typer.BadParameter(f"{path}: should end with one of .{', .'.join(known)}", param_hint="--plot")
    if not path.parent.is_dir():
        raise typer.BadParameter(f"{path}: there is no folder {path.parent}", param_hint="--plot")


class _Job:
    """One data set and protocol; ``results`` by name of the configuration, ``differences`` likewise."""

    def __init__(
        self,
        data: str,
        protocol: Protocol,
        attributes: Path | None,
        test: Path | None,
        k: str,
        limit: int | None,
        online: bool,
        static: bool,
        json: bool,
    ) -> None:
        from stream.evaluation.history import read

        self.data, self.protocol, self.json = data, protocol, json
        self.ks = _lengths(k)
        self._how = {"online": online, "static": static}
        self.history = _first(read(data, attributes), limit)
        self._test = None if test is None else read(str(test))
        self.results: dict[str, tuple[Answers, Mapping[str, Measure]]] = {}
        self.differences: dict[str, Mapping[str, Measure]] = {}
        self._lived: dict[str, int] = {}

    def run(self, name: str, settings: Settings) -> None:
        """Evaluate a configuration."""
        from stream.evaluation.measures import measured
        from stream.evaluation.protocols import answers

        with _progress(name) as progress:
            found, _ = wait_for(
                answers(
                    settings, self.protocol, self.history, self._test,
                    size=max(self.ks), progress=progress, **self._how,
                )
            )  # fmt: skip
        self.results[name] = found, measured(found, self._catalog(), self.ks)

    def _catalog(self) -> Catalog:
        from stream.evaluation.measures import Catalog
        from stream.evaluation.protocols import popularity, vectors

        history = self.history
        if self._test is not None:
            from stream.evaluation.history import together

            history, _ = together(history, self._test)
        return Catalog(popularity(history), vectors(history))

    def show(self, name: str, config: Path | None) -> None:
        """Evaluate and print the table of all measures."""
        self.run(name, settings_at(config))
        asked = self.results[name][0].user
        err.print(f"{len(asked):,} queries of {len(set(asked.tolist())):,} users")
        self._warn(len(set(asked.tolist())))
        if not self.json:
            out.print(_table(f"{self.history.name}, {self.protocol}", self.results[name][1]))

    def _warn(self, asked: int) -> None:
        """Of what makes the figures of `leave-one-out` mean less than they seem to."""
        from stream.evaluation.protocols import had_before

        if self.protocol != "leave-one-out":
            return
        if short := len(set(self.history.user.tolist())) - asked:
            err.print(f"{short:,} users with fewer than three events are not asked")
        if (share := had_before(self.history)) > _HAD:
            err.print(
                f"{share:.0%} of the targets were had before, and what a user had is left out: no list can"
                " hold them. Where users come back to items, next-basket, sessions or prequential fits better"
            )

    def components(self, config: Path | None) -> None:
        """Each component alone, and all without it."""
        settings = settings_at(config)
        for each in settings.components:
            self.run(f"only {each}", settings.model_copy(update={"components": [each]}))
            rest = [one for one in settings.components if one != each]
            if rest:
                self.run(f"without {each}", settings.model_copy(update={"components": rest}))
        if not self.json:
            measures = {name: found for name, (_, found) in self.results.items()}
            out.print(_side_by_side(measures, 10 if 10 in self.ks else max(self.ks)))

    def compare(self, config: Path | None, other: Path) -> None:
        """Another configuration, and whether the difference is more than chance."""
        from stream.evaluation.measures import differences

        self.run(str(other), settings_at(other))
        name, a, b = f"{other} − {config or 'default'}", self.results["all"][0], self.results[str(other)][0]
        self.differences[name] = differences(a, b, self._catalog(), self.ks)
        if not self.json:
            out.print(_table(name, self.differences[name]))

    def live(self, config: Path | None) -> None:
        """The same lists through broker, worker and store."""
        from stream.evaluation.live import live

        with _progress("live") as progress:
            found = wait_for(live(settings_at(config), self.history, progress))
        err.print(
            f"live: {found.equal} of {found.users} lists equal those in process, after all of {self.data}"
        )
        self._lived = {"lists": found.users, "equal": found.equal}
        if found.equal < found.users:
            fail(f"{found.users - found.equal} lists differ: {'; '.join(found.differences[:5])}")

    def plot(self, path: Path) -> None:
        """The curve by week, where there are several, else bars with intervals."""
        from stream.evaluation.picture import draw

        draw(path, f"{self.history.name}, {self.protocol}", self.results, max(self.ks))
        err.print(f"{path} written")

    def finish(self) -> None:
        """One JSON line of `live`, and for each difference and configuration, the first of these last."""
        from json import dumps

        from stream.evaluation.measures import line

        if self._lived:
            typer.echo(dumps({"data": self.data, "protocol": "live", **self._lived}))
        for name, found in self.differences.items():
            typer.echo(line(f"{self.data}: {name}", self.protocol, found).decode())
        for name in sorted(self.results, key=lambda name: name == "all"):
            label = self.data if name == "all" else f"{self.data}: {name}"
            typer.echo(line(label, self.protocol, self.results[name][1]).decode())


def _first(history: History, limit: int | None) -> History:
    import numpy as np

    return history if limit is None else history.part(np.arange(len(history)) < limit)


def _lengths(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise typer.BadParameter(f"{text}: should be numbers, such as 5,10,20", param_hint="--k") from None
    if not found or not 0 < found[0] <= found[-1] <= 50:
        raise typer.BadParameter(f"{text}: should be from 1 to 50", param_hint="--k")
    return found


@contextmanager
def _progress(name: str) -> Iterator[Progress]:
    from rich.progress import Progress as Bar

    with Bar(console=err, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _coupons(data: str, json: bool) -> None:
    from stream.evaluation.coupons import coupons
    from stream.evaluation.history import HistoryError

    if data != "complete-journey":
        raise HistoryError(f"{data}: coupons are known of complete-journey alone")
    found = coupons()
    if json:
        from stream.evaluation.measures import line

        typer.echo(line(data, "coupons", found).decode())
    else:
        out.print(_table("complete-journey, coupons", found))


def _table(title: str, found: Mapping[str, Measure]) -> Table:
    from rich.table import Table

    table = Table("measure", "value", "95 % interval", title=title)
    for name, measure in found.items():
        table.add_row(name, f"{measure.value:.4f}", f"{measure.low:.4f} – {measure.high:.4f}")
    return table


def _side_by_side(found: Mapping[str, Mapping[str, Measure]], k: int) -> Table:
    from rich.table import Table

    names = [f"{name}@{k}" for name in ("ndcg", "recall", "mrr", "hit", "coverage")]
    table = Table(title="each component alone, and all without it")
    for name in ("components", *names):
        table.add_column(name, no_wrap=True)
    for config, measures in found.items():
        table.add_row(config, *(f"{measures[name].value:.4f}" for name in names))
    return table


def _show_compared(found: Compared) -> None:
    out.print(
        f"{found.changed:,} of {found.lists:,} lists change, of {found.changed_users:,} of {found.users:,}"
        f" users; {found.overlap:.1%} of their items stay the same"
    )
    out.print(_table("b − a", found.differences))
    for one in found.examples:
        gone, come = ", ".join(one.gone) or "–", ", ".join(one.come) or "–"
        out.print(f"{one.user}: out {gone}; in {come}", markup=False)
