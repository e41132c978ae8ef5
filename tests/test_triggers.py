"""Triggers besides the abandoned cart, as tables a marketer can read; `tests/scenarios.py` explains them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from stream import engagements, triggers_page
from stream.campaign_files import running
from stream.codec import Limits, decode
from stream.core.campaigns import Duration, read
from stream.core.engaged import UserState
from stream.core.engagement import Engine
from stream.core.items import Items
from stream.core.messages import revoke_key
from stream.core.triggers import TYPES
from stream.core.triggers.browse_abandonment import BrowseAbandonment
from stream.core.triggers.loyal import Loyal
from stream.core.triggers.shape import DAY_MS
from stream.core.triggers.trending_for_you import TrendingForYou
from stream.core.triggers.win_back import WinBack
from stream.engagements import read_engagement
from stream.events import ENGAGEMENT_KINDS
from stream.settings import Settings
from stream.transport import StockRecord
from tests import offers, on_event, price_and_stock
from tests.scenarios import MONDAY, Happening, Shop, campaign, check, engine, event, happening, ms

OPEN: dict[str, Any] = {"cart_enabled": False, "cap_day": 100, "cap_week": 100}
"""The default campaign off, no caps: what the trigger alone does."""
ANSWER: dict[str, Any] = {"channels": {"email": True}, "purposes": {"personalisation": True}}
MINUTE_MS = 60_000

CHECKOUT = {
    "half an hour after a checkout without an order, not a millisecond earlier": """
        10:00         | consent  |
        10:05         | add A    |
        10:10         | checkout A |
        10:39:59.999  | clock    |
        10:40         | clock    | sent 1: A
        2 10:39:59.999 | clock   |
        2 10:40       | clock    | sent 2: A
        9 12:00       | clock    |
    """,
    "an order cancels": """
        10:00  | consent  |
        10:05  | add A    |
        10:10  | checkout A |
        10:30  | buy A    | cancelled 1 purchase
        10:40  | clock    |
    """,
    "a late order cancels": """
        10:00  | consent  |
        10:05  | add A    |
        10:10  | checkout A |
        10:39  | buy A of 10:12 | cancelled 1 purchase
        10:40  | clock    |
    """,
    "a cart that is changed after it has its own trigger": """
        10:00  | consent  |
        10:05  | add A    |
        10:10  | checkout A |
        10:20  | add B    | cancelled 1 add_to_cart
        10:40  | clock    |
    """,
    "another checkout begins the wait anew": """
        10:00  | consent  |
        10:05  | add A    |
        10:10  | checkout A |
        10:30  | checkout A |
        10:40  | clock    |
        11:00  | clock    | sent 1: A
    """,
    "one at the time of the cart's change is after it": """
        10:00         | consent  |
        10:05         | add A    |
        10:05         | checkout A |
        10:35         | clock    | sent 1: A
    """,
    "a checkout of nothing that is in the cart is none": """
        10:00  | consent  |
        10:10  | checkout A |
        10:40  | clock    |
    """,
}

WELCOME = {
    "at once, after a day and after three": """
        1 10:00         | consent |
        1 10:00         | clock   | sent 1:
        2 09:59:59.999  | clock   |
        2 10:00         | clock   | sent 2:
        4 10:00         | clock   | sent 3:
        9 10:00         | consent |
        9 10:01         | clock   |
    """,
    "an order ends it": """
        1 10:00  | consent |
        1 10:00  | clock   | sent 1:
        1 12:00  | buy A   | cancelled 2 purchase
        2 10:00  | clock   |
    """,
    "an order at the very time ends it, too": """
        1 10:00  | consent |
        1 10:00  | buy A   | cancelled 1 purchase
        4 10:00  | clock   |
    """,
    "days count from the first moment, not from the nudge before": """
        1 10:00         | consent |
        1 22:00         | clock   | sent 1:
        2 09:59:59.999  | clock   |
        2 10:00         | clock   | sent 2:
    """,
    "only once, also after consent was taken back and given again": """
        1 10:00  | consent |
        1 10:00  | clock   | sent 1:
        1 11:00  | refuse  |
        2 10:00  | clock   | suppressed 2 consent
        2 11:00  | consent |
        4 10:00  | clock   | sent 3:
    """,
    "a visitor is welcome when he is known": """
        10:00  | visitor consent |
        10:00  | clock   |
        10:05  | zone Europe/London |
        10:05  | clock   | sent 1:
    """,
    "not for whom nobody may write to": """
        1 10:00  | refuse |
        1 10:00  | clock  |
        1 12:00  | zone Europe/Berlin |
        2 10:00  | clock  |
    """,
    "whoever is forgotten is new again": """
        1 10:00  | consent |
        1 10:00  | clock   | sent 1:
        1 11:00  | forget  | cancelled 2 forget
        1 12:00  | consent |
        1 12:00  | clock   | sent 1:
    """,
}

WIN_BACK = {
    "sixty days after the last order": """
        1 10:00          | consent |
        1 10:05          | buy A   |
        61 10:04:59.999  | clock   |
        61 10:05         | clock   | sent 1:
        75 10:05         | clock   | sent 2:
        89 10:05         | clock   | sent 3:
        400 10:05        | clock   |
    """,
    "an order begins the wait anew": """
        1 10:00   | consent |
        1 10:05   | buy A   |
        61 10:04  | buy B   |
        61 10:05  | clock   |
        181 10:01 | clock   |
        181 10:02 | clock   | sent 1:
    """,
    "twice the usual gap, for whoever orders seldom": """
        1 10:00    | consent |
        1 10:05    | buy A   |
        41 10:05   | buy A   |
        81 10:05   | buy A   |
        141 10:05  | clock   |
        161 10:04:59.999 | clock |
        161 10:05  | clock   | sent 1:
    """,
    "of gaps of 10, 35 and 50 days the one in the middle counts": """
        1 10:00    | consent |
        1 10:05    | buy A   |
        36 10:05   | buy A   |
        46 10:05   | buy A   |
        96 10:05   | buy A   |
        166 10:04:59.999 | clock |
        166 10:05  | clock   | sent 1:
    """,
    "two orders at one time are one": """
        1 10:00    | consent |
        1 10:05    | buy A   |
        1 10:05    | buy B   |
        41 10:05   | buy A   |
        121 10:04:59.999 | clock |
        121 10:05  | clock   | sent 1:
    """,
    "of nine orders the first is forgotten: of gaps of 35 and 40 days the median is 40, not 35": """
        1 10:00    | consent |
        1 10:05    | buy A   |
        36 10:05   | buy A   |
        71 10:05   | buy A   |
        106 10:05  | buy A   |
        141 10:05  | buy A   |
        181 10:05  | buy A   |
        221 10:05  | buy A   |
        261 10:05  | buy A   |
        301 10:05  | buy A   |
        381 10:04:59.999 | clock |
        381 10:05  | clock   | sent 1:
    """,
    "one from before the last that comes late begins nothing anew": """
        1 10:00   | consent |
        1 10:05   | buy A   |
        61 10:05  | clock   | sent 1:
        62 10:00  | buy B of 1 09:00 |
        69 10:05  | clock   |
        75 10:05  | clock   | sent 2:
    """,
    "an order that comes late counts at its own time": """
        1 10:00   | consent |
        1 10:05   | buy A   |
        30 10:00  | buy B of 2 10:05 |
        61 10:05  | clock   |
        62 10:05  | clock   | sent 1:
    """,
}

POST_PURCHASE = {
    "a week after an order, with what was ordered": """
        1 10:00         | consent   |
        1 10:05         | buy A B x2 |
        8 10:04:59.999  | clock     |
        8 10:05         | clock     | sent 1: A B
        30 10:05        | clock     |
    """,
    "a refund cancels": """
        1 10:00  | consent |
        1 10:05  | buy A   |
        3 10:05  | refund  | cancelled 1 refund
        8 10:05  | clock   |
    """,
    "another order puts it off": """
        1 10:00  | consent |
        1 10:05  | buy A   |
        3 10:05  | buy B   |
        8 10:05  | clock   |
        10 10:05 | clock   | sent 1: B
    """,
    "a refund of another order does not; one that names no order does": """
        1 10:00  | consent   |
        1 10:05  | buy A     |
        3 10:05  | refund o2 |
        4 10:05  | refund A  | cancelled 1 refund
        8 10:05  | clock     |
    """,
    "a refund at the very time of the order does, not one from before it": """
        1 10:00  | consent |
        1 10:05  | buy A   |
        3 10:05  | refund of 1 10:04:59.999 |
        3 10:06  | refund of 1 10:05 | cancelled 1 refund
        8 10:05  | clock   |
    """,
    "an older order that comes late does not put it off, nor one at the same time": """
        1 10:00  | consent |
        1 10:05  | buy A   |
        3 10:05  | buy B of 1 10:04:59.999 |
        3 10:06  | buy C of 1 10:05 |
        8 10:05  | clock   | sent 1: A
    """,
    "no second one while the campaign rests": """
        1 10:00   | consent |
        1 10:05   | buy A   |
        8 10:05   | clock   | sent 1: A
        8 10:06   | buy B   |
        15 10:06  | clock   | sent 1: B
    """,
}

REPLENISHMENT = {
    "four tenths before the gap is over, and at its upper quartile": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        39 11:59:59.999 | clock |
        39 12:00  | clock   | sent 1: A
        41 12:00  | clock   | sent 1: A
        90 12:00  | clock   |
    """,
    "the second one at the upper quartile of the gaps: 10, 10, 10 and 20 days": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        51 12:00  | buy A   |
        59 12:00  | clock   | sent 1: A
        70 23:59:59.999 | clock |
        71 12:00  | clock   | sent 1: A
    """,
    "bought twice at one time is bought once": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        60 12:00  | clock   |
    """,
    "an order that comes late changes the gaps, and begins nothing anew": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        39 12:00  | clock   | sent 1: A
        39 13:00  | buy A of 5 12:00 |
        41 11:59:59.999 | clock |
        41 12:00  | clock   | sent 1: A
    """,
    "three purchases are too few": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        60 12:00  | clock   |
    """,
    "buying it again cancels": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        38 12:00  | buy A   |
        39 12:00  | clock   |
        46 12:00  | clock   | sent 1: A
    """,
    "what is due twelve hours later goes along, a millisecond after that it does not": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        2 00:00   | buy B   |
        2 00:00:00.001 | buy C |
        11 12:00   | buy A   |
        12 00:00   | buy B   |
        12 00:00:00.001 | buy C |
        21 12:00   | buy A   |
        22 00:00   | buy B   |
        22 00:00:00.001 | buy C |
        31 12:00   | buy A   |
        32 00:00   | buy B   |
        32 00:00:00.001 | buy C |
        39 12:00  | clock   | sent 1: A B
        40 00:00  | clock   |
        40 00:00:00.001 | clock | sent 1: C
    """,
    "after a silence all that became due in it is one message": """
        1 10:00   | consent |
        1 12:00   | buy A   |
        2 12:00   | buy B   |
        11 12:00   | buy A   |
        12 12:00   | buy B   |
        21 12:00   | buy A   |
        22 12:00   | buy B   |
        31 12:00   | buy A   |
        32 12:00   | buy B   |
        41 00:00  | clock   | sent 1: A B
        41 11:59:59.999 | clock |
    """,
    "what was suppressed is not said later": """
        1 10:00   | refuse  |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        39 12:00  | clock   | suppressed 1 consent
        40 10:00  | consent |
        41 11:59:59.999 | clock |
        41 12:00  | clock   | sent 1: A
    """,
    "what is due together is one message": """
        1 10:00   | consent |
        1 12:00   | buy A B |
        11 12:00  | buy A B |
        21 12:00  | buy A B |
        31 12:00  | buy A B |
        39 12:00  | clock   | sent 1: A B
        41 12:00  | clock   | sent 1: A B
    """,
}

