"""Abandoned cart, as tables that a marketer can read; `tests/scenarios.py` explains them."""

from __future__ import annotations

import pytest

from tests.scenarios import check, ms

SCENARIOS = {
    "one nudge 45 minutes after the cart was left, not a millisecond earlier": """
        10:00         | consent |
        10:05         | add A   |
        10:49:59.999  | clock   |
        10:50         | clock   | sent 1: A
        11:00         | clock   |
    """,
    "just after is as good as at": """
        10:00         | consent |
        10:05         | add A   |
        10:50:00.001  | clock   | sent 1: A
    """,
    "the second nudge a day after the first, the last of its sequence": """
        1 10:00         | consent |
        1 10:05         | add A   |
        1 10:50         | clock   | sent 1: A
        2 10:49:59.999  | clock   |
        2 10:50         | clock   | sent 2: A
        9 12:00         | clock   |
    """,
    "a cart change restarts the clock": """
        10:00         | consent |
        10:05         | add A   |
        10:40         | add B   |
        10:50         | clock   |
        11:10         | remove A |
        11:25         | clock   |
        11:54:59.999  | clock   |
        11:55         | clock   | sent 1: B
    """,
    "a change a millisecond before the nudge is due restarts the clock": """
        10:00         | consent |
        10:05         | add A   |
        10:49:59.999  | add A   |
        10:50         | clock   |
        11:34:59.999  | clock   | sent 1: A
    """,
    "a change when the nudge is due, before time has passed, restarts it too": """
        10:00         | consent |
        10:05         | add A   |
        10:50         | add B   |
        10:50         | clock   |
        11:35         | clock   | sent 1: B A
    """,
    "looking at the cart again, without a change, does not": """
        10:00  | consent  |
        10:05  | add A    |
        10:30  | remove Z |
        10:50  | clock    | sent 1: A
    """,
    "a change between the nudges puts off the second": """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | sent 1: A
        1 18:00  | add B   |
        2 10:50  | clock   |
        2 18:00  | clock   | sent 2: B A
    """,
    "a purchase cancels": """
        10:00  | consent |
        10:05  | add A   |
        10:30  | buy A   | cancelled 1 purchase
        10:50  | clock   |
    """,
    "a purchase at the very time the nudge is due cancels": """
        10:00  | consent |
        10:05  | add A   |
        10:50  | buy A   | cancelled 1 purchase
        10:50  | clock   |
    """,
    "an order or a checkout at the very time of the change is after it": """
        10:00  | consent |
        10:05  | add A   |
        10:05  | buy B   | cancelled 1 purchase
        11:00  | add C   |
        11:00  | checkout C | cancelled 1 begin_checkout
        12:00  | clock   |
    """,
    "an order of something else cancels, too; what it left is nudged after the next change": """
        10:00  | consent |
        10:05  | add A   |
        10:06  | add B   |
        10:30  | buy B C | cancelled 1 purchase
        11:30  | clock   |
        12:00  | add D   |
        12:45  | clock   | sent 1: D A
    """,
    "a purchase between the nudges cancels the second": """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | sent 1: A
        1 12:00  | buy A   | cancelled 2 purchase
        2 12:00  | clock   |
    """,
    "the start of a checkout cancels; a change after it starts anew": """
        10:00  | consent  |
        10:05  | add A    |
        10:20  | checkout | cancelled 1 begin_checkout
        10:50  | clock    |
        11:00  | add B    |
        11:45  | clock    | sent 1: B A
    """,
    "emptying the cart cancels": """
        10:00  | consent  |
        10:05  | add A x2 |
        10:10  | add B    |
        10:20  | remove A |
        10:21  | remove B |
        10:22  | remove A | cancelled 1 remove_from_cart
        11:30  | clock    |
    """,
    "after a sequence the campaign rests for 7 days": """
        1 10:00        | consent |
        1 10:05        | add A   |
        1 10:50        | clock   | sent 1: A
        2 10:50        | clock   | sent 2: A
        3 10:00        | add B   |
        3 10:45        | clock   | suppressed 1 rest
        9 10:04:59.999 | add C   |
        9 10:49:59.999 | clock   | suppressed 1 rest
    """,
    "and not a millisecond longer": """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | sent 1: A
        2 10:50  | clock   | sent 2: A
        9 10:05  | add C   |
        9 10:50  | clock   | sent 1: C A
    """,
    "a sequence that a purchase ended after its first nudge rests as well": """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:50  | clock   | sent 1: A
        1 12:00  | buy A   | cancelled 2 purchase
        3 10:00  | add B   |
        3 10:45  | clock   | suppressed 1 rest
        4 12:00  | clock   |
    """,
    "a sequence that sent nothing needs no rest": """
        1 10:05  | add A   |
        1 10:50  | clock   | suppressed 1 consent
        1 11:00  | consent |
        1 11:30  | add B   |
        1 12:15  | clock   | sent 1: B A
    """,
    "who consents in time gets the second nudge": """
        1 10:05  | add A   |
        1 10:50  | clock   | suppressed 1 consent
        1 12:00  | consent |
        2 10:05  | clock   | sent 2: A
    """,
    "an anonymous visitor has no address": """
        1 10:05  | visitor add A |
        1 10:50  | clock         | suppressed 1 identified
        2 10:05  | clock         | suppressed 2 identified
    """,
    "a late purchase cancels what is pending": """
        10:00  | consent           |
        10:05  | add A             |
        10:40  | clock             |
        10:41  | buy A of 10:06    | cancelled 1 purchase
        10:50  | clock             |
    """,
    "a purchase from before the cart change does not": """
        10:00  | consent           |
        10:05  | add A             |
        10:40  | buy B of 10:04    |
        10:50  | clock             | sent 1: A
    """,
    "what was bought does not come back by a late event": """
        10:00  | consent           |
        10:30  | buy A             |
        10:31  | add A of 10:30    |
        11:30  | clock             |
        11:40  | add C             |
        12:25  | clock             | sent 1: C
    """,
    "a late cart change that is already due waits two seconds for what comes late with it": """
        10:00         | consent        |
        12:00         | clock          |
        12:00         | add A of 10:05 |
        12:00:01.999  | clock          |
        12:00:02      | clock          | sent 1: A
    """,
    "a late cart change, and then its purchase": """
        10:00         | consent        |
        12:00         | clock          |
        12:00         | add A of 10:05 |
        12:00         | buy A of 10:06 | cancelled 1 purchase
        12:00:02      | clock          |
    """,
    "put in and bought at the same time is bought": """
        10:00  | consent |
        10:05  | add A   |
        10:05  | buy A   | cancelled 1 purchase
        10:10  | add B   |
        10:55  | clock   | sent 1: B
    """,
    "an item put in again after an older purchase that arrives late stays": """
        10:00  | consent        |
        10:10  | add A          |
        10:11  | add A of 10:05 |
        10:12  | buy A of 10:06 |
        10:55  | clock          | sent 1: A
    """,
    "a late event does not turn the clock back": """
        10:00  | consent        |
        10:20  | add A          |
        10:21  | add B of 10:05 |
        10:50  | clock          |
        11:05  | clock          | sent 1: A B
    """,
    "a backfill sends nothing": """
        30 10:00  | consent of 1 10:00 |
        30 10:00  | add A of 1 10:05   |
        30 10:00  | add A of 1 11:00   |
        30 10:00  | consent of 3 10:00 | suppressed 1 expired; suppressed 2 expired
        30 10:00  | clock              |
    """,
    "the forgotten get nothing": """
        10:00  | consent |
        10:05  | add A   |
        10:30  | forget  | cancelled 1 forget
        10:50  | clock   |
    """,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str) -> None:
    check(SCENARIOS[name])


