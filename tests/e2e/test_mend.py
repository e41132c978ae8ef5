"""A log that is not the one the positions belong to: the worker refuses, `tidewise mend` lets it go on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from state.keys import Keys
from state.model import Head
from stream.admin import connected, create_topics
from stream.settings import Settings
from stream.topics import EVENTS
from tests.e2e.harness import Outside, WorkerProcess, environment, eventually, outside
from tests.e2e.test_acceptance import view_item

REFUSED = 3


def mend(settings: Settings, *arguments: str) -> tuple[int, str]:
    """The command: exit code and what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "stream.cli", "mend", *arguments],
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


async def make_anew(settings: Settings) -> None:
    """Delete the topic `events` and make it again."""
    async with connected(settings) as client:
        await client.delete_topics([EVENTS.full(settings)])

        async def gone() -> bool:
            return EVENTS.full(settings) not in await client.list_topics()

        await eventually(gone, 20.0)
    await create_topics(settings)


async def views(out: Outside, users: Sequence[str]) -> None:
    """Each user looks at two items; wait until the pair is known from both sides."""
    for user in users:
        await out.send(view_item(user, f"{user}-a"), view_item(user, f"{user}-b"))

    async def counted() -> bool:
        return all([f"{user}-b" in await out.items(f"neighbors:{user}-a") for user in users])

    await eventually(counted, 30.0, lambda: out.worker.log)


async def shopper_head(out: Outside, partition: int) -> Head:
    packed = await out.redis.get(Keys(out.settings.prefix).head(f"u{partition}"))
    assert isinstance(packed, bytes)
    return Head.unpack(packed)


@pytest.mark.kafka
async def test_a_topic_made_anew_is_refused_then_adopted(settings: Settings, tmp_path: Path) -> None:
    users = [f"user-{n}" for n in range(12)]
    async with outside(settings) as out:
        out.worker = WorkerProcess(settings, tmp_path)
        try:
            await out.worker.ready()
            assert mend(settings) == (0, "every position fits its log\n")
            await views(out, users)
            assert out.worker.stop() == 0
            before = [await shopper_head(out, p) for p in range(settings.partitions)]
            await make_anew(settings)

            out.worker = WorkerProcess(settings, tmp_path)
            assert await asyncio.to_thread(out.worker.process.wait, 60) == REFUSED
            assert "tidewise mend" in out.worker.log and "made anew" in out.worker.log
            code, said = mend(settings)
            assert code == 1 and said.count("made anew") == len([head for head in before if head.n])
            code, said = mend(settings, "--from", "beginning")
            assert code == 0 and "set to 0" in said
            assert mend(settings) == (0, "every position fits its log\n")

            out.worker = WorkerProcess(settings, tmp_path)
            await out.worker.ready()
            # Their mail has sources beyond those of the old log: nobody takes it for a repeat.
            await views(out, [f"{user}-again" for user in users])
            after = [await shopper_head(out, p) for p in range(settings.partitions)]
            for old, new in zip(before, after, strict=True):
                was, now = (head.positions[EVENTS.name] for head in (old, new))
                assert now.base == was.offset and now.offset >= 0
        finally:
            out.worker.kill()


@pytest.mark.kafka
async def test_a_topic_made_anew_under_a_running_worker_stops_it(settings: Settings, tmp_path: Path) -> None:
    async with outside(settings) as out:
        out.worker = WorkerProcess(settings, tmp_path)
        try:
            await out.worker.ready()
            await views(out, [f"user-{n}" for n in range(12)])
            await make_anew(settings)
            assert await asyncio.to_thread(out.worker.process.wait, 90) == REFUSED
            assert "made anew" in out.worker.log
        finally:
            out.worker.kill()


@pytest.mark.kafka
@pytest.mark.parametrize("left", [0, 1])
async def test_retention_that_overtakes_a_running_worker_stops_it(
    settings: Settings, tmp_path: Path, left: int
) -> None:
    """``left``: records that stay in each partition, so that there is something to read behind the hole."""
    async with outside(settings) as out:
        out.worker = WorkerProcess(settings, tmp_path)
        try:
            await out.worker.ready()
            users = [f"user-{n}" for n in range(12)]
            await views(out, users)
            out.worker.process.send_signal(signal.SIGSTOP)
            await out.send(*(view_item(user, f"{user}-c") for user in users for _ in range(3)))
            found = Counter(record.partition for record in await out.records(EVENTS))
            removed = {
                TopicPartition(EVENTS.full(settings), p): RecordsToDelete(before_offset=n - left)
                for p, n in found.items()
            }
            async with connected(settings) as client:
                await client.delete_records(removed)
            out.worker.process.send_signal(signal.SIGCONT)
            assert await asyncio.to_thread(out.worker.process.wait, 60) == REFUSED
            assert "retention removed unread events" in out.worker.log
        finally:
            out.worker.kill()
