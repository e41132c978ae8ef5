"""Ledgers of coupons: no code twice, nothing beyond pool, budget and limit, whatever comes."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stream.core import coupons, engagement
from stream.core.campaigns import Campaign
from stream.core.codes import Computed
from stream.core.coupons import (
    BACK,
    ERASE,
    GRANT,
    HOUR_MS,
    REDEEMED,
    REQUEST,
    SERIAL_MS,
    Given,
    Grant,
    Kind,
    Ledgers,
    Pool,
    Request,
    Shelf,
    Terms,
    Wallet,
    give_back,
    pack,
    redeem,
    request,
    unpack_pool,
    unpack_wallet,
)
from stream.core.engagement import Engine
from stream.core.notices import Notice
from stream.core.triggers.shape import DAY_MS
from stream.delivery import Output
from stream.digest import sum_up
from stream.events import Told
from stream.ownership import partition_of
from stream.settings import Settings
from stream.status import tallies
from stream.times import time_text
from stream.topics import DECISIONS, ENGAGEMENTS
from tests.scenarios import MONDAY, Happening, Shop, answered, campaign, check, engine, happening, ms
from tests.test_forward import PARTITIONS, SETTINGS, World, replayed
from tests.test_step import START_MS

CODES = tuple(f"MAY-{n}" for n in range(6))
NOON = "12:00"


def terms(**changes: Any) -> Terms:
    """Of one pool, unless ``codes`` is None: then of an offer that is called as the pool is."""
    kind = Kind("may", changes.pop("codes", CODES), 5000, 5000)
    usual = Terms((kind,), 1, 10 * DAY_MS, None, None, 0.0, False)
    return replace(usual, **changes)


def asked(user: str = "ann", step: int = 1, worth: float | None = None) -> Request:
    return Request("may", user, "may", step, 1000, 2000, worth, number=step)


def granted(
    pool: Pool, wallet: Wallet, by: Terms | None, of: Request, now: int = 0
) -> tuple[Pool, Wallet, Grant]:
    return request(pool, wallet, by, of, now)


# One transition


def test_a_coupon_ends_with_an_hour_and_is_worth_what_the_campaign_says() -> None:
    pool, wallet, grant = granted(Pool(), Wallet(), terms(), asked(), now=HOUR_MS + 1)
    assert (grant.code, grant.value, grant.expires) == ("MAY-0", 5.0, 10 * DAY_MS + 2 * HOUR_MS)
    assert (pool.issued, pool.spent, pool.shelf("may").next, len(wallet.given)) == (1, 5000, 1, 1)
    assert pool.expired(grant.expires - 1) == 0 and pool.expired(grant.expires) == 1


def test_the_same_request_has_the_same_answer() -> None:
    first = granted(Pool(), Wallet(), terms(), asked())
    assert granted(*first[:2], terms(), asked(), now=DAY_MS) == first


@pytest.mark.parametrize(
    "why, changes, worth",
    [
        ("budget", {"most": 0}, None),
        ("budget", {"cost": 4999}, None),
        ("", {"cost": 5000}, None),
        ("margin", {"floor": 50.0}, 9.99),
        ("", {"floor": 50.0}, 10.0),
        ("margin", {"floor": 50.0}, None),
        ("pool", {"codes": ()}, None),
    ],
)
def test_why_there_is_no_coupon(why: str, changes: dict[str, Any], worth: float | None) -> None:
    by = terms(**changes)
    if why == "pool":
        pool, by = Pool(shelves={"may": Shelf(next=len(CODES))}), terms()
    else:
        pool = Pool()
    _, _, grant = granted(pool, Wallet(), by, asked(worth=worth))
    assert (grant.refused, bool(grant.code)) == (why, not why)


def test_a_user_has_at_most_so_many() -> None:
    pool, wallet = Pool(), Wallet()
    for step in (1, 2, 3):
        pool, wallet, grant = granted(pool, wallet, terms(per_user=2), asked(step=step))
    assert grant.refused == "limit" and pool.issued == 2


@pytest.mark.parametrize("after_ms, refused", [(SERIAL_MS - 1, "serial"), (SERIAL_MS, "")])
def test_who_redeems_what_he_abandons_carts_for_gets_none(after_ms: int, refused: str) -> None:
    pool, wallet, by = Pool(), Wallet(), terms(per_user=5, abandoning=True)
    for step in (1, 2):
        pool, wallet, grant = granted(pool, wallet, by, asked(step=step))
        pool, wallet = redeem(pool, wallet, grant.code, 7)
    assert granted(pool, wallet, by, asked(step=3), now=7 + after_ms)[2].refused == refused
    assert granted(pool, wallet, replace(by, abandoning=False), asked(step=3), now=8)[2].refused == ""


@pytest.mark.parametrize("time, redeemed", [(10 * DAY_MS - 1, 1), (10 * DAY_MS, 0)])
def test_a_coupon_can_be_redeemed_until_it_ends(time: int, redeemed: int) -> None:
    pool, wallet, grant = granted(Pool(), Wallet(), terms(), asked())
    pool, wallet = redeem(pool, wallet, grant.code, time)
    assert pool.redeemed == redeemed
    assert redeem(pool, wallet, grant.code, time)[0].redeemed == redeemed, "once"


def test_a_code_that_nobody_saw_goes_to_the_next() -> None:
    pool, wallet, first = granted(Pool(), Wallet(), terms(), asked())
    pool, wallet = give_back(pool, wallet, asked().key)
    assert give_back(pool, wallet, asked().key) == (pool, wallet) == (pool, Wallet())
    pool, _, second = granted(pool, Wallet(), terms(), asked("bob"))
    assert (first.code, second.code, pool.issued, pool.returned) == ("MAY-0", "MAY-0", 1, 1)


def test_a_campaign_without_coupons_gives_none() -> None:
    assert Terms.of(None) is None and Terms.of(campaign("win-back")) is None
    assert granted(Pool(), Wallet(), None, asked())[2].refused == "ended"


# Whatever comes

acts = st.tuples(
    st.sampled_from(["request", "back", "redeem", "erase"]),
    st.sampled_from(["ann", "bob", "cleo", "dora"]),
    st.integers(1, 4),
    st.integers(0, 30),
)


@settings(max_examples=200)
@given(
    st.lists(acts, max_size=60),
    st.integers(1, 3),
    st.none() | st.integers(0, 5),
    st.none() | st.integers(0, 40_000),
    st.booleans(),
)
def test_the_laws_of_a_ledger(
    drawn: list[tuple[str, str, int, int]], per_user: int, most: int | None, cost: int | None, computed: bool
) -> None:
    by = terms(per_user=per_user, most=most, cost=cost, codes=None if computed else CODES)
    pool, wallets = Pool(), dict[str, Wallet]()
    seen = set[str]()  # codes that somebody has, or had when he was forgotten
    for n, (what, user, step, day) in enumerate(drawn):
        wallet, of, now = wallets.get(user, Wallet()), asked(user, step), n * DAY_MS
        before = {each.code for each in wallet.given}
        if what == "request":
            pool, wallet, grant = request(pool, wallet, by, of, now)
            assert computed or grant.code in before or grant.code not in seen, "a code goes out twice"
        elif what == "back":
            pool, wallet = give_back(pool, wallet, of.key)
            seen -= before - {each.code for each in wallet.given}
        elif what == "redeem":
            code = wallet.given[0].code if wallet.given else "x"
            pool, wallet = redeem(pool, wallet, code, day * DAY_MS)
        else:
            wallet = Wallet()
        seen |= {each.code for each in wallet.given}
        wallets[user] = wallet
        assert len(wallet.given) <= per_user
        assert most is None or pool.issued <= most
        assert cost is None or pool.spent <= cost
        assert computed or pool.issued <= len(CODES)
        # What was issued is redeemed, or still open until it ends.
        assert len(pool.open) <= 10, "days on which those end that are valid for ten days"
        assert pool.issued == pool.redeemed + pool.expired(10**15) and pool.spent == 5000 * pool.issued
        assert unpack_pool(pack(pool)) == pool and unpack_wallet(pack(wallet)) == wallet


# The nudge that waits for it

GIVES = {"coupon": {"pool": "may", "codes": list(CODES), "value": 5}, "steps": ["45m"], "id": "cart"}
CART = campaign("abandoned-cart", **GIVES)


def test_a_nudge_is_sent_with_its_coupon() -> None:
    shop = check(
        """
        09:00 | consent        |
        10:00 | add A @9       |
        10:45 | clock          | held 1 coupon until 1 11:45
        10:46 | grant MAY-0 @5 | sent 1: A
        """,
        campaigns=[CART],
        cart_enabled=False,
    )
    (message,) = shop.messages
    told = orjson.loads(message.json("id"))["coupon"]
    ends = message.coupon and message.coupon.expires
    assert told == {"code": "MAY-0", "offer": "may", "value": 5.0, "expires": ends}
    assert [(each.type, each.to, each.body.get("worth")) for each in shop.notices] == [(REQUEST, "cart", 9.0)]


@pytest.mark.parametrize("why", ["pool", "budget", "limit", "serial", "margin", "ended"])
def test_a_nudge_without_the_coupon_that_it_wants_is_not_sent(why: str) -> None:
    check(
        f"""
        09:00 | consent      |
        10:00 | add A        |
        10:45 | clock        | held 1 coupon until 1 11:45
        10:46 | grant !{why} | suppressed 1 {why}
        """,
        campaigns=[CART],
        cart_enabled=False,
    )


def test_a_nudge_waits_an_hour_for_its_coupon() -> None:
    shop = check(
        """
        09:00    | consent        |
        10:00    | add A          |
        10:45    | clock          | held 1 coupon until 1 11:45
        11:44:59 | clock          |
        11:45    | clock          | suppressed 1 unanswered
        11:46    | grant MAY-0 @5 |
        """,
        campaigns=[CART],
        cart_enabled=False,
    )
    assert [each.type for each in shop.notices] == [REQUEST, BACK, BACK]


def test_an_answer_to_an_earlier_request_goes_back_alone() -> None:
    shop = check(
        """
        19:00   | consent            |
        19:00   | zone Europe/London |
        19:30   | add A              |
        20:15   | clock              | held 1 coupon until 1 21:15
        21:15   | clock              | held 1 quiet until 2 09:00
        2 09:00 | clock              | held 1 coupon until 2 10:00
        2 09:01 | grant MAY-0 @5 #1  |
        2 09:02 | grant MAY-1 @5 #2  | sent 1: A
        """,
        campaigns=[CART],
        cart_enabled=False,
    )
    first, second = (msgspec.convert(shop.notices[at].body, Request).key for at in (0, 2))
    told = [(each.type, each.body.get("request")) for each in shop.notices]
    assert told == [(REQUEST, None), (BACK, first), (REQUEST, None), (BACK, first)] and first != second
    assert shop.messages[0].coupon is not None and shop.messages[0].coupon.code == "MAY-1"


@pytest.mark.parametrize(
    "happens, decided", [("buy B", "cancelled 1 purchase"), ("forget", "cancelled 1 forget")]
)
def test_a_coupon_that_comes_too_late_goes_back(happens: str, decided: str) -> None:
    shop = check(
        f"""
        09:00 | consent        |
        10:00 | add A          |
        10:45 | clock          | held 1 coupon until 1 11:45
        10:46 | {happens}      | {decided}
        10:47 | grant MAY-0 @5 |
        """,
        campaigns=[CART],
        cart_enabled=False,
    )
    assert [each.type for each in shop.notices] == [REQUEST, BACK, BACK], "at once, and again as it comes"


@pytest.mark.parametrize(("answer", "back"), [("MAY-0 @5", [BACK]), ("!ended", [])])
def test_a_campaign_that_gives_no_coupons_any_more_gives_them_back(answer: str, back: list[str]) -> None:
    rows = ("09:00 | consent", "10:00 | add A", "10:45 | clock", f"10:46 | grant {answer}")
    with_it, without = (
        engine([each], cart_enabled=False) for each in (CART, campaign("abandoned-cart", id="cart"))
    )
    log = answered([happening(row, MONDAY, with_it.config.lateness_ms) for row in rows], with_it)
    shop = Shop(with_it)
    shop.play(log[:3])
    shop.engine = without
    shop.play(log[3:])
    assert [message.coupon for message in shop.messages] == [None]
    assert [each.type for each in shop.notices] == [REQUEST, *back]


def test_guards_are_passed_again_with_the_coupon_in_hand() -> None:
    shop = check(
        """
        20:00 | consent            |
        20:00 | zone Europe/London |
        20:05 | add A              |
        20:50 | clock              | held 1 coupon until 1 21:50
        21:01 | grant MAY-0 @5     | held 1 quiet until 2 09:00
        2 09:00 | clock            | held 1 coupon until 2 10:00
        2 09:01 | grant MAY-0 @5   | sent 1: A
        """,
        campaigns=[CART],
        cart_enabled=False,
    )
    assert [each.type for each in shop.notices] == [REQUEST, BACK, REQUEST]


def test_the_ledger_is_told_what_becomes_of_a_coupon() -> None:
    shop = check(
        """
        09:00 | consent        |
        10:00 | add A          |
        10:45 | clock          | held 1 coupon until 1 11:45
        10:46 | grant MAY-0 @5 | sent 1: A
        11:00 | redeem MAY-1   |
        11:01 | redeem MAY-0   |
        12:00 | forget         |
        """,
        campaigns=[CART],
        cart_enabled=False,
    )
    told = [(each.type, each.to, each.body["time"], each.body.get("code")) for each in shop.notices[1:]]
    first = shop.notices[0].time - 105 * 60_000
    assert [(kind, to, code) for kind, to, _, code in told] == [
        (REDEEMED, "cart", "MAY-0"),
        (ERASE, "cart", None),
    ]
    assert [time - first for _, _, time, _ in told] == [121 * 60_000, 180 * 60_000]


# However slow the mail is, and in whatever order it comes

TWO = [
    {"pool": name, "codes": [f"{name}-{n}" for n in range(9)], "value": 1, "items": [name.upper()]}
    for name in "ab"
]
SLOW = campaign(
    "abandoned-cart",
    **{
        **GIVES,
        "steps": ["5m"],
        "coupon": {"offers": TWO, "per_user": 32},
        "rest": "1h",
        "expires": "9d",
        "budget": {"coupons": 16},
    },
)
WHAT = ["add A", "add B", "buy A", "refuse", "consent", "forget", *["clock"] * 4, "evening", "morning"]
WHAT += [f"{whose} to {to}" for whose in ("one", "all", "all") for to in ("ledger", "user") * 2]
CLOCK = {"evening": 20 * 60 + 30, "morning": 9 * 60}
USERS = ("ann", "bob", "cleo")


def turns_of(seed: int) -> list[tuple[str, str, int]]:
    """Drawn evenly: Hypothesis' own lists repeat themselves, and rarely come to what takes many turns."""
    draw = Random(seed)
    return [(draw.choice(WHAT), draw.choice(USERS), draw.choice([5, 15, 30, 45])) for _ in range(200)]


