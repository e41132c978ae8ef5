"""After scoring: every step against plain Python, and the laws of the whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stream.core.content import token_hash
from stream.core.items import item_hash
from stream.core.slate import exploration, guests
from stream.core.slate.choose import BALANCED, BOOSTED, EXPLORED, PINNED, ROTATED, Chosen, choose
from stream.core.slate.diversity import diversify, sketches
from stream.core.slate.exposure import CREDIT, MOST_OWED, Bounds, Exposure, account, worth
from stream.core.slate.expressions import category_hash
from stream.core.slate.facts import DAY_MS, Facts, Slates
from stream.core.slate.grammar import MOST_CHARACTERS, parse
from stream.core.slate.knobs import Knobs
from stream.core.slate.prepared import Prepared
from stream.core.slate.quotas import Quota, within
from stream.core.slate.rotation import fatigue
from stream.settings import Rule, Settings

NOW = 1_780_000_000_000
CATEGORIES = ("wine", "beer", "tea")
GROUPS = ("acme", "bolt", "core", "dune")
COLORS = ("red", "blue", "green")
DEVICES = ("app", "web")
ITEMS, USERS, WIDE = 120, 40, 30

Row = dict[str, Any]


def told(seed: int, items: int = ITEMS) -> list[Row]:
    """Items as plain Python sees them; an unknown text is None, an unknown number NaN."""
    rng = np.random.default_rng(seed)
    return [
        {
            "item": f"i{n}",
            "price": float(np.float32(rng.choice([np.nan, 5, 19.9, 20, 80]))),
            "popularity": float(np.float32(rng.gamma(1, 15))),
            "stock": bool(rng.random() > 0.1),
            "category": str(rng.choice([*CATEGORIES, ""])) or None,
            "group": str(rng.choice([*GROUPS, ""], p=[0.4, 0.3, 0.1, 0.1, 0.1])) or None,
            "attributes": {f"color={color}" for color in COLORS if rng.random() < 0.4},
            "born": int(rng.choice([0, NOW - int(rng.integers(0, 40 * DAY_MS))])),
        }
        for n in range(items)
    ]


def facts_of(rows: list[Row]) -> Facts:
    tokens = [f"color={color}" for color in COLORS]
    held = np.array([[token in row["attributes"] for token in tokens] for row in rows], dtype=np.float32)
    return Facts(
        np.array([item_hash(row["item"]) for row in rows], dtype=np.uint64),
        np.array([row["price"] for row in rows], dtype=np.float32),
        np.array([row["popularity"] for row in rows], dtype=np.float32),
        np.array([row["born"] for row in rows], dtype=np.int64),
        np.array([item_hash(row["group"]) if row["group"] else 0 for row in rows], dtype=np.uint64),
        np.array([category_hash(row["category"]) if row["category"] else 0 for row in rows], dtype=np.uint64),
        np.array([not row["stock"] for row in rows]),
        np.tile(np.arange(len(tokens), dtype=np.int32), (len(rows), 1)),
        held / np.maximum(np.sqrt(held.sum(axis=1, keepdims=True)), 1),
        np.array([token_hash(token) & 0xFFFF_FFFF for token in tokens], dtype=np.uint32),
    )


def slates_of(seed: int, users: int = USERS, items: int = ITEMS, wide: int = WIDE) -> Slates:
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(items)[:wide] for _ in range(users)]).astype(np.int32)
    scores = -np.sort(-rng.gamma(0.7, 1, (users, wide)).astype(np.float32) - np.float32(1e-6), axis=1)
    short = np.arange(wide) >= rng.choice([wide, wide - 4, 8], p=[0.7, 0.2, 0.1], size=(users, 1))
    chosen[short], scores[short] = -1, 0
    return Slates(
        chosen,
        scores,
        np.zeros(chosen.shape, dtype=np.uint8),
        rng.integers(1, 2**63, users).astype(np.uint64),
        NOW + rng.integers(0, 3 * DAY_MS, users),
        {"device": np.array([item_hash(DEVICES[n % 2]) for n in range(users)], dtype=np.uint64)},
    )


ROWS = told(0)
FACTS = facts_of(ROWS)
SLATES = slates_of(1)
OPEN = replace(FACTS, blocked=np.zeros(ITEMS, dtype=np.bool_))


def pick(
    slates: Slates,
    rules: list[Rule] | None = None,
    facts: Facts = FACTS,
    state: Exposure | None = None,
    **knobs: Any,
) -> Chosen:
    given_knobs = Knobs(**{"size": 10, **knobs})
    prepared = Prepared(rules or [], diverse=given_knobs.diversity > 0)
    return choose(slates, facts, prepared, given_knobs, state or Exposure.empty(given_knobs.bounds))


def items_of(slates: Slates, chosen: Chosen) -> NDArray[np.int32]:
    at = np.take_along_axis(slates.items, np.maximum(chosen.positions, 0).astype(np.int64), axis=1)
    return np.where(chosen.positions >= 0, at, -1)


def lists(slates: Slates, chosen: Chosen) -> list[list[int]]:
    return [[item for item in row if item >= 0] for row in items_of(slates, chosen).tolist()]


# Rules

EXPRESSIONS = [
    'category == "wine" and price > 20',
    "5 < price <= 19.9",
    "price < 19.9",
    "price != 20",
    "not price > 10",
    "stock or price == 5",
    'group in ["acme", "bolt"]',
    'group not in ("acme",)',
    '"tea" != category',
    '"color=red" in attributes and not "color=blue" in attributes',
    "age_days < 14",
    "age_days < 14 and stock",
    'device == "app" and price * 2 + 1 >= 40',
    '(device == "app" or category in {"wine", "beer"}) and not (age_days > 3 and popularity / 2 < 5)',
    "hour in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "weekday >= 5 or price < age_days",
    "-price < -10",
    'item == "i3" or item in ["i5", "i8"]',
    "True",
    "1 > 2",
    "price in [5, 19.9]",
]


def plain(text: str, row: Row, time_ms: int, device: str) -> bool:
    """Python's own evaluation, with prices of float32 written out."""
    names = dict(row)
    names["age_days"] = (time_ms - row["born"]) / DAY_MS if row["born"] else float("nan")
    names["hour"], names["weekday"] = time_ms // 3_600_000 % 24, (time_ms // DAY_MS + 3) % 7
    names["device"] = device
    names["price"] = float(np.round(row["price"], 2))
    return bool(eval(text, {"__builtins__": {}}, names))


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_an_expression_says_what_python_says(text: str) -> None:
    prepared = Prepared([Rule(when=text, do="exclude")])
    prepared.reserve(FACTS)
    found = prepared.matches(0, FACTS, SLATES)
    for user, (items, time_ms) in enumerate(zip(SLATES.items, SLATES.time_ms.tolist(), strict=True)):
        for at, item in enumerate(items.tolist()):
            if item >= 0:
                assert found[user, at] == plain(text, ROWS[item], time_ms, DEVICES[user % 2]), ROWS[item]


