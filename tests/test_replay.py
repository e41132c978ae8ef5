"""Replay against a real broker: order, receipt times, pace, and going on after a cut."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import ConsumerRecord

from producers.logs import LogError
from producers.replay import Progress, ReplayError, State, open_source, replay
from producers.simulator import Shop
from stream.settings import Settings
from stream.times import time_ms, time_text
from stream.topics import CATALOG
from tests.test_producers import events_of, stored

START = 1_700_000_000_000


def shop_log(path: Path, n: int = 3000) -> list[dict[str, Any]]:
    shop = Shop(3, users=50, items=60)
    events = [*shop.catalog(START), *shop.events(n, START, 20)]
    path.write_bytes(b"\n".join(map(msgspec.json.encode, events)) + b"\n")
    return events


def by_user(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["type"] != "item":
            found[event.get("user") or event["anonymous"]].append(
                {name: value for name, value in event.items() if name != "id"}
            )
    return found


def received(record: ConsumerRecord) -> int:
    return int(dict(record.headers)["received"])


@pytest.mark.parametrize("array_size", [1, 100])
async def test_all_arrive_in_order_with_their_time_as_received(
    settings: Settings, tmp_path: Path, array_size: int
) -> None:
    sent = shop_log(tmp_path / "a.jsonl")
    source = open_source(str(tmp_path / "a.jsonl"), settings)
    summary = await replay(source, settings, array_size=array_size)
    assert (summary.events, summary.items, summary.skipped) == (3060, 60, 0)
    assert summary.first_ms == START
    assert summary.last_ms == time_ms(sent[-1]["time"])
    parts = await stored(settings)
    assert by_user(events_of(parts)) == by_user(sent)
    for records in parts.values():
        stamps = [received(record) for record in records]
        assert stamps == sorted(stamps)
        for record, stamp in zip(records, stamps, strict=True):
            newest = msgspec.json.decode(record.value)
            newest = newest[-1] if isinstance(newest, list) else newest
            assert time_ms(newest["time"]) == stamp
    assert len(events_of(await stored(settings, CATALOG))) == 60


async def test_a_multiple_of_event_time_paces(settings: Settings, tmp_path: Path) -> None:
    times = [0, 0, 2000, 6000, 12_000]
    lines = [
        {"type": "view_item", "user": "ann", "item": f"i{at}", "time": time_text(START + ms)}
        for at, ms in enumerate(times)
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    begin_ms = time.time() * 1000
    summary = await replay(open_source(str(tmp_path / "a.jsonl"), settings), settings, speed=10)
    assert summary.duration_s >= 1.2
    records = next(part for part in (await stored(settings)).values() if part)
    late = [record.timestamp - begin_ms - ms / 10 for record, ms in zip(records, times, strict=True)]
    assert min(late) > -2, "never early; the broker's clock is cut to a millisecond"
    assert max(late) < 1000


class Cut(Exception):
    """What stops a replay in the middle, as a crash would."""


async def test_a_cut_replay_goes_on_without_loss(settings: Settings, tmp_path: Path) -> None:
    sent = shop_log(tmp_path / "a.jsonl", 40_000)
    state, source = tmp_path / "state.json", str(tmp_path / "a.jsonl")

    def cut(at: Progress) -> None:
        assert at.acknowledged == at.sent, "a checkpoint counts what the broker has"
        raise Cut

    with pytest.raises(Cut):
        await replay(open_source(source, settings), settings, resume=state, progress=cut)
    noted = msgspec.json.decode(state.read_bytes(), type=State).acknowledged
    assert 0 < noted < 40_060
    summary = await replay(open_source(source, settings), settings, resume=state)
    assert summary.skipped == noted
    assert summary.events == 40_060 - noted
    found = events_of(await stored(settings)) + events_of(await stored(settings, CATALOG))
    assert len(found) == 40_060
    assert by_user(found) == by_user(sent)
    again = await replay(open_source(source, settings), settings, resume=state)
    assert (again.events, again.skipped) == (0, 40_060)


KILLED = """
import asyncio, sys
from pathlib import Path
from producers.replay import open_source, replay
from stream.settings import Settings
settings = Settings.model_validate_json(sys.argv[1])
asyncio.run(replay(open_source(sys.argv[2], settings), settings, resume=Path(sys.argv[3]), speed=500))
"""


async def test_a_killed_replay_loses_nothing_and_repeats_with_the_same_ids(
    settings: Settings, tmp_path: Path
) -> None:
    sent = shop_log(tmp_path / "a.jsonl", 20_000)
    state, source = tmp_path / "state.json", str(tmp_path / "a.jsonl")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, settings.model_dump_json(), source, str(state)
    )
    async with asyncio.timeout(20):
        while not state.exists() or msgspec.json.decode(state.read_bytes(), type=State).acknowledged < 3000:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    noted = msgspec.json.decode(state.read_bytes(), type=State).acknowledged
    assert noted < 20_060
    summary = await replay(open_source(source, settings), settings, resume=state)
    assert summary.skipped == noted
    found = events_of(await stored(settings))
    times = Counter(event["id"] for event in found)
    assert len(times) == 20_000
    assert max(times.values()) <= 2
    unique: dict[str, dict[str, Any]] = {}
    for event in found:
        unique.setdefault(event["id"], event)
    assert by_user(list(unique.values())) == by_user(sent)


async def test_a_state_of_something_else_is_refused(settings: Settings, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    shop_log(tmp_path / "a.jsonl", 20)
    shop_log(tmp_path / "b.jsonl", 20)
    source = open_source(str(tmp_path / "a.jsonl"), settings)
    await replay(source, settings, resume=state)
    with pytest.raises(ReplayError, match=r"belongs to a replay of a\.jsonl-.*, not b\.jsonl"):
        await replay(open_source(str(tmp_path / "b.jsonl"), settings), settings, resume=state)
    elsewhere = settings.model_copy(update={"topic_prefix": "other."})
    with pytest.raises(ReplayError, match=r"belongs to a replay into .*, not .*/other\."):
        await replay(source, elsewhere, resume=state)
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines[:-1]))
    with pytest.raises(ReplayError, match=r"80 events of .* were sent, but it ends before that"):
        await replay(open_source(str(tmp_path / "a.jsonl"), settings), settings, resume=state)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([lines[0], lines[0], *lines[1:]]))
    with pytest.raises(ReplayError, match=r"line 80 is not the last of them: it was changed"):
        await replay(open_source(str(tmp_path / "a.jsonl"), settings), settings, resume=state)
    state.write_bytes(b"{")
    with pytest.raises(ReplayError, match=r"state\.json: is no state of a replay"):
        await replay(source, settings, resume=state)


async def test_a_log_that_grew_is_gone_on_with(settings: Settings, tmp_path: Path) -> None:
    state, path = tmp_path / "state.json", tmp_path / "a.jsonl"
    shop_log(path, 100)
    await replay(open_source(str(path), settings), settings, resume=state)
    late = {"type": "view_item", "user": "new", "item": "i1", "time": time_text(START + 10**8)}
    path.write_bytes(path.read_bytes() + msgspec.json.encode(late))
    summary = await replay(open_source(str(path), settings), settings, resume=state)
    assert (summary.skipped, summary.events) == (160, 1)


async def test_data_sets_replay_by_name(settings: Settings) -> None:
    progress: list[Progress] = []
    source = open_source("complete-journey", settings, limit_lines=2000)
    summary = await replay(source, settings, progress=progress.append)
    assert summary.events == source.total == progress[-1].acknowledged
    assert "simulated" in summary.note
    events = events_of(await stored(settings))
    assert sum(len(event["items"]) for event in events) >= 2000
    assert len(events) == summary.events - summary.items


async def test_a_pace_must_move(settings: Settings, tmp_path: Path) -> None:
    shop_log(tmp_path / "a.jsonl", 1)
    with pytest.raises(ReplayError, match=r"speed 0: must be above 0"):
        await replay(open_source(str(tmp_path / "a.jsonl"), settings), settings, speed=0)


def test_a_missing_log_is_told(settings: Settings) -> None:
    with pytest.raises(LogError, match=r"nowhere\.jsonl:1: cannot be read"):
        open_source("nowhere.jsonl", settings)