BIRTHDAY = {
    "at nine, every year": """
        1 10:00   | consent |
        1 10:05   | prefer birthday 1990-03-06 |
        3 08:59:59.999 | clock |
        3 09:00   | clock   | sent 1:
        368 09:00 | clock   | sent 1:
    """,
    "in the morning of where he is": """
        1 10:00   | consent |
        1 10:05   | prefer birthday 03-06 |
        1 10:10   | zone America/New_York |
        3 13:59:59.999 | clock |
        3 14:00   | clock   | sent 1:
    """,
    "once, also for who flies west on the day": """
        1 10:00   | consent |
        1 10:00   | zone Europe/Berlin |
        1 10:05   | prefer birthday 03-06 |
        3 08:00   | clock   | sent 1:
        3 10:00   | zone America/New_York |
        3 14:00   | clock   |
        368 14:00 | clock   | sent 1:
    """,
    "what is no day is none": """
        1 10:00  | consent |
        1 10:05  | prefer birthday 02-30 |
        1 10:05  | prefer birthday soon |
        300 09:00 | clock |
    """,
    "an answer that is no day takes it back": """
        1 10:00  | consent |
        1 10:05  | prefer birthday 03-06 |
        2 10:05  | prefer birthday never | cancelled 1 preferences
        3 09:00  | clock   |
    """,
    "told at nine on the day itself: next year": """
        1 10:00  | consent |
        3 09:00  | prefer birthday 03-06 |
        3 09:00  | clock   |
        368 09:00 | clock  | sent 1:
    """,
    "a birthday that passed in silence is told once, and none of the years in between": """
        1 10:00   | consent |
        1 10:05   | prefer birthday 03-06 |
        400 10:00 | clock   | sent 1:
        732 09:00 | clock   |
        733 09:00 | clock   | sent 1:
    """,
    "another answer takes its place": """
        1 10:00  | consent |
        1 10:05  | prefer birthday 03-06 |
        1 10:06  | prefer birthday 03-07 |
        3 09:00  | clock   |
        4 09:00  | clock   | sent 1:
    """,
}

