"""Which of several coupons a user gets: against plain Python, as tables, and through ledger and dry run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from math import exp, log, sqrt
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.source import Entry
from stream.codec import Record
from stream.core.campaigns import Campaign
from stream.core.choice import (
    ITEMS,
    MICRO,
    NO_TASTE,
    WEIGHTS,
    Known,
    Offers,
    Taste,
    expected,
    rates,
    tasted,
)
from stream.core.codes import Computed
from stream.core.coupons import Kind, Pool, Request, Shelf, Terms, Wallet, give_back, redeem, request
from stream.core.engaged import Seen, UserState
from stream.dry_run import consenting, dry_run
from stream.offline import replay
from stream.ownership import partition_of
from stream.settings import Settings
from stream.times import time_text
from stream.topics import DECISIONS, ENGAGEMENTS, EVENTS
from tests.scenarios import campaign as made
from tests.scenarios import check, event, ms
from tests.test_coupons import Giving
from tests.test_forward import KEY, PARTITIONS, SETTINGS

DAY_MS = 86_400_000
NOW = ms("1 12:00")
SECRET = b"a secret"


def several(*offers: dict[str, Any]) -> Campaign:
    """A reminder with one of several coupons, each called as its first item unless told."""
    coupon = {"offers": [{"offer": each["items"][0], "value": 1} | each for each in offers]}
    return made("abandoned-cart", coupon=coupon, steps=["45m"], id="cart")


DRINKS = several({"items": ["coffee", "beans"]}, {"items": ["tea"]}, {"items": ["milk", "tea"]})


def bought(*orders: tuple[int, list[str]], user: bool = True) -> Taste:
    """By orders: days before now, and items."""
    taste = NO_TASTE
    for days, items in orders:
        time = NOW - days * DAY_MS
        one = event("purchase", time, known=user, items=[{"item": item} for item in items])
        taste = tasted(taste, Seen(0, time, time, one.type, one))
    return taste


def offers(of: Campaign = DRINKS) -> Offers:
    found = Offers.of_campaign(of)
    assert found is not None
    return found


# What a user bought


@pytest.mark.parametrize(
    "orders, own",
    [
        ([], {}),
        ([(0, ["coffee"])], {"coffee": 1.0}),
        ([(365, ["coffee"])], {"coffee": 0.5}),
        ([(0, ["coffee"]), (365, ["beans"])], {"coffee": 1.5}),
        ([(0, ["tea"])], {"tea": 1.0, "milk": 1.0}),
        ([(0, ["tea", "coffee", "jam", "nuts"])], {"coffee": 0.5, "tea": 0.5, "milk": 0.5}),
        ([(0, ["jam"])], {}),
    ],
)
def test_own_are_decayed_purchases_of_the_items(orders: list[Any], own: dict[str, float]) -> None:
    assert offers().own(bought(*orders), NOW) == {name: round(value * MICRO) for name, value in own.items()}


ITEM = st.sampled_from(["coffee", "beans", "tea", "milk", "jam"])
orders = st.lists(st.tuples(st.integers(0, 900), st.lists(ITEM, min_size=1, max_size=6)), max_size=8)


@given(orders, st.randoms())
def test_own_is_that_of_plain_python_in_whatever_order_orders_come(told: list[Any], random: Any) -> None:
    wanted = dict.fromkeys(("coffee", "tea", "milk"), 0.0)
    for days, items in told:
        for name, good in (("coffee", ("coffee", "beans")), ("tea", ("tea",)), ("milk", ("milk", "tea"))):
            wanted[name] += sum(item in good for item in items) * 2 ** (-days / 365) / sqrt(len(items))
    random.shuffle(told)
    found = offers().own(bought(*told), NOW)
    assert {name: found.get(name, 0) / MICRO for name in wanted} == pytest.approx(wanted, abs=2e-6)


def test_only_purchases_of_known_users_are_kept() -> None:
    assert bought((0, ["tea"]), user=False) == NO_TASTE
    view = event("add_to_cart", NOW, items=[{"item": "tea"}])
    assert tasted(NO_TASTE, Seen(0, NOW, NOW, view.type, view)) is NO_TASTE


def test_at_most_so_many_items_are_kept_those_bought_most_and_last() -> None:
    many = [f"i{n}" for n in range(ITEMS)]
    full = bought((200, ["coffee"]), (100, many))
    assert len(full.bought) == 12 * ITEMS
    assert offers().own(full, NOW)["coffee"], "alone in its order it weighs more than a part of a large one"
    taste = bought((100, many), (0, ["coffee"]), (9999, ["tea"]))
    assert offers().own(taste, NOW) == {"coffee": MICRO}, "there is no room for what was bought long ago"


# The chance


def sigma(own: float, used: int, hoped: float, many: int) -> float:
    x = (1, log(own + 0.01), log((used + 0.5) / (hoped + 0.5)), log(many))
    return 1 / (1 + exp(-sum(w * each for w, each in zip(WEIGHTS, x, strict=True))))


@given(st.integers(0, 9 * MICRO), st.integers(0, 30), st.integers(0, 9 * MICRO), st.integers(2, 200))
def test_what_is_expected_is_that_of_the_formula(own: int, used: int, hoped: int, many: int) -> None:
    names = [f"o{n}" for n in range(many)]
    found = expected(Known({"o1": own}, used, hoped), names)
    assert found[1] == pytest.approx(sigma(own / MICRO, used, hoped / MICRO, many))
    assert found[0] == pytest.approx(sigma(0, used, hoped / MICRO, many))


@pytest.mark.parametrize(
    "what, counts, wanted",
    [
        ("nothing yet", [(0, 0), (0, 0)], [1, 1]),
        ("as was expected", [(3, 3), (5, 5)], [1, 1]),
        ("all are redeemed twice as often", [(20, 10), (20, 10), (0, 0)], [22 / 11.05, 22 / 11.05, 42 / 22]),
        ("one half as often", [(20, 20), (10, 20)], None),
    ],
)
def test_rates_are_shrunk_to_those_of_the_campaign(what: str, counts: Any, wanted: Any) -> None:
    found = rates([(redeemed, hoped * MICRO) for redeemed, hoped in counts])
    if wanted is None:
        assert found[1] < (30 + 2) / (40 + 2) < found[0] < 1.05, "between their own and the campaign's"
    else:
        assert found == pytest.approx(wanted, rel=0.01)


# The ledger chooses


def kinds(**gains: int) -> Terms:
    found = tuple(Kind(name, None, 1000, 1000 * gain) for name, gain in gains.items())
    return Terms(found, 9, 10 * DAY_MS, None, None, 0.0, False)


def asked(own: dict[str, float] | None = None, number: int = 1, worth: float | None = None) -> Request:
    known = Known({name: round(value * MICRO) for name, value in (own or {}).items()})
    return Request("may", "ann", "may", 1, 1000, 2000, worth, number=number, known=known)


@pytest.mark.parametrize(
    "what, gains, own, given",
    [
        ("nothing is known: the first of equals", {"tea": 1, "jam": 1}, {}, "tea"),
        ("nothing is known: the greater gain", {"tea": 1, "jam": 2}, {}, "jam"),
        ("what he buys", {"tea": 1, "jam": 1}, {"jam": 0.5}, "jam"),
        ("what he buys more", {"tea": 1, "jam": 1}, {"tea": 0.6, "jam": 0.5}, "tea"),
        ("a gain makes up for less", {"tea": 1, "jam": 2}, {"tea": 0.6, "jam": 0.5}, "jam"),
        ("and not for nothing", {"tea": 1, "jam": 2}, {"tea": 0.6}, "tea"),
    ],
)  # fmt: skip
def test_the_best_is_given(what: str, gains: dict[str, int], own: dict[str, float], given: str) -> None:
    pool, wallet, grant = request(Pool(), Wallet(), kinds(**gains), asked(own), 0)
    assert (grant.kind, grant.code, grant.weighed[0].offer) == (given, given, given)
    scores = [each.score for each in grant.weighed]
    assert scores == sorted(scores, reverse=True)
    hoped = round(sigma(own.get(given, 0), 0, 0, 2) * MICRO)
    assert pool.shelf(given) == Shelf(issued=1, hoped=hoped)
    assert wallet.given[0].hoped == hoped and give_back(pool, wallet, asked().key)[0].shelf(given) == Shelf()


def test_what_others_redeem_is_given_to_whom_nobody_knows() -> None:
    pool, wallet, terms = Pool(), Wallet(), kinds(tea=1, jam=1)
    for number, name in enumerate(["tea", "jam"] * 4):
        pool, wallet, grant = request(pool, wallet, terms, asked({name: 9.0}, number), 0)
        assert grant.kind == name
        if name == "jam":
            pool, wallet = redeem(pool, wallet, "jam", 1)
    _, _, grant = request(pool, Wallet(), terms, asked(), 0)
    tea, jam = grant.weighed[1], grant.weighed[0]
    assert (grant.kind, tea.own, jam.own) == ("jam", 0, 0) and jam.chance > 1.2 * tea.chance


@pytest.mark.parametrize(
    "what, changes, worth, refused, given",
    [
        ("its pool is empty", {"codes": ()}, None, "pool", "jam"),
        ("too dear for the budget", {"cost": 1500, "value": 2000}, None, "budget", "jam"),
        ("too dear for the floor", {"floor": 50.0, "value": 2000}, 3.0, "margin", "jam"),
        ("no secret to compute it", {"codes": Computed(b"", "may", "tea", "", 9)}, None, "secret", "jam"),
        ("computed", {"codes": Computed(SECRET, "may", "tea", "", 9)}, None, "", "tea"),
    ],
)
def test_what_is_not_to_be_had_gives_way_to_the_next(
    what: str, changes: dict[str, Any], worth: float | None, refused: str, given: str
) -> None:
    tea = Kind("tea", changes.pop("codes", None), changes.pop("value", 1000), 1000)
    terms = Terms(
        (tea, *kinds(jam=1).kinds), 9, DAY_MS, None, changes.get("cost"), changes.get("floor", 0.0), False
    )
    _, _, grant = request(Pool(), Wallet(), terms, asked({"tea": 1.0}, worth=worth), 0)
    assert (grant.kind, grant.refused) == (given, "")
    assert [(each.offer, each.refused) for each in grant.weighed] == [("tea", refused), ("jam", "")]
    alone = Terms((tea, tea), 9, DAY_MS, None, changes.get("cost"), changes.get("floor", 0.0), False)
    assert request(Pool(), Wallet(), alone, asked(worth=worth), 0)[2].refused == refused


def test_a_decision_tells_the_best_eight_and_what_was_given() -> None:
    empty = [Kind(f"o{n}", (), 1000, 1000) for n in range(9)]
    terms = Terms((*empty, Kind("last", None, 1000, 1000)), 9, DAY_MS, None, None, 0.0, False)
    grant = request(Pool(), Wallet(), terms, asked(), 0)[2]
    assert grant.kind == "last"
    assert [each.offer for each in grant.weighed] == [*(f"o{n}" for n in range(7)), "last"]


# Through engagement


def test_a_user_is_told_apart_by_what_he_bought() -> None:
    shop = check(
        """
        09:00   | consent                    |
        09:01   | buy tea jam                |
        2 10:00 | add A @9                   |
        2 10:45 | clock                      | held 1 coupon until 2 11:45
        2 10:46 | grant tea @1               | sent 1: A
        2 11:00 | redeem tea                 |
        """,
        campaigns=[DRINKS],
        cart_enabled=False,
    )
    told = msgspec.convert(shop.notices[0].body, Request)
    assert told.known is not None
    (state,) = map(UserState.unpack, shop.stored.values())
    assert (state.taste.used, told.known.used) == (1, 0)
    assert told.known.own == {name: pytest.approx(MICRO / sqrt(2), rel=0.01) for name in ("milk", "tea")}


def test_without_several_offers_nothing_is_kept_or_told() -> None:
    one = made("abandoned-cart", coupon={"offer": "ten", "value": 1}, steps=["45m"], id="cart")
    shop = check(
        """
        09:00   | consent      |
        09:01   | buy tea      |
        2 10:00 | add A        |
        2 10:45 | clock        | held 1 coupon until 2 11:45
        2 10:46 | grant ten @1 | sent 1: A
        """,
        campaigns=[one],
        cart_enabled=False,
    )
    assert "known" not in shop.notices[0].body
    assert b'"offers"' not in shop.decisions[-1].json("d")
    assert [UserState.unpack(blob).taste for blob in shop.stored.values()] == [NO_TASTE]


def log_of(*rows: tuple[str, str, str, list[str]]) -> list[Entry]:
    found = []
    for n, (when, user, kind, items) in enumerate(rows):
        said = {"type": kind, "time": time_text(ms(when)), "user": user, "id": f"e{n}"}
        lines = {"items": [{"item": item} for item in items]}
        found.append(Entry(ms(when), n, user, orjson.dumps(said | lines), False))
    return found


LOG = log_of(
    ("1 10:00", "ann", "purchase", ["beans"]),
    ("1 10:01", "bob", "purchase", ["tea"]),
    ("1 10:02", "cleo", "purchase", ["jam"]),
    ("2 10:00", "ann", "add_to_cart", ["A"]),
    ("2 10:01", "bob", "add_to_cart", ["A"]),
    ("2 10:02", "cleo", "add_to_cart", ["A"]),
    ("3 10:00", "ann", "view_item", ["A"]),
)


def test_a_dry_run_gives_each_the_best_and_tells_of_which_how_many() -> None:
    offered = several(
        {"items": ["coffee", "beans"]},
        {"offer": None, "pool": "tea", "computed": {"prefix": "TEA", "count": 9}, "items": ["tea"]},
    )
    run = asyncio.run(dry_run(Settings(cart_enabled=False), [offered], consenting(LOG, ["email"])))
    got = {message["user"]: message["coupon"] for message in run.sample}
    assert [got[user]["offer"] for user in ("ann", "bob", "cleo")] == ["coffee", "tea", "coffee"]
    assert got["ann"]["code"] == "coffee"
    assert Computed(b"dry run", "cart", "tea", "TEA", 9).number(got["bob"]["code"]) == 0
    assert run.offers == {("cart", "coffee"): 2, ("cart", "tea"): 1}


# Through partitions, and in a replay

PEOPLE = {f"p{n}": ("beans", "tea", "milk")[n % 3] for n in range(9)}
THREE = several(
    {"items": ["coffee", "beans"]},
    {"offer": None, "pool": "green", "codes": [f"G-{n}" for n in range(9)], "items": ["tea"]},
    {"items": ["milk"]},
)


async def lived(most: int, taken: bool) -> Giving:
    """Each buys something, and later leaves a cart."""
    world = Giving(THREE)
    for shopper in world.shoppers:
        await shopper.take()
    for n, (user, item) in enumerate(PEOPLE.items()):
        world.send(user, "consent", n, channels={"email": True}, purposes={"personalisation": True})
        world.send(user, "purchase", 100 + n, items=[{"item": item}])
        world.send(user, "add_to_cart", 200 + n, item="bread")
    for user in {partition_of(user, PARTITIONS): user for user in PEOPLE}.values():
        world.send(user, "view_item", 4000, item="jam")  # time passes
    while any(s.delivery.position("events") < len(world.logs[s.partition]) for s in world.shoppers):
        for partition in world.logs:
            await world.process(partition, most)
            if taken:
                await world.shoppers[partition].take()
    return world


@pytest.mark.parametrize("most, taken", [(1, False), (3, True), (1000, False)])
def test_each_gets_the_best_for_him_and_a_replay_chooses_and_weighs_the_same(most: int, taken: bool) -> None:
    world = asyncio.run(lived(most, taken))
    got = {message["user"]: message["coupon"]["offer"] for message in world.values(ENGAGEMENTS.name)}
    of = {"beans": "coffee", "tea": "green", "milk": "milk"}
    assert got == {user: of[item] for user, item in PEOPLE.items()}
    sent = [one for one in world.values(DECISIONS.name) if one["outcome"] == "sent"]
    assert {one["user"]: one["offers"][0]["offer"] for one in sent} == got
    assert all(len(one["offers"]) == 3 and one["offers"][0]["own"] > 0.9 for one in sent)

    keys = world.store.keys
    for one in sent:
        kept_of = keys.engagement(f"u{partition_of(one['user'], PARTITIONS)}", one["user"])
        hoped = UserState.unpack(world.store.strings[kept_of]).taste.hoped
        assert hoped == round(one["offers"][0]["chance"] * MICRO) > 0, "what is hoped of those sent"

    async def chunks(topic: str, partition: int) -> AsyncIterator[Sequence[Record]]:
        log = world.logs[partition] if topic == EVENTS.name else []
        for at in range(0, len(log), 5):
            yield log[at : at + 5]

    alone = SETTINGS.model_copy(update={"cart_enabled": False})
    again = asyncio.run(replay(alone, KEY, chunks, [THREE]))
    assert again.missing == again.strange == []
    told = {one.value for one in again.outputs[DECISIONS.name]}
    assert told == {one.value for one in world.said if one.topic == DECISIONS.name}
    for name in ("coupons", "wallet", "engagement"):
        kept = [
            {key: blob for key, blob in store.strings.items() if f":{name}:" in key}
            for store in (world.store, again.store)
        ]
        assert kept[0] == kept[1] != {}