def test_expressions_are_true_of_some_and_false_of_others() -> None:
    prepared = Prepared([Rule(when=text, do="exclude") for text in EXPRESSIONS])
    prepared.reserve(FACTS)
    shares = [prepared.matches(number, FACTS, SLATES).mean() for number in range(len(EXPRESSIONS))]
    assert all(
        0 < share < 1
        for share, text in zip(shares, EXPRESSIONS, strict=True)
        if text not in ("True", "1 > 2")
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prise > 3", "no name of a rule"),
        ("price.real > 3", "not allowed"),
        ("__import__('os').system('true')", "not allowed"),
        ("(lambda: 1)() == 1", "not allowed"),
        ("[price for price in [1]] == 1", "not allowed"),
        ("price ** 99 > 1", "not allowed"),
        ("attributes[0] == 'a'", "not allowed"),
        ("f'{price}' == 'a'", "not allowed"),
        ("(price := 3) > 2", "not allowed"),
        ("price > 3 if stock else False", "not allowed"),
        ("price", "compare it"),
        ("price and stock", "join comparisons"),
        ("category > 'a'", "compare numbers"),
        ("category == group", "quotes"),
        ("category == 3", "a text with a text"),
        ("price == 'a'", "compare numbers"),
        ("price in ['a']", "is a number"),
        ("price in category", "after `in` stands a list"),
        ("category in [group]", "numbers or texts in quotes only"),
        ("attributes in ['a']", "before `in`"),
        ("price == 3 == price", "in a chain"),
        ("price is 3", "use == or !="),
        ("price > 1e300", "10"),
        ("price > 1j", "no value"),
        ("price >", "no expression"),
        ("", "no expression"),
        ("price > 1; stock", "no expression"),
        ("price > 1\nimport os", "no expression"),
        ("(" * 500 + "stock" + ")" * 500, "no expression"),
        ("not " * 450 + "stock", "parts|no expression"),
        ("stock or " * 200 + "stock", "parts"),
        (" " * (MOST_CHARACTERS + 1), "characters"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@given(st.text(max_size=60) | st.text(alphabet="price()[]<>=andortk\"'.0 -*", max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        parse(text)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"do": "exclude", "when": "prise > 1"}, r"(?s)rules\.0\.when.*prise"),
        ({"do": "boost"}, "needs `factor`"),
        ({"do": "boost", "factor": 0}, r"rules\.0\.factor"),
        ({"do": "pin"}, "needs `position`"),
        ({"do": "pin", "position": 2, "most": 1}, "has no `most`"),
        ({"do": "limit", "most": 2, "per": "colour"}, r"rules\.0\.per"),
        ({"do": "remove"}, r"rules\.0\.do"),
        ({"do": "exclude", "wen": "stock"}, r"(?s)rules\.0\.wen.*Extra"),
    ],
)
def test_wrong_rules_are_refused_when_settings_load(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings.model_validate({"rules": [rule]})


def test_wrong_bounds_are_refused_when_settings_load() -> None:
    with pytest.raises(ValueError, match="no share is both"):
        Settings.model_validate({"exposure": {"a": {"min": 0.5, "max": 0.2}}})
    with pytest.raises(ValueError, match=r"add up to 1\.2"):
        Settings.model_validate({"exposure": {"a": {"min": 0.6}, "b": {"min": 0.6}}})


def test_settings_are_knobs() -> None:
    given_ = Settings.model_validate(
        {"diversity": 0.25, "list_items": 12, "exposure": {"acme": {"min": 0.1, "max": 0.3}}}
    )
    knobs = Knobs.of(given_)
    assert (knobs.size, knobs.diversity, knobs.explore_share) == (12, 0.25, 0.05)
    assert knobs.bounds.groups.tolist() == [item_hash("acme")]
    assert (knobs.bounds.least.tolist(), knobs.bounds.most.tolist()) == ([0.1], [0.3])


def test_facts_that_change_are_learned() -> None:
    prepared = Prepared([Rule(when="price > 50", do="exclude")])
    prepared.reserve(OPEN)
    dear = replace(OPEN, price=np.full(ITEMS, 80, dtype=np.float32))
    before = prepared.masks[:, :ITEMS].sum()
    prepared.learn(dear, np.arange(5))
    assert prepared.masks[0, :5].all()
    assert prepared.masks[:, :ITEMS].sum() - before == np.count_nonzero(~(OPEN.price[:5] > 50))


def test_items_that_come_while_others_change_are_learned() -> None:
    rule = Rule(when="not price > 10", do="pin", position=1)
    prepared, whole = Prepared([rule]), Prepared([rule])
    prepared.reserve(facts_of(ROWS[:60]))
    prepared.learn(FACTS, np.array([3]))
    prepared.reserve(FACTS)
    whole.reserve(FACTS)
    assert np.array_equal(prepared.masks[:, :ITEMS], whole.masks[:, :ITEMS])
    assert whole.masks[:, 60:ITEMS].any()


def test_what_rules_exclude_or_the_shop_blocks_is_not_listed() -> None:
    chosen = pick(SLATES, [Rule(when="price > 50", do="exclude"), Rule(when="age_days < 20", do="exclude")])
    for user, items in enumerate(lists(SLATES, chosen)):
        time_ms = int(SLATES.time_ms[user])
        fits = [
            item
            for item in SLATES.items[user].tolist()
            if item >= 0
            and ROWS[item]["stock"]
            and not plain("price > 50 or age_days < 20", ROWS[item], time_ms, "")
        ]
        assert items == fits[:10]
    assert chosen.excluded > 0


def test_boosts_multiply() -> None:
    rules = [
        Rule(when='category == "tea"', do="boost", factor=3.0),
        Rule(when="stock", do="boost", factor=0.5),
    ]
    chosen = pick(SLATES, rules)
    for user, items in enumerate(lists(SLATES, chosen)):
        held = [
            (item, score)
            for item, score in zip(SLATES.items[user].tolist(), SLATES.scores[user], strict=True)
        ]
        worth_ = {
            item: np.float32(score)
            * np.float32(3 if ROWS[item]["category"] == "tea" else 1)
            * np.float32(0.5)
            for item, score in held
            if item >= 0 and ROWS[item]["stock"]
        }
        best = sorted(worth_, key=lambda item: (-worth_[item], int(FACTS.hashes[item])))
        assert items == best[:10]
    assert (chosen.why[chosen.positions >= 0] & BOOSTED).all()


def test_pins_stand_at_their_place() -> None:
    rules = [
        Rule(when='item == "i7" and device == "app"', do="pin", position=1),
        Rule(when='item in ["i9", "i7"]', do="pin", position=4),
        Rule(when='item == "i11"', do="pin", position=4),
    ]
    prepared = Prepared(rules)
    named = prepared.pinned(OPEN)
    assert named.tolist() == [7, 9, 11]
    none = np.zeros(0, dtype=np.int32)
    slates = guests.invite(SLATES, np.tile(named, (USERS, 1)), 1, (none, none))
    chosen = pick(slates, rules, OPEN)
    for user, items in enumerate(lists(slates, chosen)):
        app = user % 2 == 0
        assert (items[0] == 7) == (app or SLATES.items[user, 0] == 7)
        # What scored stands before the guests; both fit, the better one is taken.
        fits = [item for item in slates.items[user].tolist() if item == 9 or (item == 7 and not app)]
        assert items[3] == fits[0]
        scored = {item for item in SLATES.items[user].tolist() if item >= 0}
        assert len(set(items)) == len(items) == min(10, len(scored | {items[0], items[3]}))
    assert np.count_nonzero(chosen.why & PINNED) == USERS * 1.5


def test_guests_come_once_and_only_where_they_are_placed() -> None:
    offered = np.stack([SLATES.items[:, 0], np.full(USERS, 90, dtype=np.int32)], axis=1)
    barred = np.arange(0, USERS, 2), np.full(USERS // 2, 90, dtype=np.int32)
    slates = guests.invite(SLATES, offered, 1, barred)
    assert (slates.items[:, WIDE] == -1).all()
    stands = (SLATES.items == 90).any(axis=1)
    assert (slates.items[:, WIDE + 1] >= 0).tolist() == [n % 2 == 1 and not stands[n] for n in range(USERS)]
    assert pick(slates).positions.max() < WIDE


# Quotas


def greedy(keys: list[list[int]], most: list[int], live: list[bool], first: list[bool]) -> list[bool]:
    """One user's candidates, one by one."""
    taken = [a and b for a, b in zip(live, first, strict=True)]
    counts = [Counter(key[at] for at, held in enumerate(taken) if held) for key in keys]
    for at, able in enumerate(live):
        if (
            able
            and not first[at]
            and all(k[at] == 0 or c[k[at]] < m for k, m, c in zip(keys, most, counts, strict=True))
        ):
            taken[at] = True
            for key, count in zip(keys, counts, strict=True):
                count[key[at]] += 1
    return taken


@given(st.integers(0, 2**32 - 1))
def test_quotas_are_filled_as_one_would_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users, wide, n = rng.integers(1, 5), rng.integers(1, 25), int(rng.integers(1, 4))
    quotas = [
        Quota(rng.integers(0, 4, (users, wide)).astype(np.uint64), int(rng.integers(0, 4))) for _ in range(n)
    ]
    live, first = rng.random((users, wide)) < 0.8, rng.random((users, wide)) < 0.1
    found = within(quotas, live, first & live)
    for user in range(users):
        keys = [quota.key[user].tolist() for quota in quotas]
        most = [quota.most for quota in quotas]
        assert found[user].tolist() == greedy(keys, most, live[user].tolist(), (first & live)[user].tolist())


# Diversity


def marginal(alike: NDArray[np.float64], scores: NDArray[np.float64], size: int, knob: float) -> list[int]:
    """Carbonell and Goldstein, as they wrote it."""
    chosen: list[int] = []
    while len(chosen) < size and len(chosen) < len(scores):
        rest = [at for at in range(len(scores)) if at not in chosen]
        value = {
            at: (1 - knob) * scores[at] / scores[0]
            - knob * max([alike[at, other] for other in chosen], default=0.0)
            for at in rest
        }
        chosen.append(max(rest, key=lambda at: (value[at], -at)))
    return chosen


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.3, 0.7, 0.95]))
@hypothesis_settings(max_examples=30)
def test_diversity_is_greedy_marginal_relevance(seed: int, knob: float) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-30, 30, (40, 64)).astype(np.int8)
    items = rng.permutation(40)[:12].astype(np.int32)[None]
    scores = -np.sort(-rng.random((1, 12)).astype(np.float32) - np.float32(0.01))
    found = diversify(drawn, items, scores, np.ones((1, 12), dtype=np.bool_), 6, knob)[0]
    dense = drawn[items[0]].astype(np.float64)
    alike = np.maximum(dense @ dense.T, 0) / 127**2
    wanted = marginal(alike, scores[0].astype(np.float64), 6, knob)
    assert found.tolist() == wanted


