"""The command `tidewise`. Each command says what it does, prints JSON with `--json`, and exits with a code."""

from __future__ import annotations

import sys

import typer
from pydantic import ValidationError

from stream.cli import data, look, run
from stream.cli.common import fail

app = typer.Typer(
    name="tidewise",
    help="A real-time recommender for shops: events in through Kafka, fresh lists out through Redis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog="Start with `tidewise up`, or `tidewise demo`. Settings: environment TIDEWISE_*, or tidewise.toml.",
)
run.register(app)
data.register(app)
look.register(app)


def main() -> None:
    """Entry point: settings that are wrong end with their names and what would be right, not with a trace."""
    try:
        app()
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            print(f"setting {name} = {problem['input']!r}: {problem['msg']}", file=sys.stderr)
        fail("mend the environment variable TIDEWISE_… or the TOML file", code=2)
