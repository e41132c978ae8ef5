"""The producer client against a real broker, and logs and data sets as they are read."""

from __future__ import annotations

import asyncio
import gzip
import io
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from producers.client import EventProducer, InvalidEvent, Undelivered
from producers.datasets import DatasetError, complete_journey, open_dataset
from producers.datasets.complete_journey import DAY_MS, CompleteJourney
from producers.datasets.journey_campaigns import JourneyWithCampaigns, documents
from producers.envelope import faults, with_id
from producers.logs import EventLog, LogError, read_lines
from producers.source import Entry
from stream.admin import BrokerError, create_topics
from stream.codec import Limits, decode
from stream.core.campaigns import read
from stream.core.items import Items
from stream.core.triggers import TYPES
from stream.embedded import EmbeddedBroker, free_port
from stream.events import CatalogItem, Event
from stream.ownership import partition_of
from stream.settings import Settings
from stream.topics import CATALOG, EVENTS, Topic

TIME = "2024-03-01T12:00:00Z"
DEFAULTS = Settings.model_validate({})
LIMITS = Limits.of(DEFAULTS)


def view(user: str, item: str = "a", **fields: Any) -> dict[str, Any]:
    return {"type": "view_item", "user": user, "item": item, "time": TIME} | fields


async def stored(settings: Settings, topic: Topic = EVENTS) -> dict[int, list[ConsumerRecord]]:
    """Everything in a topic, by partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.bootstrap, auto_offset_reset="earliest")
    async with consumer, asyncio.timeout(10):
        parts = [TopicPartition(topic.full(settings), at) for at in range(settings.partitions)]
        consumer.assign(parts)
        ends = await consumer.end_offsets(parts)
        found: dict[int, list[ConsumerRecord]] = defaultdict(list)
        while any(len(found[part.partition]) < end for part, end in ends.items()):
            for part, records in (await consumer.getmany(timeout_ms=500)).items():
                found[part.partition] += records
    return found


def events_of(records: dict[int, list[ConsumerRecord]]) -> list[dict[str, Any]]:
    """All events, of one partition in order."""
    values = [msgspec.json.decode(record.value) for part in records.values() for record in part]
    return [event for value in values for event in (value if isinstance(value, list) else [value])]


# Keys


@given(st.text(min_size=1), st.integers(1, 64))
def test_a_key_belongs_where_kafkas_default_partitioner_puts_it(key: str, partitions: int) -> None:
    try:
        data = key.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: no JSON text holds one
        return
    expected = DefaultPartitioner()(data, list(range(partitions)), [])
    assert partition_of(key, partitions) == expected


async def test_events_lie_where_plain_aiokafka_would_put_them(settings: Settings) -> None:
    users = [f"user-{n}" for n in range(60)] + ["ünïcode", "日本"]
    async with EventProducer(settings) as producer:
        assert await producer.send_many(view(user) for user in users) == len(users)
    mine = {record.key: at for at, part in (await stored(settings)).items() for record in part}
    async with AIOKafkaProducer(bootstrap_servers=settings.bootstrap) as plain:
        for user in users:
            sent = await plain.send_and_wait(EVENTS.full(settings), b"{}", key=user.encode())
            assert mine[user.encode()] == sent.partition


async def test_user_goes_before_device_and_items_go_to_the_catalogue(settings: Settings) -> None:
    async with EventProducer(settings) as producer:
        await producer.send({"type": "sign_up", "user": "ann", "anonymous": "dev", "time": TIME})
        await producer.send({"type": "view_item", "anonymous": "dev", "item": "a", "time": TIME})
        await producer.send({"type": "item", "item": "a", "name": "A"})
        await producer.send(CatalogItem(item="b", name="B"))
    keys = [record.key for part in (await stored(settings)).values() for record in part]
    assert sorted(keys) == [b"ann", b"dev"]
    listed = [record for part in (await stored(settings, CATALOG)).values() for record in part]
    assert sorted(record.key for record in listed) == [b"a", b"b"]


# What is sent


async def test_dicts_models_and_bytes_arrive_as_the_worker_reads_them(settings: Settings) -> None:
    async with EventProducer(settings) as producer:
        await producer.send(view("ann", time=datetime(2024, 3, 1, 12, tzinfo=UTC)))
        await producer.send(Event(type="view_item", user="ann", item="b", time=TIME))
        await producer.send(b'{"type":"view_item","user":"ann","item":"c","time":"%s"}' % TIME.encode())

        async def some() -> AsyncIterator[dict[str, Any]]:
            yield view("ann", "d", id="mine")

        assert await producer.send_many(some()) == 1
    records = next(part for part in (await stored(settings)).values() if part)
    items = Items()
    columns, dead = decode(records, items, LIMITS, lambda time, sig: False)
    assert dead == []
    assert [items.names[at] for at in columns.item] == ["a", "b", "c", "d"]
    assert len(set(columns.id.tolist()) - {0}) == 4
    assert msgspec.json.decode(records[3].value)["id"] == "mine"


async def test_received_is_kept_as_a_header(settings: Settings) -> None:
    async with EventProducer(settings) as producer:
        await producer.send(view("ann"), received=1_709_294_400_123)
        await producer.send(view("ann"))
    records = next(part for part in (await stored(settings)).values() if part)
    assert [record.headers for record in records] == [(("received", b"1709294400123"),), ()]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (view("ann", price="cheap"), ["price", '"cheap"', "number"]),
        (view("ann", time="yesterday"), ["time", '"yesterday"', "RFC 3339"]),
        ({"type": "view_item", "item": "a", "time": TIME}, ["user", "expected user or anonymous"]),
        ({"type": "view_item", "user": "ann", "time": TIME}, ["items", "expected items or item"]),
        (view("ann", context={"x": object()}), ["context", "object", "JSON"]),
        (b"[" + msgspec.json.encode(view("ann")) + b"]", ["one event, not an array"]),
        (b"\xff", ["UTF-8"]),
        ({"type": "item", "item": "a", "stock": -1}, ["stock", "-1", "whole number >= 0"]),
        ({"type": "item", "item": "a", "time": "soon"}, ["time", '"soon"', "RFC 3339"]),
        (view("ann", query="x" * 2_000_000), ["too large", "at most"]),
        (view("u" * 256, query="x" * 1_048_000), ["too large", "at most"]),
        (view("ann", type="tidewise.mail"), ["type", '"tidewise.mail"', "does not begin with tidewise."]),
    ],
)
async def test_invalid_events_are_refused_before_sending(
    settings: Settings, event: Any, told: list[str]
) -> None:
    async with EventProducer(settings) as producer:
        with pytest.raises(InvalidEvent) as caught:
            await producer.send(event)
        await producer.send(view("ben"))
    for part in told:
        assert part in str(caught.value)
    assert [event["user"] for event in events_of(await stored(settings))] == ["ben"]


async def test_what_was_accepted_before_a_fault_is_sent(settings: Settings) -> None:
    with pytest.raises(InvalidEvent):
        async with EventProducer(settings) as producer:
            await producer.send_many(
                [view("ann", "a"), view("ann", "b"), view("ann", time="?"), view("ann", "c")]
            )
    assert [event["item"] for event in events_of(await stored(settings))] == ["a", "b"]


async def test_the_largest_message_the_client_takes_the_broker_takes_too(settings: Settings) -> None:
    async with EventProducer(settings) as producer:
        low, high = 900_000, 1_100_000
        while low < high - 1:  # the boundary, by bisection
            middle = (low + high) // 2
            try:
                await producer.send(view("ann", query="x" * middle))
                low = middle
            except InvalidEvent:
                high = middle
    assert low > 1_048_000
    assert max(len(event["query"]) for event in events_of(await stored(settings))) == low


# Arrays


async def test_arrays_hold_one_partitions_events_in_order(settings: Settings) -> None:
    sent = [view(f"u{n % 37}", f"i{n}") for n in range(2000)]
    async with EventProducer(settings, array_size=50) as producer:
        await producer.send_many(sent)
    parts = await stored(settings)
    order: dict[str, list[str]] = defaultdict(list)
    sizes = []
    for at, records in parts.items():
        for record in records:
            value = msgspec.json.decode(record.value)
            sizes.append(len(value))
            assert {partition_of(event["user"], settings.partitions) for event in value} == {at}
            assert partition_of(record.key.decode(), settings.partitions) == at
            for event in value:
                order[event["user"]].append(event["item"])
    assert sum(sizes) == 2000
    assert max(sizes) == 50
    assert len(sizes) < 60
    for user, items in order.items():
        assert items == [event["item"] for event in sent if event["user"] == user]


async def test_an_array_spans_at_most_an_hour_of_receipt(settings: Settings) -> None:
    minutes = [0, 30, 60, 61, 200, 201, None, None]
    async with EventProducer(settings, array_size=100) as producer:
        for number, minute in enumerate(minutes):
            received = None if minute is None else 1_709_294_400_000 + minute * 60_000
            await producer.send(view("ann", f"i{number}"), received=received)
    records = next(part for part in (await stored(settings)).values() if part)
    assert [record.value.count(b'"item"') for record in records] == [3, 1, 2, 2]
    headers = [dict(record.headers).get("received") for record in records]
    assert headers == [b"1709298000000", b"1709298060000", b"1709306460000", None]


async def test_arrays_stay_within_the_largest_message(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(max_message_bytes=4096)
    await create_topics(settings)
    async with EventProducer(settings, array_size=1000) as producer:
        await producer.send_many(view("ann", query="x" * 700) for _ in range(50))
    records = [record for part in (await stored(settings)).values() for record in part]
    assert len(events_of({0: records})) == 50
    assert 1000 < max(len(record.value) for record in records) <= 4096


# Back-pressure and failure


async def test_sending_waits_while_the_buffer_is_full(settings: Settings) -> None:
    bound = 20_000
    async with EventProducer(settings, max_buffered_bytes=bound) as producer:
        most = 0
        for number in range(3000):
            await producer.send(view(f"u{number % 5}"))
            most = max(most, producer.buffered_bytes)
            assert producer.accepted == number + 1
        assert bound * 0.9 < most < bound + 1000
        await producer.flush()
        assert producer.acknowledged == 3000
        assert producer.buffered_bytes == 0
    assert len(events_of(await stored(settings))) == 3000


async def test_a_caller_that_never_waits_still_sends(settings: Settings) -> None:
    async with EventProducer(settings) as producer:
        for _ in range(3000):
            await producer.send(view("ann", query="x" * 500))
        assert producer.acknowledged > 0


async def test_flush_waits_for_what_was_accepted_before(settings: Settings) -> None:
    async with EventProducer(settings, linger_s=0.05) as producer:
        await producer.send(view("ann"))
        assert producer.acknowledged == 0
        await producer.flush()
        assert producer.acknowledged == 1
        assert len(events_of(await stored(settings))) == 1


async def test_a_broker_that_is_gone_is_told() -> None:
    with EmbeddedBroker() as broker:
        settings = Settings.model_validate({"broker_url": broker.url, "connect_timeout_s": 3.0})
        with pytest.raises(Undelivered, match=r"1 events were not acknowledged .* Send them again"):
            async with EventProducer(settings, deliver_within_s=1.0) as producer:
                await producer.send(view("ann"))
                await producer.flush()
                broker.stop()
                await producer.send(view("ann"))
                await producer.flush()
        with pytest.raises(Undelivered):
            await producer.send(view("ann"))


async def test_no_broker_is_told_at_once() -> None:
    url = f"kafka://127.0.0.1:{free_port()}"
    with pytest.raises(BrokerError, match="is it running, and is TIDEWISE_BROKER_URL its address"):
        async with EventProducer(DEFAULTS, broker_url=url):
            pass


@pytest.mark.kafka  # the embedded broker makes topics by use
async def test_a_missing_topic_is_told(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(connect_timeout_s=1.0)
    with pytest.raises(BrokerError, match=r"topic .*events is not on .*`tidewise topics create` makes it"):
        async with EventProducer(settings):
            pass


# Logs

LINES = [msgspec.json.encode(view("ann", f"i{n}", time=f"2024-03-01T12:00:{n:02d}Z")) for n in range(50)]


def log_of(path: Path, lines: list[bytes], look_ahead: int = 10_000) -> EventLog:
    path.write_bytes(b"\n".join(lines) + b"\n")
    return EventLog(path, DEFAULTS, look_ahead=look_ahead)


def items_of(entries: list[Entry]) -> list[str]:
    return [msgspec.json.decode(entry.data)["item"] for entry in entries]


def test_plain_packed_and_piped_logs_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"\n\n".join(LINES) + b"\r\n"
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    expected = [(2 * at + 1, line) for at, line in enumerate(LINES)]
    assert list(read_lines(tmp_path / "a.jsonl")) == expected
    assert list(read_lines(str(tmp_path / "a.jsonl.gz"))) == expected
    assert [entry.line for entry in EventLog("-", DEFAULTS).entries()] == [line for line, _ in expected]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(1, 12))
def test_events_come_in_order_or_the_line_is_named(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], look_ahead: int
) -> None:
    lines = [view("u", f"i{at}", time=f"2024-03-01T12:00:{s:02d}Z") for at, s in enumerate(seconds)]
    path = tmp_path_factory.getbasetemp() / "order.jsonl"
    log = log_of(path, [msgspec.json.encode(line) for line in lines], look_ahead)
    expected = sorted(range(len(seconds)), key=lambda at: seconds[at])
    moved = max(abs(at - to) for to, at in enumerate(expected))
    try:
        found = items_of(list(log.entries()))
    except LogError as error:
        assert moved > look_ahead, error
        assert f"{path}:" in str(error)
    else:
        assert found == [f"i{at}" for at in expected]


def test_a_line_too_late_is_named_with_both_times(tmp_path: Path) -> None:
    log = log_of(tmp_path / "a.jsonl", [*LINES[1:], LINES[0]], look_ahead=10)
    late = r"a.jsonl:50: 2024-03-01T12:00:00.000Z comes after 2024-03-01T12:00:\d\d.000Z, more than 10 lines"
    with pytest.raises(LogError, match=late):
        list(log.entries())


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"{", "not JSON"),
        (b'{"type":"view_item","user":"ann","item":"a","time":"now"}', "time: .*RFC 3339"),
        (b'{"type":"view_item","user":7,"item":"a","time":"2024-03-01T12:00:00Z"}', "user: .*a string"),
        (b'{"type":"view_item","user":"ann","time":"2024-03-01T12:00:00Z"}', "items or item"),
        (b'{"type":"view_item","user":"ann","item":"a"}', "time: nothing is there"),
        (b'{"type":"item","item":"a","price":-1}', "price: .*-1"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_faults_name_file_line_and_field(tmp_path: Path, bad: bytes, told: str) -> None:
    log = log_of(tmp_path / "a.jsonl", [*LINES[:2], bad, *LINES[3:]])
    with pytest.raises(LogError, match=rf"a\.jsonl:3: .*{told}"):
        list(log.entries())
    assert faults(bad, LIMITS) != []
    assert faults(LINES[0], LIMITS) == []


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere\.jsonl:1: cannot be read: No such file"):
        list(read_lines(tmp_path / "nowhere.jsonl"))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"\n".join(LINES * 100))[:-9])
    with pytest.raises(LogError, match=r"cut.gz:\d+: cannot be read"):
        list(read_lines(tmp_path / "cut.gz"))
    (tmp_path / "plain.gz").write_bytes(b"{}\n")
    with pytest.raises(LogError, match=r"plain.gz:1: cannot be read"):
        list(read_lines(tmp_path / "plain.gz"))


def test_ids_are_stable_and_differ(tmp_path: Path) -> None:
    own = msgspec.json.encode(view("ann", id="own"))
    null = msgspec.json.encode(view("ann", id=None))
    (tmp_path / "there").mkdir()
    ids = [
        [msgspec.json.decode(entry.data)["id"] for entry in log_of(path, [null, own, *LINES]).entries()]
        for path in (tmp_path / "a.jsonl", tmp_path / "there" / "a.jsonl", tmp_path / "b.jsonl")
    ]
    assert ids[0] == ids[1]
    assert ids[0][1] == "own"
    assert len(set(ids[0])) == 52
    assert set(ids[0]) & set(ids[2]) == {"own"}
    assert msgspec.json.decode(with_id(b' {"a": 1} ', "x")) == {"a": 1, "id": "x"}


def test_a_catalogue_event_without_time_keeps_its_place(tmp_path: Path) -> None:
    item = b'{"type":"item","item":"%d"}'
    entries = list(log_of(tmp_path / "a.jsonl", [item % 1, *LINES[:2], item % 2, LINES[2]]).entries())
    assert [entry.line for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry.is_item for entry in entries] == [True, False, False, True, False]
    assert entries[0].time == 0
    assert entries[3].time == entries[2].time


# Complete Journey


@pytest.fixture(scope="module")
def journey() -> CompleteJourney:
    source = open_dataset("complete-journey", 5000)
    assert isinstance(source, CompleteJourney)
    return source


@pytest.fixture(scope="module")
def table() -> Any:
    folder = complete_journey._data_folder()
    return pq.ParquetFile(folder / "transactions.parquet").read().slice(0, 6000)


def test_baskets_equal_the_rows_they_were_made_from(journey: CompleteJourney, table: Any) -> None:
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.to_pylist():
        rows[str(row["basket_id"])].append(row)
    entries = list(journey.purchases())
    assert [msgspec.json.decode(entry.data)["order"] for entry in entries] == list(rows)[: len(entries)]
    for entry in entries:
        event = msgspec.json.decode(entry.data, type=Event)
        lines = rows[str(event.order)]
        assert entry.key == event.user == str(lines[0]["household_id"])
        assert event.time == lines[0]["transaction_timestamp"].strftime("%Y-%m-%dT%H:%M:%SZ")
        assert entry.time == int(lines[0]["transaction_timestamp"].timestamp() * 1000)
        assert event.value == pytest.approx(sum(row["sales_value"] for row in lines), abs=0.006)
        for line, row in zip(event.lines(), lines, strict=True):
            assert line.item == str(row["product_id"])
            assert line.quantity == max(1, row["quantity"])
            worth = row["sales_value"] / max(1, row["quantity"])
            assert line.price == pytest.approx(worth, abs=0.00006)


def test_a_limit_takes_whole_baskets_and_only_their_products(journey: CompleteJourney, table: Any) -> None:
    entries = list(journey.entries())
    purchases = [msgspec.json.decode(entry.data, type=Event) for entry in entries if not entry.is_item]
    lines = sum(len(event.lines()) for event in purchases)
    assert 5000 <= lines == journey.lines < 5200
    assert lines - len(purchases[-1].lines()) < 5000
    following = str(table["basket_id"][lines].as_py())
    assert following != purchases[-1].order
    sold = {line.item for event in purchases for line in event.lines()}
    assert [entry.key for entry in entries if entry.is_item] == sorted(sold, key=int)
    assert journey.total == len(entries)
    assert [entry.line for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)


def test_every_event_of_the_slice_is_valid(journey: CompleteJourney) -> None:
    assert [fault for entry in journey.entries() for fault in faults(entry.data, LIMITS)] == []


def test_products_have_readable_names(journey: CompleteJourney) -> None:
    items = {e.key: msgspec.json.decode(e.data, type=CatalogItem) for e in journey.catalog()}
    bananas = items["1082185"]
    assert bananas.name == "Bananas, 40 lb"
    assert bananas.group == "2"
    assert bananas.attributes == {
        "department": "PRODUCE",
        "brand": "National",
        "category": "TROPICAL FRUIT",
        "type": "BANANAS",
        "package_size": "40 LB",
    }


def test_the_whole_has_the_known_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Batches of another size than the default, so that other baskets stand across their borders.
    monkeypatch.setattr(complete_journey, "BATCH_LINES", 100_000)
    source = CompleteJourney()
    assert source.lines == 1_469_307
    assert source.total == 155_848 + 68_509
    baskets, lines, times = 0, 0, []
    for entry in source.purchases():
        baskets += 1
        lines += entry.data.count(b'{"item":')
        times.append(entry.time)
    assert (baskets, lines) == (155_848, 1_469_307)
    assert (np.diff(times) >= 0).all()
    assert "simulated" in source.note
    assert complete_journey.PACKAGE not in sys.modules


def test_its_campaigns_and_what_was_redeemed_stand_in_the_log() -> None:
    source = open_dataset("complete-journey-campaigns", 60_000)
    assert isinstance(source, JourneyWithCampaigns)
    entries = list(source.entries())
    assert source.total == len(entries)
    assert [entry.line for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
    assert [fault for entry in entries for fault in faults(entry.data, LIMITS)] == []
    events = [(e.time, msgspec.json.decode(e.data, type=Event)) for e in entries if not e.is_item]
    folder, (begin, end) = complete_journey._data_folder(), (events[0][0], events[-1][0])
    starts, told = {}, {}
    for name in ("campaign_descriptions", "campaigns", "coupon_redemptions"):
        told[name] = pq.ParquetFile(folder / f"{name}.parquet").read().to_pylist()
    for row in told["campaign_descriptions"]:
        starts[row["campaign_id"]] = int(row["start_date"].timestamp() * 1000)
    sent = {(e.user, (e.context or {})["campaign"]): time for time, e in events if e.type == "invited"}
    assert sent == {
        (str(row["household_id"]), str(row["campaign_id"])): max(begin, starts[row["campaign_id"]])
        for row in told["campaigns"] if starts[row["campaign_id"]] <= end
    }  # fmt: skip
    redeemed = Counter((e.user, time // DAY_MS, e.coupon) for time, e in events if e.coupon)
    days = [(row, int(row["redemption_date"].timestamp() * 1000)) for row in told["coupon_redemptions"]]
    assert redeemed == Counter(
        (str(row["household_id"]), time // DAY_MS, str(row["coupon_upc"]))
        for row, time in days if begin // DAY_MS <= time // DAY_MS <= end // DAY_MS
    )  # fmt: skip
    assert any(e.coupon for _, e in events if e.type == "purchase")


def test_each_of_its_campaigns_is_a_campaign() -> None:
    registry = {name: kind.parameters for name, kind in TYPES.items()}
    found = [read(document, registry) for document in documents()]
    assert len(found) == 27 and not any(faults for _, faults in found)
    eighth = found[7][0]
    assert eighth is not None and eighth.id == "journey-08" and eighth.channels == ("mail",)
    assert (str(eighth.window.from_), str(eighth.window.until)) == (
        "2017-05-08T00:00:00.000Z", "2017-06-26T00:00:00.000Z"
    )  # fmt: skip


def test_an_unknown_data_set_names_those_there_are() -> None:
    with pytest.raises(DatasetError, match=r"no data set 'movies'; there is: complete-journey"):
        open_dataset("movies")
