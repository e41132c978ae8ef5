"""What messages show: the items that their campaign wants, what it says of them, and the catalogue's word."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
import pytest

from stream.core.messages import Catalogued, Message, NudgeItem, presented
from stream.engagements import Engagement as Said
from stream.engagements import Nudge, read_engagement, schema
from tests.scenarios import Shop, campaign, check

OPEN: dict[str, Any] = {"cart_enabled": False, "cap_day": 100, "cap_week": 100}

# A customer who bought A comes back, looks at B, C and A, and puts C and D in the cart.
RETURN = """
    1 10:00  | consent |
    1 10:05  | buy A x2 @4 |
    7 10:00  | view B @5 |
    7 10:01  | view C |
    7 10:02  | view A |
    7 10:03  | add C x2 @9 |
    7 10:04  | add D   |
    8 10:05  | clock   | {}
"""


def _told(table: str, **message: Any) -> Shop:
    """Thanks for the order of a week ago, with this content."""
    thanks = campaign("post-purchase", message={"template": "thanks"} | message, expires="30d")
    return check(table, campaigns=[thanks], **OPEN)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({}, "A"),
        ({"items": "trigger"}, "A"),
        ({"items": "cart"}, "D C"),
        ({"items": "viewed"}, "A C B"),
        ({"items": "viewed", "most": 3}, "A C B"),
        ({"items": "viewed", "most": 2}, "A C"),
        ({"items": "viewed", "most": 0}, ""),
        ({"items": "cart", "most": 1}, "D"),
        ({"items": "trigger", "most": 0}, ""),
    ],
)
def test_a_campaign_chooses_the_items(message: dict[str, Any], shown: str) -> None:
    _told(RETURN.format(f"sent 1: {shown}"), **message)


def test_quantities_and_prices_are_those_that_events_told() -> None:
    (of_cart,) = _told(RETURN.format("sent 1: D C"), items="cart").messages
    assert of_cart.items == (NudgeItem("D", None, 1), NudgeItem("C", 9.0, 2))
    (of_views,) = _told(RETURN.format("sent 1: A C B"), items="viewed").messages
    assert [line.price for line in of_views.items] == [None, None, 5.0]


VIEWED = {
    "what was ordered since is left out": """
        1 10:00  | consent |
        1 10:01  | view A  |
        1 10:02  | view B  |
        1 10:05  | buy A   |
        8 10:05  | clock   | sent 1: B
    """,
    "what was looked at again after the order is not": """
        1 10:00  | consent |
        1 10:05  | buy A   |
        1 10:06  | view A  |
        8 10:05  | clock   | sent 1: A
    """,
    "a view from before the order that comes late is ignored": """
        1 10:00  | consent |
        1 10:05  | buy B   |
        1 10:06  | view A of 1 10:05 |
        8 10:05  | clock   | sent 1:
    """,
    "one from after it counts at its own time": """
        1 10:00  | consent |
        1 10:05  | buy B   |
        1 10:08  | view A  |
        1 10:09  | view C of 1 10:05:00.001 |
        8 10:05  | clock   | sent 1: A C
    """,
    "an order that comes late takes out what was looked at before it": """
        1 10:00  | consent |
        1 10:05  | buy C   |
        1 10:06  | view A  |
        1 10:08  | view B  |
        1 10:09  | buy A B of 1 10:07 |
        8 10:07  | clock   | sent 1: B
    """,
    "an earlier view of the same item that comes late changes nothing": """
        1 10:00  | consent |
        1 10:05  | buy Z   |
        1 10:10  | view B  |
        1 10:20  | view A  |
        1 10:30  | view A of 1 10:06 |
        8 10:05  | clock   | sent 1: A B
    """,
    "the ten looked at last": """
        1 10:00  | consent |
        1 10:05  | buy Z   |
        1 10:06  | view A  |
        1 10:07  | view B C D E F G H I J K |
        8 10:05  | clock   | sent 1: B C D E F G H I J K
    """,
}


@pytest.mark.parametrize("name", VIEWED)
def test_what_was_looked_at(name: str) -> None:
    _told(VIEWED[name], items="viewed")


def test_template_and_data_go_along() -> None:
    data = {"greeting": "Hello", "links": [1, {"a": None}]}
    (message,) = _told(RETURN.format("sent 1: A"), data=data).messages
    said = msgspec.json.decode(message.json("a"))
    assert (said["template"], said["data"]) == ("thanks", data)
    (plain,) = _told(RETURN.format("sent 1: A")).messages
    assert "data" not in msgspec.json.decode(plain.json("a"))


def test_the_default_campaign_names_no_template() -> None:
    rows = "10:00 | consent |\n10:05 | add A |\n10:50 | clock | sent 1: A"
    (message,) = check(rows).messages
    assert not {"template", "data", "version"} & msgspec.json.decode(message.json("a")).keys()


# What the catalogue says


def _presented(price: float | None, known: dict[str, Catalogued]) -> Message:
    lines = NudgeItem("A", price, 2), NudgeItem("B", None, 1)
    made = presented([Message(0, "u", "email", "c", "c", lines, 0, 0, 1, 1, template="t")], known)
    assert isinstance(made[0], Message)
    return made[0]


@pytest.mark.parametrize(("price", "shown"), [(None, 7.0), (3.0, 3.0), (0.0, 0.0)])
def test_a_price_that_an_event_told_stays(price: float | None, shown: float) -> None:
    made = _presented(price, {"A": Catalogued("Mug", "i", "u", 7.0)})
    assert made.items == (NudgeItem("A", shown, 2, "Mug", "i", "u"), NudgeItem("B", None, 1))


def test_what_is_presented_fits_the_schema() -> None:
    said = _presented(None, {"A": Catalogued("Mug", None, "u")}).json("0-1-0-nudge-0")
    jsonschema.Draft202012Validator(schema(Said)).validate(msgspec.json.decode(said))
    assert msgspec.json.decode(said)["items"] == [
        {"item": "A", "price": None, "quantity": 2, "name": "Mug", "url": "u"},
        {"item": "B", "price": None, "quantity": 1},
    ]
    read = read_engagement(said)
    assert isinstance(read, Nudge) and read.template == "t"


@pytest.mark.parametrize(
    ("attributes", "margin"),
    [
        (None, None),
        ({}, None),
        ({"margin": 2}, 2.0),
        ({"margin": -0.5}, -0.5),
        ({"margin": "2"}, None),
        ({"margin": True}, None),
        ({"margin": [2]}, None),
    ],
)
def test_a_margin_is_a_number(attributes: dict[str, Any] | None, margin: float | None) -> None:
    assert Catalogued(attributes=attributes).margin == margin
