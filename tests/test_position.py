"""Position bias: weights against plain Python, and what a worker's mixture is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.attribution import Impressions
from stream.core.recommend.mixture import Targets
from stream.core.recommend.position import weights
from tests.test_cold_start import Worker

PAIRS = st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 2**63, 2**64 - 1]))


def seen_of(places: dict[tuple[int, int], int]) -> Impressions:
    pairs = list(places)
    n = len(pairs)
    return Impressions(
        np.array([row for row, _ in pairs], dtype=np.int64),
        np.array([item for _, item in pairs], dtype=np.uint64),
        np.zeros(n, dtype=np.int64),
        np.ones(n, dtype=np.uint16),
        np.zeros(n, dtype=np.uint8),
        np.array(list(places.values()), dtype=np.uint8),
    )


@given(st.lists(PAIRS, max_size=12), st.dictionaries(PAIRS, st.integers(0, 40), max_size=12))
def test_weights_by_place(targets: list[tuple[int, int]], places: dict[tuple[int, int], int]) -> None:
    row = np.array([row for row, _ in targets], dtype=np.int64)
    item = np.array([item for _, item in targets], dtype=np.uint64)
    expected = [min(1.0, (places.get(pair, 99) + 1) / 20) ** 0.5 for pair in targets]
    assert weights(row, item, seen_of(places), 20).tolist() == pytest.approx(expected)


async def test_what_a_list_had_on_top_teaches_less(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(list_items=4)
    await worker.start({name: {"kind": "x"} for name in ("tent", "pegs", "rope", "lamp")})
    for user in ("u1", "u2", "u3"):
        for n, item in enumerate(("tent", "pegs", "rope", "lamp")):
            await worker.send(user, "view_item", n, item=item)
    await worker.settle()
    recommender, told = worker.local.contexts.shopping.lister.recommender, list[Targets]()
    learn = recommender.learn

    def noted(sources: Any, query: Any, targets: Targets) -> None:
        told.append(targets)
        learn(sources, query, targets)

    monkeypatch.setattr(recommender, "learn", noted)
    await worker.send("ann", "view_item", 100, item="tent")
    listed = [{"item": item, "strategy": "item-item"} for item in ("pegs", "rope", "lamp")]
    await worker.send("ann", "recommendation_shown", 101, list="l1", items=listed)
    for n, item in enumerate(("pegs", "lamp", "tent")):
        await worker.send("ann", "view_item", 102 + n, item=item)
    names = [[worker.local.items.name(int(at)) for at in each.item] for each in told]
    found = {name: each.weight.tolist() for (name,), each in zip(names, told, strict=True)}
    assert found["pegs"] == pytest.approx([(1 / 4) ** 0.5])
    assert found["lamp"] == pytest.approx([(3 / 4) ** 0.5])
    assert found["tent"] == [1.0]
