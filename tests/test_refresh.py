"""Fitted models on their way from the store to the lists; and scores of models trained elsewhere."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from state.keys import Keys
from state.redis import RedisStore
from stream import refresh as module
from stream.core.items import Items, item_hash
from stream.core.models import vectors
from stream.core.models.external import MOST, External, ModelScores, entries, read
from stream.core.models.gathered import Models
from stream.core.models.model import NAMES, Chunk, Model, chunks
from stream.core.neighbor_format import HIDDEN
from stream.core.recommend.query import Query
from stream.delivery import Output
from stream.evaluation.history import read as read_history
from stream.evaluation.protocols import answers
from stream.follower import Followed, followed
from stream.kafka import KafkaLog, KafkaSender
from stream.ownership import partition_of
from stream.refresh import Interests, aside, interests, keep_fresh, outputs
from stream.settings import Settings
from stream.topics import MODEL_SCORES, MODELS
from tests.test_cold_start import Worker
from tests.test_models import query_of
from tests.test_ranking import Entry, hood_of


@dataclass(frozen=True)
class Record:
    """What the follower needs of a record of the broker's."""

    key: bytes
    value: bytes | None
    topic: str = "models"
    offset: int = 0


# Chunks


def model_of(name: str, items: int, seed: float) -> Model:
    return Model(name, np.arange(items, dtype=np.uint64), np.full((items, 2), seed, dtype=np.float32))


def chunks_of(name: str, version: int, items: int = 6) -> list[Chunk]:
    return list(chunks(model_of(name, items, float(version)), version, 32))


def in_use(models: Models, name: str) -> float:
    return float(models.placed[name].model.values[0, 0]) if name in models.placed else 0.0


def test_a_model_takes_over_with_its_last_chunk() -> None:
    models = Models(Items(), NAMES)
    for version in (1, 2):
        for chunk in chunks_of("nmf", version):
            assert in_use(models, "nmf") == version - 1
            models.put(chunk)
        assert in_use(models, "nmf") == models.versions["nmf"] == version


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=40))
def test_whatever_comes_a_model_in_use_is_whole_and_never_older(order: list[tuple[int, int]]) -> None:
    models, of = Models(Items(), NAMES), {version: chunks_of("nmf", version) for version in range(1, 5)}
    assert {len(some) for some in of.values()} == {3}
    since: dict[int, set[int]] = {}
    newest, expected = 0, 0
    for version, number in order:
        models.put(of[version][number])
        if version >= newest and version > expected:
            newest = version
            since.setdefault(version, set()).add(number)
            expected = version if len(since[version]) == 3 else expected
        assert in_use(models, "nmf") == expected


def test_chunks_of_another_size_are_dropped_and_the_next_ones_count() -> None:
    models = Models(Items(), NAMES)
    models.put(chunks_of("nmf", 5)[0])
    with pytest.raises(ValueError, match="another size"):
        models.put(chunks_of("nmf", 5, 20)[1])
    for chunk in chunks_of("nmf", 5):
        models.put(chunk)
    assert in_use(models, "nmf") == 5


def test_models_that_no_list_is_made_from_are_not_kept() -> None:
    models = Models(Items(), ["nmf"])
    for chunk in chunks_of("pure-svd", 1):
        models.put(chunk)
    assert not models.placed


def test_records_fit_into_messages_and_repeat_their_keys() -> None:
    settings = Settings(max_message_bytes=2048)
    sent = [outputs(model_of("nmf", 1000, 1.0), version, settings) for version in (1, 2)]
    assert len(sent[0]) > 8 and max(len(each.value) for each in sent[0]) < 2048
    assert [each.key for each in sent[0]] == [each.key for each in sent[1]]
    assert len({each.key for each in sent[0]}) == len(sent[0])


def test_topics_of_models_are_read_where_lists_are_made_from_them() -> None:
    assert not [topic for topic in followed(Settings()) if topic in (MODELS, MODEL_SCORES)]
    assert MODELS in followed(Settings(components=["item-item", "nmf"]))
    assert MODEL_SCORES in followed(Settings(components=["external"]))


def test_a_damaged_record_does_not_stop_the_follower() -> None:
    found = Followed(Settings(components=["nmf", "external"]), Items())
    good = [Record(b"", msgspec.msgpack.encode(chunk)) for chunk in chunks_of("nmf", 1)]
    found.learn_models([Record(b"", b"\x93 damaged"), *good])
    assert in_use(found.models, "nmf") == 1
    scores = orjson.dumps({"user": "ann", "model": "m", "items": ["a"], "scores": [1.0]})
    found.score([Record(b"bob", scores), Record(b"ann", scores)])
    assert len(found.external) == 1


