"""Computed codes of coupons: never twice, read back by who knows the secret, and by nobody else."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.codes import ALPHABET, MOST, Computed, typed

SECRET = b"a secret of this shop"
MAY = Computed(SECRET, "spring", "may", "MAY", 5_000)


def test_a_code_looks_like_this() -> None:
    assert MAY[0] == FIRST
    assert Computed(SECRET, "spring", "may", "", 1)[0] == FIRST.removeprefix("MAY-")
    assert len(MAY) == 5_000 and MAY[1:3] == [MAY[1], MAY[2]]
    with pytest.raises(IndexError):
        MAY[5_000]
    assert SECRET.decode() not in repr(MAY)


FIRST = "MAY-YDD1-FD91-CPTW-07V0"


def test_no_code_comes_twice_and_none_resembles_the_one_before() -> None:
    codes = MAY[:]
    assert len(set(codes)) == 5_000
    alike = sum(a == b for one, two in pairwise(codes) for a, b in zip(one, two, strict=True))
    assert alike / 5_000 == pytest.approx(7 + 16 / 32, abs=0.05), (
        "seven are MAY- and hyphens, the rest chance"
    )


numbers = st.integers(0, MOST - 1)


@given(numbers, st.sampled_from(["", "MAY", "BLACK-FRIDAY", "O0I1"]))
def test_a_number_is_read_out_of_its_code_however_it_is_typed(number: int, prefix: str) -> None:
    codes = Computed(SECRET, "spring", "may", prefix, MOST)
    code = codes[number]
    for said in (code, code.lower(), code.replace("-", ""), f" {code.replace('-', ' ')} "):
        assert codes.number(said) == number


def test_o_is_taken_for_0_and_i_and_l_for_1() -> None:
    plain = Computed(SECRET, "spring", "may", "", 1000)
    code = next(code for code in plain if "0" in code and code.count("1") > 1)
    wanted = plain.number(code)
    assert plain.number(code.replace("0", "O").replace("1", "l", 1).replace("1", "i")) == wanted is not None


@given(numbers, st.integers(0, 15), st.sampled_from(ALPHABET))
def test_a_wrong_character_is_found_without_the_secret(number: int, at: int, wrong: str) -> None:
    bare = Computed(SECRET, "spring", "may", "", MOST)[number].replace("-", "")
    mistyped = bare[:at] + wrong + bare[at + 1 :]
    assert (typed(mistyped, "") is None) == (wrong != bare[at])


@pytest.mark.parametrize(
    "code", ["", "MAY", "MAY-", FIRST[:-1], FIRST + "0", "JUN" + FIRST[3:], FIRST[:-1] + "U"]
)
def test_what_is_no_code_is_none(code: str) -> None:
    assert typed(code, "MAY") is None and MAY.number(code) is None


@pytest.mark.parametrize(
    "other",
    [
        Computed(b"another secret", "spring", "may", "MAY", MOST),
        Computed(SECRET, "summer", "may", "MAY", MOST),
        Computed(SECRET, "spring", "june", "MAY", MOST),
    ],
)
def test_codes_of_another_secret_campaign_or_pool_are_none(other: Computed) -> None:
    assert not any(MAY.number(code) is not None for code in other[:500])
    assert not set(MAY[:500]) & set(other[:500])


def test_a_code_beyond_the_last_is_not_given_out_yet() -> None:
    more = Computed(SECRET, "spring", "may", "MAY", 5_001)
    assert more[:20] == MAY[:20] and more.number(more[5_000]) == 5_000
    assert MAY.number(more[5_000]) is None


@settings(max_examples=200)
@given(st.text(ALPHABET, min_size=15, max_size=15))
def test_a_guess_is_wrong(guess: str) -> None:
    """Also one with the right check character, in a pool of all the codes that there may be."""
    whole = Computed(SECRET, "spring", "may", "", MOST)
    codes = [guess + each for each in ALPHABET]
    assert sum(typed(code, "") is not None for code in codes) == 1
    assert all(whole.number(code) is None for code in codes)


def test_the_page_shows_how_to_verify_one(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "engagement.md").read_text()
    (shown,) = re.findall(r"```python\n(from stream.core.codes.*?)```", page, re.DOTALL)
    exec(shown, {})
    assert capsys.readouterr().out == "0\n"