def test_a_message_says_what_and_when() -> None:
    shop = check(
        """
        10:00         | consent        |
        10:05         | add A x2 @9.90 |
        10:06         | add B          |
        10:07         | add A @8.50    |
        10:07         | add B @5 of 10:06:30 |
        10:07         | add A @9.90 of 10:04 |
        10:06         | add C          |
        10:52:00.250  | clock          | sent 1: A B C
        """
    )
    [message], [decision] = shop.messages, shop.decisions
    assert message.json("3-14-0-nudge-0").decode() == (
        '{"id":"3-14-0-nudge-0","type":"nudge","user":"shopper","channel":"email","campaign":"abandoned-cart",'
        '"rule":"abandoned-cart","items":[{"item":"A","price":8.5,"quantity":4},'
        '{"item":"B","price":5.0,"quantity":2},{"item":"C","price":null,"quantity":1}],'
        f'"due":{ms("10:52")},"time":{ms("10:52:00.250")},"expires":{ms("2 10:52")},"step":1,'
        f'"revoke_key":"abandoned-cart-1-{ms("10:52")}-shopper"}}'
    )
    assert decision.json("3-14-0-decision-0").decode() == (
        f'{{"id":"3-14-0-decision-0","time":{ms("10:52:00.250")},"user":"shopper","campaign":"abandoned-cart",'
        f'"rule":"abandoned-cart","step":1,"due":{ms("10:52")},"outcome":"sent","reason":"",'
        '"counters":{"sent_day":0,"sent_week":0,"bucket":2204},"evidence":['
        f'{{"type":"add_to_cart","time":{ms("10:07")},"item":"A"}},'
        f'{{"type":"add_to_cart","time":{ms("10:06:30")},"item":"B"}},'
        f'{{"type":"add_to_cart","time":{ms("10:06")},"item":"C"}}],'
        '"consent":{"channels":{"email":true},"purposes":{"personalisation":true}}}'
    )


def test_a_cancellation_names_the_event() -> None:
    shop = check(
        """
        10:00  | consent |
        10:05  | add A   |
        10:30  | buy A   | cancelled 1 purchase
        """
    )
    [decision] = shop.decisions
    assert (decision.time, decision.due) == (ms("10:30"), ms("10:50"))
    assert [(one.type, one.time) for one in decision.evidence] == [("purchase", ms("10:30"))]


def test_other_delays() -> None:
    check(
        """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 11:05  | clock   | sent 1: A
        1 15:05  | clock   | sent 2: A
        3 11:05  | clock   | sent 3: A
        9 12:00  | clock   |
        """,
        cart_after_s=[3600, 4 * 3600, 48 * 3600],
        cap_day=9,
        cap_week=9,
    )


def test_delays_must_rise() -> None:
    with pytest.raises(ValueError, match="rising delays"):
        check("10:00 | clock |", cart_after_s=[3600, 600])


def test_switched_off() -> None:
    check(
        """
        10:00  | consent |
        10:05  | add A   |
        10:50  | clock   |
        """,
        cart_enabled=False,
    )