BROWSE = {
    "an hour after the visitor has been idle for half an hour": """
        10:00         | consent |
        10:05         | view A @5.00 |
        10:20         | view B  |
        11:49:59.999  | clock   |
        11:50         | clock   | sent 1: B A
        3 12:00       | clock   |
    """,
    "one view is too few": """
        10:00  | consent |
        10:05  | view A  |
        13:00  | clock   |
    """,
    "half an hour without a view begins a new session": """
        10:00         | consent |
        10:05         | view A  |
        10:34:59.999  | view B  |
        12:04:59.999  | clock   | sent 1: B A
        13:00         | clock   |
    """,
    "and in that, one view is too few again": """
        10:00  | consent |
        10:05  | view A  |
        10:35  | view B  |
        13:00  | clock   |
    """,
    "coming back puts it off": """
        10:00         | consent |
        10:05         | view A  |
        10:10         | view B  |
        11:39         | view A  |
        11:40         | clock   |
        13:08:59.999  | clock   |
        13:09         | clock   | sent 1: A B
    """,
    "a view that comes late counts at its own time": """
        10:00  | consent |
        10:20  | view A  |
        10:25  | view B of 09:50:00.001 |
        11:49:59.999 | clock |
        11:50  | clock   | sent 1: A B
    """,
    "and not if it was of another session": """
        10:00  | consent |
        10:20  | view A  |
        10:25  | view B of 09:50 |
        10:40  | view C  |
        12:10  | clock   | sent 1: C A
    """,
    "nor one at its last moment, once the nudge is sent": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        11:40  | clock   | sent 1: B A
        11:41  | view C of 10:10 |
        11:41  | view D of 10:11 |
        13:00  | clock   |
    """,
    "what was put in the cart before it and comes late cancels, too": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        10:15  | add C of 09:00 | cancelled 1 add_to_cart
        11:40  | clock   |
    """,
    "a view at the very time of an order is from before it": """
        1 10:00  | consent |
        1 10:05  | buy C   |
        1 10:05  | view A  |
        1 10:10  | view B  |
        1 13:00  | clock   |
    """,
    "something put in the cart cancels": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        11:39  | add B   | cancelled 1 add_to_cart
        11:40  | clock   |
    """,
    "a checkout cancels": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        11:39  | checkout B | cancelled 1 begin_checkout
        11:40  | clock   |
    """,
    "an order cancels": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        11:39  | buy C   | cancelled 1 purchase
        11:40  | clock   |
    """,
    "an order that comes late cancels": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        11:39  | buy C of 10:05 | cancelled 1 purchase
        11:40  | clock   |
    """,
    "while the cart holds something, views are none of its business": """
        10:00  | consent |
        10:01  | add C   |
        10:05  | view A  |
        10:10  | view B  |
        10:20  | remove C |
        10:25  | view A  |
        11:55  | clock   |
        12:00  | view A  |
        12:10  | view B  |
        13:40  | clock   | sent 1: B A
    """,
    "nobody who ordered within two days": """
        1 10:00  | consent |
        1 11:40:00.001 | buy C |
        3 10:05  | view A  |
        3 10:10  | view B  |
        3 11:40  | clock   | suppressed 1 ordered
    """,
    "but who ordered two days ago": """
        1 10:00  | consent |
        1 11:40  | buy C   |
        3 10:05  | view A  |
        3 10:10  | view B  |
        3 11:40  | clock   | sent 1: B A
    """,
    "an older order that comes late does not cancel, but counts": """
        2 10:00  | consent |
        2 10:05  | view A  |
        2 10:10  | view B  |
        2 10:15  | buy C of 2 10:04 |
        2 11:40  | clock   | suppressed 1 ordered
    """,
    "no second one within seven days": """
        1 10:00  | consent |
        1 10:05  | view A  |
        1 10:10  | view B  |
        1 11:40  | clock   | sent 1: B A
        8 10:05  | view A  |
        8 10:09  | view B  |
        8 11:39  | clock   | suppressed 1 rest
        8 12:05  | view A  |
        8 12:10  | view C  |
        8 13:40  | clock   | sent 1: C A
    """,
    "held in the night, and cancelled by what comes meanwhile": """
        1 10:00  | consent |
        1 10:01  | zone Europe/London |
        1 20:00  | view A  |
        1 20:05  | view B  |
        1 21:35  | clock   | held 1 quiet until 2 09:00
        2 08:59  | add A   | cancelled 1 add_to_cart
        2 09:00  | clock   |
    """,
    "whoever is forgotten gets none": """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        10:15  | forget  | cancelled 1 forget
        11:40  | clock   |
    """,
}