def test_sketches_keep_the_cosine() -> None:
    rng = np.random.default_rng(3)
    n, words = 300, 400
    tokens = np.stack([rng.permutation(words)[:8] for _ in range(n)]).astype(np.int32)
    tokens[1::2, :4] = tokens[::2, :4]
    weights = rng.random((n, 8)).astype(np.float32) + np.float32(0.1)
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    bare = np.zeros(n, dtype=np.uint64)
    facts = replace(
        FACTS,
        hashes=np.arange(n, dtype=np.uint64),
        tokens=tokens,
        token_weights=weights,
        token_hashes=rng.integers(0, 2**32, words).astype(np.uint32),
        category=bare,
        group=bare,
    )
    wide = np.zeros((n, words))
    np.add.at(wide, (np.arange(n)[:, None], tokens), weights)
    wide /= np.sqrt((wide**2).sum(axis=1, keepdims=True))
    drawn = sketches(facts, np.arange(n)).astype(np.float64) / 127
    error = drawn @ drawn.T - wide @ wide.T
    off = error[~np.eye(n, dtype=np.bool_)]
    assert np.abs(np.diag(error)).max() < 0.03
    assert abs(off.mean()) < 0.005
    assert off.std() < 0.14


def apart(facts: Facts, slates: Slates, chosen: Chosen) -> float:
    """Mean 1 − cosine of tokens of all pairs of a list, over the lists."""
    wide = np.zeros((ITEMS, len(COLORS)))
    np.put_along_axis(wide, facts.tokens.astype(np.int64), facts.token_weights.astype(np.float64), axis=1)
    means = [
        1 - np.mean([wide[a] @ wide[b] for a in row for b in row if a != b])
        for row in lists(slates, chosen)
        if len(row) > 1
    ]
    return float(np.mean(means))


