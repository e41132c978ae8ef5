"""What is popular in a context: names, counts against brute force, partitions merged, a worker's views."""

from __future__ import annotations

import math
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis import Redis

from state.keys import Keys
from state.lookup import AsyncLookup, Lookup, ViewList
from state.segments import BANDS, DIMENSIONS, MOST_CHARACTERS, name_of, parse, segments_of, value_of
from stream.core import segments as module
from stream.core.items import Items, item_hash
from stream.core.segments import LEAST, PRIOR, Everywhere, Segments, segment_record
from stream.core.trending import Scored, Top, merge, read_top, top_record
from stream.core.views import trending_view
from stream.delivery import Output
from stream.follower import Followed
from stream.segments import SegmentBoard
from stream.settings import Settings
from stream.topics import TRENDING
from tests.test_cold_start import START_MS, Worker

HOUR_MS = 3_600_000
KINDS = ["device+place", "device", "place", "hour", "weekday+device"]

# Names

contexts = st.fixed_dictionaries(
    {},
    optional={
        "device": st.text(max_size=60) | st.sampled_from(["app", "web"]) | st.integers(),
        "place": st.text(max_size=20) | st.sampled_from(["DE", "New York"]),
        "channel": st.sampled_from(["web", ""]),
        "hour": st.integers(-1, 25) | st.sampled_from([*BANDS, "7", "x"]),
        "weekday": st.integers(-1, 8),
        "zone": st.just("Europe/Berlin"),
    },
)


@given(contexts)
def test_segments_can_stand_in_keys_and_the_narrowest_come_first(context: dict[str, Any]) -> None:
    found = segments_of(context)
    assert len(set(found)) == len(found)
    sizes = [segment.count("=") for segment in found]
    assert sizes == sorted(sizes, reverse=True) and max(sizes, default=0) <= 3
    for segment in found:
        pairs = [part.split("=") for part in segment.split(",")]
        assert [name for name, _ in pairs] == sorted({name for name, _ in pairs}) and len(segment) < 200
        assert all(name in DIMENSIONS and 0 < len(value) <= MOST_CHARACTERS for name, value in pairs)
        assert all(re.fullmatch(r"[A-Za-z0-9_.~!'()*%-]+", value) for _, value in pairs)


def test_the_narrower_of_two() -> None:
    assert segments_of({"device": "mobile", "place": "New York", "zone": "x"}) == [
        "device=mobile,place=New%20York",
        "place=New%20York",
        "device=mobile",
    ]
    assert segments_of({"device": "a=b,c:d", "hour": 18}) == [
        "device=a%3Db%2Cc%3Ad,hour=18-23",
        "device=a%3Db%2Cc%3Ad",
        "hour=18-23",
    ]
    assert segments_of({"hour": "5", "weekday": 6}) == ["hour=0-5,weekday=6", "hour=0-5", "weekday=6"]
    assert segments_of({"device": ["mobile"], "place": "x" * 49, "hour": 24, "weekday": "Mo"}) == []
    assert value_of("hour", True) is None


@pytest.mark.parametrize("kind", ["", "zone", "device+", "device+device", "device+place+hour+weekday"])
def test_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="segment"):
        Settings(segments=[kind])


# Counts

event = st.tuples(
    st.dictionaries(st.sampled_from(["device", "place"]), st.sampled_from(["a", "b", 7]), max_size=2),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.integers(0, 400),
    st.sampled_from([1, 8, 32]),
)
Event = tuple[dict[str, Any], list[int], int, int]
ITEMS = [f"i{n}" for n in range(600)]


