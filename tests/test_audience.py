"""Whom to address: by brute force over a worker's state, and the command against the real store."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from redis import Redis

from state.keys import Keys
from stream.audience import Audience, Nobody, for_item, of_campaign, of_segment
from stream.core.campaigns import SEGMENTS, Campaign
from stream.core.engaged import Choice, Timer, UserState
from stream.core.guards import bucket
from stream.core.rfm import DAY_MS, Order, Ranks, Rfm, Week
from stream.lister import Lister
from stream.local import bundle
from stream.ownership import partition_of
from stream.settings import Settings
from stream.shopper import Meta
from stream.times import time_ms, time_text
from stream.topics import EVENTS
from tests.commands import Cli
from tests.scenarios import campaign
from tests.test_cold_start import START_MS, Worker

SHELF = {f"i{n}": {"color": "red" if n % 2 else "blue"} for n in range(8)}
GRANTED = {"channels": {"email": True}, "purposes": {"personalisation": True}}
DAY = 86_400


async def shop(**given: Any) -> Worker:
    """u0 buys most often and last; u7 never grants; u8 only looks; what u<n> buys is i<n>."""
    worker = Worker(**given)
    await worker.start(SHELF)
    bundles: dict[int, list[Any]] = {}
    for user, kind, seconds, fields in log():
        told = {"type": kind, "time": time_text(START_MS + seconds * 1000), "user": user, **fields}
        _, partition, records = worker._record(EVENTS.name, user, told)
        bundles.setdefault(partition, []).extend(records)
    for partition, records in bundles.items():
        await worker.local.shoppers[partition].handle([bundle(EVENTS.name, partition, records)])
    await worker.settle()
    return worker


def log() -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """User, type, seconds, fields."""
    for n in range(9):
        user = f"u{n}"
        if n != 7:
            yield user, "consent", n, GRANTED
        for time in range(8 - n):
            price = {"item": f"i{n}", "price": 10.0, "order": f"o{n}-{time}"}
            yield user, "purchase", (20 - n) * DAY + time, price
        for step, item in enumerate((5, (n + 1) % 8, (n + 2) % 8)):
            yield user, "view_item", 20 * DAY + 60 * step + 10 + n, {"item": f"i{item}"}


async def item(worker: Worker, name: str, top: int = 99) -> Audience:
    local = worker.local
    return await for_item(worker.settings, local.store, local.items, local.follower, name, top)


async def segment(worker: Worker, name: str, top: int = 99) -> Audience:
    return await of_segment(worker.settings, worker.local.store, name, top)


# Segments and campaigns


async def test_a_segment_is_told_by_money_with_its_reasons() -> None:
    worker = await shop()
    found = await segment(worker, "champions")
    assert [(one.user, one.score, one.channel) for one in found.users] == [
        ("u0", 80.0, "email"),
        ("u1", 70.0, "email"),
    ]
    assert found.users[1].reasons == ["champions", "recency 1 d, 7 orders, 70.00"]
    assert (await segment(worker, "champions", 1)).users == found.users[:1]
    told = {name: [one.user for one in (await segment(worker, name)).users] for name in SEGMENTS}
    assert {name: users for name, users in told.items() if users} == {
        "champions": ["u0", "u1"],
        "loyal": ["u2"],
        "potential-loyalists": ["u3"],
        "about-to-sleep": ["u4"],
        "hibernating": ["u5", "u6"],
    }


async def test_who_has_not_granted_and_who_is_held_out_is_counted() -> None:
    worker = await shop()
    assert (await segment(worker, "champions")).left_out == {}
    assert (await segment(worker, "hibernating")).left_out == {"consent": 1}
    push = await of_segment(worker.settings, worker.local.store, "champions", 99, "push")
    assert (push.users, push.left_out) == ([], {"consent": 2})
    share = {user: bucket(user, worker.settings.holdout_salt) for user in ("u0", "u1")}
    between = (sum(share.values()) + 1) // 2
    held = worker.settings.model_copy(update={"holdout_percent": between / 100})
    some = await of_segment(held, worker.local.store, "champions", 99)
    assert [one.user for one in some.users] == [max(share, key=lambda user: share[user])]
    assert some.left_out == {"holdout": 1}


async def test_the_store_has_the_ranks_of_its_users() -> None:
    worker = await shop()
    await worker.send("u3", "forget", 21 * DAY)
    await worker.send("u4", "refund", 21 * DAY, order="o4-0")
    store, keys = worker.local.store, Keys(worker.settings.prefix)
    for shopper in worker.local.shoppers:
        stored = Ranks.of(store.hashes.get(keys.rfm(f"u{shopper.partition}"), {}))
        expected = Ranks()
        expected.move((None, state.rfm.values()) for state in shopper.engaged.values())
        assert stored == shopper.ranks == expected


def pending(worker: Worker, rule: str, given: Campaign | None, top: int = 99) -> Any:
    return of_campaign(worker.settings, worker.local.store, rule, given, top)


async def test_whose_nudge_is_pending_is_whom_a_campaign_is_for() -> None:
    worker = await shop()
    for user in ("u6", "u2", "u7", "u8"):
        await worker.send(user, "add_to_cart", 21 * DAY, item="i1")
    found = await pending(worker, "abandoned-cart", None)
    assert [(one.user, one.score) for one in found.users] == [("u2", 60.0), ("u6", 20.0), ("u8", 0.0)]
    assert found.users[0].reasons[0].startswith("due 2026-01-22T00:45:00")
    assert found.users[2].reasons == [found.users[0].reasons[0]]
    assert found.left_out == {"consent": 1}
    assert (await pending(worker, "another", None)).users == []


async def test_a_campaign_with_an_audience_is_for_it_alone() -> None:
    worker = await shop()
    await worker.send("u8", "add_to_cart", 21 * DAY, item="i1")
    given = campaign("abandoned-cart", audience=["champions", "loyal"], channels=["push", "email"])
    found = await pending(worker, "abandoned-cart", given)
    assert [(one.user, one.channel) for one in found.users] == [(f"u{n}", "email") for n in range(3)]
    alone = campaign("abandoned-cart", audience="champions", channels=["push"])
    assert (await pending(worker, "abandoned-cart", alone)).left_out == {"consent": 2}


# Items


async def test_chances_are_shares_of_the_scores_of_all_candidates() -> None:
    worker = await shop(exclude_bought_s=0)
    found = await item(worker, "i5")
    assert len(found.users) == 8 and found.left_out == {"consent": 1}
    lister, lists = Lister(worker.settings, worker.local.items, worker.local.follower), dict[str, float]()
    for part in ("u0", "u1"):
        lister.adopt(worker.local.store.strings.get(Keys(worker.settings.prefix).mixture(part)))
    for one in found.users:
        rows = await worker.local.shoppers[partition_of(one.user, 2)].users([one.user])
        ranked = lister.rank([one.user], rows, np.array([time_ms(found.time)]), size=99)
        at = worker.local.items.get("i5")
        lists[one.user] = float(ranked.scores[ranked.items == at][0] / ranked.scores.sum())
    assert {one.user: pytest.approx(one.score, rel=1e-5) for one in found.users} == lists
    assert [one.user for one in found.users] == sorted(lists, key=lambda user: -lists[user])
    assert (await item(worker, "i5", 3)).users == found.users[:3]


async def test_what_speaks_for_an_item_is_told_with_its_share() -> None:
    worker = await shop()
    done = dict[tuple[str, str], str]()
    for kind in ("view_item", "purchase"):  # who did both is told to have bought
        done |= {(user, fields["item"]): kind for user, of, _, fields in log() if of == kind}
    words = {"purchase": "bought", "view_item": "looked at"}
    told = Counter[str]()
    for one in (await item(worker, "i0")).users:
        said = [re.fullmatch(r"(.+) (i\d) \((\d\.\d\d)\)", reason) for reason in one.reasons]
        assert said and all(said), one
        shares = [float(each[3]) for each in said if each]
        assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1.01
        for each in said:
            assert each and each[1] == words[done[one.user, each[2]]]
            told[each[1]] += 1
    assert set(told) == set(words.values())


async def test_who_bought_it_lately_is_left_out() -> None:
    lately = await shop(exclude_bought_s=28 * DAY)
    found = await item(lately, "i1")
    assert "u1" not in {one.user for one in found.users}
    assert found.left_out == {"bought": 1, "consent": 1}
    before = await item(await shop(exclude_bought_s=DAY // 2), "i1")
    assert "u1" in {one.user for one in before.users}
    assert before.left_out == {"consent": 1}


async def test_what_nobody_knows_is_told() -> None:
    worker = await shop()
    with pytest.raises(Nobody, match="nothing is known of item i99 yet"):
        await item(worker, "i99")
    empty = Worker()
    with pytest.raises(Nobody, match="nothing is known of anybody yet"):
        await of_segment(empty.settings, empty.local.store, "new", 1)


async def test_test_accounts_are_nobody() -> None:
    worker = await shop(test_users=["u0", "u1*"])
    assert [one.user for one in (await segment(worker, "loyal")).users] == ["u2"]


# The command


def fill(settings: Settings) -> None:
    """ann and bob bought, ann more; both are alike to the day. bob's cart is pending."""
    keys, now = Keys(settings.prefix), 20_000 * DAY_MS
    with Redis.from_url(settings.store_url) as redis:
        for user, cents, granted in (("ann", 999, True), ("bob", 500, True), ("eve", 100, False)):
            part, week = f"u{partition_of(user, settings.partitions)}", now // (7 * DAY_MS)
            state = UserState(identified=True, ordered=now)
            state.rfm = Rfm(now, week, (Week(week, 1, cents),), (Order(now, 0, cents),))
            if granted:
                state.channels, state.purposes = (
                    {"email": Choice(True, 1)},
                    {"personalisation": Choice(True, 1)},
                )
            if user == "bob":
                state.pending = {"abandoned-cart": Timer(now, now)}
            redis.set(keys.engagement(part, user), state.pack())
            redis.set(keys.meta(part), msgspec.msgpack.encode(Meta(watermark=now + 3 * DAY_MS)))
            shift = (None, state.rfm.values())
            for bucket_of, count in Ranks().moved([shift]).items():
                redis.hincrby(keys.rfm(part), bucket_of, count)


