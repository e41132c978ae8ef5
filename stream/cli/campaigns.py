"""Commands about campaigns: `campaigns validate`, `campaigns diff`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream.cli.common import PROBLEM, Json, codes, err, out, show_json

if TYPE_CHECKING:
    from stream.campaign_files import Problem
    from stream.core.campaigns import Campaign, Change

EPILOG = codes(PROBLEM)
campaigns = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="A folder of campaign files, or one file.", exists=True)]
Old = Annotated[Path, typer.Argument(help="The old folder, or file.", exists=True)]
New = Annotated[Path, typer.Argument(help="The new folder, or file.", exists=True)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(
        campaigns, name="campaigns", help="Check and compare campaigns: who gets which message when."
    )


@campaigns.command(epilog=EPILOG)
def validate(folder: Folder = Path("campaigns"), json: Json = False) -> None:
    """Check campaign files: every `*.yaml` of a folder, one campaign each.

    All problems are told, each with its file, line, field, value, and what would be right. The reference of
    all fields is docs/engagement.md.

    Examples:

    - `tidewise campaigns validate` (the folder ./campaigns)
    - `tidewise campaigns validate campaigns/abandoned-cart.yaml --json`
    """
    from stream.campaign_files import load

    found = load(folder)
    problems = [problem for each in found for problem in each.problems]
    if json:
        show_json({"campaigns": len(found), "problems": len(problems), "found": problems})
    else:
        _tell(problems)
        out.print(f"{len(found):,} campaigns, {len(problems):,} problems", highlight=False)
    raise SystemExit(PROBLEM if problems else 0)


@campaigns.command(epilog=EPILOG)
def diff(old: Old, new: New, json: Json = False) -> None:
    """Compare two states of campaigns, field by field, with all defaults: two files, or two folders by id.

    A comment, the order of fields, 24h in place of 1d or a default written out is no difference. Both must
    be valid.

    Examples:

    - `tidewise campaigns diff old/cart.yaml campaigns/cart.yaml`
    - `tidewise campaigns diff live/ campaigns/ --json`
    """
    from stream.core.campaigns import diff as differences

    if old.is_dir() != new.is_dir():
        raise typer.BadParameter("give two files, or two folders", param_hint="NEW")
    pairs = _pairs(_campaigns(old), _campaigns(new), by_id=old.is_dir())
    changes = {name: differences(before, after) for name, before, after in pairs}
    changed = {name: found for name, found in changes.items() if found}
    show_json(changed) if json else _show(changed)


def _campaigns(place: Path) -> list[Campaign]:
    """The campaigns of a file or folder; problems end the command."""
    from stream.campaign_files import load

    found = load(place)
    problems = [problem for each in found for problem in each.problems]
    if problems:
        _tell(problems, err)
        raise SystemExit(PROBLEM)
    return [each.campaign for each in found if each.campaign is not None]


def _pairs(
    old: list[Campaign], new: list[Campaign], by_id: bool
) -> list[tuple[str, Campaign | None, Campaign | None]]:
    if not by_id:
        return [(new[0].id, old[0], new[0])]
    before, after = ({each.id: each for each in some} for some in (old, new))
    return [(name, before.get(name), after.get(name)) for name in sorted(before | after)]


def _tell(problems: Iterable[Problem], console: Any = out) -> None:
    for problem in problems:
        console.print(problem.message, highlight=False, markup=False, soft_wrap=True)


def _show(changed: dict[str, list[Change]]) -> None:
    for name, changes in changed.items():
        out.print(f"{name}{_fate(changes)}", highlight=False, markup=False)
        for each in changes:
            text = f"  {each.field}: {_value(each.old)} → {_value(each.new)}"
            out.print(text, highlight=False, markup=False, soft_wrap=True)
    if not changed:
        out.print("no difference")


def _fate(changes: list[Change]) -> str:
    """Whether the campaign itself is new or gone: every one has an id."""
    fates = {(each.old is None, each.new is None) for each in changes if each.field == "id"}
    return " (new)" if (True, False) in fates else " (gone)" if (False, True) in fates else ""


def _value(value: Any) -> str:
    import orjson

    if value is None:
        return "–"
    return value if isinstance(value, str) else orjson.dumps(value).decode()
