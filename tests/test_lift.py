"""Lift: who is compared, what is counted of him; intervals hold the truth as often as they say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path
from random import Random
from statistics import variance
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, chisquare, norm, ttest_ind

from stream.core.guards import BUCKETS, GUARDS, bucket
from stream.core.lift import (
    ALL,
    SPLIT_ALARM,
    Groups,
    Purchase,
    Tally,
    Terms,
    detectable,
    lift,
    lift_of,
    newcombe,
    split,
    tallies,
    welch,
    wilson,
)
from stream.core.messages import Decision
from stream.core.sequential import Estimate

HOUR, DAY = 3_600_000, 86_400_000
WINDOW = 3 * DAY
TERMS = {name: Terms(WINDOW, 1000) for name in ("cart", "a", "b", "a-rule", "b-rule")}
I64 = NDArray[np.int64]


def decision(
    user: str, time: int, outcome: str = "sent", reason: str = "", campaign: str = "cart", where: int = 0
) -> dict[str, Any]:
    """A decision as a reader of the topic has it; ``where`` is the user's bucket."""
    rule, counters = f"{campaign}-rule", {"bucket": where}
    said = Decision(0, time, user, campaign, rule, 1, time, outcome, reason, counters)  # type: ignore[arg-type]
    found: dict[str, Any] = json.loads(said.json("0-0-0-decision-0"))
    return found


def tally(bought: Iterable[Iterable[int]]) -> Tally:
    """Of users, by the cents of their purchases."""
    found = Tally()
    for each in bought:
        found.add(each)
    return found


# Who is compared

WHO = [
    ("sent", "", "treated"),
    ("held", "quiet", "treated"),
    ("suppressed", "expired", ""),
    ("suppressed", "identified", ""),
    ("suppressed", "consent", ""),
    ("suppressed", "audience", ""),
    ("suppressed", "holdout", "holdout"),
    ("suppressed", "rest", "treated"),  # still_true says so in the trigger's own words
    ("suppressed", "priority", "treated"),
    ("suppressed", "cap", "treated"),
    ("suppressed", "budget", "treated"),
    ("cancelled", "purchase", ""),
    ("cancelled", "switched-off", ""),
    ("revoked", "purchase", ""),  # it was sent before
]


@pytest.mark.parametrize(("outcome", "reason", "group"), WHO)
def test_a_decision_puts_its_user_into_a_group(outcome: str, reason: str, group: str) -> None:
    found = tallies([decision("ann", 0, outcome, reason)], [], TERMS)
    expected = {"treated": Groups(treated=Tally(1)), "holdout": Groups(holdout=Tally(1))}
    assert found == ({ALL: expected[group], "cart": expected[group]} if group else {})


def test_every_guard_has_its_place() -> None:
    """The table above names all guards; one more must find its place in it."""
    named = {reason for _, reason, _ in WHO} | {"still_true"}
    assert {guard.__name__ for guard in GUARDS} <= named


@pytest.mark.parametrize(
    ("after", "counts"),
    [(-1, False), (0, False), (1, True), (WINDOW, True), (WINDOW + 1, False)],
)
def test_what_is_bought_within_the_window_counts(after: int, counts: bool) -> None:
    found = tallies([decision("ann", 5 * DAY)], [Purchase(5 * DAY + after, "ann", 700)], TERMS)
    assert found["cart"].treated == (Tally(1, 1, 700, 490_000) if counts else Tally(1))


def test_a_user_counts_once_from_his_first_eligible_decision() -> None:
    """The first is the earliest, not the first that is read; who is not eligible opens no window."""
    decisions = [
        decision("ann", 4 * DAY, "suppressed", "cap"),
        decision("ann", 1 * DAY),
        decision("ann", 0, "suppressed", "consent"),
    ]
    purchases = [Purchase(int(days * DAY), "ann", 100) for days in (0.5, 2, 3, 4.5)]
    assert tallies(decisions, purchases, TERMS)["cart"].treated == Tally(1, 1, 200, 40_000)


def test_who_was_drawn_stays_in_his_group() -> None:
    """When the share changes, the first decision counts."""
    decisions = [decision("ann", 0, "suppressed", "holdout"), decision("ann", DAY)]
    assert tallies(decisions, [], TERMS)["cart"] == Groups(holdout=Tally(1))