ALL = {
    "abandoned-checkout": CHECKOUT, "welcome": WELCOME, "win-back": WIN_BACK, "post-purchase": POST_PURCHASE,
    "replenishment": REPLENISHMENT, "birthday": BIRTHDAY, "browse-abandonment": BROWSE,
    "event": on_event.TABLES,
} | price_and_stock.TABLES | offers.TABLES  # fmt: skip


def test_every_trigger_has_its_tables() -> None:
    loyal = {name for name, kind in TYPES.items() if issubclass(kind, Loyal)}  # tests/test_loyalty.py
    assert set(ALL) | {"abandoned-cart"} | loyal == set(TYPES)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, tables in ALL.items() for name in tables])
def test_it_does_what_its_table_says(kind: str, name: str) -> None:
    check(ALL[kind][name], campaigns=[campaign(kind, expires="500d")], **OPEN)


@pytest.mark.parametrize(
    ("told", "name"), [(told, name) for told in on_event.SAID for name in on_event.SAID[told][0]]
)
def test_what_sets_a_campaign_off_and_ends_it(told: str, name: str) -> None:
    tables, parameters = on_event.SAID[told]
    steps = ["0s"] if told == "where" else ["1h", "24h"]
    given = campaign("event", trigger=parameters, steps=steps, rest="0s", expires="500d")
    check(tables[name], campaigns=[given], **OPEN)


def test_a_campaign_compares_what_an_event_says_exactly() -> None:
    by = engine([campaign("event", trigger={"event": "invited", "where": {"n": 1, "tags": ["a", "b"]}})])
    for said, fits in (
        ({"n": 1, "tags": ["a", "b"]}, True),
        ({"n": 1.0, "tags": ["a", "b"], "more": 3}, True),
        ({"n": True, "tags": ["a", "b"]}, False),
        ({"n": "1", "tags": ["a", "b"]}, False),
        ({"n": 1, "tags": ["b", "a"]}, False),
        ({"n": 1}, False),
    ):
        shop, time = Shop(by), ms("10:00")
        shop.play([Happening("ann", time, time, event("invited", time, "ann", context=said))])
        assert bool(shop.alarms) == fits


def test_event_types_that_cannot_set_a_campaign_off() -> None:
    registry = {name: kind.parameters for name, kind in TYPES.items()}
    for trigger, field in (
        ({}, "event"),
        ({"event": "tidewise.price"}, "event"),
        ({"event": "forget"}, "event"),
        ({"event": "x", "unless": "tidewise.tick"}, "unless"),
        ({"event": ""}, "event"),
    ):
        said = {"id": "a", "trigger": {"type": "event"} | trigger, "message": {"template": "a"}}
        found, faults = read(said, registry)
        assert found is None and [fault.field for fault in faults] == [f"trigger.{field}"]


def test_engagement_looks_at_types_beyond_the_vocabulary_while_a_campaign_wants_them() -> None:
    given = campaign("event", trigger={"event": "invited", "unless": "search"})
    watched = engine([given]).watched()
    assert watched == {"invited", "search"} | engine().watched()
    stamp = b'"time":"2024-03-04T10:00:00Z","user":"ann"'
    told = [
        b'{"type":"%s","order":"o",%s}' % (kind, stamp)
        for kind in (b"invited", b"visited", b"refund", b"invited")
    ]
    record = StockRecord(
        0, ms("10:00"), None, b"[" + b",".join(told) + b',{"type":"search","query":"a",%s}]' % stamp, ()
    )
    usual = Limits.of(Settings())
    for limits, expected in ((usual, [2]), (usual.watching(watched), [0, 2, 3, 4])):
        columns, dead = decode([record], Items(), limits, lambda sig, told: False)
        assert not dead and list(columns.details) == expected


def test_born_on_a_leap_day() -> None:
    table = """
        1 10:00  | consent |
        1 10:05  | prefer birthday 02-29 |
        2 09:00  | clock   |
        3 09:00  | clock   | sent 1:
    """
    check(table, "2025-02-27", [campaign("birthday", expires="500d")], **OPEN)