def test_lists_are_more_diverse_the_further_the_knob_is_turned() -> None:
    slates = slates_of(5, users=300)
    found = [
        apart(OPEN, slates, pick(slates, facts=OPEN, diversity=knob)) for knob in (0, 0.1, 0.3, 0.6, 0.9)
    ]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.08


# Rotation


def test_what_was_ignored_steps_back_and_returns_with_time() -> None:
    ignored = np.zeros(SLATES.items.shape, dtype=np.float32)
    ignored[:, 0] = 20
    shown = np.broadcast_to(SLATES.time_ms[:, None], ignored.shape)
    tired = pick(replace(SLATES, ignored=ignored, shown_ms=shown), facts=OPEN, rotation=0.5)
    rested = pick(replace(SLATES, ignored=ignored, shown_ms=shown - 40 * DAY_MS), facts=OPEN, rotation=0.5)
    full = (SLATES.items >= 0).all(axis=1)
    assert not (items_of(SLATES, tired) == SLATES.items[:, :1])[full].any()
    assert np.array_equal(items_of(SLATES, rested)[:, 0], SLATES.items[:, 0])
    assert (tired.why & ROTATED).any()
    assert not rested.why.any()


def test_fatigue_is_the_factor_to_the_decayed_count() -> None:
    ignored = np.array([[0, 1, 3, 3, 1000]], dtype=np.float32)
    shown = NOW - np.array([[0, 0, 0, 2, 0]]) * DAY_MS
    found = fatigue(ignored, shown, np.array([NOW]), 0.9, DAY_MS)
    assert found[0].tolist() == pytest.approx([1, 0.9, 0.9**3, 0.9**0.75, 0.9**64])