def test_campaigns_have_their_own_windows_and_do_not_add_up() -> None:
    decisions = [decision("ann", 0, campaign="a"), decision("ann", 2 * DAY, campaign="b")]
    found = tallies(decisions, [Purchase(4 * DAY, "ann", 50), Purchase(1, "bob", 10)], TERMS)
    assert {name: groups.treated for name, groups in found.items()} == {
        ALL: Tally(1),
        "a": Tally(1),
        "b": Tally(1, 1, 50, 2500),
    }


NESTED = {"none": Terms(DAY, 0), "few": Terms(WINDOW, 500), "many": Terms(DAY, 1000)}


@pytest.mark.parametrize(
    ("where", "campaign", "held", "in_all"),
    [
        (100, "few", True, "holdout"),
        (100, "many", True, "holdout"),
        (499, "many", True, "holdout"),
        (500, "many", True, "treated"),  # campaign "few" may write to him
        (500, "few", False, "treated"),
        (1000, "many", False, "treated"),
        (100, "none", False, ""),  # everybody gets it: no part of what is measured
        (100, "another", False, ""),
    ],
)
def test_in_all_held_out_are_whom_all_campaigns_hold_out(
    where: int, campaign: str, held: bool, in_all: str
) -> None:
    told = ("suppressed", "holdout") if held else ("sent", "")
    found = tallies([decision("ann", 0, *told, campaign, where)], [Purchase(2 * DAY, "ann", 5)], NESTED)
    tally = Tally(1, 1, 5, 25)
    assert found.get(ALL, Groups()) == (Groups(**{in_all: tally}) if in_all else Groups())
    assert found.keys() - {ALL} == ({campaign} & NESTED.keys())


def test_each_campaign_is_measured_on_its_own_terms() -> None:
    """Window and share; without any holdout there is nothing to compare, but all are told of."""
    decisions = [decision(f"u{n}", 0, campaign=name) for n in range(99) for name in NESTED]
    found = lift_of(decisions, [Purchase(2 * DAY, "u1", 5)], NESTED)
    assert {name: each.treated.converters for name, each in found.items()} == {
        ALL: 1,
        "none": 0,
        "few": 1,
        "many": 0,
    }
    assert {name: each.split_p for name, each in found.items()} == {
        ALL: split(99, 0, 0.05),
        "none": 1,
        "few": split(99, 0, 0.05),
        "many": split(99, 0, 0.1),
    }
    assert tallies(decisions, [], {"none": NESTED["none"]})[ALL].treated.users == 99


# Against an oracle

users = st.sampled_from("abcdef")
decisions_ = st.lists(
    st.builds(
        lambda user, time, said, campaign: decision(user, time, said[0], said[1], campaign),
        users,
        st.integers(0, 9),
        st.sampled_from(WHO),
        st.sampled_from(["x", "y"]),
    ),
    max_size=12,
)
purchases_ = st.lists(st.builds(Purchase, st.integers(0, 14), users, st.integers(0, 9)), max_size=12)
GROUP_OF = {(outcome, reason): group for outcome, reason, group in WHO}


def oracle(decisions: list[dict[str, Any]], purchases: list[Purchase], window: int, name: str) -> Groups:
    """User by user, by the words of the module's docstring."""
    bought: dict[str, list[list[int]]] = {"treated": [], "holdout": []}
    for user in "abcdef":
        mine = [each for each in decisions if each["user"] == user and name in (ALL, each["campaign"])]
        eligible = [(each["time"], GROUP_OF[each["outcome"], each["reason"]]) for each in mine]
        eligible = [each for each in eligible if each[1]]
        if eligible:
            # At one time, being treated goes before being held out: the groups' order has no other meaning.
            time, group = min(eligible, key=lambda each: (each[0], each[1] == "holdout"))
            bought[group].append(
                [p.cents for p in purchases if p.user == user and 0 < p.time - time <= window]
            )
    return Groups(
        *(
            Tally(
                len(each),
                sum(len(cents) > 0 for cents in each),
                sum(sum(cents) for cents in each),
                sum(sum(cents) ** 2 for cents in each),
            )
            for each in (bought["treated"], bought["holdout"])
        )
    )


