"""Settings: every one documented, wrong ones refused with their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from stream.settings import Settings
from stream.settings_page import PAGE, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m stream.settings_page"


def test_every_setting_is_on_the_page() -> None:
    listed = set(re.findall(r"^\| `(\w+)` ", PAGE.read_text(), re.MULTILINE))
    assert listed == set(Settings.model_fields)


def test_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shop.toml"
    file.write_text('partitions = 8\nprefix = "shop"\n[event_weights]\nview_item = 2.0\n')
    monkeypatch.setenv("TIDEWISE_CONFIG", str(file))
    monkeypatch.setenv("TIDEWISE_PARTITIONS", "16")
    settings = Settings()
    assert (settings.partitions, settings.prefix, settings.event_weights) == (16, "shop", {"view_item": 2.0})
    assert Settings(partitions=2).partitions == 2


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shop.toml"
    file.write_text("partition = 8\n")
    monkeypatch.setenv("TIDEWISE_CONFIG", str(file))
    with pytest.raises(ValidationError, match=r"(?s)partition.*Extra inputs"):
        Settings()


@pytest.mark.parametrize(("name", "value"), [("partitions", 0), ("neighbors", 51), ("quiet_from", "9pm")])
def test_a_wrong_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings.model_validate({name: value})