class Slow:
    """A ledger, and users of partitions of their own: between two partitions mail stays in order, that of
    different ones overtakes, and all of it takes as long as it likes."""

    def __init__(self) -> None:
        self.shop = Shop(engine([SLOW], cart_enabled=False, cap_day=99, cap_week=99))
        self.ledgers, self.terms = Ledgers({}, {}), Terms.of(SLOW)
        self.to_ledger = {user: deque[Notice]() for user in USERS}
        self.to_user = {user: deque[Grant]() for user in USERS}
        self.minute, self.told = 8 * 60, 0
        self.shown, self.forgotten = dict[str, str](), set[str]()

    @property
    def pool(self) -> Pool:
        return self.ledgers.pools.get("cart", Pool())

    def turn(self, what: str, user: str, minutes: int) -> None:
        whose, _, to = what.partition(" to ")
        if to:
            for each in USERS if whose == "all" else [user]:
                for _ in range(1 if whose == "one" else 9):
                    self.deliver(each, to_ledger=to == "ledger")
            return
        if what in CLOCK:  # the next one
            minutes, what = (CLOCK[what] - self.minute) % (24 * 60) or 24 * 60, "clock"
        self.minute += minutes if what == "clock" else 0
        hour, minute = divmod(self.minute, 60)
        row = happening(f"{1 + hour // 24} {hour % 24:02}:{minute:02} | {what}", MONDAY, 0)
        self.play(replace(row, user=user) if row.event is not None else row)
        if what == "forget":
            self.forgotten |= {code for code, whose in self.shown.items() if whose == user}
            self.meet(user)

    def meet(self, user: str) -> None:
        """Somebody new, who wants nudges, and none at night."""
        self.turn("consent", user, 0)
        self.turn("zone Europe/London", user, 0)

    def play(self, happened: Happening) -> None:
        seen = len(self.shop.messages)
        self.shop.play([happened])
        for said in self.shop.notices[self.told :]:
            self.to_ledger[said.body.get("user", "")].append(said)
        self.told = len(self.shop.notices)
        for one in self.shop.messages[seen:]:
            assert one.coupon is not None
            assert one.coupon.code not in self.shown, "a code is shown twice"
            self.shown[one.coupon.code] = one.user

    def deliver(self, user: str, to_ledger: bool) -> None:
        now = ms("00:00") + self.minute * 60_000
        if to_ledger and self.to_ledger[user]:
            said = self.to_ledger[user].popleft()
            grant = self.ledgers.hear(said.type, said.body, self.terms, now)
            self.to_user[user].extend([] if grant is None else [grant])
        elif not to_ledger and self.to_user[user]:
            body = msgspec.to_builtins(self.to_user[user].popleft())
            self.play(Happening(user, now, now, Told(type=GRANT, time="", anonymous="", body=body)))

    def wallets(self) -> list[tuple[str, str]]:
        """Code and user of all that is granted."""
        held = self.ledgers.wallets.items()
        return [(given.code, user) for (_, user), wallet in held for given in wallet.given]

    def hold(self) -> None:
        """The laws of every moment."""
        held = self.wallets()
        assert len(held) == len(dict(held)), "a code is granted twice"
        kept = {(code, user) for code, user in self.shown.items() if code not in self.forgotten}
        assert kept <= set(held), "what a user was shown is his"
        assert self.pool.issued <= 16
        for shelf in self.pool.shelves.values():
            assert shelf.next - len(shelf.free) == shelf.issued, "a code is lost"

    def end(self) -> None:
        """All mail comes, and every nudge is done with: what was granted and not shown has gone back."""
        for _ in range(4):
            self.turn("morning", "", 0)
            while any((*self.to_ledger.values(), *self.to_user.values())):
                for user in self.to_ledger:
                    self.deliver(user, to_ledger=True)
                    self.deliver(user, to_ledger=False)
                    self.hold()
        assert self.pool.issued == len(self.shown), "a grant is lost"
        assert {code for code, _ in self.wallets()} == self.shown.keys() - self.forgotten


