"""Users of whom little is known: lists from what they say they like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.codec import Limits, decode
from stream.core import content as module
from stream.core.content import Content
from stream.core.items import Items
from stream.core.preferences import COLD, preferred
from stream.core.recommend import alike
from stream.local import LocalWorker, bundle
from stream.ownership import partition_of
from stream.settings import Settings
from stream.times import time_text
from stream.topics import CATALOG, EVENTS
from stream.transport import StockRecord
from tests.test_content import CATALOG as CATALOGS
from tests.test_content import NAMES, TOKENS, Catalog, Described, coarse, dot, normal, padded, unit
from tests.test_content import Shop as Told

START_MS = 1_767_225_600_000

# The index


def wanted(catalog: Catalog, told: Described) -> Described:
    """What is told as a vector of length 1, of tokens that an item has."""
    n = coarse(sum(bool(each) for each in catalog.values()))
    df = {token: coarse(sum(token in each for each in catalog.values())) for token in TOKENS}
    vector = {t: w * (math.log((n + 1) / (df[t] + 1)) + 0.1) for t, w in told.items() if df.get(t)}
    return normal(vector) if vector else {}


def matching(
    content: Content,
    told: list[Described],
    k: int,
    popular: np.ndarray[Any, Any],
    shown: np.ndarray[Any, Any],
) -> list[list[tuple[int, float]]]:
    tokens, weights = padded(told)
    ids, values = content.matching(tokens, weights, k, popular, shown)
    assert ids.shape == values.shape == (len(told), k)
    assert ((ids >= 0) == (values > 0)).all()
    return [
        [(at, value) for at, value in zip(row, found, strict=True) if at >= 0]
        for row, found in zip(ids.tolist(), values.tolist(), strict=True)
    ]


@settings(max_examples=150)
@given(
    CATALOGS,
    CATALOGS,
    st.lists(st.dictionaries(st.sampled_from([*TOKENS, "unheard"]), st.sampled_from([0.5, 1.0])), max_size=4),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.0, 1.0, 7.5])),
    st.sets(st.sampled_from(NAMES), max_size=2),
    st.integers(1, 10),
    st.sampled_from([0, 500]),
)
def test_what_matches_is_that_of_brute_force(
    indexed: Catalog,
    since: Catalog,
    told: list[Described],
    popularity: Mapping[str, float],
    hidden: set[str],
    k: int,
    least: int,
) -> None:
    shop = Told()
    shop.items.ids(NAMES)
    popular = np.array([popularity.get(name, 0.0) for name in NAMES], dtype=np.float32)
    shown = np.array([name not in hidden for name in NAMES])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "REINDEX", least)
        shop.learn(indexed)
        matching(shop.content, told, k, popular, shown)
        shop.learn(since)
        vocabulary = len(shop.content.vocabulary)
        found = matching(shop.content, told, k, popular, shown)
    assert len(shop.content.vocabulary) == vocabulary, "what users say must not grow the dictionary"
    for each, row in zip(told, found, strict=True):
        every = {
            j: dot(wanted(shop.told, each), unit(shop.told, j)) * math.sqrt(1 + popularity.get(j, 0.0))
            for j in set(NAMES) - hidden
            if shop.told.get(j)
        }
        best = sorted((value for value in every.values() if value > 1e-9), reverse=True)[:k]
        np.testing.assert_allclose([value for _, value in row], best, rtol=1e-4)
        np.testing.assert_allclose([every[shop.items.name(j)] for j, _ in row], best, rtol=1e-4)
        assert len({j for j, _ in row}) == len(row)


def test_one_user_gets_what_he_would_get_among_many() -> None:
    shop = Told()
    shop.learn({f"i{n}": {f"t{n % 7}": 1.0, f"t{n % 5}": 0.5} for n in range(300)})
    told = [{f"t{n % 7}": 1.0, f"t{n % 3}": 1.0} for n in range(150)]
    popular, shown = np.arange(300, dtype=np.float32), np.ones(300, dtype=np.bool_)
    together = matching(shop.content, told, 20, popular, shown)
    assert together == [matching(shop.content, [one], 20, popular, shown)[0] for one in told]


# A worker


class Worker:
    """A local worker with a catalogue."""

    def __init__(self, **given: Any) -> None:
        self.settings = Settings(partitions=2, explore_share=0.0, **given)
        self.local = LocalWorker(self.settings, b"key")
        self.offsets: dict[tuple[str, int], int] = {}

    async def start(
        self, catalog: Mapping[str, Mapping[str, Any]], vectors: Mapping[str, list[float]] | None = None
    ) -> None:
        """Own all partitions, and know what the catalogue says."""
        await self.local.take()
        told = {name: {"attributes": attributes} for name, attributes in catalog.items()}
        for name, fields in (told | {name: {"vector": one} for name, one in (vectors or {}).items()}).items():
            item = {"type": "item", "item": name, **fields}
            shelf = self.local.shelves[partition_of(name, 2)]
            await shelf.handle([bundle(*self._record(CATALOG.name, name, item))])
        await self.settle()

    async def settle(self) -> None:
        """Let items learn what users did."""
        await self.local.fold()
        for shelf in self.local.shelves:
            await shelf.publish()

    async def send(self, user: str, kind: str, seconds: int = 0, **fields: Any) -> None:
        """An event of a user."""
        event = {"type": kind, "time": time_text(START_MS + seconds * 1000), "user": user, **fields}
        topic, partition, records = self._record(EVENTS.name, user, event)
        await self.local.shoppers[partition].handle([bundle(topic, partition, records)])

    def _record(self, topic: str, key: str, value: Any) -> tuple[str, int, list[StockRecord]]:
        partition = partition_of(key, 2)
        offset = self.offsets[topic, partition] = self.offsets.get((topic, partition), -1) + 1
        record = StockRecord(offset, START_MS + 30 * 86_400_000, key.encode(), orjson.dumps(value), ())
        return topic, partition, [record]

    async def answers(self, user: str) -> float:
        """The evidence that his answers give all items."""
        shopper, lister = (
            self.local.shoppers[partition_of(user, 2)],
            self.local.contexts.shopping.lister,
        )
        rows = await shopper.users([user])
        liked = preferred([user], rows.seen, shopper.engaged)
        query = lister.query([user], rows, rows.newest, liked)
        found = alike.entries(lister.sources.hood, alike.Kin(), query)
        assert found.values[0] is not None and found.because is not None
        return float(found.values[0][found.because < 0].sum())

    def list_of(self, user: str) -> list[dict[str, Any]]:
        """The entries of his public list."""
        view = self.local.store.strings.get(self.local.store.keys.recs(user))
        return orjson.loads(view)["items"] if view else []

    def score(self, user: str, item: str) -> float:
        """Its share of all scores of his list."""
        lines = {line["item"]: line["score"] for line in self.list_of(user)}
        return float(lines.get(item, 0.0) / sum(lines.values()))


CLOTHES = {
    **{f"red{n}": {"colour": "red", "size": "M"} for n in range(3)},
    **{f"blue{n}": {"colour": "blue", "size": "M"} for n in range(3)},
    **{f"tea{n}": {"kind": "tea"} for n in range(3)},
}


async def test_answers_alone_make_a_list_at_once() -> None:
    worker = Worker()
    await worker.start(CLOTHES)
    await worker.send("ann", "preferences", attributes={"colour": "red", "brand": "nobody has it"})
    found = worker.list_of("ann")
    assert {line["item"] for line in found} == {"red0", "red1", "red2"}
    assert {(line["strategy"], *line["because"]) for line in found} == {("content",)}
    await worker.send("ann", "preferences", 1, attributes={"colour": [], "kind": "tea"})
    assert {line["item"] for line in worker.list_of("ann")} == {"tea0", "tea1", "tea2"}, "the newest answer"
    await worker.send("bob", "search", query="red")
    assert worker.list_of("bob") == []


async def test_answers_count_less_with_every_item_and_then_no_more() -> None:
    worker = Worker()
    await worker.start(CLOTHES)
    await worker.send("ann", "preferences", attributes={"kind": "tea"})
    shares, told = [worker.score("ann", "tea0")], [await worker.answers("ann")]
    for n in range(COLD):
        await worker.send("ann", "view_item", 60 * (n + 1), item=f"red{n % 3}")
        await worker.settle()
        shares.append(worker.score("ann", "tea0"))
        told.append(await worker.answers("ann"))
    assert shares[0] == max(shares) and shares[-2] > 0 == shares[-1]
    # Of the five items he looked at three are different, and three are looked at.
    np.testing.assert_allclose(told, told[0] * 0.8 ** np.array([0, 1, 2, 3, 3, np.inf]), rtol=1e-6)


async def test_given_vectors_alone_make_a_list_at_once() -> None:
    near = {f"near{n}": [1.0, 0.1 * n, 0.0] for n in range(4)}
    worker = Worker(components=["content"])
    await worker.start({}, near | {f"far{n}": [0.0, 0.0, 1.0 + n] for n in range(4)})
    await worker.send("ann", "view_item", item="near0")
    found = worker.list_of("ann")
    assert [line["item"] for line in found] == ["near1", "near2", "near3"]
    assert {(line["strategy"], *line["because"]) for line in found} == {("content", "near0")}


async def test_who_is_forgotten_has_said_nothing() -> None:
    worker = Worker()
    await worker.start(CLOTHES)
    await worker.send("ann", "preferences", attributes={"colour": "blue"})
    assert worker.list_of("ann")
    await worker.send("ann", "forget", 5)
    await worker.send("ann", "search", 6, query="x")
    assert worker.list_of("ann") == []


# The context of the newest event


APP = {"when": 'device == "app" and place != "DE"', "do": "pin", "position": 1}


@pytest.mark.parametrize(
    ("context", "first"),
    [
        ({"device": "app", "place": "FR"}, True),
        ({"device": "app"}, True),
        ({"device": "app", "place": "DE"}, False),
        ({"device": "web", "place": "FR"}, False),
        ({"device": ["app"]}, False),
        ({"device": "app" * 100}, False),
        (None, False),
    ],
)
async def test_rules_see_the_context_of_the_newest_event(context: dict[str, Any] | None, first: bool) -> None:
    rule = APP | {"when": f'{APP["when"]} and item == "tea2"'}
    worker = Worker(rules=[rule])
    await worker.start(CLOTHES)
    await worker.send("ann", "view_item", item="red0", context={"device": "app"})
    assert worker.list_of("ann")[0]["item"] == "tea2"
    await worker.send("ann", "view_item", 60, item="red1", context=context)
    assert (worker.list_of("ann")[0]["item"] == "tea2") is first


@pytest.mark.parametrize("weekday", [3, 4])
async def test_rules_see_its_hour_and_weekday(weekday: int) -> None:
    """The first of 2026 is a Thursday."""
    when = f'hour == 1 and weekday == {weekday} and item == "tea2"'
    worker = Worker(rules=[{"when": when, "do": "pin", "position": 1}])
    await worker.start(CLOTHES)
    await worker.send("ann", "view_item", item="red0")
    assert worker.list_of("ann")[0]["item"] != "tea2"
    await worker.send("ann", "view_item", 3600, item="red0")
    assert (worker.list_of("ann")[0]["item"] == "tea2") is (weekday == 3)


def test_contexts_stay_with_their_events() -> None:
    events = [
        {"type": "view_item", "time": time_text(START_MS), "user": f"u{n}", "item": "A"}
        | ({"context": {"device": f"d{n}"}} if n % 3 else {})
        | ({"price": -1} if n == 4 else {})
        for n in range(9)
    ]
    records = [StockRecord(n, START_MS, None, orjson.dumps(event), ()) for n, event in enumerate(events)]
    columns, dead = decode(records, Items(), Limits.of(Settings()), lambda time_ms, sig: False)
    assert [letter.offset for letter in dead] == [4]
    for some in (columns, columns.take(columns.offset != 2), columns.take(columns.offset < 7)):
        told = {int(some.offset[at]): context["device"] for at, context in some.contexts.items()}
        assert told == {n: f"d{n}" for n in some.offset.tolist() if n % 3}
    odd = columns.offset % 2 == 1
    both = columns.take(odd).with_others(columns.take(~odd))
    assert both.contexts == columns.contexts