# From the store


SHELVES = [["a1", "a2", "a3", "a4"], ["b1", "b2", "b3", "b4"]]


async def shop_of(users: int = 24, **given: Any) -> Worker:
    """Half of the users have three of four items of one shelf, half of the other, each another one not."""
    shop = Worker(**given)
    await shop.start({})
    for n in range(users):
        shelf = SHELVES[n % 2]
        for at, item in enumerate(shelf[:n % 4] + shelf[n % 4 + 1:]):  # fmt: skip
            await shop.send(f"u{n}", "view_item", 60 * at, item=item)
    await shop.settle()
    return shop


def had(found: Interests) -> list[list[tuple[int, int]]]:
    """Items and counts of each user, in an order that does not tell who."""
    ends = np.cumsum(found[0])
    pairs = list(zip(found[1].tolist(), found[2].tolist(), strict=True))
    return sorted(
        sorted(pairs[end - n : end]) for n, end in zip(found[0].tolist(), ends.tolist(), strict=True)
    )


async def test_interests_are_those_of_all_users_but_test_accounts_and_the_erased() -> None:
    shop = await shop_of(6, test_users=["u1"])
    await shop.send("u:3}:user:x", "view_item", 600, item="a1")
    await shop.send("u:3}:user:x", "view_item", 700, item="a1")
    await shop.send("u2", "forget", 800)
    expected = [
        sorted((item_hash(i), 1) for at, i in enumerate(SHELVES[n % 2]) if at != n % 4) for n in (0, 3, 4, 5)
    ]
    found = await interests(shop.local.store, shop.settings)
    assert had(found) == sorted([*expected, [(item_hash("a1"), 2)]])


async def test_interests_from_redis_in_portions(
    settings: Settings, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await shop_of(23)
    expected = await interests(shop.local.store, shop.settings)
    with Redis.from_url(store_url) as redis:
        for key, value in shop.local.store.strings.items():
            redis.set(key.replace("tidewise", settings.prefix, 1), value)
    monkeypatch.setattr(module, "PORTION", 5)
    store = await RedisStore.open(store_url, Keys(settings.prefix), 5.0)
    try:
        assert had(await interests(store, settings)) == had(expected)
        assert len(expected[0]) == 23
    finally:
        await store.close()


async def test_an_empty_store_makes_empty_models() -> None:
    shop = Worker(components=["popular", *NAMES])
    await shop.start({})
    await shop.local.refresh()
    await shop.send("ann", "view_item", item="a1")
    assert set(shop.local.follower.models.versions) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "strategy"), [("pure-svd", "factors"), ("nmf", "factors"), ("autoencoder",) * 2]
)
async def test_lists_are_made_from_a_refreshed_model(name: str, strategy: str) -> None:
    given: dict[str, Any] = {"factors": 2, "autoencoder_penalty": 1.0}
    shop = await shop_of(components=[name, "popular"], **given)
    await shop.send("ann", "view_item", 900, item="a1")
    assert {line["strategy"] for line in shop.list_of("ann")} <= {"trending"}
    await shop.local.refresh()
    await shop.send("ann", "view_item", 1000, item="a2")
    because = {line["item"]: line["because"] for line in shop.list_of("ann") if line["strategy"] == strategy}
    assert because and because.keys() <= {"a3", "a4"}
    assert all(reason in (["a1"], ["a2"]) for reason in because.values())


async def test_the_next_refresh_forgets_the_erased() -> None:
    shop = await shop_of(components=["autoencoder"])
    await shop.send("odd", "view_item", 900, item="only-his")
    for known in (True, False):
        await shop.local.refresh()
        hashes = shop.local.follower.models.placed["autoencoder"].model.hashes
        assert (item_hash("only-his") in hashes.tolist()) == known
        await shop.send("odd", "forget", 1000)


async def test_vectors_of_users_are_kept_at_every_event_and_removed_with_them() -> None:
    shop = await shop_of(components=["pure-svd", "nmf", "autoencoder"], factors=3)
    assert not [key for key in shop.local.store.strings if ":vector:" in key]
    await shop.local.refresh()
    for events, item in enumerate(("a1", "b2"), 1):
        await shop.send("ann", "view_item", 900 + events, item=item)
        part = f"u{partition_of('ann', 2)}"
        key = shop.local.store.keys.vector(part, "ann")
        found = vectors.unpack(shop.local.store.strings[key])
        assert found.keys() == {"pure-svd", "nmf"}
        rows = await shop.local.shoppers[partition_of("ann", 2)].users(["ann"])
        for name, (version, vector) in found.items():
            assert version == shop.local.follower.models.versions[name]
            placed = shop.local.follower.models.placed[name]
            np.testing.assert_array_equal(vector, placed.vectors(rows.interest)[0])
    await shop.send("stranger", "view_item", 950, item="of-no-model")
    assert [key for key in shop.local.store.strings if ":vector:" in key] == [key]
    await shop.send("ann", "forget", 1000)
    assert not [key for key in shop.local.store.strings if ":vector:" in key]