def slow_mail(turns: list[tuple[str, str, int]]) -> None:
    world = Slow()
    for user in world.to_ledger:
        world.meet(user)
    for what, user, minutes in turns:
        world.turn(what, user, minutes)
        world.hold()
    world.end()


SOME = st.integers(0, 2**32 - 1).map(turns_of)
some_mail = settings(max_examples=25)(given(SOME)(slow_mail))


def test_no_code_is_granted_twice_or_lost_however_slow_the_mail() -> None:
    some_mail()


def _not_given_back(passage: Any, grant: Grant) -> None:
    """A coupon that nothing waits for is dropped."""


def _any_answer(passage: Any, grant: Grant) -> None:
    """An answer to an earlier request is taken for that to the last one."""
    timer = passage.state.pending.get(grant.request.rule)
    number = grant.request.number if timer is None or not timer.coupon else timer.coupon
    of = msgspec.structs.replace(grant.request, number=number)
    GRANTED(passage, msgspec.structs.replace(grant, request=of))


def _without_number(rule: str, due: int, number: int) -> str:
    """Two requests of one nudge are taken for one."""
    return f"{rule}-{due}"


def _freed_and_kept(pool: Pool, wallet: Wallet, key: str) -> tuple[Pool, Wallet]:
    """A code given back stays in the wallet, too."""
    return give_back(pool, wallet, key)[0], wallet