@given(decisions_, purchases_, st.integers(1, 6), st.randoms(use_true_random=False))
def test_tallies_are_those_of_the_oracle_in_any_order_and_told_twice(
    decisions: list[dict[str, Any]], purchases: list[Purchase], window: int, random: Random
) -> None:
    told = [*decisions, *decisions]
    random.shuffle(told)
    terms = dict.fromkeys("xy", Terms(window, 1000))
    found = tallies(told, random.sample(purchases, len(purchases)), terms)
    names = {name for name in (ALL, "x", "y") if oracle(decisions, [], window, name) != Groups()}
    assert found == {name: oracle(decisions, purchases, window, name) for name in names}


@given(st.lists(st.lists(st.integers(0, 10**9), max_size=3), max_size=9), st.integers(0, 9))
def test_tallies_of_parts_merge_to_that_of_the_whole(bought: list[list[int]], cut: int) -> None:
    whole, first = tally(bought), tally(bought[:cut])
    first.merge(tally(bought[cut:]))
    assert first == whole
    sums = [sum(each) for each in bought]
    assert (whole.users, whole.revenue) == (len(sums), sum(sums))
    if len(sums) > 1:
        assert whole.variance == pytest.approx(variance(sums), rel=1e-12)


def test_sums_of_large_amounts_stay_exact() -> None:
    """A mean of 10⁹ cents that varies by 1 would lose its variance in floating point."""
    assert tally([[10**9], [10**9 + 1], [10**9 + 2]]).variance == 1


# Against published figures


@pytest.mark.parametrize(
    ("a", "n_a", "b", "n_b", "low", "high"),
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0),
        (10, 10, 0, 10, 0.6075, 1.0),
    ],
)
def test_differences_of_rates_are_those_published(
    a: int, n_a: int, b: int, n_b: int, low: float, high: float
) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 873–890), table II, method 10."""
    found = newcombe(a, n_a, b, n_b)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.value == pytest.approx(a / n_a - b / n_b)


def test_a_difference_to_nobody_is_unknown() -> None:
    assert newcombe(3, 10, 0, 0) == newcombe(0, 0, 3, 10) == Estimate(0, -1, 1)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_rates_are_those_published(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, 857–872), table I, method 3."""
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_a_rate_is_the_set_that_the_score_test_does_not_refuse(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    found = wilson(successes, n)
    for end in {found.low, found.high} - {0.0, 1.0}:
        score = (successes / n - end) / sqrt(end * (1 - end) / n)
        assert abs(score) == pytest.approx(norm.ppf(0.975), rel=1e-6)
    assert 0 <= found.low <= found.value <= found.high <= 1


amounts = st.lists(st.integers(0, 5000), min_size=2, max_size=30).filter(lambda each: len(set(each)) > 1)


@given(amounts, amounts)
def test_revenue_a_user_is_compared_as_welch_does(a: list[int], b: list[int]) -> None:
    found = welch(tally([x] for x in a), tally([x] for x in b))
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
    assert found.value == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)


def test_a_group_without_variance_bounds_nothing() -> None:
    some = tally([[100], [], [50]])
    for other in (Tally(), tally([[7]]), tally([[], [], []]), tally([[7], [7]])):
        assert (welch(some, other).low, welch(other, some).high) == (-inf, inf)


def test_the_detectable_difference_by_hand() -> None:
    """10 % of 10,000 and 10,000: (1.95996 + 0.84162) · √(0.1 · 0.9 · 2 / 10,000) = 1.1886 points."""
    assert detectable(2000, 10_000, 10_000) == pytest.approx(0.011886, abs=5e-7)
    assert detectable(0, 10, 10) is detectable(20, 10, 10) is detectable(3, 10, 0) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_so_large_is_found_80_times_of_100(sign: int) -> None:
    """Rates that differ by it, and are 10 % together."""
    least = detectable(1000, 9000, 1000)
    assert least is not None
    treated, held = 0.1 + sign * 0.1 * least, 0.1 - sign * 0.9 * least
    rng = np.random.default_rng(6)
    drawn = zip(rng.binomial(9000, treated, 4000), rng.binomial(1000, held, 4000), strict=True)
    ends = [newcombe(int(a), 9000, int(b), 1000) for a, b in drawn]
    assert np.mean([each.low > 0 or each.high < 0 for each in ends]) == pytest.approx(0.8, abs=0.04)


# The split


