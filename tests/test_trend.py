"""What rises, what is in season, which categories move: the component, and its way through the item side."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.keys import Keys
from state.memory import MemoryStore
from stream.core.interest import Interest
from stream.core.items import Items, item_hash
from stream.core.neighbor_format import HIDDEN, Records, pack_records
from stream.core.neighborhood import Neighborhood
from stream.core.recommend import trend
from stream.core.recommend.alike import Kin
from stream.core.recommend.explain import explain
from stream.core.recommend.lists import Recommender, Sources
from stream.core.recommend.query import Query
from stream.core.weights import Decay
from stream.mail import HIT, Increments, Packer, source_of
from stream.topics import INCREMENTS, TRENDING
from tests.test_shelf import START_MS, Shop

HOUR = 3_600_000
DAY = 24 * HOUR
NOW = 490_000 * HOUR


@dataclass(frozen=True)
class Line:
    """What a record says of an item; ``age`` in hours."""

    popularity: float = 0.0
    usual: float = 0.0
    season: float = 0.0
    category: int = 0
    age: int = 0
    hidden: bool = False


def values_of(lines: list[Line]) -> list[bytes]:
    def floats(name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.array([getattr(line, name) for line in lines], dtype=np.float32)

    n = len(lines)
    whole, none = np.zeros(n, dtype=np.int64), np.zeros((n, 0))
    return pack_records(
        Records(
            flags=np.array([line.hidden * HIDDEN for line in lines], dtype=np.uint8),
            term=whole + 1,
            n=np.arange(n),
            last=np.array([NOW - line.age * HOUR for line in lines]),
            row_sum=np.zeros(n),
            col_sum=np.zeros(n),
            price=np.zeros(n),
            popularity=floats("popularity"),
            k=whole,
            hashes=none.astype(np.uint64),
            weights=none.astype(np.float32),
            born=whole,
            usual=floats("usual"),
            season=floats("season"),
            group=whole.astype(np.uint64),
            category=np.array([line.category for line in lines], dtype=np.uint64),
            t=whole,
            tokens=none.astype(np.uint32),
            token_weights=none.astype(np.float32),
            dims=whole,
            vectors=none.astype(np.int8),
        )
    )


def hood_of(lines: list[Line]) -> Neighborhood:
    hood = Neighborhood(Items())
    if lines:
        hood.apply([f"i{at}" for at in range(len(lines))], values_of(lines))
    return hood


def oracle(lines: list[Line]) -> dict[str, list[float]]:
    """The three formulas, item by item."""
    newest = min((line.age for line in lines), default=0)
    now = [line.popularity * 2 ** (-(line.age - newest) / 24) for line in lines]
    usual = [line.usual * 2 ** (-(line.age - newest) / 24 / 28) for line in lines]
    found: dict[str, list[float]] = {"rising": [], "season": [], "category": []}
    for line, p, u in zip(lines, now, usual, strict=True):
        same = [at for at, other in enumerate(lines) if other.category == line.category]
        momentum = (sum(now[at] for at in same) + 1) / (sum(usual[at] for at in same) + 1)
        share = p / sum(now) if sum(now) else 0.0
        found["rising"].append(max(0, p - u) / (u + 1) ** 0.5)
        found["season"].append(max(0, line.season - u) / (u + 1) ** 0.5)
        found["category"].append(share * momentum if line.category else 0.0)
    return found


FEW = st.floats(0, 1000, width=32)
LINE = st.builds(Line, FEW, FEW, FEW, st.integers(0, 3), st.integers(0, 200), st.booleans())


@given(st.lists(LINE, max_size=12))
def test_evidence_is_that_of_plain_python(lines: list[Line]) -> None:
    trends, hood = trend.Trends(), hood_of(lines)
    trends.learn(hood)
    expected = oracle(lines)
    found = trends.of(np.arange(len(lines), dtype=np.int32))
    for at, name in enumerate(trend.CHANNELS):
        np.testing.assert_allclose(found[at], expected[name], rtol=1e-4, atol=1e-3)


@given(st.lists(LINE, min_size=1, max_size=12), st.integers(1, 14), st.sampled_from(trend.CHANNELS))
def test_the_best_are_those_of_a_sorted_list(lines: list[Line], n: int, channel: str) -> None:
    trends, hood = trend.Trends(), hood_of(lines)
    trends.learn(hood)
    values = trends.values[trend.CHANNELS.index(channel)].tolist()
    names = {f"i{at}": value for at, value in enumerate(values) if value > 0 and not lines[at].hidden}
    best, scores = trends.top(hood, channel, n)
    assert [hood.items.name(at) for at in best.tolist()] == sorted(
        names, key=lambda name: (-names[name], item_hash(name))
    )[:n]
    assert scores.tolist() == sorted(names.values(), reverse=True)[:n]


def test_new_records_make_it_anew_and_an_item_that_came_since_has_nothing() -> None:
    trends, hood = trend.Trends(), hood_of([Line(5, 1)])
    assert trends.of(np.array([0], dtype=np.int32)).tolist() == [[0.0]] * 3
    trends.learn(hood)
    assert trends.of(np.array([0, 7], dtype=np.int32))[0, 1] == 0 < trends.values[0, 0]
    hood.apply(["other"], values_of([Line(50, 1)]))
    trends.learn(hood)
    assert trends.of(hood.items.ids(["other"]))[0, 0] > trends.values[0, 0]


def asked(users: int) -> Query:
    return Query(
        np.full((users, 4), -1, dtype=np.int32),
        Interest.blank(users, 8),
        np.full(users, NOW),
        Decay(90 * DAY),
    )


def test_everybody_gets_the_best_of_each_channel_as_candidates_with_their_evidence() -> None:
    rng = Random(5)
    lines = [
        Line(
            rng.expovariate(0.1), rng.expovariate(0.1), rng.expovariate(0.1), rng.randrange(4), 0, at % 9 == 0
        )
        for at in range(300)
    ]
    hood = hood_of(lines)
    sources = Sources(hood, np.zeros(0, dtype=np.int32), Kin())
    recommender = Recommender(["trend"])
    found = recommender.search(sources, asked(3)).candidates
    expected, best = oracle(lines), set()
    for values in expected.values():
        shown = [at for at in range(300) if values[at] > 0 and not lines[at].hidden]
        best |= set(sorted(shown, key=lambda at: -values[at])[:40])
    for row in range(3):
        assert set(found.item[found.row == row].tolist()) == best
    for at, name in enumerate(trend.CHANNELS):
        wanted = [expected[name][item] for item in found.item.tolist()]
        np.testing.assert_allclose(found.values[at], wanted, rtol=1e-4, atol=1e-4)
    nobody = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))
    ranked = recommender.rank(sources, asked(3), nobody, 10)
    assert (ranked.items >= 0).all() and (ranked.because == -1).all()
    assert not any(lines[at].hidden for at in ranked.items.ravel().tolist())


def test_an_empty_shop_has_no_candidates() -> None:
    sources = Sources(hood_of([]), np.zeros(0, dtype=np.int32), Kin())
    assert not len(Recommender(["trend"]).search(sources, asked(2)).candidates.item)


# Through the item side

Hits = list[tuple[str, int, int]]
"""Item, time in ms, views."""


async def count(shop: Shop, hits: Hits) -> None:
    """One message of a shopper with interactions."""
    offset, n = len(shop.log.records[INCREMENTS.name]), len(hits)
    ids = shop.items.ids([name for name, _, _ in hits])
    source = source_of(np.arange(n) + 1000 * offset, np.zeros(n, dtype=np.int64))
    times = np.array([time for _, time, _ in hits], dtype=np.int64)
    units = np.array([8 * views for _, _, views in hits])
    kind = np.full(n, HIT, dtype=np.uint8)
    mail = Increments(ids, ids, kind, units, source, times, np.full(n, 56))
    await shop.hand(INCREMENTS.name, *Packer(shop.items, 0).pack(mail))


def segment(shop: Shop, name: str) -> list[str]:
    """A view, as a frontend reads it."""
    value = shop.store.strings.get(shop.store.keys.trending(name))
    return [entry["item"] for entry in orjson.loads(value)["items"]] if value else []


async def a_shop() -> Shop:
    shop = Shop()
    await shop.shelf.take()
    return shop


async def test_a_riser_leads_where_a_bestseller_leads_what_is_popular() -> None:
    shop = await a_shop()
    hits = [("bestseller", START_MS + day * DAY, 100) for day in range(60)]
    hits += [("riser", START_MS + day * DAY, 1 if day < 59 else 40) for day in range(60)]
    hits += [("steady", START_MS + day * DAY, 10) for day in range(60)]
    await count(shop, hits)
    await shop.shelf.publish_trending()
    for output in [output for output in shop.sent.outputs if output.topic == TRENDING.name]:
        shop.follower.rise(0, output)
    await shop.shelf.publish_trending()
    assert segment(shop, "")[:2] == ["bestseller", "riser"]
    assert segment(shop, "rising")[0] == "riser"
    assert segment(shop, "season") == []
    record = shop.record("bestseller")
    assert record.usual[0] == pytest.approx(record.popularity[0], rel=0.3)


async def test_what_was_in_season_last_year_is_shown_before_anybody_asks_for_it() -> None:
    shop = await a_shop()
    await count(shop, [("angel", START_MS + day * DAY, 20) for day in range(14)])
    await count(shop, [("bread", START_MS + day * DAY, 5) for day in range(0, 340, 2)])
    await shop.shelf.publish_trending()
    assert segment(shop, "season") == []
    await count(shop, [("bread", START_MS + day * DAY, 5) for day in range(340, 366, 2)])
    # The week turns; the angel, of which nothing came since, is told anew.
    await shop.shelf.publish_trending()
    await shop.shelf.publish()
    await shop.shelf.publish_trending()
    assert segment(shop, "season")[0] == "angel"
    _, usual = shop.follower.hood.at_once(len(shop.items))
    assert shop.record("angel").season[0] > 10 > usual[shop.items.add("angel")]
    await count(shop, [("bread", START_MS + day * DAY, 5) for day in range(366, 420, 2)])
    await shop.shelf.publish_trending()
    await shop.shelf.publish()
    assert shop.record("angel").season[0] == 0


async def test_who_takes_over_corrects_a_season_that_is_over() -> None:
    first = await a_shop()
    await count(first, [("angel", START_MS + day * DAY, 20) for day in range(14)])
    await count(first, [("angel", START_MS + 366 * DAY, 1), ("bread", START_MS + 366 * DAY, 1)])
    assert first.record("angel").season[0] > 10
    then = Shop(first.log, first.store)
    told = [o for o in first.sent.outputs if o.topic == "neighbors" and o.key is not None]
    for output in told:
        then.follower.hood.apply([output.key.decode()], [output.value])  # type: ignore[union-attr]
    await then.shelf.take()
    await count(then, [("bread", START_MS + 420 * DAY, 1)])
    await then.shelf.publish_trending()
    await then.shelf.publish()
    assert then.record("angel").season[0] == 0
    assert then.record("angel").born[0] == START_MS, "its row was read from the store"


HIT_LINE = st.tuples(st.sampled_from("abc"), st.integers(START_MS, START_MS + 500 * DAY), st.integers(1, 9))


@settings(max_examples=40)
@given(st.lists(HIT_LINE, min_size=1, max_size=25), st.lists(st.integers(0, 25), max_size=4), st.booleans())
async def test_the_same_log_leaves_the_same_rows_whatever_the_batches(
    hits: Hits, cuts: list[int], again: bool
) -> None:
    whole, parts = await a_shop(), await a_shop()
    await count(whole, hits)
    for low, high in pairwise([0, *sorted(cuts), len(hits)]):
        if hits[low:high]:
            await count(parts, hits[low:high])
        if again:
            parts = Shop(parts.log, parts.store)
            await parts.shelf.take()
    assert rows(whole) == rows(parts)


def rows(shop: Shop) -> dict[str, bytes]:
    strings = shop.store.strings
    return {key: bytes(value) for key, value in strings.items() if ":row:" in key}


def test_every_segment_has_a_key_of_its_own() -> None:
    keys = Keys("shop")
    assert {keys.trending(name) for name in ("", *trend.SEGMENTS)} == {
        "shop:trending", "shop:trending:rising", "shop:trending:season",
    }  # fmt: skip
    assert isinstance(Shop().store, MemoryStore)


def test_why_an_item_that_rises_is_in_a_list_is_told_with_its_figures() -> None:
    hood = hood_of([Line(9, 3, 4, 1), Line(2, 2)])
    sources = Sources(hood, np.zeros(0, dtype=np.int32), Kin())
    told = explain(Recommender(["trend"]), sources, asked(1), 0)
    rising = next(channel for channel in told.channels if channel.channel == "rising")
    assert [(entry.value, entry.figures) for entry in rising.entries] == [
        (3.0, {"now": 9.0, "usual": 3.0, "season": 4.0})
    ]