# Exploration


def young_facts(young: list[int]) -> Facts:
    born = np.zeros(ITEMS, dtype=np.int64)
    born[young] = NOW - DAY_MS
    return replace(OPEN, born=born, popularity=np.zeros(ITEMS, dtype=np.float32))


YOUNG = list(range(0, ITEMS, 6))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.13, 0.5])
def test_young_items_have_their_share_of_places_and_no_more(share: float) -> None:
    slates = slates_of(7, users=800, wide=60)
    slates = replace(slates, items=np.where(slates.items >= 0, slates.items, np.arange(60, dtype=np.int32)))
    slates = replace(slates, scores=np.maximum(slates.scores, np.float32(1e-6)))
    chosen = pick(slates, facts=young_facts(YOUNG), explore_share=share, size=20)
    per_list = np.count_nonzero(chosen.why & EXPLORED, axis=1)
    assert per_list.max() <= np.ceil(share * 20)
    if float(share * 20).is_integer():
        assert per_list.mean() <= share * 20
    # Of 60 candidates 40 stand below the list, about 7 of them young: enough for small shares.
    if share <= 0.13:
        assert per_list.mean() == pytest.approx(share * 20, abs=0.06)
    assert not (chosen.why[:, :10] & EXPLORED).any()
    explored = items_of(slates, chosen)[(chosen.why & EXPLORED) > 0]
    assert (chosen.positions[(chosen.why & EXPLORED) > 0] >= 20).all()
    assert set(explored.tolist()) <= set(YOUNG)
    assert len(set(explored.tolist())) == len(YOUNG)


def test_the_same_day_explores_the_same_and_another_day_something_else() -> None:
    slates, facts = slates_of(8, users=200), young_facts(YOUNG)
    first = pick(slates, facts=facts, explore_share=0.1)
    again = pick(slates, facts=facts, explore_share=0.1)
    later = pick(replace(slates, time_ms=slates.time_ms + 2 * DAY_MS), facts=facts, explore_share=0.1)
    assert np.array_equal(first.positions, again.positions)
    assert not np.array_equal(first.positions, later.positions)
    assert np.count_nonzero(first.why & EXPLORED) > 100


@pytest.mark.parametrize("most", [1, 5, 6, 7, 64, ITEMS])
def test_the_pool_is_the_least_known_of_all_young_items(most: int) -> None:
    random = np.random.default_rng(most)
    facts = replace(
        young_facts(list(range(ITEMS))),
        popularity=random.integers(17, 23, ITEMS).astype(np.float32),
        born=NOW - random.integers(-1, 4, ITEMS) * DAY_MS,
        blocked=random.random(ITEMS) < 0.2,
    )
    able = [at for at in range(ITEMS) if facts.popularity[at] < 20 and not facts.blocked[at]]
    able = [at for at in able if 0 <= NOW - facts.born[at] < 2.5 * DAY_MS]
    assert len(able) > 12
    best = sorted(able, key=lambda at: (facts.popularity[at], int(facts.hashes[at])))[:most]
    assert exploration.pool(facts, NOW, 2.5, most).tolist() == best


def test_items_age_out_and_earn_their_way_out() -> None:
    facts = young_facts(YOUNG)
    pool = exploration.pool(facts, NOW, 14)
    assert set(pool.tolist()) == set(YOUNG)
    assert len(exploration.pool(facts, NOW + 14 * DAY_MS, 14)) == 0
    assert len(exploration.pool(facts, NOW - 2 * DAY_MS, 14)) == 0
    known = replace(facts, popularity=np.where(np.arange(ITEMS) < 60, exploration.FEW, 0).astype(np.float32))
    assert set(exploration.pool(known, NOW, 14).tolist()) == {item for item in YOUNG if item >= 60}
    assert len(exploration.pool(replace(facts, blocked=np.ones(ITEMS, dtype=np.bool_)), NOW, 14)) == 0
    drawn = guests.drawn(facts, SLATES, pool, 3)
    assert drawn.shape == (USERS, 3)
    assert all(len(set(row)) == 3 and set(row) <= set(YOUNG) for row in drawn.tolist())


# Exposure