def test_of_the_sessions_of_a_day_only_the_first_counts() -> None:
    table = """
        1 10:00  | consent |
        1 10:05  | view A  |
        1 10:10  | view B  |
        1 11:40  | clock   | sent 1: B A
        2 10:04:59.999 | view A |
        2 10:09:59.999 | view C |
        2 11:39:59.999 | clock  | suppressed 1 again
        2 12:05  | view A  |
        2 12:10  | view C  |
        2 13:40  | clock   | sent 1: C A
    """
    check(table, campaigns=[campaign("browse-abandonment", rest="0s", expires="500d")], **OPEN)
    a_day_later = """
        1 10:00  | consent |
        1 10:05  | view A  |
        1 10:10  | view B  |
        1 11:40  | clock   | sent 1: B A
        2 10:05  | view A  |
        2 10:10  | view C  |
        2 11:40  | clock   | sent 1: C A
    """
    check(a_day_later, campaigns=[campaign("browse-abandonment", rest="0s", expires="500d")], **OPEN)
    with_a_cart_between = """
        10:00  | consent |
        10:05  | view A  |
        10:10  | view B  |
        11:40  | clock   | sent 1: B A
        12:00  | add C   |
        12:01  | remove C |
        12:05  | view A  |
        12:10  | view B  |
        13:40  | clock   | suppressed 1 again
    """
    check(with_a_cart_between, campaigns=[campaign("browse-abandonment", rest="0s", expires="500d")], **OPEN)


def test_a_second_nudge_about_views_comes_its_delay_after_the_first() -> None:
    table = """
        1 10:00  | consent |
        1 10:05  | view A  |
        1 10:10  | view B  |
        1 12:50  | clock   | sent 1: B A
        2 12:49:59.999 | clock |
        2 12:50  | clock   | sent 2: B A
    """
    given = campaign("browse-abandonment", steps=["1h", "1d"], expires="500d")
    check(table, campaigns=[given], **OPEN)


def test_a_message_shows_the_twenty_items_told_last() -> None:
    names = [f"i{at}" for at in range(21)]
    rows = ["10:00 | consent |", *(f"10:05 | view {name} |" for name in names)]
    rows += [f"11:00 | price {name} 100 80 |" for name in names]
    check("\n".join([*rows, f"12:00 | clock | sent 1: {' '.join(names[:0:-1])}"]), campaigns=PRICES, **OPEN)


PRICES = [campaign("price-drop", expires="500d", message={"template": "a", "most": 50})]


def test_a_message_shows_the_price_of_now() -> None:
    table = """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 100 80 |
        11:10  | price A 80 70 100 |
        11:20  | price A 70 75 100 |
        12:00  | clock   | sent 1: A
    """
    (message,) = check(table, campaigns=PRICES, **OPEN).messages
    assert message.items[0].price == 75
    (message,) = check(table.replace("price A 70 75 100", "clock"), campaigns=PRICES, **OPEN).messages
    assert message.items[0].price == 70


def test_views_are_looked_at_where_a_campaign_wants_them() -> None:
    assert engine([campaign("win-back")]).watched() <= ENGAGEMENT_KINDS
    assert "view_item" in engine([campaign("browse-abandonment")]).watched()
    assert "view_item" not in engine([campaign("browse-abandonment", enabled=False)]).watched()
    shown = campaign("win-back", message={"template": "back", "items": "viewed"})
    assert "view_item" in engine([shown]).watched()


def test_a_view_makes_nobody_known_and_tells_no_zone() -> None:
    """It reaches the triggers that ask for it, once its user is known; nothing else changes."""
    viewed = event("view_item", ms("10:05"), items=[{"item": "A"}], context={"zone": "Europe/Berlin"})
    login = event("login", ms("10:00"))
    for given, known in product(([], [campaign("browse-abandonment")]), (False, True)):
        shop = Shop(engine(given))
        shop.play([Happening("shopper", ms("10:00"), ms("10:00"), login)] if known else [])
        before = UserState.unpack(shop.stored.get("shopper"))
        shop.play([Happening("shopper", ms("10:05"), ms("10:05"), viewed)])
        after = UserState.unpack(shop.stored.get("shopper"))
        assert [each.item for each in after.viewed] == (["A"] if given and known else [])
        assert list(after.triggers) == (["browse-abandonment"] if given and known else [])
        after.viewed, after.triggers = (), {}
        assert after == before


def test_what_campaigns_say_of_browsing_and_of_what_rises_holds() -> None:
    own = {"views": 3, "idle": "10m", "ordered": "1d", "again": "2h"}
    given = [
        campaign("browse-abandonment", trigger=own),
        campaign("trending-for-you", trigger={"surge": 3}),
    ]
    browse, rising = engine(given, cart_enabled=False).triggers.values()
    assert isinstance(browse, BrowseAbandonment) and isinstance(rising, TrendingForYou)
    assert (browse.views, browse.idle_ms, browse.ordered_ms) == (3, 600_000, DAY_MS)
    assert browse.again_ms == 7_200_000
    assert rising.surge == 3.0


# Revocation

