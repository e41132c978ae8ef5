"""Writes ``docs/settings.md`` from the settings: ``python -m stream.settings_page``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from pydantic_core import PydanticUndefined

from stream.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
_HEAD = """# Settings

Each is an environment variable, `TIDEWISE_` and the name in capitals, and a key of one TOML file
(`tidewise.toml` in the working directory, or the file `TIDEWISE_CONFIG` names). The environment beats the
file. Lists and tables are JSON in the environment. A name that is not listed here is refused in the file.

| setting | default | what it is |
|---|---|---|
"""


def page() -> str:
    """The page's text."""
    rows = [
        f"| `{name}` | `{_default(field)}` | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _default(field: Any) -> str:
    value = field.default if field.default is not PydanticUndefined else field.default_factory()
    return orjson.dumps(value).decode() if not isinstance(value, str) else value


if __name__ == "__main__":
    PAGE.write_text(page())
