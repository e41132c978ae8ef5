"""Campaigns are published: what the command says, and what a worker knows when, and that a replay agrees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from state.keys import Keys
from state.memory import MemoryStore
from stream.admin import create_topics
from stream.contexts import Contexts
from stream.core.campaigns import Version, content_hash, encode_version
from stream.core.items import Items
from stream.core.plan import LEAD_MS, Schedule
from stream.delivery import Ports
from stream.follower import Follower
from stream.local import NewLog, Outputs, bundle
from stream.offline import Chunks, replay
from stream.publishing import TooSoon, learn, publish, published, versions_of
from stream.reading import read_whole
from stream.settings import Settings
from stream.shopper import Shopper
from stream.times import time_text
from stream.topics import CAMPAIGNS, DECISIONS, EVENTS
from stream.transport import StockRecord
from tests.commands import Cli
from tests.scenarios import campaign

THANKS = "id: thanks\ntrigger: {type: post-purchase}\nmessage: {template: thanks}\nsteps: [2d]\n"
MISSED = "id: missed\ntrigger: {type: win-back}\nmessage: {template: missed}\n"


def lines(found: str) -> list[str]:
    return [line.strip() for line in found.splitlines()]


async def test_a_folder_is_published_step_by_step(settings: Settings, cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "campaigns"
    folder.mkdir()

    def say(*words: str) -> Any:
        return asyncio.to_thread(cli, "campaigns", "publish", *words, settings=settings)

    none = await say()
    assert none.code == 1 and "there is no campaign. To switch one off, set enabled: false" in none.err
    (folder / "thanks.yaml").write_text(THANKS)
    (folder / "missed.yaml").write_text(MISSED)
    asked = await asyncio.to_thread(cli, "campaigns", "diff", "campaigns", "--json", settings=settings)
    first = (await say("--json")).json
    assert asked.json == {one["campaign"]: one["changes"] for one in first}, "diff tells beforehand"
    assert [(one["campaign"], one["version"], one["enabled"]) for one in first] == [
        ("missed", 1, True),
        ("thanks", 1, True),
    ]
    assert {"field": "id", "old": None, "new": "missed"} in first[0]["changes"]
    assert lines((await say()).out) == ["no difference"]
    (folder / "thanks.yaml").write_text(THANKS.replace("2d", "3d"))
    (folder / "missed.yaml").unlink()
    soon = await say("--effective", "2026-01-01T00:00:00Z")
    assert soon.code == 1 and "is too soon: all workers must know a version before it holds" in soon.err
    unread = await say("--effective", "tomorrow")
    assert unread.code == 1 and "RFC 3339" in unread.err
    said = lines((await say("--effective", "2099-05-01T02:00:00+02:00")).out)
    assert said == [
        "missed",
        "enabled: true → false",
        "thanks",
        'steps: ["2d"] → ["3d"]',
        "missed: version 2 holds from 2099-05-01T00:00:00.000Z",
        "thanks: version 2 holds from 2099-05-01T00:00:00.000Z",
    ]
    (folder / "thanks.yaml").write_text(THANKS)
    early = await say(str(folder / "thanks.yaml"))
    assert early.code == 1 and "is before version 2 began to hold" in early.err
    known = await published(settings)
    assert [(each.version.campaign.id, each.version.number) for each in known.held] == [
        ("missed", 1),
        ("thanks", 1),
        ("missed", 2),
        ("thanks", 2),
    ]


def test_the_soonest_time_is_that_at_which_all_workers_know() -> None:
    now, given = 1_800_000_000_000, [campaign("welcome")]
    [version] = versions_of(Schedule(), given, now, None, whole=True)
    assert version.effective == now + LEAD_MS
    [version] = versions_of(Schedule(), given, now, now + LEAD_MS, whole=True)
    assert version.effective == now + LEAD_MS
    with pytest.raises(TooSoon, match=f"from {time_text(now + LEAD_MS)} on"):
        versions_of(Schedule(), given, now, now + LEAD_MS - 1, whole=True)


def test_a_record_that_cannot_be_read_is_passed_over() -> None:
    given, schedule = campaign("welcome"), Schedule()
    version = Version(campaign=given, number=1, hash=content_hash(given), effective=0)
    values = [b"nonsense", None, encode_version(version), b"{}"]
    learn(schedule, [StockRecord(at, 5, b"key", value, ()) for at, value in enumerate(values)])
    assert [(held.place, held.since, held.version) for held in schedule.held] == [(2, 5 + LEAD_MS, version)]


def told(offset: int, kind: str, time: int, **fields: Any) -> StockRecord:
    event = {"type": kind, "time": time_text(time), "user": "ann"} | fields
    return StockRecord(offset, time, b"ann", orjson.dumps(event), ())


async def test_a_worker_waits_for_a_version_that_stands_in_the_topic(
    make_settings: Callable[..., Settings],
) -> None:
    """Its follower has not read it yet when an event comes that was received after it holds."""
    settings = make_settings(partitions=1, cart_enabled=False)
    await create_topics(settings)
    items = Items()
    follower = Follower(settings, items)
    contexts = Contexts(settings, items, follower, b"key")
    store, outputs = MemoryStore(Keys(settings.prefix)), Outputs()
    ports = Ports(NewLog(), store, outputs, lambda: 0, contexts.dead_letters)
    shopper = Shopper(0, ports, contexts.shopping)
    await follower.start()
    try:
        await follower.catch_up()
        await shopper.take()
        given = campaign("welcome", steps=["0s"])
        version = Version(campaign=given, number=1, hash=content_hash(given), effective=0)
        [held] = await publish(settings, [version])
        granted = {"channels": {"email": True}, "purposes": {"personalisation": True}}
        records = [
            told(0, "consent", held.since + 1000, **granted),  # before the watermark comes to its time
            told(1, "consent", held.since + 2000, **granted),
            told(2, "view_item", held.since + 9000, item="A"),
        ]
        work = asyncio.create_task(shopper.handle([bundle(EVENTS.name, 0, records)]))
        done, _ = await asyncio.wait([work], timeout=0.2)
        assert not done and not follower.schedule.held, "nobody has polled"
        while not work.done():
            await follower.poll(100)
        await work
        [live] = outputs.take(DECISIONS.name, 0)
        decision = orjson.loads(live.value)
        assert (decision["outcome"], decision["campaign"], decision["version"]) == ("sent", "welcome", 1)
        replayed = await replay(settings, b"key", chunks_of(settings, records))
        assert [output.value for output in replayed.outputs[DECISIONS.name]] == [live.value]
    finally:
        await follower.stop()


def chunks_of(settings: Settings, events: list[StockRecord]) -> Chunks:
    """A log of these events, and the campaigns that stand on the broker."""

    async def chunks(topic: str, partition: int) -> AsyncIterator[Sequence[Any]]:
        if topic == EVENTS.name:
            yield events
        elif topic == CAMPAIGNS.name:
            async for _, records in read_whole(settings, CAMPAIGNS):
                yield records

    return chunks
