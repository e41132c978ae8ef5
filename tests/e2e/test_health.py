"""The health port and the doctor tell the truth, of a worker that hangs, too."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream.doctor import Finding, examine
from stream.embedded import free_port
from stream.health import Input, Inside, Sample, Seen, Tracker, Trouble, judge
from stream.settings import Settings
from tests.e2e.harness import START_S, eventually
from tests.e2e.places import PatchedWorker, Place, ask, place, silence

WEDGED = """
import asyncio
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
fetch = AIOKafkaConsumerThread._fetch_records
async def once(self, *args, **kwargs):
    if not getattr(self, "done", False):
        found = await fetch(self, *args, **kwargs)
        self.done = bool(found)
        return found
    await asyncio.sleep(0.1)
    return {}
AIOKafkaConsumerThread._fetch_records = once
"""
"""Fetches until something came, and never again; heartbeats go on."""


# The judgement


def sample(waiting_s: float = 0.0, **given: Any) -> Sample:
    values = {"position": 5, "end": 9, "progress_s": 3.0} | given
    return Sample("u0", "events", 0, waiting_s=waiting_s, **values)


def seen(*samples: Sample, **given: Any) -> Seen:
    values: dict[str, Any] = {"state": "working", "working": True, "store": "", "broker": "", "looked_s": 1.0}
    return Seen(**values | given, samples=samples)


@pytest.mark.parametrize(
    ("what", "live", "ready", "reason"),
    [
        (seen(), True, True, ""),
        (seen(sample(9.9)), True, True, ""),
        (seen(sample(10.0)), False, False, "u0 has not moved from 5 in events for 10 s; the log ends at 9"),
        (seen(sample(10.0, error="E")), False, False, "last error: E"),
        (seen(sample(10.0), store="gone"), True, False, "the store does not answer: gone"),
        (seen(sample(10.0), broker="gone"), True, False, "the broker does not answer: gone"),
        (seen(sample(error="full", refused=True)), True, False, "u0 cannot go on: full"),
        (seen(sample(error="E")), True, True, ""),
        (seen(looked_s=10.0), False, False, "the watch has seen nothing for 10 s"),
        (seen(state="joining the group", working=False), True, False, "joining the group"),
    ],
)
def test_verdicts(what: Seen, live: bool, ready: bool, reason: str) -> None:
    verdict = judge(what, 10.0)
    assert (verdict.live, verdict.ready) == (live, ready)
    assert bool(verdict.reasons) != ready
    assert reason in "; ".join(verdict.reasons)


AT: Input = ("u0", "events", 0)


def waited(
    looks: Sequence[tuple[float, int, int | None, bool]], troubles: Mapping[str, Trouble] | None = None
) -> list[tuple[float, float]]:
    """(progress, waiting) at each look, given as (time, position, end, both answered)."""
    tracker, found = Tracker(), []
    for now, position, end, answered in looks:
        inside = Inside("working", True, {AT: position}, troubles or {})
        (one,) = tracker.look(now, inside, {AT: end} if end is not None else {}, answered)
        found.append((one.progress_s, one.waiting_s))
    return found


def test_waiting_begins_with_lag_and_ends_with_progress() -> None:
    looks = [(0, 5, 5, True), (2, 5, 8, True), (4, 5, 9, True), (6, 6, 9, True), (8, 9, 9, True)]
    assert waited(looks) == [(0, 0), (2, 0), (4, 2), (0, 0), (0, 0)]


def test_an_outage_starts_the_wait_anew() -> None:
    looks = [(0, 5, 8, True), (9, 5, None, False), (30, 5, 8, True), (32, 5, 8, True)]
    assert waited(looks) == [(0, 0), (9, 0), (30, 0), (32, 2)]


def test_what_is_refused_does_not_wait_for_us() -> None:
    looks = [(0, 5, 8, True), (9, 5, 8, True)]
    assert waited(looks, {"u0": Trouble("full", True)}) == [(0, 0), (9, 0)]
    assert waited(looks, {"u0": Trouble("odd", False)}) == [(0, 0), (9, 9)]


def test_an_end_without_a_record_is_no_work_until_it_moves() -> None:
    tracker, inside = Tracker(), Inside("working", True, {AT: 5})

    def look(now: float, end: int) -> Sample:
        (one,) = tracker.look(now, inside, {AT: end}, True)
        return one

    look(0, 6)
    suspect = look(9, 6)
    assert suspect.waiting_s == 9
    assert tracker.unchecked(suspect)
    tracker.checked(suspect, any_record=False)
    assert not tracker.unchecked(suspect)
    assert look(11, 6).waiting_s == 0
    look(12, 7)
    again = look(15, 7)
    assert again.waiting_s == 3
    assert tracker.unchecked(again)
    tracker.checked(again, any_record=True)
    assert look(17, 7).waiting_s == 5


# Real workers


async def told(here: Place, what: str, status: int, *words: str) -> dict[str, Any]:
    """The document, as soon as a path has this status and all the words are among its reasons."""
    newest: list[object] = [None]

    async def so() -> dict[str, Any] | None:
        newest[0] = code, document = await ask(here.settings, what)
        reasons = "; ".join(document.get("reasons", []))
        return document if code == status and all(word in reasons for word in words) else None

    found = await eventually(so, START_S, lambda: f"{newest[0]}\n{here.worker and here.worker.log}")
    assert found is not None
    return found


async def workers(settings: Settings) -> Finding:
    """What the doctor says of the workers."""
    findings = await asyncio.wait_for(examine(settings), 40)
    (found,) = [each for each in findings if each.what == "workers"]
    return found


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, stuck_after_s=3.0) as made:
        yield made


async def test_outages_take_readiness_and_not_life(here: Place) -> None:
    here.work()
    document = await told(here, "live", 200, "joining the group")
    assert not document["ready"]
    document = await told(here, "ready", 200)
    assert (document["owned"], document["lag"], document["reasons"]) == (4, 0, [])
    await here.send(20)

    async def counted() -> object:
        _, now = await ask(here.settings, "ready")
        inputs = [each for each in now["partitions"] if each["topic"] == "events"]
        return 20 == sum(each["position"] for each in inputs) == sum(each["end"] or 0 for each in inputs)

    await eventually(counted, START_S)
    _, document = await ask(here.settings, "ready")
    assert document["lists"]["made"] > 0 == document["lists"]["excluded"]
    for server in (here.store, here.broker):
        silence(server)
    away = ("the store does not answer", "the broker does not answer")
    await told(here, "ready", 503, *away)
    await told(here, "live", 200, *away)
    for server in (here.store, here.broker):
        os.kill(server.pid or 0, signal.SIGCONT)
    await told(here, "ready", 200)
    await here.command("CONFIG", "SET", "maxmemory", "1")
    await here.send(5)
    await told(here, "ready", 503, "cannot go on", "refuses writes")
    await asyncio.sleep(here.settings.stuck_after_s)
    assert (await ask(here.settings, "live"))[0] == 200


async def wedged(here: Place) -> Finding:
    """It stops fetching; its heartbeats go on."""
    worker = here.work(WEDGED)
    await told(here, "ready", 200)
    await here.send(1)
    await asyncio.sleep(1.0)
    await here.send(30)
    examined = asyncio.create_task(workers(here.settings))
    await told(here, "live", 503, "has not moved from")
    assert worker.process.poll() is None
    return await examined


async def stopped(here: Place) -> Finding:
    """Nothing of it goes on, but its session lasts for a while."""
    worker = here.work()
    await told(here, "ready", 200)
    worker.process.send_signal(signal.SIGSTOP)
    await here.send(5)
    finding = await workers(here.settings)
    assert (await ask(here.settings, "live"))[0] == 0
    return finding


async def test_workers_that_stand_still_are_found(here: Place, tmp_path: Path) -> None:
    async with place(tmp_path, session_timeout_s=8.0) as other:
        for finding in await asyncio.gather(wedged(here), stopped(other)):
            assert finding.level == "error"
            assert "1 in group" in finding.detail
            assert "no progress in" in finding.detail


async def test_a_stand_by_is_ready(tmp_path: Path) -> None:
    async with place(tmp_path, partitions=1) as here:
        here.work()
        await told(here, "ready", 200)
        settings = here.settings.model_copy(update={"health_port": free_port()})
        second = PatchedWorker(settings, tmp_path, "")
        try:
            other = Place(here.broker, here.store, settings, tmp_path, second)
            assert {(await told(each, "ready", 200))["owned"] for each in (other, here)} == {0, 2}
        finally:
            second.kill()
