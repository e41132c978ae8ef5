"""A short slice of the fault harness; all of it is `make faults`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stream.embedded import EmbeddedStore
from tests.faults.faults import FAULTS, several
from tests.faults.proxy import Proxy
from tests.faults.rounds import Bench, Result, run_round, whole_bench


def demand(result: Result) -> None:
    """Nothing lost, nothing twice, the digest of the replay, and something there to check."""
    verdict = result.verdict
    assert verdict.good, f"lost {verdict.lost}, twice {verdict.twice}\n" + "\n".join(verdict.problems)
    checked = (
        "accepted",
        "repeats",
        "dead",
        "engagements",
        "decisions",
        "dead-letters",
        "items",
        "attributed",
    )
    assert all(verdict.counted[name] > 0 for name in checked), verdict.counted


@pytest.fixture
async def bench(broker_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    """The servers of all tests; the store behind a proxy."""
    with EmbeddedStore() as store:
        async with Proxy(store.port) as proxy:
            behind = f"redis://127.0.0.1:{proxy.port}/0"
            yield Bench(
                broker_url,
                store.url,
                broker_url,
                behind,
                tmp_path,
                2,
                session_timeout_s=3.0,
                store_proxy=proxy,
            )


async def test_some_of_all_faults(bench: Bench) -> None:
    result = await run_round(bench, "several", several, 1, seconds=5.0, count=400)
    demand(result)
    struck = {
        "batch-3-after-exec",
        "item-lists-sent",
        "take-3-outbox-sent",
        "zombie",
        "cut",
        "stalled",
        "leave",
    }
    assert +result.trials == dict.fromkeys(struck, 1)


@pytest.mark.kafka
@pytest.mark.parametrize("name", ["aborted", "compacted"])
async def test_gaps_that_are_no_loss(name: str, tmp_path: Path) -> None:
    async with whole_bench(tmp_path, nodes=1) as bench:
        result = await run_round(bench, name, FAULTS[name].disturb, 1, seconds=15.0, count=900)
    demand(result)
    assert result.trials["gaps"] == 1