def counted(
    events: Sequence[Event], cuts: Sequence[int] = (), half_life_h: float = 24.0, start_h: int = 490_000
) -> Segments:
    items = Items()
    items.ids(ITEMS)
    found = Segments(items, KINDS, half_life_h * 3600)
    edges = [0, *sorted({cut % (len(events) + 1) for cut in cuts}), len(events)]
    for low, high in pairwise(edges):
        part = events[low:high]
        told = {at: context for at, (context, *_) in enumerate(part) if context}
        of = [at for at, (_, lines, *_) in enumerate(part) for _ in lines]
        found.add(
            told,
            np.array(of, dtype=np.int32),
            np.array([item for _, lines, *_ in part for item in lines], dtype=np.int32),
            np.array([(start_h + part[at][2]) * HOUR_MS + 7 for at in of], dtype=np.int64),
            np.array([part[at][3] for at in of], dtype=np.int64),
        )
    return found


def names_of(context: Mapping[str, Any], hour: int) -> list[str]:
    """The segments of an event, by the definition."""
    told = {name: value for name, value in context.items() if isinstance(value, str)}
    told |= {"hour": BANDS[hour % 24 // 6], "weekday": str((hour // 24 + 3) % 7)}
    return [
        ",".join(f"{name}={told[name]}" for name in sorted(kind.split("+")))
        for kind in KINDS
        if all(name in told for name in kind.split("+"))
    ]


def brute(
    events: Sequence[Event], half_life_h: float = 24.0, start_h: int = 490_000
) -> dict[str, dict[str, float]]:
    now = max(start_h + hour for _, _, hour, _ in events)
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for context, lines, hour, units in events:
        for name in names_of(context, start_h + hour):
            for item in lines:
                found[name][ITEMS[item]] += units / 8 * 0.5 ** ((now - start_h - hour) / half_life_h)
    return found


def check(found: Segments, expected: Mapping[str, Mapping[str, float]]) -> None:
    heaviest = found.heaviest()
    assert set(heaviest) == set(expected)
    for name, top in found.tops(expected).items():
        lines = {item: score for item, score in expected[name].items() if score > 0}
        assert heaviest[name] == pytest.approx(sum(expected[name].values()), rel=1e-9)
        assert dict(top) == pytest.approx(lines, rel=1e-9)
        assert top == sorted(top, key=lambda line: (-line[1], item_hash(line[0])))


@given(
    st.lists(event, min_size=1, max_size=30),
    st.lists(st.integers(0, 99), max_size=4),
    st.sampled_from([0, 9999]),
)
def test_counts_are_those_of_brute_force(events: list[Event], cuts: list[int], fold: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_FOLD", fold)
        check(counted(events, cuts), brute(events))


def test_time_may_leap_by_any_number_of_half_lives() -> None:
    events: list[Event] = [({"device": "a"}, [n % 3], 300 * n, 8) for n in range(20)]
    for half_life_h in (1.0, 24.0):
        found, expected = counted(events, range(20), half_life_h), brute(events, half_life_h)
        check(found, expected)
        assert len(found.names) > 1 and all(map(math.isfinite, found.heaviest().values()))


def test_without_segments_in_sight_nothing_is_kept() -> None:
    items = Items()
    items.ids(ITEMS)
    found = Segments(items, ["device"], 3600)
    one = np.ones(1, dtype=np.int64)
    found.add({}, one.astype(np.int32), one.astype(np.int32), one, one)
    found.add({1: {"place": "DE"}}, one.astype(np.int32), one.astype(np.int32), one, one)
    assert found.heaviest() == {} and found.tops(["device=a"]) == {"device=a": []}


def test_bounds_keep_the_heaviest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENTS", 10)
    monkeypatch.setattr(module, "ITEMS", 20)
    monkeypatch.setattr(module, "TOP_ITEMS", 25)
    monkeypatch.setattr(module, "_FOLD", 50)
    rng = np.random.default_rng(3)
    events: list[Event] = [({"device": "big"}, [n % 12], 0, 32) for n in range(400)]
    events += [({"device": f"d{rng.integers(10**9)}"}, [int(rng.integers(600))], 0, 1) for _ in range(2000)]
    events += [({"device": "big"}, [int(rng.integers(600))], 0, 1) for _ in range(300)]
    order = rng.permutation(len(events)).tolist()
    items = Items()
    items.ids(ITEMS)
    found = Segments(items, ["device"], 86_400)
    for at in order:
        context, lines, _, units = events[at]
        one = np.zeros(1, dtype=np.int32)
        found.add({0: context}, one, np.array(lines, dtype=np.int32), one.astype(np.int64), np.array([units]))
    found.fold()
    assert len(found.names) <= 15 and len(found._key) <= 15 * 30 and found.changed <= found.names.keys()
    assert len(found.heaviest()) == 10 and next(iter(found.heaviest())) == "device=big"
    top = found.tops(["device=big"])["device=big"]
    assert {item for item, _ in top[:12]} == set(ITEMS[:12]) and len(top) <= 25


# Between partitions

tops = st.dictionaries(st.sampled_from(ITEMS[:6]), st.floats(0.01, 100), min_size=1, max_size=6)
popular = st.dictionaries(st.sampled_from(ITEMS[3:9]), st.floats(0.01, 100), max_size=6)


@given(
    st.lists(st.tuples(tops, st.integers(0, 60)), max_size=4),
    popular,
    st.sets(st.sampled_from(ITEMS[:9])),
    st.integers(1, 12),
)
def test_partitions_add_up(
    parts: list[tuple[dict[str, float], int]], prior: dict[str, float], hidden: set[str], n: int
) -> None:
    records = [
        segment_record(at, "device=a", "v", hour, 7200.0, list(top.items()))
        for at, (top, hour) in enumerate(parts)
    ]
    told = {"device=a": {at: read_top(record) for at, record in enumerate(records)}} if parts else {}
    every = Everywhere(told, list(prior.items()))
    now = max((hour for _, hour in parts), default=0)
    expected: dict[str, float] = defaultdict(float)
    for top, hour in parts:
        for item, score in top.items():
            expected[item] += score * 0.5 ** ((now - hour) / 2)
    total = sum(expected.values())
    assert every.heaviest() == (["device=a"] if total >= LEAST else [])
    for item, score in prior.items():
        expected[item] += PRIOR * score / sum(prior.values())
    best = sorted(expected.items(), key=lambda line: -line[1])
    best = [line for line in best if line[0] not in hidden][:n]
    found = every.merged(
        "device=a", now, n, lambda names: np.array([name not in hidden for name in names], bool)
    )
    np.testing.assert_allclose([score for _, score in found], [score for _, score in best], rtol=1e-9)
    np.testing.assert_allclose([expected[item] for item, _ in found], [score for _, score in best], rtol=1e-9)


def test_ties_go_by_ascending_hash() -> None:
    top = Top(0, 3600.0, [Scored(name, 1.0) for name in ITEMS[:30]])
    found = Everywhere({"device=a": {0: top}}, []).merged(
        "device=a", 0, 7, lambda names: np.ones(len(names), bool)
    )
    assert [item for item, _ in found] == sorted(ITEMS[:30], key=item_hash)[:7]


@given(st.lists(event, min_size=1, max_size=20))
def test_the_next_owner_begins_with_what_was_told(events: list[Event]) -> None:
    first = counted(events)
    told = {
        name: read_top(segment_record(0, name, "v", first.hour, 86_400.0, top))
        for name, top in first.tops(first.names).items()
    }
    again = Segments(first._items, KINDS, 86_400.0)
    again.restore(told)
    assert again.changed == set() and again.hour == first.hour
    check(again, brute(events))


@pytest.mark.parametrize(
    "value", [b"", b"{}", b'{"hour":1,"half_life_s":0,"items":[]}', b'{"hour":-1,"half_life_s":1,"items":[]}']
)
def test_a_record_that_cannot_be_read_is_passed_over(value: bytes) -> None:
    follower = Worker().local.follower
    follower.rise(0, _Record(b"0:device=a", value))
    assert follower.segments == {}


# A worker


class _Record:
    """What the follower reads of a record."""

    topic, offset = TRENDING.name, 0

    def __init__(self, key: bytes | None, value: bytes) -> None:
        self.key, self.value = key, value


class Boards(Worker):
    """Two partitions that tell each other what is popular in which context."""

    async def visit(self, user: str, item: str, seconds: int = 0, **context: str) -> None:
        """A look at an item in a context."""
        await self.send(user, "view_item", seconds, item=item, context=context)

    async def tell(self) -> None:
        """Every partition tells, everybody follows, and the views are made."""
        for _ in range(2):
            for shopper in self.local.shoppers:
                await shopper.segments.publish(shopper.ports, self.local.follower, 1)
                for output in self.local.outputs.take(TRENDING.name, shopper.partition):
                    self.local.follower.rise(shopper.partition, _Record(output.key, output.value))

    def trending(self, segment: str) -> dict[str, float]:
        """Item → score of a view."""
        view = self.local.store.strings.get(self.local.store.keys.trending(segment))
        return {line["item"]: line["score"] for line in orjson.loads(view)["items"]} if view else {}


async def test_views_are_of_all_partitions_and_without_noise() -> None:
    worker = Boards(test_users=["qa-*"], bot_events=30)
    await worker.start({})
    users = [f"u{n}" for n in range(12)]
    for user in users:
        await worker.visit(user, "tea", device="mobile", place="DE")
        await worker.visit(user, "rye", 5, device="web", place="DE")
    await worker.visit("qa-1", "soap", device="mobile", place="DE")
    await worker.visit("u1", "rye", 5, device="mobile")  # repeated within two seconds
    await worker.send("u2", "recommendation_shown", 9, list="x", item="ads", context={"device": "mobile"})
    await worker.tell()
    assert {at for at in range(2) if worker.local.shoppers[at].segments.counts.names} == {0, 1}
    assert worker.trending("device=mobile") == {"tea": 12.0}
    assert worker.trending("place=DE") == {"tea": 12.0, "rye": 12.0}
    assert worker.trending("device=web,place=DE") == {"rye": 12.0}
    assert worker.trending("device=tablet") == {}
    await worker.local.shelves[0].handle([])
    await worker.visit("u1", "milk", 60, device="mobile", place="DE")
    await worker.tell()
    assert worker.trending("device=mobile") == {"tea": 12.0, "milk": 1.0}


def rise(followed: Followed, top: list[tuple[str, float]], partition: int = 0) -> None:
    """A partition tells what is trending."""
    value = top_record(partition, "v", START_MS // 3_600_000, 86_400.0, top)
    followed.rise(partition, Output(TRENDING.name, b"%d" % partition, value))


def test_what_is_trending_is_merged_once_however_many_partitions_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    followed, merged = Boards().local.follower, list[int]()

    def counted(parts: Iterable[Top], n: int) -> list[tuple[str, float]]:
        merged.append(n)
        return merge(parts, n)

    monkeypatch.setattr("stream.follower.merge", counted)
    for partition in range(8):
        rise(followed, [("jam", 8.0 - partition), (f"i{partition}", 1.0)], partition)
    assert followed.top[0] == ("jam", 8.0) and len(followed.top) == len(followed.fill) == 9
    assert len(merged) == 1
    rise(followed, [], 0)
    assert followed.top[0] == ("jam", 7.0) and len(merged) == 2


async def test_hidden_items_leave_and_all_that_is_popular_fills_up() -> None:
    worker = Boards()
    await worker.start({"tea": {}, "rye": {}})
    for n in range(4):
        await worker.visit(f"u{n}", "tea", device="mobile")
        await worker.visit(f"u{n}", "rye", 1, device="mobile")
    rise(worker.local.follower, [("jam", 30.0), ("rye", 10.0)])
    await worker.tell()
    assert worker.trending("device=mobile") == {"jam": 15.0, "rye": 9.0, "tea": 4.0}
    worker.local.follower.hood.blocked[worker.local.items.add("jam")] = True
    await worker.tell()
    assert list(worker.trending("device=mobile")) == ["rye", "tea"]


async def test_a_new_owner_goes_on_and_takes_back_what_faded() -> None:
    worker = Boards()
    await worker.start({})
    for n in range(8):
        await worker.visit(f"u{n}", "tea", device="mobile")
    await worker.tell()
    followed = worker.local.follower
    for shopper in worker.local.shoppers:
        shopper.segments = SegmentBoard(
            shopper.partition, worker.local.store.keys, worker.local.items, worker.settings
        )
        shopper.segments.take(followed)
    await worker.visit("u1", "rye", 60, device="mobile")
    await worker.tell()
    assert worker.trending("device=mobile") == {"tea": 8.0, "rye": 1.0}
    for n in range(8):
        await worker.visit(f"u{n}", "milk", 20 * 86_400, device="web")
    await worker.tell()
    assert set(followed.segments) == {"device=web"}, "after twenty half-lives nothing of it is left"


async def test_off_means_off() -> None:
    worker = Boards(segments=[])
    await worker.start({})
    await worker.visit("u1", "tea", device="mobile")
    await worker.tell()
    assert worker.trending("device=mobile") == {} and not worker.local.shoppers[0].segments.counts.names


# Lookup


def shown(score: float, segment: str = "") -> bytes:
    return trending_view("000000000000001-000000000001", "t", START_MS, [("T", score)], segment)


@pytest.fixture
def keys(store_url: str) -> Keys:
    """A key space with some segments."""
    keys = Keys(f"s{secrets.token_hex(5)}")
    segments = ["", "device=mobile", "place=New%20York", "device=mobile,place=DE"]
    own = b'{"version":"v","id":"i","time":"t","user":"known","items":[{"item":"A","score":1.0}]}'
    gone = b'{"version":"v","time":"t","user":"gone","items":[]}'
    with Redis.from_url(store_url) as client:
        client.mset({keys.trending(name): shown(float(at), name) for at, name in enumerate(segments)})
        client.mset({keys.recs("known"): own, keys.recs("gone"): gone})
    return keys


@pytest.mark.parametrize(
    ("user", "context", "segment"),
    [
        ("new", {"device": "mobile", "place": "DE"}, "device=mobile,place=DE"),
        ("gone", {"device": "mobile", "place": "New York"}, "place=New%20York"),
        ("new", {"device": "mobile", "place": "FR", "hour": 3}, "device=mobile"),
        ("new", {"device": "tablet"}, None),
        ("new", {"device": 7}, None),
        ("new", None, None),
    ],
)
async def test_a_visitor_gets_what_is_trending_where_he_is(
    store_url: str, keys: Keys, user: str, context: dict[str, Any] | None, segment: str | None
) -> None:
    with Lookup(store_url, keys.prefix) as plain:
        found = plain.recs(user, context)
    async with AsyncLookup(store_url, keys.prefix) as lookup:
        assert await lookup.recs(user, context) == found
        own = await lookup.recs("known", context)
    assert isinstance(found, ViewList) and found.fallback and found.segment == segment
    assert own is not None and not own.fallback and [line.item for line in own.items] == ["A"]


def test_it_takes_one_trip(store_url: str, keys: Keys) -> None:
    with Redis.from_url(store_url) as watching, Lookup(store_url, keys.prefix) as lookup:
        lookup.recs("new", {"device": "mobile", "place": "DE"})
        before = watching.info("commandstats")
        lookup.recs("new", {"device": "mobile", "place": "DE"})
        after = watching.info("commandstats")
    calls = {
        name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
        for name in after
        if name != "cmdstat_info"
    }
    assert {name: n for name, n in calls.items() if n} == {"cmdstat_mget": 1}


def test_what_a_worker_names_a_lookup_finds() -> None:
    context = {"device": "Ü", "place": "a=b", "hour": 7, "weekday": 3}
    for kind in KINDS:
        values = {name: value_of(name, context[name]) for name in parse(kind)}
        assert name_of((name, value) for name, value in values.items() if value) in segments_of(context)
