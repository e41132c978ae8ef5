"""Fixtures of the end-to-end suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stream.settings import Settings
from tests.e2e.harness import Outside, WorkerProcess, outside


@pytest.fixture
async def shop(settings: Settings, tmp_path: Path) -> AsyncIterator[Outside]:
    """A deployment with one worker, and an outsider who talks to it."""
    async with outside(settings) as out:
        worker = WorkerProcess(settings, tmp_path)
        try:
            await worker.ready()
            out.worker = worker
            yield out
        finally:
            worker.kill()
