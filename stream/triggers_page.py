"""Writes the catalogue of triggers in ``docs/engagement.md``: ``python -m stream.triggers_page``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stream.core.campaigns import Duration
from stream.core.triggers import TYPES
from stream.core.triggers.shape import Sequenced

PAGE = Path(__file__).parent.parent / "docs" / "engagement.md"
BEGIN = "<!-- The catalogue: written by python -m stream.triggers_page -->\n"
END = "<!-- End of the catalogue -->\n"
_HEAD = """| type | starts when | waits | put off by | cancelled by | exactly at the limit | parameters |
|---|---|---|---|---|---|---|
"""


def catalogue() -> str:
    """The table, a row for each type of trigger."""
    return _HEAD + "".join(_row(name, kind) for name, kind in TYPES.items())


def written(page: str) -> str:
    """A page with the catalogue of today in its place. Raises ValueError where it has no place."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{begin}\n{catalogue()}\n{end}{after}"


def _row(name: str, kind: type[Sequenced]) -> str:
    said, waits = kind.entry, ", ".join(str(Duration(each)) for each in kind.usual_ms)
    cells = (said.starts, waits or "its own", said.put_off, said.cancelled, said.limits)
    told = ", ".join(_parameters(kind.parameters))
    return " | ".join([f"| `{name}`", *(each.replace("|", "\\|") for each in cells), f"{told} |\n"])


def _parameters(kind: type[msgspec.Struct]) -> Iterator[str]:
    for each in msgspec.structs.fields(kind):
        yield f"`{each.name}`" if each.required else f"`{each.name}: {_default(each)}`"


def _default(field: Any) -> str:
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
