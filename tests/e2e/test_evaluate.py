"""`tidewise evaluate --live`: what comes through a broker, a worker and a store is what evaluation makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.evaluation.engine import Engine
from tests.commands import Cli

USERS, ITEMS = 40, 30
CONFIG = """
diversity = 0.2
half_life_s = 86400
trending_s = 0.1
checkpoint_s = 0.1
event_weights = {view_item = 2}

[[rules]]
when = '"m1" in attributes or item == "i7"'
do = "exclude"
"""


def shop(folder: Path) -> None:
    """Users who walk along a ring of described items, some steps ahead at times."""
    rng = np.random.default_rng(4)
    walks = (np.arange(USERS)[:, None] + np.cumsum(rng.choice([1, 1, 1, 4], (USERS, 8)), axis=1)) % ITEMS
    lines = [f"u{n} {' '.join(f'i{item}' for item in row)}" for n, row in enumerate(walks.tolist())]
    (folder / "ring.txt").write_text("\n".join(lines))
    about = {f"i{n}": {"color": f"c{n % 4}", "maker": f"m{n % 3}"} for n in range(ITEMS)}
    (folder / "about.json").write_text(json.dumps(about))
    (folder / "shop.toml").write_text(CONFIG)


def test_live_lists_are_those_of_evaluation(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop(tmp_path)
    made: list[list[str]] = []
    shown = Engine.shown

    async def noted(self: Engine, *asked: Any) -> list[list[str]]:
        made.extend(await shown(self, *asked))
        return made

    monkeypatch.setattr(Engine, "shown", noted)
    words = ("--protocol", "leave-one-out", "--attributes", "about.json", "--config", "shop.toml", "--live")
    told = cli("evaluate", "ring.txt", *words, "--json")
    assert told.code == 0, told.err
    assert f"live: {USERS} of {USERS} lists equal those in process" in told.err
    assert json.loads(told.out.splitlines()[-1])["protocol"] == "leave-one-out"
    assert len({tuple(row) for row in made}) > USERS / 2
    assert all(len(row) >= 10 and "i7" not in row for row in made)
