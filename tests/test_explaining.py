"""What `tidewise explain` tells, of a worker in memory."""

from __future__ import annotations

from typing import Any

import pytest

from stream.explaining import Explained, Unexplained, explained_by
from tests.test_cold_start import Worker
from tests.test_segments import rise

SHELF = {f"i{n}": {"color": "red" if n % 2 else "blue", "kind": f"k{n % 3}"} for n in range(12)}


async def shop(**given: Any) -> Worker:
    """Ten users look at everything in an order of their own; ann only at `i0` and `i1`."""
    worker = Worker(list_items=6, **given)
    await worker.start(SHELF)
    for user in range(10):
        for step in range(8):
            item = f"i{(user * 5 + step * (1 + user % 3)) % 12}"
            await worker.send(f"u{user}", "view_item", user * 100 + step, item=item)
    await worker.settle()
    for item in ("i0", "i1"):
        # On another day: whom the catalogue makes most alike is looked up once a day.
        await worker.send("ann", "view_item", 2 * 86_400, item=item)
    return worker


async def tell(worker: Worker, item: str, user: str = "ann") -> Explained:
    local = worker.local
    return await explained_by(worker.settings, local.store, local.items, local.follower, user, item)


def rule(do: str, when: str, **given: Any) -> dict[str, Any]:
    return {"do": do, "when": when, **given}


async def test_it_adds_up_to_the_published_score() -> None:
    """The stored mixture is that of the list, and nothing was counted since."""
    worker = await shop()
    listed = worker.list_of("ann")
    assert len(listed) == 6
    for place, line in enumerate(listed, 1):
        found = await tell(worker, line["item"])
        assert found.published is not None
        assert (found.published.place, found.published.because) == (place, tuple(line["because"]))
        assert found.explanation.score == pytest.approx(line["score"], rel=1e-6)
        assert found.learned > 0
        assert [(step.step, step.place) for step in found.steps] == [("score", place)]


async def test_a_user_held_out_of_lists_is_explained_as_the_stranger_he_is_served_as() -> None:
    worker = await shop(holdout_lists=True, holdout_percent=50.0)
    rise(worker.local.follower, [("i1", 5.0), ("i2", 4.0)])
    told = set()
    for n in range(10):
        user = f"u{n}"
        await worker.send(user, "view_item", 3 * 86_400, item="i0")
        for line in worker.list_of(user):
            found = await tell(worker, line["item"], user)
            assert found.explanation.score == pytest.approx(line["score"], rel=1e-6)
            told.add((line["strategy"] == "trending", len(found.notes)))
    assert told == {(True, 1), (False, 0)}


async def test_each_step_after_scoring_is_told() -> None:
    plain = [line["item"] for line in (await shop()).list_of("ann")]
    worker = await shop(
        rules=[
            rule("exclude", f'item == "{plain[0]}"'),
            rule("boost", f'item == "{plain[2]}"', factor=1000.0),
            rule("pin", f'item == "{plain[3]}"', position=1),
            rule("limit", f'item == "{plain[4]}"', most=0),
        ]
    )
    steps = ["score", "rules: exclude", "rules: boost", "rules: pin", "rules: limit"]
    expected = {
        plain[0]: [1, None, None, None, None],
        plain[1]: [2, 1, 2, 3, 3],
        plain[2]: [3, 2, 1, 2, 2],
        plain[3]: [4, 3, 3, 1, 1],
        plain[4]: [5, 4, 4, 4, None],
        plain[5]: [6, 5, 5, 5, 4],
    }
    for item, places in expected.items():
        found = await tell(worker, item)
        assert [step.step for step in found.steps] == steps
        assert [step.place for step in found.steps] == places
        assert found.notes == ["rules see no device, place or channel here: these are not kept"]
        assert (found.published is None) == (places[-1] is None)


async def test_rotation_and_diversity_are_steps_where_they_are_in_use() -> None:
    worker = await shop(diversity=0.9)
    first = worker.list_of("ann")[0]["item"]
    assert [step.step for step in (await tell(worker, first)).steps] == ["score", "diversity"]
    for n in range(8):
        shown = {"list": f"x{n}", "items": [{"item": first, "strategy": "item-item"}]}
        await worker.send("ann", "recommendation_shown", 2 * 86_400 + 60 + n, **shown)
    steps = {step.step: step.place for step in (await tell(worker, first)).steps}
    assert list(steps) == ["score", "rotation", "diversity"]
    assert steps["rotation"] is None or (steps["score"] or 0) < steps["rotation"]


async def test_who_and_what_nobody_knows_cannot_be_explained() -> None:
    worker = await shop()
    with pytest.raises(Unexplained, match="nothing is known of user bob yet"):
        await tell(worker, "i0", "bob")
    with pytest.raises(Unexplained, match="nothing is known of item i99 yet"):
        await tell(worker, "i99")


async def test_what_was_bought_is_told_with_its_times() -> None:
    worker = await shop(exclude_bought_s=86_400)
    await worker.send("ann", "purchase", 3 * 86_400, item="i2", order="o")
    found = await tell(worker, "i2")
    assert (found.explanation.status, found.published) == ("barred", None)
    (reason,) = found.explanation.reasons
    assert reason.startswith("it was bought at 2026-01-04T00:00:00.000Z: left out until 2026-01-05T00:00")
    assert found.explanation.score > 0
    assert (await tell(worker, "i3")).explanation.status == "ranked"
