"""Benchmarks run, at tiny sizes, and judge by their figures as they say. No figure itself is tested."""

from __future__ import annotations

import asyncio
import json
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from benchmarks import all as every
from benchmarks import (
    catchup,
    footprint,
    freshness,
    growth,
    guard,
    kernel,
    lookups,
    memory,
    pipeline,
    ranking,
    refresh,
    steps,
    traffic,
)
from benchmarks.inprocess import inprocess, visits
from benchmarks.processes import cpu_s, resident
from benchmarks.report import Report, figure, repeated, tell
from state.keys import Keys
from stream.ownership import partition_of
from stream.settings import Settings


def test_a_figure_is_the_median_with_its_spread_and_goal() -> None:
    found = figure([3.0, 1.0, 2.0], "s", least=2.0)
    assert (found.median, found.low, found.high, found.repeats, found.met) == (2.0, 1.0, 3.0, 3, True)
    assert figure([2.0], most=2.0).met and not figure([2.01], most=2.0).met
    assert not figure([1.99], least=2.0).met and figure([1.0]).met is None


def test_repeats_are_kept_by_name() -> None:
    values = iter([1.0, 2.0])
    assert repeated(lambda: {"a": next(values)}, 2) == {"a": [1.0, 2.0]}


def test_a_report_is_one_line_of_json_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("some", {"a": figure([1.0], "s", most=2.0), "b": figure([1.0, 3.0])}, {"events": 7})
    plot = tmp_path / "plots" / "some.png"
    tell(report, Namespace(json=True, plot=plot))
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["figures"]["a"]["met"] and found["details"] == {"events": 7}
    assert found["machine"]["cores"] > 0 and found["machine"]["numpy"] == np.__version__
    assert plot.read_bytes().startswith(b"\x89PNG")
    (row,) = every.rows(found)
    assert row.startswith("a ") and row.endswith("met")


@pytest.mark.parametrize(
    ("value", "bound", "said"),
    [
        (2.0, {"floor": 2.0}, "ok"),
        (1.99, {"floor": 2.0}, "low"),
        (1.0, {"floor": 2.0}, "low"),
        (0.99, {"floor": 2.0}, "COLLAPSED"),
        (2.0, {"ceiling": 2.0}, "ok"),
        (4.0, {"ceiling": 2.0}, "high"),
        (4.01, {"ceiling": 2.0}, "COLLAPSED"),
    ],
)
def test_only_a_collapse_fails(value: float, bound: dict[str, float], said: str) -> None:
    assert guard.verdict(value, bound) == said


def test_a_collapse_counts_when_it_is_measured_three_times() -> None:
    floors = {"a": {"floor": 2.0}}
    values = iter([0.5, 0.6, 1.0, 0.5])
    assert guard.measured(lambda: {"a": next(values)}, floors) == {"a": 1.0}
    values = iter([0.5, 0.6, 0.7])
    assert guard.measured(lambda: {"a": next(values)}, floors) == {"a": 0.7}
    assert guard.measured(lambda: {"a": 1 / 0}, floors) == {}


def test_processes_use_time_and_memory() -> None:
    begun = cpu_s()
    while cpu_s() == begun:
        sum(range(10_000))
    assert resident() > 10 << 20


def test_the_kernel_and_dicts_count() -> None:
    stream = kernel.clicks(2000, users=50, items=1000)
    rate, counted = kernel.kernel_rate(stream, 5, 500)
    assert rate > 0 and counted.pairs > 2000 and kernel.dict_rate(stream, 5, 500) > 0


def test_a_refresh_is_compared_with_a_rebuild() -> None:
    pytest.importorskip("implicit")
    stream = kernel.clicks(2000, users=50, items=1000)
    assert refresh.measure(stream, stream.user, 1)["P4 refresh ÷ rebuild"] > 0


def test_ranking_is_compared_with_dicts() -> None:
    assert ranking.measure("clicks", 1000, 20, 1).figures["ranking ÷ dicts"].median > 0


def test_bytes_of_users_and_items_are_found() -> None:
    users = asyncio.run(footprint.of_users(40))
    assert users["P7 user"] == pytest.approx(users["state"] + users["list"]) and users["list"] > 500


