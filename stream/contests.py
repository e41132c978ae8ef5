"""Drawing a contest from the states of users: who may take part, who wins."""

from __future__ import annotations

import re
from dataclasses import dataclass

from state.keys import Keys
from state.store import Store
from stream.core import noise
from stream.core.engaged import UserState
from stream.core.loyalty import Drawn, Entries, draw, entries_hash
from stream.core.noise import Noise
from stream.settings import Settings

PORTION = 1000
"""Users read from the store in one trip."""


@dataclass(frozen=True, slots=True)
class Draw:
    """A draw as it is published: ``hash`` is that of the entry list (`entries_hash`)."""

    contest: str
    seed: str
    users: int
    entries: int
    hash: str
    left_out: int
    winners: list[Drawn]


async def entered(settings: Settings, store: Store, contest: str, purpose: str) -> tuple[list[Entries], int]:
    """The entries of users who are known and granted the purpose, by user, and how many users were left out.

    Test accounts do not take part. About 50 µs a user in the store. Raises what the store raises.
    """
    keys, found = Keys(settings.prefix), set[str]()
    async for key in store.scan(keys.engagement("u*", "*")):
        found.add(key)
    begin = re.compile(re.escape(settings.prefix) + r":\{u\d+\}:engagement:")
    known = sorted(key for key in found if begin.match(key))
    entries, left_out = list[Entries](), 0
    for at in range(0, len(known), PORTION):
        portion = known[at : at + PORTION]
        users = [begin.sub("", key, count=1) for key in portion]
        tests = noise.test_accounts(Noise.of(settings), users).tolist()
        for user, blob, test in zip(users, await store.get(portion), tests, strict=True):
            state = UserState.unpack(blob)
            number = state.loyalty.entries.get(contest, 0)
            if number and not test and _may(state, purpose):
                entries.append(Entries(user, number))
            else:
                left_out += number > 0
    return sorted(entries), left_out


def _may(state: UserState, purpose: str) -> bool:
    choice = state.purposes.get(purpose)
    return state.identified and choice is not None and choice.granted


def drawn(entries: list[Entries], left_out: int, contest: str, seed: str, winners: int) -> Draw:
    """The draw among entries."""
    return Draw(
        contest=contest,
        seed=seed,
        users=len(entries),
        entries=sum(each.number for each in entries),
        hash=entries_hash(entries),
        left_out=left_out,
        winners=draw(entries, contest, seed, winners),
    )
