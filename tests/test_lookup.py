"""The lookup client against a real store, on views as the writers make them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
import orjson
import pytest
from redis import Redis

from state.keys import Keys
from state.lookup import AsyncLookup, Lookup, ViewedItem, ViewItem, ViewList
from state.model import version

RECS = (
    b'{"version":"000000000000001-000000000001","id":"u0-7","time":"2026-01-01T00:00:00.000Z","user":"u1",'
    b'"items":[{"item":"B","score":0.12,"strategy":"item-item","because":["A"]}]}'
)
NEIGHBORS = RECS.replace(b'"user":"u1"', b'"item":"A"')
TRENDING = (
    b'{"version":"000000000000001-000000000001","id":"t","time":"2026-01-01T00:00:00.000Z",'
    b'"items":[{"item":"T","score":3.0,"strategy":"trending","because":[]}]}'
)
TOMBSTONE = (
    b'{"version":"000000000000002-000000000001","time":"2026-01-01T00:00:00.000Z","user":"u2","items":[]}'
)
ITEM = (
    b'{"version":"000000000000001-000000000001","time":"2026-01-01T00:00:00.000Z","item":"A","name":"Apple",'
    b'"price":1.5,"stock":3,"attributes":{"colour":"red"}}'
)
B = ViewItem("B", 0.12, "item-item", ("A",))
T = ViewItem("T", 3.0, "trending")


@pytest.fixture
def keys(store_url: str) -> Keys:
    """A key space of its own with some views, after a user nobody forgot and one who was."""
    keys = Keys(f"l{secrets.token_hex(5)}")
    with Redis.from_url(store_url) as client:
        client.mset(
            {
                keys.recs("u1"): RECS,
                keys.recs("u2"): TOMBSTONE,
                keys.neighbors("A"): NEIGHBORS,
                keys.trending(): TRENDING,
                keys.item("A"): ITEM,
            }
        )
    return keys


@pytest.fixture(params=["threads", "asyncio"])
async def lookup(request: pytest.FixtureRequest, store_url: str, keys: Keys) -> AsyncIterator[AsyncLookup]:
    """Both clients behind the asyncio one's methods."""
    if request.param == "asyncio":
        async with AsyncLookup(store_url, keys.prefix) as client:
            yield client
    else:
        with Lookup(store_url, keys.prefix) as plain:
            yield Awaited(plain)


class Awaited(AsyncLookup):
    """The client for threads, awaited, so that both pass one suite."""

    def __init__(self, plain: Lookup) -> None:
        self.plain = plain

    async def recs(self, user: str, context: Mapping[str, object] | None = None) -> ViewList | None:
        return self.plain.recs(user, context)

    async def cart(self, user: str) -> ViewList | None:
        return self.plain.cart(user)

    async def together(self, items: Sequence[str], size: int = 20) -> tuple[ViewItem, ...]:
        return self.plain.together(items, size)

    async def neighbors(self, item: str) -> ViewList | None:
        return self.plain.neighbors(item)

    async def trending(self, segment: str = "") -> ViewList | None:
        return self.plain.trending(segment)

    async def item(self, item: str) -> ViewedItem | None:
        return self.plain.item(item)


async def test_a_known_user_gets_his_own_list(lookup: AsyncLookup) -> None:
    found = await lookup.recs("u1")
    assert found == ViewList(version(1, 1), "2026-01-01T00:00:00.000Z", (B,), "u0-7", user="u1")


@pytest.mark.parametrize("user", ["nobody", "u2"])
async def test_unknown_and_forgotten_users_get_what_is_trending(lookup: AsyncLookup, user: str) -> None:
    found = await lookup.recs(user)
    assert found is not None
    assert found.fallback
    assert found.items == (T,)


async def test_what_goes_with_a_cart_is_one_key(lookup: AsyncLookup, keys: Keys, store_url: str) -> None:
    with Redis.from_url(store_url) as client:
        client.set(keys.cart("u1"), RECS.replace(b"item-item", b"cart"))
    found = await lookup.cart("u1")
    assert found is not None and found.items == (ViewItem("B", 0.12, "cart", ("A",)),)
    assert await lookup.cart("nobody") is None


async def test_what_goes_with_items_is_the_sum_of_their_lists(
    lookup: AsyncLookup, keys: Keys, store_url: str
) -> None:
    lines = {"A": {"B": 0.12, "C": 0.5}, "B": {"A": 0.3, "C": 0.6, "D": 0.2}}
    with Redis.from_url(store_url) as client:
        for item, listed in lines.items():
            items = [{"item": j, "score": score} for j, score in listed.items()]
            client.set(keys.neighbors(item), orjson.dumps({"version": "1", "time": "", "items": items}))
    found = await lookup.together(["A", "B", "unknown", "A"])
    assert [(line.item, line.strategy, line.because) for line in found] == [
        ("C", "cart", ("B",)),
        ("D", "cart", ("B",)),
    ]
    assert [line.score for line in found] == pytest.approx([1.1, 0.2])
    assert await lookup.together(["A", "B"], 1) == found[:1]
    assert await lookup.together([]) == ()


async def test_trending_itself_is_no_fallback(lookup: AsyncLookup) -> None:
    found = await lookup.trending()
    assert found is not None
    assert not found.fallback


async def test_neighbors_name_their_item(lookup: AsyncLookup) -> None:
    found = await lookup.neighbors("A")
    assert found is not None
    assert (found.item, found.user, found.items) == ("A", None, (B,))
    assert await lookup.neighbors("unknown") is None


async def test_an_item_has_what_the_catalogue_says(lookup: AsyncLookup) -> None:
    found = await lookup.item("A")
    assert found == ViewedItem(
        version(1, 1),
        "2026-01-01T00:00:00.000Z",
        "A",
        name="Apple",
        price=1.5,
        stock=3,
        attributes={"colour": "red"},
    )
    assert await lookup.item("unknown") is None


def test_an_empty_store_has_no_answer(store_url: str) -> None:
    with Lookup(store_url, f"l{secrets.token_hex(5)}") as empty:
        assert empty.recs("u1") is None
        assert empty.trending() is None


def test_views_as_the_worker_writes_them_can_be_read(store_url: str) -> None:
    from stream.core import views
    from stream.core.items import Items
    from stream.core.ranking import Ranked

    items = Items()
    a, b = items.ids(["A", "B"]).tolist()
    ranked = Ranked(
        items=np.array([[b]], dtype=np.int32),
        scores=np.array([[0.5]], dtype=np.float32),
        because=np.array([[a]], dtype=np.int32),
        strategy=np.zeros((1, 1), dtype=np.uint8),
    )
    (recs,) = views.recs_views(version(1, 2), ["x"], np.array([0]), ["u"], ranked, items)
    keys = Keys(f"l{secrets.token_hex(5)}")
    with Redis.from_url(store_url) as client, Lookup(store_url, keys.prefix) as lookup:
        client.mset({keys.recs("u"): recs, keys.recs("gone"): views.tombstone(version(1, 3), 0, "gone")})
        client.set(keys.item("A"), views.item_view(version(1, 1), 0, {"item": "A", "price": 2.0}))
        client.set(keys.trending(), views.trending_view(version(1, 1), "t", 0, [("A", 2.0)]))
        listed, other, item = lookup.recs("u"), lookup.recs("gone"), lookup.item("A")
    assert listed is not None and listed.items == (ViewItem("B", 0.5, "item-item", ("A",)),)
    assert other is not None and other.fallback and other.items == (ViewItem("A", 2.0, "trending"),)
    assert item is not None and item.price == 2.0