def stream(
    bounds: Bounds, batches: list[int], facts: Facts = OPEN, **knobs: Any
) -> tuple[Exposure, list[Chosen], list[Slates]]:
    state, found, told_ = Exposure.empty(bounds), [], []
    for number, users in enumerate(batches):
        slates = slates_of(100 + number, users=users)
        chosen = pick(slates, facts=facts, bounds=bounds, state=state, **knobs)
        state = chosen.state
        found.append(chosen)
        told_.append(slates)
    return state, found, told_


def measured(facts: Facts, found: list[Chosen], slates: list[Slates], group: str) -> float:
    """A group's share, counted anew from the lists."""
    value = worth(10).astype(np.float64)
    own = all_ = 0.0
    for chosen, told_ in zip(found, slates, strict=True):
        items = items_of(told_, chosen)
        weight = np.where(items >= 0, value, 0)
        all_ += weight.sum()
        own += weight[(items >= 0) & (facts.group[items] == item_hash(group))].sum()
    return own / all_


BOUNDS = {"acme": (0.0, 0.25), "core": (0.2, 1.0), "bolt": (0.28, 0.3)}


@pytest.mark.parametrize(
    ("batches", "knobs"),
    [
        ([200] * 15, {}),
        ([1000, 3, 500, 1, 1, 700, 50], {}),
        ([1] * 300, {}),
        ([150] * 10, {"diversity": 0.4, "explore_share": 0.1}),
    ],
)
def test_exposure_bounds_hold_within_one_percent(batches: list[int], knobs: dict[str, Any]) -> None:
    bounds = Bounds.of(BOUNDS)
    free = pick(slates_of(100, users=2000), facts=OPEN)
    natural = {name: measured(OPEN, [free], [slates_of(100, users=2000)], name) for name in BOUNDS}
    assert natural["acme"] > 0.35
    assert natural["core"] < 0.15
    state, found, slates = stream(bounds, batches, **knobs)
    for name, (least, most) in BOUNDS.items():
        share = measured(OPEN, found, slates, name)
        assert least - 0.01 <= share <= most + 0.01, name
        assert share == pytest.approx(state.shares[bounds.groups.tolist().index(item_hash(name))])
    assert not state.missed.any()
    assert any((chosen.why & BALANCED).any() for chosen in found)


def test_equal_lists_for_everyone_are_balanced_too() -> None:
    """Without history all have the same candidates: they must not all turn at once."""
    one = slates_of(100, users=1)
    same = replace(
        one,
        items=np.repeat(one.items, 500, axis=0),
        scores=np.repeat(one.scores, 500, axis=0),
        strategy=np.repeat(one.strategy, 500, axis=0),
        user=np.random.default_rng(1).integers(1, 2**63, 500).astype(np.uint64),
        time_ms=np.repeat(one.time_ms, 500),
    )
    bounds = Bounds.of({"acme": (0.0, 0.2), "core": (0.15, 1.0)})
    state = Exposure.empty(bounds)
    for _ in range(6):
        state = pick(same, facts=OPEN, bounds=bounds, state=state).state
        # Already the first batch is not far off: no debts have told it.
        assert np.abs(state.shares - np.where(bounds.most < 1, bounds.most, bounds.least)).max() < 0.03
    shares = dict(zip(bounds.groups.tolist(), state.shares.tolist(), strict=True))
    assert shares[item_hash("acme")] <= 0.21
    assert shares[item_hash("core")] >= 0.14


def test_bounds_that_hold_by_themselves_change_nothing() -> None:
    bounds = Bounds.of({"acme": (0.1, 0.9)})
    slates = slates_of(100, users=300)
    free, bound = pick(slates, facts=OPEN), pick(slates, facts=OPEN, bounds=bounds)
    assert np.array_equal(free.positions, bound.positions)
    assert bound.state.shares[0] == pytest.approx(measured(OPEN, [free], [slates], "acme"))


def test_bounds_that_hold_by_themselves_leave_diversity_as_it_is() -> None:
    bounds = Bounds.of({"acme": (0.1, 0.9)})
    slates = slates_of(100, users=300)
    free = pick(slates, facts=OPEN, diversity=0.5)
    assert np.array_equal(free.positions, pick(slates, facts=OPEN, diversity=0.5, bounds=bounds).positions)
    assert not np.array_equal(free.positions, pick(slates, facts=OPEN).positions)


def test_what_cannot_be_had_is_told() -> None:
    bounds = Bounds.of({"nobody": (0.2, 1.0), "acme": (0.0, 0.3)})
    state, found, slates = stream(bounds, [500] * 6)
    index = {int(group): number for number, group in enumerate(bounds.groups)}
    nobody, acme = index[item_hash("nobody")], index[item_hash("acme")]
    assert state.shares[nobody] == 0
    assert state.missed_shares[nobody] == pytest.approx(0.2 * (3000 - 1280) / 3000, abs=0.03)
    assert state.missed[acme] == 0
    assert measured(OPEN, found, slates, "acme") <= 0.31


def test_other_bounds_begin_anew() -> None:
    state, _, _ = stream(Bounds.of({"acme": (0.0, 0.2)}), [50])
    other = Bounds.of({"bolt": (0.0, 0.2)})
    assert pick(SLATES, facts=OPEN, bounds=other, state=state).state.groups.tolist() == [item_hash("bolt")]


# The whole