@pytest.mark.parametrize("protocol", ["leave-one-out", "next-basket", "prequential"])
async def test_evaluation_refreshes_before_it_tests(protocol: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    lines = [[f"{'ab'[n % 2]}{at}" for at in rng.permutation(6)[:5]] for n in range(40)]
    (tmp_path / "shop.txt").write_text("".join(f"{n} {' '.join(line)}\n" for n, line in enumerate(lines)))
    history = read_history(str(tmp_path / "shop.txt"))
    settings = Settings(components=["autoencoder"], autoencoder_penalty=1.0)
    found, run = await answers(settings, protocol, history, size=5)
    assert run.engine.worker.follower.models.versions["autoencoder"] >= 3
    hit = (found.lists[:, :, None] == found.targets[found.start[:-1], None, None]).any(axis=(1, 2))
    assert hit[-20:].mean() > 0.5
    again, _ = await answers(settings, protocol, history, size=5)
    np.testing.assert_array_equal(again.lists, found.lists)


# The schedule


async def test_the_owner_refreshes_on_schedule_and_goes_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = await shop_of(components=["nmf"], refresh_every_s=60)
    clock = itertools.count(1_000_000, 61_000)
    ports = shop.local.shoppers[0].ports
    ports = type(ports)(ports.log, ports.store, ports.sender, lambda: next(clock), ports.dead_letters)
    monkeypatch.setattr(module, "_LOOK_S", 0.001)
    failing, owner = [RuntimeError("once")], [False]

    async def send(_: Any, sent: Any) -> None:
        if failing:
            raise failing.pop()
        shop.local.follower.learn_models(sent)

    monkeypatch.setattr(module, "_send", send)
    models = shop.local.follower.models
    task = asyncio.create_task(keep_fresh(shop.settings, models, ports, lambda: owner[0]))
    await asyncio.sleep(0.05)
    assert not models.versions
    owner[0] = True
    async with asyncio.timeout(10):
        while models.versions.get("nmf", 0) < 1_000_000:
            await asyncio.sleep(0.005)
        first = models.versions["nmf"]
        while models.versions["nmf"] == first:
            await asyncio.sleep(0.005)
    assert not failing
    task.cancel()


async def test_no_schedule_where_there_is_nothing_to_refresh() -> None:
    shop = Worker(components=["popular"], refresh_every_s=60)
    ports = shop.local.shoppers[0].ports
    await asyncio.wait_for(keep_fresh(shop.settings, shop.local.follower.models, ports, lambda: True), 5)


async def test_work_aside_lets_the_loop_go_on_and_hands_errors_back() -> None:
    gate = threading.Event()
    waiting = asyncio.create_task(aside(lambda: gate.wait(10)))
    await asyncio.sleep(0.01)
    gate.set()
    assert await asyncio.wait_for(waiting, 5)
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0)


# Scores from elsewhere


GOOD = {"user": "ann", "model": "sasrec-3", "items": ["a", "b"], "scores": [1.5, -2]}


def test_a_good_message_is_read() -> None:
    assert read(orjson.dumps(GOOD), b"ann") == ModelScores("ann", "sasrec-3", ["a", "b"], [1.5, -2.0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"user": ""}, "user"), ({"user": 7}, "user"), ({"model": None}, "model"), ({"items": []}, "items"),
        ({"items": ["a"]}, "1 items and 2 scores"), ({"items": ["a", "a"]}, "twice"),
        ({"items": ["a", ""]}, "items"),
        ({"scores": [1, "2"]}, "scores"), ({"score": 1}, "score"), ({"user": "bob"}, "make the user the key"),
    ],
)  # fmt: skip
def test_bad_messages_are_refused_with_their_field(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(orjson.dumps(GOOD | change), b"ann")


@pytest.mark.parametrize("value", [b"", b"[]", b"\xff", b'{"user":"ann"', b'{"scores":[1e999,0]}'])
def test_what_is_no_message_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="model-scores"):
        read(value, b"ann")


def test_scores_beyond_all_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="model-scores"):
        read(orjson.dumps(GOOD).replace(b"1.5", b"1e999"), b"ann")