def test_what_an_event_sends_is_counted() -> None:
    found = asyncio.run(traffic.measure(2, 400))
    # A segment has its source, its time and its numbers, 24 bytes; an entry 12.
    assert found["increments: bytes"] > 24 + 12 * found["increments: entries"]
    # Every pair changes two rows, one of them that of the event's item.
    assert found["increments: entries"] / 2 > found["increments: rows"] - 1 > 1
    assert found["neighbors: messages"] > 0 and found["a record of neighbours: follow"] > 0


def test_events_are_timed_in_a_grown_state() -> None:
    found = asyncio.run(growth.event_us(30, 100, 10))
    assert found["worker"] > 0 and found["lists of items"] > 0


def test_memory_is_sampled_to_the_last_event() -> None:
    found = asyncio.run(memory.sampled(800, 1000))
    assert found[-1].events == 800 and found[-1].users > 0
    report = memory.report(found, Namespace(cached_users=1000))
    assert report.figures["users in memory, most"].met
    assert memory.curve(report).axes


async def test_lookups_take_one_trip_each() -> None:
    async with inprocess() as one:
        names = await lookups.lists(one, 30)
        found = await asyncio.to_thread(lookups.measure, one.settings.store_url, names, 500)
    assert found["P6 trips"] == 1.0 and found["P6 lists ÷ GETs"] > 0


@pytest.mark.parametrize(
    ("place", "seen"), [((2, 39), True), ((2, 40), True), ((2, 41), False), ((1, 39), False)]
)
async def test_a_list_is_seen_once_it_names_the_event_or_a_later_one(
    make_settings: Callable[..., Settings], place: tuple[int, int], seen: bool
) -> None:
    settings = make_settings()
    keys, at = Keys(settings.prefix), time.time()
    waiting = freshness.Waiting(keys, lists=[freshness.Sent(at, "u", "i", b"", place)])
    async with Redis.from_url(settings.store_url) as redis:
        await redis.set(keys.recs("u"), '{"version":"1-1","id":"2-40-0-recs-0","time":"","items":[]}')
        await waiting.look(redis)
    assert [sent for sent, _ in waiting.seen["list"]] == [at] * seen
    assert len(waiting.lists) == 1 - seen


@pytest.mark.parametrize(("stamp", "seen"), [("00.000", True), ("00.001", False)])
def test_neighbours_are_seen_once_their_time_is_that_of_the_event_or_later(stamp: str, seen: bool) -> None:
    one = freshness.Sent(0.0, "u", "i", f"2026-01-01T00:00:{stamp}".encode())
    assert one.has_neighbours(b'{"version":"1-1","time":"2026-01-01T00:00:00.000Z"') is seen


def test_arrays_hold_all_events_by_partition() -> None:
    singles = pipeline.events(300)
    packed = list(pipeline.arrays(singles, 4, 7))
    found = [(partition, each) for partition, value in packed for each in json.loads(value)]
    assert sorted(each["id"] for _, each in found) == sorted(json.loads(value)["id"] for _, value in singles)
    assert all(partition_of(each["user"], 4) == partition for partition, each in found)


def test_a_log_of_item_sequences_becomes_events(tmp_path: Path) -> None:
    path = tmp_path / "beauty.txt"
    path.write_text("1 5 6 7\n2 6 7\n")
    log = catchup.beauty(path, 4)
    assert len(log) == 4
    assert {json.loads(value)["user"].encode() == key for key, value in log} == {True}


def test_visits_are_of_equal_length() -> None:
    load = visits(30, 200, 4)
    assert set(np.bincount(load.user).tolist()) == {4} and (np.diff(load.time_ms) > 0).all()


def test_every_benchmark_is_among_all() -> None:
    folder = Path(every.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if " tell(" in path.read_text()} - {"report"}
    assert found == set(every.LONG)


def test_a_sample_counts_for_the_innermost_frame_of_a_step() -> None:
    lines = [
        "handle (stream/shopper.py:2);decode (stream/codec.py:3);sort (numpy/x.py:4) 3",
        "handle (stream/shopper.py:2);sort (numpy/x.py:4) 2",
        "somewhere (else.py:1) 1",
    ]
    assert steps.counted(lines) == {"decoding": 3, "users' side, the rest": 2, "other": 1}
