from __future__ import annotations

from typing import Any

import numpy as np

from stream.kin import AT_ONCE, ROUNDS, Kin


class Hood:
    """Items of which the even ones have no list; each is like the two after it."""

    items = range(1000)

    def cold(self, items: Any) -> Any:
        return items[items % 2 == 0]

    def cold_kin(self, items: Any) -> Any:
        return self.cold(np.unique(np.concatenate([items + 1, items + 2])))


def kin() -> Kin:
    hood: Any = Hood()
    return Kin(hood)


def test_lists_are_due_once_no_more_comes() -> None:
    found = kin()
    assert found.due().tolist() == []
    found.described.update([1, 5])
    assert found.due().tolist() == []
    found.described.add(8)
    assert found.due().tolist() == []
    assert found.due().tolist() == [2, 6, 10]
    assert found.due().tolist() == []
    assert not found.described


def test_after_many_rounds_they_are_due_though_more_comes() -> None:
    found = kin()
    for at in range(ROUNDS - 1):
        found.described.add(at)
        assert not len(found.due())
    found.described.add(ROUNDS)
    assert len(found.due())


def test_of_many_all_are_due_some_at_a_time() -> None:
    found = kin()
    found.described.update(range(AT_ONCE + 1))
    found.due()
    rounds = [found.due().tolist() for _ in range(5)]
    assert [len(each) for each in rounds] == [AT_ONCE, AT_ONCE, AT_ONCE, 500 - 3 * AT_ONCE, 0]
    assert [at for each in rounds for at in each] == list(range(0, 1000, 2))
