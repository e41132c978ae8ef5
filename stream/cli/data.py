"""Commands that bring events: `replay`, `validate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stream.cli.common import BrokerUrl, Json, err, fail, out, settings_of, show_json


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(validate)


def validate(
    file: Annotated[Path, typer.Argument(help="A .jsonl or .jsonl.gz log of events; - reads standard input.")],
    json: Json = False,
    show: Annotated[int, typer.Option(help="Print at most this many problems.")] = 20,
) -> None:
    """Check a log of events without sending it: each problem with its line, field, value and mend. Exit 1 on any."""
    from producers.logs import read_lines
    from stream.codec import Limits, check

    limits = Limits.of(settings_of())
    lines, problems = 0, []
    for number, data in read_lines(file):
        lines += 1
        problems += [(number, reason) for reason in check(data, limits)]
    if json:
        found = [{"line": n, "code": r.code, "field": r.field, "value": r.value, "expected": r.expected} for n, r in problems]
        show_json({"lines": lines, "problems": len(problems), "found": found[:show]})
    else:
        for number, reason in problems[:show]:
            out.print(f"{file}:{number}: {reason.message}", highlight=False, soft_wrap=True)
        out.print(f"{lines} lines, {len(problems)} problems", highlight=False)
    raise SystemExit(bool(problems))
