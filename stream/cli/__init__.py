"""The command `tidewise`: each command says what it does, prints JSON with `--json`, exits with a code."""

from __future__ import annotations

import logging

import typer

from stream.allocator import keep_freed_memory
from stream.cli import (
    addressing,
    campaigns,
    data,
    evaluation,
    explain,
    look,
    loyalty,
    refreshing,
    reporting,
    run,
)
from stream.cli.common import CODES, told

app = typer.Typer(
    name="tidewise",
    help="A real-time recommender for shops: events in through Kafka, fresh lists out through Redis.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=(
        "Start with `tidewise demo`, or with `tidewise up`. Settings: environment variables `TIDEWISE_…`, or "
        f"`tidewise.toml`.\n\nExit codes: {CODES}"
    ),
)
run.register(app)
data.register(app)
look.register(app)
explain.register(app)
evaluation.register(app)
refreshing.register(app)
reporting.register(campaigns.campaigns)
campaigns.register(app)
addressing.register(app)
loyalty.register(app)


def main() -> None:
    """Entry point: what people can mend ends with a message and an exit code, not with a trace."""
    keep_freed_memory()
    logging.getLogger().addHandler(logging.NullHandler())  # else libraries talk of what `told` says better
    with told():
        app(prog_name="tidewise")