REVOKED = {
    "an order from before the nudge takes it back, once": ("abandoned-checkout", """
        10:00  | consent    |
        10:05  | add A      |
        10:10  | checkout A |
        10:40  | clock      | sent 1: A
        10:50  | buy A of 10:39 | revoked 1 purchase; cancelled 2 purchase
        10:51  | buy A of 10:38 |
    """, 1),
    "an order at the very time is from before it": ("abandoned-checkout", """
        10:00  | consent    |
        10:05  | add A      |
        10:10  | checkout A |
        10:40  | clock      | sent 1: A
        10:50  | buy A of 10:40 | revoked 1 purchase; cancelled 2 purchase
    """, 1),
    "an order after it does not: it did what it was for": ("abandoned-checkout", """
        10:00  | consent    |
        10:05  | add A      |
        10:10  | checkout A |
        10:40  | clock      | sent 1: A
        10:50  | buy A      | cancelled 2 purchase
    """, 0),
    "one from before the checkout would not have kept it back": ("abandoned-checkout", """
        10:00  | consent    |
        10:05  | add A      |
        10:10  | checkout A |
        10:40  | clock      | sent 1: A
        10:50  | buy B of 10:09:59.999 |
        10:51  | buy B of 10:10 | revoked 1 purchase; cancelled 2 purchase
    """, 1),
    "one from before the cart was filled would not, either": ("abandoned-cart", """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | sent 1: A
        1 12:00  | buy B of 1 09:00 |
        2 10:50  | clock   | sent 2: A
    """, 0),
    "who ordered in the two days before would not have been asked back": ("browse-abandonment", """
        1 10:00         | consent   |
        3 10:00         | view A    |
        3 10:05         | view B    |
        3 11:35         | clock     | sent 1: B A
        3 12:00         | buy C of 1 11:35 |
        3 12:00         | buy C of 1 11:35:00.001 | revoked 1 purchase
    """, 1),
    "after three days nothing can be taken back": ("win-back", """
        1 10:00   | consent |
        1 10:05   | buy A   |
        61 10:05  | clock   | sent 1:
        64 10:05  | clock   |
        64 10:06  | buy B of 60 10:00 |
    """, 0),
    "until then it can": ("win-back", """
        1 10:00   | consent |
        1 10:05   | buy A   |
        61 10:05  | clock   | sent 1:
        64 10:04:59.999  | clock   |
        64 10:05  | buy B of 60 10:00 | revoked 1 purchase
    """, 1),
    "nor does one that comes later than three days": ("win-back", """
        1 10:00   | consent |
        1 10:05   | buy A   |
        61 10:05  | clock   | sent 1:
        75 10:05  | clock   | sent 2:
        76 10:00  | buy B of 60 10:00 | revoked 2 purchase
    """, 1),
    "what runs out is revoked by its own items alone": ("replenishment", """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        39 12:00  | clock   | sent 1: A
        39 13:00  | buy B of 39 11:00 |
        39 14:00  | buy A of 39 11:00 | revoked 1 purchase
    """, 1),
    "an order from before the last time is no reason to take it back": ("replenishment", """
        1 10:00   | consent |
        1 12:00   | buy A   |
        11 12:00  | buy A   |
        21 12:00  | buy A   |
        31 12:00  | buy A   |
        39 12:00  | clock   | sent 1: A
        39 13:00  | buy A of 31 11:59:59.999 |
        39 14:00  | buy A of 31 12:00 | revoked 1 purchase
    """, 1),
    "a price is told again thirty days after an order": ("price-drop", """
        1 10:00   | consent |
        40 10:05  | view A  |
        40 11:00  | price A 100 80 |
        40 12:00  | clock   | sent 1: A
        40 12:30  | buy A of 10 12:00 |
        40 12:31  | buy A of 10 12:00:00.001 | revoked 1 purchase
    """, 1),
    "a return seven days after": ("back-in-stock", """
        1 10:00   | consent |
        1 10:05   | wish A  |
        20 11:00  | stock A 0 3 back |
        20 11:00  | clock   | sent 1: A
        20 11:30  | buy A of 13 11:00 |
        20 11:31  | buy A of 13 11:00:00.001 | revoked 1 purchase
    """, 1),
    "what was put into the cart after the order is another one": ("low-stock", """
        10:00  | consent |
        10:05  | add A   |
        11:00  | stock A 9 4 |
        11:00  | clock   | sent 1: A
        11:30  | buy A of 10:04:59.999 |
        11:31  | buy A of 10:05 | revoked 1 purchase
    """, 1),
    "of several items the one that was put there first decides": ("low-stock", """
        10:00  | consent |
        10:05  | add A   |
        10:30  | add B   |
        11:00  | stock A 9 4 |
        11:00  | stock B 9 4 |
        11:00  | clock   | sent 1: B A
        11:30  | buy A of 10:06 | revoked 1 purchase
    """, 1),
    "thanks for an order are not": ("post-purchase", """
        1 10:00  | consent   |
        1 10:05  | buy A     |
        8 10:05  | clock     | sent 1: A
        8 11:00  | buy B of 8 09:00 |
    """, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", REVOKED)
def test_late_orders_revoke(name: str) -> None:
    kind, table, revokes = REVOKED[name]
    shop = check(table, campaigns=[campaign(kind, expires="500d")], **OPEN)
    assert len(shop.revokes) == revokes
    keys = {revoke_key(message) for message in shop.messages}
    assert {revoke_key(revoke) for revoke in shop.revokes} <= keys
    for revoke in shop.revokes:
        said = read_engagement(revoke.json("0-1-0-revoke-0"))
        assert isinstance(said, engagements.Revoke) and said.revoke_key in keys


def test_a_late_order_takes_back_what_a_campaign_sent_that_is_switched_off_since() -> None:
    shop = Shop(engine([campaign("win-back", expires="500d")], **OPEN))
    rows = ["1 10:00 | consent |", "1 10:05 | buy A |", "61 10:05 | clock |"]
    shop.play([happening(row, MONDAY, 2000) for row in rows])
    assert len(shop.messages) == 1
    shop.engine = engine([campaign("win-back", enabled=False)], **OPEN)
    shop.play([happening("61 10:06 | buy B of 60 10:00 |", MONDAY, 2000)])
    assert [revoke_key(revoke) for revoke in shop.revokes] == [revoke_key(shop.messages[0])]


def _shop_of(log: Sequence[Happening], kind: str) -> Shop:
    shop = Shop(engine([campaign(kind, expires="500d", rest="0s", steps=["30m"])], **OPEN))
    shop.play(log)
    return shop


def _log_of(random: Random) -> list[Happening]:
    """Some hours of a shopper, and then two hours of nothing."""
    log, time = [Happening("shopper", ms("10:00"), ms("10:00"), event("consent", ms("10:00"), **ANSWER))], 0
    for _ in range(12):
        time = log[-1].time + random.choice([1, 5, 20, 180]) * MINUTE_MS
        kind = random.choice(["add_to_cart", "remove_from_cart", "begin_checkout", "purchase", "invited", ""])
        said = event(kind, time, items=[{"item": random.choice("AB")}]) if kind else None
        log.append(Happening("shopper" if kind else "", time, time, said))
    return [*log, Happening("", time + 120 * MINUTE_MS, time + 120 * MINUTE_MS, None)]


def test_a_late_order_takes_back_what_it_would_have_kept_back() -> None:
    """Against the same log with the order at its place."""
    told = Counter[tuple[str, bool]]()
    for kind, seed in product(("abandoned-cart", "abandoned-checkout", "event", "welcome"), range(25)):
        random = Random(seed)
        log = _log_of(random)
        for sent in _shop_of(log, kind).messages[-1:]:
            time, end = sent.due - random.choice([10, 29, 31, 60]) * MINUTE_MS, log[-1].received
            order = event("purchase", time, items=[{"item": "C"}])
            late = _shop_of([*log, Happening("shopper", time, end, order)], kind)
            here = sorted([*log, Happening("shopper", time, time, order)], key=lambda one: one.received)
            kept_back = sent.due not in [one.due for one in _shop_of(here, kind).messages]
            assert kept_back == (sent.due in [one.due for one in late.revokes])
            told[kind, kept_back] += 1
    assert len(told) >= 7, "both of it happens"


@pytest.mark.parametrize("old", sorted(TYPES))
def test_a_worker_bears_states_of_another_type_of_trigger(old: str) -> None:
    """A campaign file that was edited, or stands beside one that was published under its id."""
    rows = (
        "consent",
        "prefer birthday 03-05",
        "view A",
        "view B",
        "buy A",
        "invited A",
        "add A",
        "stock A 9 4",
    )
    told = [happening(f"10:0{n} | {row} |", MONDAY, 2000) for n, row in enumerate(rows)]
    later = [
        happening(row, MONDAY, 2000) for row in ("11:00 | buy A |", "12:00 | add B |", "9 10:00 | clock |")
    ]
    before = Shop(engine([campaign(old, id="x", expires="30d")], **OPEN))
    before.play(told)
    for new in TYPES:
        shop = Shop(engine([campaign(new, id="x", expires="30d")], **OPEN))
        shop.stored, shop.alarms, shop.watermark = dict(before.stored), dict(before.alarms), before.watermark
        shop.play(later)
        assert all(due > shop.watermark for due in shop.alarms.values())


# What a campaign says


def test_a_nudge_gives_way_to_one_of_higher_priority_that_is_due_within_the_hour() -> None:
    given = [
        campaign("abandoned-checkout", expires="30d"),
        campaign("win-back", trigger={"lapse": "1d"}, steps=["0s"], expires="30d"),
    ]
    gives_way = """
        1 10:00  | consent    |
        1 10:05  | buy A      |
        2 09:00  | add B      |
        2 09:45  | checkout B |
        2 10:05  | clock      | suppressed 1 priority
        2 10:15  | clock      | sent 1: B
    """
    comes_after = """
        1 10:00  | consent    |
        1 10:05  | buy A      |
        2 09:00  | add B      |
        2 09:20  | checkout B |
        2 09:50  | clock      | sent 1: B
        2 10:05  | clock      | sent 1:
    """
    check(gives_way, campaigns=given, **OPEN)
    check(comes_after, campaigns=given, **OPEN)


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("window", {"window": {"until": "2024-03-05T10:15:00Z"}}),
        ("window", {"window": {"from": "2024-03-05T10:15:00.001Z"}}),
        ("consent", {"channels": ["push"]}),
        ("consent", {"purpose": "advertising"}),
        ("audience", {"audience": "champions"}),
        ("holdout", {"holdout_percent": 100}),
    ],
    ids=str,
)
def test_no_nudge_gives_way_to_one_that_cannot_be_sent(reason: str, fields: dict[str, Any]) -> None:
    given = [
        campaign("abandoned-checkout", expires="30d", **fields),
        campaign("win-back", trigger={"lapse": "1d"}, steps=["0s"], expires="30d"),
    ]
    table = f"""
        1 10:00  | consent    |
        1 10:05  | buy A      |
        2 09:00  | add B      |
        2 09:45  | checkout B |
        2 10:05  | clock      | sent 1:
        2 10:15  | clock      | suppressed 1 {reason}
    """
    check(table, campaigns=given, **OPEN)


