"""The command line in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest
import structlog

from stream.cli import main
from stream.embedded import free_port
from stream.settings import Settings
from tests.e2e.harness import environment


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return orjson.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Runs `tidewise` in this process, in an empty folder, with the settings given as its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    def run(*words: str | Path, settings: Settings | None = None) -> Result:
        with monkeypatch.context() as patch:
            for name, value in environment(settings or unreachable()).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["tidewise", *map(str, words)])
            capfd.readouterr()
            with pytest.raises(SystemExit) as ended:
                main()
        structlog.reset_defaults()
        code = ended.value.code
        assert code is None or isinstance(code, int), code
        return Result(code or 0, *capfd.readouterr())

    return run


def unreachable() -> Settings:
    """Settings for servers that are not there."""
    return Settings.model_construct(
        broker_url=f"kafka://127.0.0.1:{free_port()}",
        store_url=f"redis://127.0.0.1:{free_port()}/0",
        connect_timeout_s=1.0,
        store_timeout_s=1.0,
    )