def _never_freed(pool: Pool, wallet: Wallet, key: str) -> tuple[Pool, Wallet]:
    """What is given back is lost."""
    return pool, give_back(pool, wallet, key)[1]


def _still_free(shelf: Shelf, *more: Any) -> tuple[Given, Shelf]:
    """A code given back goes out, and stays free."""
    given, left = GIVEN(shelf, *more)
    return given, msgspec.structs.replace(left, free=shelf.free)


def _no_withdrawal(passage: Any, rule: str, timer: Any) -> None:
    """Who is forgotten while a coupon is on its way leaves it with nobody."""


GRANTED, GIVEN = engagement._Passage._granted, coupons._given
BUGS: list[tuple[Any, list[tuple[Any, str]]]] = [
    (_not_given_back, [(engagement._Passage, "_give_back")]),
    (_any_answer, [(engagement._Passage, "_granted")]),
    (_without_number, [(coupons, "key_of"), (engagement, "key_of")]),
    (_freed_and_kept, [(coupons, "give_back")]),
    (_never_freed, [(coupons, "give_back")]),
    (_still_free, [(coupons, "_given")]),
    (_no_withdrawal, [(engagement._Passage, "_withdraw")]),
]


@pytest.mark.parametrize("bug, places", BUGS, ids=[bug.__name__ for bug, _ in BUGS])
def test_the_law_of_slow_mail_finds_bugs(bug: Any, places: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name in places:
        monkeypatch.setattr(where, name, bug)
    search = settings(max_examples=150, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        search(given(SOME)(slow_mail))()


# Through partitions

PEOPLE = tuple(f"p{n}" for n in range(12))


class Giving(World):
    """A deployment whose worker gives coupons to those who leave their carts."""

    def __init__(self, given: Campaign, secret: str | None = None) -> None:
        super().__init__()
        self.said: list[Output] = []
        for shopper in self.shoppers:
            alone = SETTINGS.model_copy(update={"cart_enabled": False, "coupon_secret": secret})
            shopper.context = replace(shopper.context, engine=Engine.of(alone, [given]))

    async def publish(self, partition: int, outputs: Sequence[Output]) -> None:
        self.said += outputs
        await super().publish(partition, outputs)

    def send(self, user: str, kind: str, second: int, **more: Any) -> None:
        self.now = START_MS + 1000 * second
        event = {"type": kind, "time": time_text(self.now), "user": user} | more
        self.append(partition_of(user, PARTITIONS), orjson.dumps(event))

    def values(self, topic: str) -> list[dict[str, Any]]:
        """What was said, repeats once."""
        found = {one.value: orjson.loads(one.value) for one in self.said if one.topic == topic}
        return list(found.values())


async def given_out(given: Campaign, most: int, taken: bool, secret: str | None = None) -> Giving:
    world = Giving(given, secret)
    for shopper in world.shoppers:
        await shopper.take()
    for n, user in enumerate(PEOPLE):
        world.send(user, "consent", n, channels={"email": True}, purposes={"personalisation": True})
        world.send(user, "add_to_cart", 100 + n, item="tea")
    for name in {partition_of(user, PARTITIONS): user for user in PEOPLE}.values():
        world.send(name, "view_item", 4000, item="jam")  # time passes
    while any(s.delivery.position("events") < len(world.logs[s.partition]) for s in world.shoppers):
        for partition in world.logs:
            await world.process(partition, most)
            if taken:
                await world.shoppers[partition].take()
    return world


@pytest.mark.parametrize("most, taken", [(1, False), (3, True), (1000, False)])
def test_of_six_codes_each_goes_to_one_of_twelve(most: int, taken: bool) -> None:
    world = asyncio.run(given_out(CART, most, taken))
    messages = world.values(ENGAGEMENTS.name)
    codes = Counter(message["coupon"]["code"] for message in messages)
    assert sorted(codes) == sorted(CODES) and set(codes.values()) == {1}
    decided = Counter((one["outcome"], one["reason"]) for one in world.values(DECISIONS.name))
    assert decided == {("held", "coupon"): 12, ("sent", ""): 6, ("suppressed", "pool"): 6}
    owner = partition_of("cart", PARTITIONS)
    keys = world.store.keys
    pool = unpack_pool(world.store.strings[keys.coupons(f"u{owner}", "cart")])
    assert (pool.issued, pool.shelf("may")) == (6, Shelf(next=6, issued=6))
    assert sum(":wallet:cart:" in key for key in world.store.strings) == 6


COMPUTED = campaign(
    "abandoned-cart", **GIVES | {"coupon": {"pool": "may", "computed": {"prefix": "MAY", "count": 6}}}
)


@pytest.mark.parametrize("most, taken", [(1, False), (3, True)])
def test_of_six_computed_codes_each_goes_to_one_and_none_tells_the_secret(most: int, taken: bool) -> None:
    world = asyncio.run(given_out(COMPUTED, most, taken, "a long secret"))
    codes = Counter(message["coupon"]["code"] for message in world.values(ENGAGEMENTS.name))
    pool = Computed(b"a long secret", "cart", "may", "MAY", 6)
    assert sorted(codes) == sorted(pool) and set(codes.values()) == {1}
    assert {pool.number(code) for code in codes} == set(range(6))
    stored = [blob for blob in world.store.strings.values() if isinstance(blob, bytes)]
    written = [
        *(one.value for one in world.said),
        *(r.value or b"" for log in world.logs.values() for r in log),
    ]
    assert len(stored) > 12 and not any(b"a long secret" in text for text in (*stored, *written))
    shown = repr((Settings(coupon_secret="a long secret"), world.shoppers[0].context.engine))
    assert "a long secret" not in shown


def test_without_the_secret_no_code_is_computed() -> None:
    world = asyncio.run(given_out(COMPUTED, 1000, False))
    assert world.values(ENGAGEMENTS.name) == []
    decided = Counter((one["outcome"], one["reason"]) for one in world.values(DECISIONS.name))
    assert decided == {("held", "coupon"): 12, ("suppressed", "secret"): 12}


def test_who_is_forgotten_leaves_sums_alone() -> None:
    async def run() -> Giving:
        world = await given_out(CART, 1000, False)
        for user in PEOPLE:
            world.send(user, "forget", 5000)
        await world.settle()
        return world

    world = asyncio.run(run())
    assert not any(":wallet:" in key for key in world.store.strings)
    assert any(":coupons:cart" in key for key in world.store.strings)


def test_ledgers_are_in_the_digest() -> None:
    worlds = [asyncio.run(given_out(CART, most, False)) for most in (1000, 1000, 1)]

    async def hashed(world: Giving) -> str:
        now, _ = await tallies(SETTINGS, world.store)
        return (await sum_up(SETTINGS, world.store, now)).coupon_hash

    first, again, _ = [asyncio.run(hashed(world)) for world in worlds]
    nothing = replayed({p: [] for p in range(PARTITIONS)}, 10).digest.coupon_hash
    assert first == again != nothing