def test_no_nudge_gives_way_to_one_that_rests() -> None:
    given = [
        campaign("abandoned-checkout", expires="30d", steps=["30m"]),
        campaign("win-back", trigger={"lapse": "2d"}, steps=["0s"], expires="30d"),
    ]
    table = """
        1 09:00  | consent    |
        1 09:10  | add B      |
        1 09:15  | checkout B |
        1 09:45  | clock      | sent 1: B
        1 10:05  | buy B      |
        3 09:00  | add B      |
        3 09:45  | checkout B |
        3 10:05  | clock      | sent 1:
        3 10:15  | clock      | suppressed 1 rest
    """
    check(table, campaigns=given, **OPEN)


def test_a_campaign_runs_within_its_window_alone() -> None:
    window = {"from": "2024-03-04T10:45:00Z", "until": "2024-03-04T11:00:00Z"}
    outside, inside = "suppressed 1 window", "sent 1: A"
    for checkout, verdict in (("10:14", outside), ("10:15", inside), ("10:29", inside), ("10:30", outside)):
        table = f"""
            10:00         | consent  |
            10:05         | add A    |
            {checkout}    | checkout A |
            11:30         | clock    | {verdict}
        """
        given = campaign("abandoned-checkout", window=window, steps=["30m"], expires="30d")
        check(table, campaigns=[given], **OPEN)