ALL_RULES = [
    Rule(when='category == "beer" and price > 50', do="exclude"),
    Rule(when="price < 10", do="boost", factor=2.0),
    Rule(when='item in ["i3", "i4"]', do="pin", position=2),
    Rule(do="limit", most=3, per="category"),
    Rule(when="price > 70", do="limit", most=1),
]


def everything(seed: int) -> tuple[Slates, Facts, dict[str, Any]]:
    rng = np.random.default_rng(seed)
    facts = facts_of(told(seed))
    slates = slates_of(seed + 1, users=int(rng.integers(1, 12)))
    none = np.zeros(0, dtype=np.int32)
    invited = np.tile(Prepared(ALL_RULES).pinned(facts), (len(slates), 1))
    slates = guests.invite(slates, invited, 1, (none, none))
    shape = slates.items.shape
    slates = replace(
        slates,
        ignored=rng.integers(0, 3, shape).astype(np.float32),
        shown_ms=NOW - rng.integers(0, DAY_MS, shape),
    )
    knobs = {
        "diversity": float(rng.choice([0, 0.3])),
        "explore_share": float(rng.choice([0, 0.2])),
        "rotation": float(rng.choice([1, 0.8])),
        "size": int(rng.choice([1, 5, 10])),
    }
    return slates, facts, knobs


seeds = st.integers(0, 2**20)


def part(slates: Slates, at: Any) -> Slates:
    assert slates.ignored is not None
    assert slates.shown_ms is not None
    return Slates(
        slates.items[at],
        slates.scores[at],
        slates.strategy[at],
        slates.user[at],
        slates.time_ms[at],
        {name: values[at] for name, values in slates.context.items()},
        slates.ignored[at],
        slates.shown_ms[at],
    )


@given(seeds)
@hypothesis_settings(max_examples=60, deadline=None)
def test_laws_of_every_list(seed: int) -> None:
    """Nothing excluded, nothing twice, no gap, pins at their place, quotas kept, guests only where placed."""
    slates, facts, knobs = everything(seed)
    chosen = pick(slates, ALL_RULES, facts, **knobs)
    rows = told(seed)
    items = items_of(slates, chosen)
    held = chosen.positions >= 0
    assert not (np.diff(held.astype(int), axis=1) > 0).any()
    for user, row in enumerate(lists(slates, chosen)):
        assert len(set(row)) == len(row)
        assert all(rows[item]["stock"] for item in row)
        assert not any(rows[item]["category"] == "beer" and rows[item]["price"] > 50 for item in row)
        able = [item for item in (3, 4) if rows[item]["stock"]]
        able = [i for i in able if not (rows[i]["category"] == "beer" and rows[i]["price"] > 50)]
        if able and len(row) > 1:
            assert row[1] in able
        counts = Counter(rows[item]["category"] for item in row if rows[item]["category"])
        assert max(counts.values(), default=0) <= 3
        assert sum(rows[item]["price"] > 70 for item in row) <= 1
        reasons = chosen.why[user, : len(row)] & (PINNED | EXPLORED)
        assert ((slates.scores[user, chosen.positions[user, : len(row)]] > 0) | (reasons > 0)).all()
    assert (items >= 0).sum() == held.sum()


@given(seeds, st.integers(0, 2**20))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_order_of_users_and_the_cuts_of_batches_change_nothing(seed: int, other: int) -> None:
    slates, facts, knobs = everything(seed)
    whole = pick(slates, ALL_RULES, facts, **knobs)
    order = np.random.default_rng(other).permutation(len(slates))
    mixed = pick(part(slates, order), ALL_RULES, facts, **knobs)
    assert np.array_equal(mixed.positions, whole.positions[order])
    assert np.array_equal(mixed.why, whole.why[order])
    cut = other % (len(slates) + 1)
    halves = [pick(part(slates, at), ALL_RULES, facts, **knobs) for at in (slice(0, cut), slice(cut, None))]
    assert np.array_equal(np.concatenate([half.positions for half in halves]), whole.positions)


@given(seeds)
@hypothesis_settings(max_examples=30, deadline=None)
def test_the_order_of_users_changes_nothing_under_exposure_bounds(seed: int) -> None:
    slates, facts, knobs = everything(seed)
    bounds = Bounds.of(BOUNDS)
    whole = pick(slates, ALL_RULES, facts, bounds=bounds, **knobs)
    order = np.random.default_rng(seed).permutation(len(slates))
    mixed = pick(part(slates, order), ALL_RULES, facts, bounds=bounds, **knobs)
    assert np.array_equal(mixed.positions, whole.positions[order])
    assert mixed.state.given.tolist() == whole.state.given.tolist()
    assert mixed.state.over.tolist() == whole.state.over.tolist()


@given(seeds)
@hypothesis_settings(max_examples=40, deadline=None)
def test_without_knobs_a_list_is_what_scored_best(seed: int) -> None:
    facts = facts_of(told(seed))
    slates = slates_of(seed)
    for size in (1, 10, 50):
        found = lists(slates, pick(slates, facts=facts, size=size))
        for row, items in zip(found, slates.items.tolist(), strict=True):
            assert row == [item for item in items if item >= 0 and not facts.blocked[item]][:size]


