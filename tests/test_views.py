from __future__ import annotations

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from state.model import VERSION_LENGTH, VERSION_START, version
from stream.core.items import Items
from stream.core.ranking import CONTENT, ITEM_ITEM, TRENDING, Ranked
from stream.core.views import STRATEGIES, item_view, neighbors_views, recs_views, tombstone, trending_view

VERSION = version(1_767_225_600_000, 42)
TIME = 1_767_225_600_000
TEXT = "2026-01-01T00:00:00.000Z"

NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
SCORE = st.floats(2**-126, 2**60, width=32)
ENTRIES = st.lists(st.tuples(NAME, SCORE, NAME), max_size=4)
FILLED = st.lists(NAME, max_size=3)
LISTS = st.lists(st.tuples(NAME, ENTRIES, FILLED), max_size=5)
Lists = list[tuple[str, list[tuple[str, float, str]], list[str]]]


def ranked_of(items: Items, lists: Lists, size: int = 8) -> Ranked:
    ranked = Ranked(
        np.full((len(lists), size), -1, dtype=np.int32),
        np.zeros((len(lists), size), dtype=np.float32),
        np.full((len(lists), size), -1, dtype=np.int32),
        np.zeros((len(lists), size), dtype=np.uint8),
    )
    for row, (_, own, filled) in enumerate(lists):
        for at, (item, score, why) in enumerate(own):
            ranked.items[row, at], ranked.because[row, at] = items.add(item), items.add(why)
            ranked.scores[row, at], ranked.strategy[row, at] = score, ITEM_ITEM
        for at, item in enumerate(filled, start=len(own)):
            ranked.items[row, at], ranked.strategy[row, at] = items.add(item), TRENDING
    return ranked


def expected(
    kind: str, subject: str, at: int, own: list[tuple[str, float, str]], filled: list[str]
) -> dict[str, object]:
    return {
        "version": VERSION,
        "id": f"3-{at}-0-recs-0",
        "time": TEXT,
        kind: subject,
        "items": [
            {"item": item, "score": score, "strategy": "item-item", "because": [why]}
            for item, score, why in own
        ]
        + [{"item": item, "score": 0.0, "strategy": "trending", "because": []} for item in filled],
    }


@given(LISTS)
def test_views_are_what_a_json_writer_would_write(lists: Lists) -> None:
    items = Items()
    ranked = ranked_of(items, lists)
    ids = [f"3-{at}-0-recs-0" for at in range(len(lists))]
    times = np.full(len(lists), TIME)
    users = [user for user, _, _ in lists]
    subjects = items.ids(users)
    for kind, views in (
        ("user", recs_views(VERSION, ids, times, users, ranked, items)),
        ("item", neighbors_views(VERSION, ids, times, subjects, ranked, items)),
    ):
        assert len(views) == len(lists)
        for at, (view, (subject, own, filled)) in enumerate(zip(views, lists, strict=True)):
            parsed = orjson.loads(view)
            # The text of a score reads back as the same float32.
            for entry in parsed["items"]:
                entry["score"] = float(np.float32(entry["score"]))
            assert parsed == expected(kind, subject, at, own, filled)
            assert list(parsed) == ["version", "id", "time", kind, "items"]
            assert view[VERSION_START : VERSION_START + VERSION_LENGTH] == VERSION.encode()


@given(st.lists(st.lists(st.sampled_from(range(len(STRATEGIES))), max_size=8), max_size=4))
def test_each_entry_says_its_own_strategy(codes: list[list[int]]) -> None:
    items = Items()
    ranked = ranked_of(items, [("u", [("a", 1.0, "b")] * len(row), []) for row in codes])
    for row, wanted in enumerate(codes):
        ranked.strategy[row, : len(wanted)] = wanted
    names = [f"u{row}" for row in range(len(codes))]
    made = recs_views(VERSION, names, np.full(len(codes), TIME), names, ranked, items)
    found = [[entry["strategy"] for entry in orjson.loads(view)["items"]] for view in made]
    assert found == [[STRATEGIES[code] for code in row] for row in codes]


def test_codes_are_places_in_the_table() -> None:
    assert [STRATEGIES[code] for code in (ITEM_ITEM, TRENDING, CONTENT)] == [
        "item-item",
        "trending",
        "content",
    ]


def test_each_view_has_its_own_time() -> None:
    times = np.array([TIME, TIME + 1, TIME + 61_999])
    views = recs_views(
        VERSION, ["a", "b", "c"], times, ["u", "v", "w"], ranked_of(Items(), [("", [], [])] * 3), Items()
    )
    found = [orjson.loads(view)["time"] for view in views]
    assert found == [TEXT, "2026-01-01T00:00:00.001Z", "2026-01-01T00:01:01.999Z"]


def test_a_percent_sign_or_quote_in_a_name_is_text() -> None:
    items = Items()
    lists: Lists = [('100%b "u"', [("%b%s%%", 0.5, '\\"')], [])]
    (view,) = recs_views(VERSION, ['%b"'], np.array([TIME]), [lists[0][0]], ranked_of(items, lists), items)
    parsed = orjson.loads(view)
    assert (parsed["user"], parsed["id"]) == ('100%b "u"', '%b"')
    assert (parsed["items"][0]["item"], parsed["items"][0]["because"]) == ("%b%s%%", ['\\"'])


def test_scores_are_as_short_as_float32_allows() -> None:
    items = Items()
    lists: Lists = [("u", [("a", float(np.float32(0.1)), "b")], [])]
    (view,) = recs_views(VERSION, ["x"], np.array([TIME]), ["u"], ranked_of(items, lists), items)
    assert b'"score":0.1,' in view


def test_the_single_views_start_with_their_version() -> None:
    start = b'{"version":"%b"' % VERSION.encode()
    gone = tombstone(VERSION, TIME, 'a"b')
    assert gone.startswith(start)
    assert orjson.loads(gone) == {"version": VERSION, "time": TEXT, "user": 'a"b', "items": []}
    top = trending_view(VERSION, "0-1-trending", TIME, [("a", 2.5), ("b", 1.0)])
    assert top.startswith(start)
    assert orjson.loads(top)["items"] == [
        {"item": "a", "score": 2.5, "strategy": "trending", "because": []},
        {"item": "b", "score": 1.0, "strategy": "trending", "because": []},
    ]
    item = item_view(VERSION, TIME, {"version": "mine", "item": "a", "price": 3.5})
    assert item.startswith(start)
    assert orjson.loads(item) == {"version": VERSION, "time": TEXT, "item": "a", "price": 3.5}
