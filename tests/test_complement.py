"""What goes with a cart: the query against plain Python, and the view as carts change."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import orjson
import pytest

from stream.core.items import item_hash
from stream.core.recommend.complement import together
from stream.core.views import STRATEGIES
from tests.shops import NAMED, World, some_world
from tests.test_cold_start import Worker
from tests.test_similarity import some_other


def oracle(world: World, cart: list[str]) -> dict[str, dict[str, float]]:
    """For each item that may be shown: what each item of the cart gives it."""
    told: dict[str, dict[str, float]] = {}
    for i in cart:
        for j in world.shop[i].list if i in world.shop else ():
            if world.shown(j) and j not in cart and world.similarity(i, j) > 0:
                told.setdefault(j, {})[i] = world.similarity(i, j)
    return told


@pytest.mark.parametrize("measure", ["conditional", "lift", "llr"])
@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_sum_of_what_the_items_of_the_set_say(seed: int, measure: str) -> None:
    world = some_world(seed, 1) if measure == "conditional" else some_other(seed, measure, 1)
    rng = random.Random(seed)
    carts = [rng.sample(NAMED, count) for count in (0, 1, 2, 5)]
    sets = np.full((len(carts), 5), -1, dtype=np.int32)
    for row, cart in enumerate(carts):
        sets[row, : len(cart)] = world.ids(cart)
    ranked = together(world.hood, sets, 8)
    for row, cart in enumerate(carts):
        told = oracle(world, cart)
        best = sorted(told, key=lambda j: (-np.float32(sum(told[j].values())), item_hash(j)))[:8]
        names = [world.hood.items.name(at) for at in ranked.items[row].tolist() if at >= 0]
        sums = [sum(told[j].values()) for j in best]
        assert ranked.scores[row, : len(names)].tolist() == pytest.approx(sums, rel=1e-4)
        assert [sum(told[j].values()) for j in names] == pytest.approx(sums, rel=1e-4)
        for j, because, strategy in zip(names, ranked.because[row], ranked.strategy[row], strict=False):
            parts = told[j]
            assert parts[world.hood.items.name(int(because))] == pytest.approx(max(parts.values()), rel=1e-4)
            assert STRATEGIES[strategy] == "cart"


async def worker() -> Worker:
    """Whoever looks at a tent looks at pegs, whoever looks at tea at a cup."""
    made = Worker(list_items=6)
    await made.start({name: {"kind": "x"} for name in ("tent", "pegs", "tea", "cup")})
    for user in range(5):
        for n, item in enumerate(("tent", "pegs") if user % 2 else ("tea", "cup")):
            await made.send(f"u{user}", "view_item", user * 100 + n, item=item)
    await made.settle()
    return made


def view(of: Worker, user: str) -> Any:
    found = of.local.store.strings.get(of.local.store.keys.cart(user))
    return orjson.loads(found) if found else None


async def test_the_view_follows_the_cart() -> None:
    shop = await worker()
    await shop.send("ann", "view_item", 1000, item="tea")
    assert view(shop, "ann") is None
    await shop.send("ann", "add_to_cart", 1001, item="tent")
    assert [(line["item"], line["strategy"], line["because"]) for line in view(shop, "ann")["items"]] == [
        ("pegs", "cart", ["tent"])
    ]
    await shop.send("ann", "add_to_cart", 1002, item="tea")
    both = view(shop, "ann")
    assert {line["item"]: line["because"] for line in both["items"]} == {"pegs": ["tent"], "cup": ["tea"]}
    await shop.send("ann", "add_to_cart", 1003, item="tea", quantity=3)
    assert view(shop, "ann") == both, "the same items: nothing to write"
    await shop.send("ann", "remove_from_cart", 1004, item="tent", quantity=1)
    assert [line["item"] for line in view(shop, "ann")["items"]] == ["cup"]


@pytest.mark.parametrize("last", ["purchase", "remove_from_cart", "forget"])
async def test_an_emptied_cart_has_nothing_that_goes_with_it(last: str) -> None:
    shop = await worker()
    await shop.send("ann", "add_to_cart", 1001, item="tent")
    assert view(shop, "ann")["items"]
    await shop.send("ann", last, 1002, **({} if last == "forget" else {"item": "tent"}))
    assert view(shop, "ann")["items"] == []
    assert shop.list_of("ann") or last == "forget"