@given(st.integers(200, 5000), st.integers(200, 5000), st.integers(10, 90))
def test_the_check_of_the_split_is_chi_square(treated: int, held: int, percent: int) -> None:
    n, share = treated + held, percent / 100
    expected = chisquare([held, treated], [n * share, n * (1 - share)]).pvalue
    assert split(treated, held, share) == pytest.approx(expected, rel=1e-6, abs=1e-300)


@given(st.integers(0, 190), st.integers(0, 9))
def test_of_few_users_it_is_exact(treated: int, held: int) -> None:
    tails = [
        binomtest(held, treated + held, 0.05, alternative=side).pvalue if treated + held else 1.0
        for side in ("less", "greater")
    ]
    assert split(treated, held, 0.05) == pytest.approx(min(1, 2 * min(tails)), rel=1e-9)


def test_a_split_without_holdout() -> None:
    assert split(100, 0, 0.0) == split(0, 100, 1.0) == split(0, 0, 0.1) == 1
    assert split(100, 1, 0.0) == split(1, 100, 1.0) == 0
    with pytest.raises(ValueError, match="share"):
        split(1, 1, 10)


@pytest.mark.parametrize(("n", "share"), [(30, 0.01), (300, 0.01), (1200, 0.01), (3000, 0.05), (50_000, 0.1)])
def test_a_good_split_hardly_ever_alarms(n: int, share: float) -> None:
    """At most twice as often as said, for small groups, too."""
    held = np.random.default_rng(n).binomial(n, share, 20_000)
    alarms = {int(h): split(n - int(h), int(h), share) < SPLIT_ALARM for h in np.unique(held)}
    assert np.mean([alarms[int(h)] for h in held]) <= 2 * SPLIT_ALARM


@pytest.mark.parametrize("salt", ["tidewise", "a", "b", "c", "d"])
def test_the_hash_splits_as_configured_and_a_loss_is_found(salt: str) -> None:
    held = sum(bucket(f"u{n}", salt) < 0.1 * BUCKETS for n in range(20_000))
    assert split(20_000 - held, held, 0.1) > SPLIT_ALARM
    assert split(20_000 - held, held, 0.2) < SPLIT_ALARM
    assert split(round(0.85 * (20_000 - held)), held, 0.1) < SPLIT_ALARM


# Simulated shops

SEEDS, USERS, SHARE = 100, 20_000, TERMS["cart"].share
RATE, MEDIAN, SPREAD = 0.05, 3000, 0.6
"""Of whom nobody writes to: how many buy, the median of what they spend, in cents, and σ of its logarithm."""


def shop(seed: int, rate_up: float, spend_up: float) -> tuple[I64, NDArray[np.bool_]]:
    """Cents [USERS] of each user (−1: bought nothing) and whether he is held out."""
    rng = np.random.default_rng([6, seed])
    held = rng.random(USERS) < SHARE
    buys = rng.random(USERS) < np.where(held, RATE, RATE + rate_up)
    spent = np.exp(rng.normal(np.log(MEDIAN), SPREAD, USERS)) * np.where(held, 1, 1 + spend_up)
    return np.where(buys, np.rint(spent), -1).astype(np.int64), held


def summed(cents: I64) -> Tally:
    """The tally of users by arrays: what `Tally.add` does one by one."""
    bought = cents[cents >= 0]
    return Tally(len(cents), len(bought), int(bought.sum()), int((bought**2).sum()))


@pytest.mark.parametrize(("rate_up", "spend_up"), [(0.0, 0.0), (0.02, 0.1)])
def test_intervals_hold_the_truth_in_93_of_100_shops(rate_up: float, spend_up: float) -> None:
    usual = MEDIAN * np.exp(SPREAD**2 / 2) / 100
    truth = usual * ((RATE + rate_up) * (1 + spend_up) - RATE)
    found = []
    for seed in range(SEEDS):
        cents, held = shop(seed, rate_up, spend_up)
        found.append(lift(Groups(summed(cents[~held]), summed(cents[held])), TERMS["cart"]))
    assert sum(each.difference.low <= rate_up <= each.difference.high for each in found) >= 93
    assert sum(each.per_user.low <= truth <= each.per_user.high for each in found) >= 93
    assert not any(each.broken for each in found)
    # They are not merely wide: a planted effect is hardly ever called chance.
    assert np.mean([each.per_user.value for each in found]) == pytest.approx(truth, abs=0.05)
    called = [("chance explains" in each.sentence, each.per_user.low > 0) for each in found]
    assert (np.mean(called, axis=0) > 0.75).all() if rate_up else (np.mean(called, axis=0) < 0.08).all()