def test_the_command_exports_lines(cli: Cli, settings: Settings, tmp_path: Path) -> None:
    fill(settings)
    told = cli("audience", "--segment", "potential-loyalists", settings=settings)
    assert told.code == 0
    assert [orjson.loads(line) for line in told.out.splitlines()] == [
        {
            "user": user,
            "score": score,
            "channel": "email",
            "reasons": ["potential-loyalists", f"recency 3 d, 1 order, {score:.2f}"],
        }
        for user, score in (("ann", 9.99), ("bob", 5.0))
    ]
    assert told.err == "2 users; left out: nobody\n"
    nobody = cli("audience", "--segment", "new", settings=settings)
    assert nobody.err == "0 users; left out: 1 have not granted channel and purpose\n"
    where = tmp_path / "letters.csv"
    words = ("--segment", "about-to-sleep", "--format", "csv", "--output", where)
    assert cli("audience", *words, settings=settings).code == 0
    assert where.read_bytes().startswith(b"user,score,channel,reasons\r\n")
    whole = cli("audience", "--campaign", "abandoned-cart", "--json", settings=settings).json
    assert isinstance(whole, dict)
    assert [each["user"] for each in whole["users"]] == ["bob"]
    assert whole["left_out"] == {}


def test_the_command_tells_what_is_wrong(cli: Cli, settings: Settings) -> None:
    assert cli("audience", "--segment", "new", settings=settings).code == 4
    fill(settings)
    assert cli("audience").code == cli("audience", "--item", "a", "--segment", "new").code == 2
    told = cli("audience", "--segment", "champion")
    assert told.code == 2 and "there are champions, loyal" in told.err
    for words, said in (
        (("--campaign", "spring"), "there is no campaign spring"),
        (("--item", "mug"), "nothing is known of item mug yet"),
    ):
        told = cli("audience", *words, settings=settings)
        assert told.code == 4 and said in told.err and told.out == ""


def test_what_a_user_bought_is_among_what_is_kept_of_him(cli: Cli, settings: Settings) -> None:
    fill(settings)
    told = cli("lookup", "user", "ann", "--json", settings=settings).json
    assert isinstance(told, dict)
    assert told["bought"] == {"last": "2024-10-04T00:00:00.000Z", "orders": 1, "money": 9.99}


def test_csv_can_be_read_back(cli: Cli, settings: Settings, tmp_path: Path) -> None:
    fill(settings)
    told = cli("audience", "--campaign", "abandoned-cart", "--format", "csv", settings=settings)
    [row] = csv.DictReader(told.out.splitlines())
    assert (row["user"], row["score"], row["channel"]) == ("bob", "5.0", "email")
    assert row["reasons"].split("; ")[0].startswith("due 2024-10-04")