def test_its_first_channel_that_the_user_granted_is_taken() -> None:
    table = """
        10:00  | consent  |
        10:05  | add A    |
        10:10  | checkout A |
        10:40  | clock    | sent 1: A
    """
    given = campaign("abandoned-checkout", channels=["push", "email"], expires="30d")
    shop = check(table, campaigns=[given], **OPEN)
    assert [message.channel for message in shop.messages] == ["email"]
    welcome = campaign("welcome", channels=["push", "email"], expires="30d")
    check("10:00 | consent |\n10:00 | clock | sent 1:", campaigns=[welcome], **OPEN)


def test_its_caps_expiry_and_holdout_are_its_own() -> None:
    table = """
        1 10:00  | consent  |
        1 10:05  | add A    |
        1 10:10  | checkout A |
        1 10:40  | clock    | {}
    """
    for fields, verdict in (
        ({"holdout_percent": 100}, "suppressed 1 holdout"),
        ({"caps": {"day": 1, "week": 1}}, "sent 1: A"),
        ({"expires": "1m"}, "sent 1: A"),
    ):
        shop = check(table.format(verdict), campaigns=[campaign("abandoned-checkout", **fields)], **OPEN)
        for message in shop.messages:
            assert message.expires == message.due + (60_000 if "expires" in fields else 86_400_000)


def test_a_campaign_with_the_default_ones_id_takes_its_place() -> None:
    table = """
        10:00  | consent |
        10:05  | add A   |
        10:15  | clock   | sent 1: A
        10:50  | clock   |
    """
    check(table, campaigns=[campaign("abandoned-cart", steps=["10m"])], cap_day=9)
    off = table.replace("sent 1: A", "")
    check(off, campaigns=[campaign("abandoned-cart", enabled=False)], cap_day=9)


# What people read, and what a worker runs


def test_the_catalogue_of_the_page_is_that_of_the_code() -> None:
    page = triggers_page.PAGE.read_text()
    assert page == triggers_page.written(page), "run: python -m stream.triggers_page"
    assert len(re.findall(r"^```yaml$", page, re.MULTILINE)) == 1
    with pytest.raises(ValueError, match="no lines"):
        triggers_page.written(page.replace(triggers_page.END, ""))


@pytest.mark.parametrize("name", TYPES)
def test_every_trigger_tells_its_delays_and_parameters(name: str) -> None:
    (row,) = [line for line in triggers_page.catalogue().splitlines() if line.startswith(f"| `{name}` |")]
    columns = [column.strip() for column in row.strip("|").split("|")]
    kind = TYPES[name]
    assert len(columns) == 7
    assert columns[1] == kind.entry.starts != ""
    assert columns[2] == (", ".join(str(Duration(each)) for each in kind.usual_ms) or "its own")
    told = dict(re.findall(r"`(\w+)(?:: (.*?))?`", columns[6]))
    assert list(told) == list(kind.parameters.__struct_fields__)
    needed = {"event": "invited"} if name == "event" else {}
    given = {each: msgspec.yaml.decode(text) for each, text in told.items() if text}
    assert campaign(name, trigger=needed | given) == campaign(name)


def test_a_worker_runs_the_files_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "back.yaml").write_text(
        "id: back\ntrigger: {type: win-back, lapse: 30d}\nmessage: {template: back}\n"
    )
    (campaign_,) = running(str(tmp_path))
    trigger = Engine.of(Settings(), [campaign_]).triggers["back"]
    assert trigger == WinBack(
        "back", ("email",), "personalisation", 30, WinBack.usual_ms, 7 * DAY_MS, lapse_ms=30 * DAY_MS
    )
    assert running("") == []


def test_what_is_wrong_in_a_folder_is_told_at_once(tmp_path: Path) -> None:
    head = "trigger: {type: win-back}\nmessage: {template: back}\n"
    (tmp_path / "a.yaml").write_text(f"id: a\n{head}budget: {{coupons: 3}}\n")
    (tmp_path / "b.yaml").write_text(f"id: b\n{head}coupon: {{offer: spring}}\nsteps: [2d, 1d]\n")
    with pytest.raises(ValueError) as told:
        running(str(tmp_path))
    assert [line.removeprefix(f"{tmp_path}/") for line in str(told.value).splitlines()] == [
        "a.yaml:4: budget: there is no coupon to spend it on: leave it out, or give a coupon",
        "b.yaml:5: steps[1]: 1d comes before 2d: give rising delays, such as [45m, 24h]",
    ]


def test_codes_stand_in_a_file_beside_the_campaign(tmp_path: Path) -> None:
    text = (
        "id: a\ntrigger: {type: win-back}\nmessage: {template: back}\ncoupon: {pool: may, codes: may.txt}\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml:4: coupon\.codes: may\.txt cannot be read"):
        running(str(tmp_path))
    (tmp_path / "may.txt").write_text("MAY-1\n\n MAY-2\n")
    (campaign_,) = running(str(tmp_path))
    assert campaign_.coupon is not None and campaign_.coupon.codes == ("MAY-1", "MAY-2")