def test_the_reader_finds_what_the_arrays_say() -> None:
    """The same shop as decisions and purchases."""
    cents, held = shop(0, 0.02, 0.1)
    decisions = [
        decision(f"u{n}", n, *(("suppressed", "holdout") if out else ("sent", "")))
        for n, out in enumerate(held)
    ]
    purchases = [Purchase(n + HOUR, f"u{n}", int(c)) for n, c in enumerate(cents) if c >= 0]
    found = lift_of(decisions, purchases, {"cart": TERMS["cart"]})
    expected = lift(Groups(summed(cents[~held]), summed(cents[held])), TERMS["cart"])
    assert found == {ALL: expected, "cart": expected}


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "engagement.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page.partition("\n## Lift\n")[2], re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.startswith("Nothing to compare: there are no users held out yet")


# What is said


def groups(treated: int, converted: int, held: int, held_converted: int) -> Groups:
    """Who converted spent 9, 10 or 11 in turn."""

    def one(users: int, converters: int) -> Tally:
        return tally([[900 + 100 * (n % 3)] if n < converters else [] for n in range(users)])

    return Groups(one(treated, converted), one(held, held_converted))


def test_lift_by_hand() -> None:
    """5 % of 9,000 and 4 % of 1,000; an order is 10.00 on average, but the last of the 40 is 9.00."""
    found = lift(groups(9000, 450, 1000, 40), TERMS["cart"])
    assert (found.treated.users, found.treated.converters, found.treated.revenue) == (9000, 450, 4500.0)
    assert (found.holdout.users, found.holdout.converters, found.holdout.revenue) == (1000, 40, 399.0)
    assert found.difference.value == pytest.approx(0.01)
    assert found.relative == pytest.approx(0.25)
    assert found.per_user.value == pytest.approx(0.5 - 0.399)
    assert found.in_total.value == pytest.approx(9000 * 0.101)
    assert found.in_total.low == pytest.approx(9000 * found.per_user.low)
    assert found.split_p == 1
    assert json.loads(orjson.dumps(found))["per_user"]["value"] == found.per_user.value


SAID = [
    (
        groups(9000, 450, 1000, 40),
        "Within 3 days 5.00% of 9,000 users who may get messages bought, and 4.00% of 1,000 held out: "
        "+1.00 percentage points (-0.47 to +2.15), which may be chance: among so few, 2.02 would be "
        "found reliably. In money: +0.10 a user (-0.03 to +0.23), +909 in all (-260 to +2,078).",
    ),
    (
        groups(9000, 900, 1000, 40),
        "+6.00 percentage points (+4.47 to +7.23), more than chance explains. In money: ",
    ),
    (groups(9000, 360, 1000, 90), "-5.00 percentage points (-6.97 to -3.32), more than chance explains."),
    (
        groups(9, 1, 1, 0),
        "which may be chance: among so few, 88.59 would be found reliably. Too few have bought to",
    ),
    (
        groups(9500, 450, 500, 40),
        "Do not trust these figures: 500 of 10,000 users are held out, which does not fit",
    ),
    (
        groups(9, 2, 0, 0),
        "Nothing to compare: there are no users held out yet; the held-out share is 10.00%.",
    ),
    (Groups(), "Nothing to compare: there are no users who may get messages yet"),
]


@pytest.mark.parametrize(("sums", "said"), SAID)
def test_a_sentence_for_a_marketer(sums: Groups, said: str) -> None:
    found = lift(sums, TERMS["cart"])
    assert said in found.sentence
    assert found == replace(lift(sums, TERMS["cart"]), sentence=found.sentence)


def test_what_cannot_be_told_yet_is_null() -> None:
    found = json.loads(orjson.dumps(lift(Groups(), TERMS["cart"])))
    assert (found["relative"], found["detectable"], found["in_total"]["high"]) == (None, None, None)
    assert (found["difference"], found["broken"]) == ({"value": 0.0, "low": -1.0, "high": 1.0}, False)


def test_more_converters_than_users_are_refused() -> None:
    with pytest.raises(ValueError, match="of 1 users 2 cannot convert"):
        lift(Groups(treated=Tally(1, 2)), TERMS["cart"])