def scored(user: str, scores: dict[str, float]) -> ModelScores:
    return ModelScores(user, "m", list(scores), list(scores.values()))


def test_evidence_is_the_softmax_of_the_newest_scores_of_a_user() -> None:
    items = Items()
    items.add_all(["a", "b", "c"])
    held = External(items, 10)
    held.put(scored("ann", {"a": 900.0}))
    held.put(scored("ann", {"a": 700.0, "b": 701.0, "unknown": 650.0}))
    item, evidence = held.of(["bob", "ann"])
    assert item.tolist() == [[-1, -1, -1], [items.add("b"), items.add("a"), -1]]
    e = np.exp(1.0)
    np.testing.assert_allclose(evidence[1], [e / (1 + e), 1 / (1 + e), np.exp(-50) / (1 + e)], rtol=1e-4)
    assert not evidence[0].any() and len(items) == 3


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=30))
def test_the_newest_users_are_kept(order: list[tuple[str, bool]]) -> None:
    held, expected = External(Items(), 3), dict[str, None]()
    for user, puts in order:
        expected.pop(user, None)
        if puts:
            held.put(scored(user, {"a": 1.0}))
            expected[user] = None
            if len(expected) > 3:
                del expected[next(iter(expected))]
        else:
            held.drop(user)
        assert len(held) == len(expected)
        _, evidence = held.of(list("abcdef"))
        assert {user for user, row in zip("abcdef", evidence, strict=True) if row.any()} == set(expected)


def test_of_many_scores_the_best_are_kept() -> None:
    held = External(items := Items(), 3)
    names = [f"i{n}" for n in range(200)]
    items.add_all(names)
    held.put(scored("ann", {name: n / 100 for n, name in enumerate(names)}))
    item, evidence = held.of(["ann"])
    assert item.tolist() == [[items.add(name) for name in reversed(names[-MOST:])]]
    assert (np.diff(evidence[0]) < 0).all()


def test_external_entries_are_what_may_be_shown() -> None:
    hood = hood_of({"hidden": Entry({}, flags=HIDDEN)}, complete=False)
    hood.items.add_all(["a", "b"])
    hood.reserve()
    held = External(hood.items, 10)
    held.put(scored("ann", {"a": 1.0, "hidden": 5.0, "b": 1.0}))
    query = query_of([{}, {}])
    asked = Query(query.profile, query.interest, query.time_ms, query.decay, scored=held.of(["ann", "bob"]))
    found = entries(hood, asked)
    shown = {hood.items.name(i) for i in found.item[0].tolist() if i >= 0}
    assert shown == {"a", "b"} and (found.item[1] == -1).all()
    assert found.because is None or (found.because == -1).all()
    assert found.values[0] is not None and ((found.values[0] > 0) == (found.item >= 0)).all()
    np.testing.assert_array_equal(entries(hood, asked.take(slice(1, 2))).item, found.item[1:])
    assert entries(hood, query).item.shape == (2, 0)


async def test_an_erased_user_gets_a_tombstone_where_scores_are_read() -> None:
    for components in (["external"], ["popular"]):
        shop = await shop_of(0, components=components)
        await shop.send("ann", "view_item", 900, item="a1")
        await shop.send("ann", "forget", 1000)
        sent = shop.local.outputs.take(MODEL_SCORES.name, partition_of("ann", 2))
        assert [(each.key, each.tombstone) for each in sent] == [(b"ann", True)] * (
            components == ["external"]
        )


async def test_the_broker_gets_a_tombstone_without_value(settings: Settings) -> None:
    async with KafkaSender(settings) as sender:
        await sender.publish(1, [Output(MODEL_SCORES.name, b"ann", b"", tombstone=True)])
    log = KafkaLog(settings)
    await log.start()
    try:
        record = await log.read(MODEL_SCORES.name, 1, 0)
    finally:
        await log.stop()
    assert record is not None and (record.key, record.value) == (b"ann", None)


async def test_lists_take_scores_from_elsewhere() -> None:
    shop = await shop_of(components=["external", "popular"])
    scores = orjson.dumps(GOOD | {"items": ["b1", "nobody-has-it"], "scores": [1.0, 9.0]})
    shop.local.follower.score([Record(b"ann", scores)])
    await shop.send("ann", "view_item", 900, item="a1")
    lines = shop.list_of("ann")
    assert [(line["item"], line["because"]) for line in lines if line["strategy"] == "model"] == [("b1", [])]
    shop.local.follower.score([Record(b"ann", None)])
    await shop.send("ann", "view_item", 1000, item="a2")
    assert {line["strategy"] for line in shop.list_of("ann")} <= {"trending"}
