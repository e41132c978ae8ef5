"""The bundling transport: the contract with the pinned Faust, and bundles from a real broker."""

from __future__ import annotations

import asyncio
import inspect
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaProducer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, StreamT
from hypothesis import given
from hypothesis import strategies as st

from stream.app import faust_app
from stream.settings import Settings
from stream.topics import EVENTS
from stream.transport import Bundle, BundleTransport, StockRecord, StockTransport, bundle_of, cut, split

PARTS = 4


def test_faust_is_the_version_whose_private_methods_are_overridden() -> None:
    assert faust.__version__ == "0.15.3"
    assert "faust-streaming==0.15.3" in (Path(__file__).parent.parent / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("owner", "name", "arguments"),
    [
        (driver.Consumer, "_new_consumer_thread", ["self"]),
        (driver.Consumer, "getmany", ["self", "timeout"]),
        (driver.Consumer, "_add_gap", ["self", "tp", "offset_from", "offset_to"]),
        (driver.Consumer, "_new_offset", ["self", "tp"]),
        (driver.AIOKafkaConsumerThread, "_create_worker_consumer", ["self", "transport"]),
        (driver.AIOKafkaConsumerThread, "seek", ["self", "partition", "offset"]),
        (driver.AIOKafkaConsumerThread, "seek_to_committed", ["self"]),
    ],
)
def test_the_overridden_methods_are_there(owner: type, name: str, arguments: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == arguments


@pytest.mark.parametrize("transport", ["bundles", "stock"])
def test_the_setting_chooses(settings: Settings, transport: str) -> None:
    chosen = faust_app(Settings.model_validate(settings.model_dump() | {"transport": transport})).transport
    assert isinstance(chosen, BundleTransport if transport == "bundles" else StockTransport)


class Reader:
    """A Faust application that collects what it is given and acknowledges it."""

    def __init__(self, settings: Settings) -> None:
        self.app = faust_app(settings)
        self.bundles: list[Bundle] = []
        self.app.agent(self.app.topic(EVENTS.full(settings)))(self._read)

    async def _read(self, stream: StreamT[Any]) -> None:
        stream.enable_acks = False
        async for event in stream.events():
            self.bundles.append(bundle_of(event))
            event.ack()

    async def until(self, records: int) -> None:
        async with asyncio.timeout(40):
            while sum(len(bundle.records) for bundle in self.bundles) < records:
                await asyncio.sleep(0.02)

    async def __aenter__(self) -> Reader:
        await self.app.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.app.stop()


async def send(settings: Settings, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap)
    await producer.start()
    for n, value in enumerate(values):
        await producer.send(
            EVENTS.full(settings), value, partition=n % PARTS, headers=[("received", b"%d" % n)]
        )
    await producer.stop()


@pytest.mark.parametrize("transport", ["bundles", "stock"])
async def test_every_record_arrives_once_in_order(settings: Settings, transport: str) -> None:
    settings = Settings.model_validate(settings.model_dump() | {"transport": transport})
    values = [b"%d" % n for n in range(200)]
    await send(settings, values)
    async with Reader(settings) as reader:
        await reader.until(len(values))
    for partition in range(PARTS):
        records = [r for b in reader.bundles if b.partition == partition for r in b.records]
        assert [r.value for r in records] == values[partition::PARTS]
        assert [dict(r.headers)["received"] for r in records] == values[partition::PARTS]
    if transport == "bundles":
        assert len(reader.bundles) < 100, "records come in bundles"
    else:
        assert all(len(bundle.records) == 1 for bundle in reader.bundles)


async def test_bundles_are_contiguous_and_the_next_worker_goes_on_behind_them(settings: Settings) -> None:
    await send(settings, [b"%d" % n for n in range(120)])
    async with Reader(settings) as reader:
        await reader.until(120)
        await asyncio.sleep(1.5)  # the commit interval
    reached = dict.fromkeys(range(PARTS), 0)
    for bundle in reader.bundles:
        assert bundle.first in (None, reached[bundle.partition])
        assert bundle.next == bundle.records[-1].offset + 1
        reached[bundle.partition] = bundle.next
    await send(settings, [b"%d" % n for n in range(120, 160)])
    async with Reader(settings) as later:
        await later.until(40)
    assert sorted(int(r.value or b"") for b in later.bundles for r in b.records) == list(range(120, 160))


async def test_a_seek_back_while_a_fetch_waits_reads_again_from_there(settings: Settings) -> None:
    await send(settings, [b"%d" % n for n in range(40)])
    async with Reader(settings) as reader:
        await reader.until(40)
        for again in range(1, 4):
            await asyncio.sleep(0.2)  # nothing comes: the next fetch waits
            await reader.app.consumer.seek(TP(EVENTS.full(settings), 0), 2)
            await reader.until(40 + 8 * again)
            assert (reader.bundles[-1].first, reader.bundles[-1].next) == (2, 10)


def record(offset: int, size: int) -> StockRecord:
    return StockRecord(offset, 0, None, b"x" * size if size else None, ())


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([0, 1, 300, 500, 999, 1000, 1001, 5000])), min_size=1
    )
)
def test_pieces_are_small_and_follow_on(drawn: list[tuple[int, int]]) -> None:
    offsets = accumulate(step for step, _ in drawn)
    records = [record(offset, size) for offset, (_, size) in zip(offsets, drawn, strict=True)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stream.transport.BUNDLE_BYTES", 1000)
        pieces = list(cut(Bundle("events", 3, records, 1, records[-1].offset + 5)))
    assert [record for piece in pieces for record in piece.records] == records
    assert [piece.first for piece in pieces] == [1, *(piece.next for piece in pieces[:-1])]
    assert all(piece.next == piece.records[-1].offset + 1 for piece in pieces[:-1])
    assert pieces[-1].next == records[-1].offset + 5
    sizes = [[len(record.value or b"") for record in piece.records] for piece in pieces]
    assert [piece.size for piece in pieces] == [sum(each) for each in sizes]
    assert all(sum(each) <= 1000 or len(each) == 1 for each in sizes)
    assert all(sum(one) + two[0] > 1000 for one, two in pairwise(sizes)), "no smaller than need be"


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5))
def test_split_by_number(steps: list[int], most: int) -> None:
    records = [record(offset, 1) for offset in accumulate(steps)]
    pieces = list(split(Bundle("catalog", 3, records, 1, 200), most))
    assert [record for piece in pieces for record in piece.records] == records
    assert [piece.first for piece in pieces] == [1, *(piece.next for piece in pieces[:-1])]
    assert all(piece.next == piece.records[-1].offset + 1 for piece in pieces[:-1])
    assert pieces[-1].next == 200, "also of a bundle without records"
    assert [len(piece.records) for piece in pieces[:-1]] == [most] * (len(pieces) - 1)


@pytest.mark.kafka
async def test_aborted_records_do_not_arrive(settings: Settings) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id=settings.prefix)
    await producer.start()
    topic = EVENTS.full(settings)
    for value, keep in ((b"aborted", False), (b"kept", True)):
        await producer.begin_transaction()
        await producer.send_and_wait(topic, value, partition=0)
        await (producer.commit_transaction() if keep else producer.abort_transaction())
    await producer.stop()
    async with Reader(settings) as reader:
        await reader.until(1)
    (bundle,) = reader.bundles
    assert [record.value for record in bundle.records] == [b"kept"]