def test_guests_do_not_fill_short_lists() -> None:
    items = np.tile(np.arange(12, dtype=np.int32), (3, 1))
    scores = np.tile(np.where(np.arange(12) < 4, 1.0, 0.0).astype(np.float32), (3, 1))
    slates = replace(part(everything(1)[0], slice(0, 0)), items=items, scores=scores)
    chosen = pick(replace(slates, ignored=None), facts=OPEN)
    assert chosen.positions.tolist() == [[0, 1, 2, 3, *[-1] * 6]] * 3


def test_nobody_has_no_lists() -> None:
    nobody = replace(part(everything(1)[0], slice(0, 0)))
    chosen = pick(nobody, ALL_RULES, diversity=0.3, explore_share=0.1, bounds=Bounds.of(BOUNDS))
    assert chosen.positions.shape == (0, 10)


def test_one_list_of_one_item_at_a_time_keeps_the_bounds_on_average() -> None:
    bounds = Bounds.of({"acme": (0.0, 0.25), "core": (0.2, 1.0)})
    state = Exposure.empty(bounds)
    slates = slates_of(100, users=400)
    for user in range(400):
        one = slice(user, user + 1)
        single = Slates(
            slates.items[one], slates.scores[one], slates.strategy[one], slates.user[one], slates.time_ms[one]
        )
        state = pick(single, facts=OPEN, size=1, bounds=bounds, state=state).state
    shares = dict(zip(bounds.groups.tolist(), state.shares.tolist(), strict=True))
    assert 0.2 <= shares[item_hash("acme")] <= 0.26
    assert 0.19 <= shares[item_hash("core")] <= 0.25


def test_the_balance_knows_what_stands_already() -> None:
    """A pin of the group on every first place has a fifth of all exposure; no debts help in one batch."""
    slates = slates_of(100, users=500)
    pinned = next(n for n, row in enumerate(ROWS) if row["group"] == "acme")
    none = np.zeros(0, dtype=np.int32)
    slates = guests.invite(slates, np.full((500, 1), pinned, dtype=np.int32), 1, (none, none))
    rule = Rule(when=f'item == "i{pinned}"', do="pin", position=1)
    for bound in ((0.0, 0.3), (0.6, 1.0)):
        chosen = pick(slates, [rule], OPEN, bounds=Bounds.of({"acme": bound}))
        assert bound[0] - 0.01 <= chosen.state.shares[0] <= bound[1] + 0.01
        assert (items_of(slates, chosen)[:, 0] == pinned).all()


def test_debts_and_credits_add_up() -> None:
    bounds = Bounds.of({"a": (0.2, 0.4)})
    state = Exposure.empty(bounds)
    for got, over, under in ((90, 50, -70), (50, 60, -100), (0, 20, -80), (0, -20, -60), (0, -60, -40)):
        state = account(bounds, state, state.bias, np.array([got]), 100, 50)
        assert (state.over[0], state.under[0]) == (pytest.approx(over), pytest.approx(under))
    least, most = CREDIT * 50, MOST_OWED * 50
    for _ in range(1000):
        state = account(bounds, state, state.bias, np.array([0]), 100, 50)
    assert (state.over[0], state.under[0]) == (-least, most)
    assert state.missed[0] == pytest.approx(1000 * 20 - 40 - most)


def test_a_list_too_short_for_its_places_has_no_gap() -> None:
    rules = [
        Rule(when='category == "tea"', do="limit", most=0),
        Rule(when="popularity > 20", do="pin", position=9),
    ]
    short = part(everything(3)[0], slice(0, 3))
    short = replace(short, items=np.where(np.arange(short.items.shape[1]) < 4, short.items, -1))
    chosen = pick(short, rules, OPEN)
    count = np.count_nonzero(chosen.positions >= 0, axis=1)
    assert (count <= 4).all()
    assert (chosen.why & PINNED).any()
    assert ((chosen.positions >= 0) == (np.arange(10) < count[:, None])).all()


def test_equal_scores_go_by_hash() -> None:
    even = replace(SLATES, scores=np.where(SLATES.items >= 0, np.float32(2), np.float32(0)))
    chosen = pick(even, [Rule(do="boost", factor=2.0)], OPEN)
    for row, items in zip(lists(even, chosen), SLATES.items.tolist(), strict=True):
        held = [item for item in items if item >= 0]
        assert row == sorted(held, key=lambda item: int(OPEN.hashes[item]))[:10]


@pytest.mark.parametrize(
    ("when", "named"),
    [
        ('item == "i7"', [7]),
        ('item == "i7" and device == "app"', [7]),
        ('hour < 30 and item in ["i1", "i2"] and price > -1', [1]),
        ('item == "i7" or device == "app"', []),
        ('not (item == "i7" and device == "app")', []),
        ("stock", []),
    ],
)
def test_items_that_a_rule_may_pin_are_known_beforehand(when: str, named: list[int]) -> None:
    price = np.where(np.arange(ITEMS) == 2, np.nan, 1).astype(np.float32)
    facts = replace(OPEN, price=price)
    assert Prepared([Rule(when=when, do="pin", position=1)]).pinned(facts).tolist() == named
