"""Notices: what one partition tells a user of another arrives once, in order, and counts for nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from stream.codec import decode
from stream.core.engaged import Seen, UserState
from stream.core.items import Items
from stream.core.messages import Evidence, NudgeItem
from stream.core.notices import Notice, Said, body_of, numbered
from stream.core.triggers.shape import HOUR_MS, Sequence, Sequenced
from stream.events import NOTICE, Told
from stream.forward import NOTICE_SENDER, NOTICED, pack
from stream.mail import source_of
from stream.posting import Poster
from stream.signing import verifier
from tests.test_forward import BODY, HERE, KEY, LIMITS, PARTITIONS, World, read, record
from tests.test_step import START_MS

TYPE = "tidewise.test"


def mail(to: str, offset: int = 3, n: int = 0, **body: Any) -> bytes:
    said = body_of(Notice(0, to, TYPE, START_MS, body))
    return pack(KEY, 1, (NOTICE_SENDER + 2, offset, n), START_MS, said, NOTICED)


def test_a_notice_is_an_event_of_its_receiver_that_acts_on_nothing() -> None:
    columns, dead = read(BODY, mail(HERE[1], price=3.5), BODY)
    assert not dead and columns.user == [HERE[1]] * 3
    assert columns.kind[1] == NOTICE and columns.units[1] == 0 and columns.event.tolist() == [0, 2]
    assert columns.sender.tolist() == [-1, NOTICE_SENDER + 2, -1]
    told = columns.details[1]
    assert isinstance(told, Told) and (told.type, told.body) == (TYPE, {"price": 3.5})
    assert told.user is None, "a notice makes nobody known"


def test_what_is_no_notice_is_a_dead_letter() -> None:
    said = msgspec.json.encode({"type": "purchase", "time": START_MS, "to": HERE[1], "body": {}})
    bodies = enumerate([said, b"{}"])
    _, dead = read(*(pack(KEY, 1, (NOTICE_SENDER, 1, n), START_MS, body, NOTICED) for n, body in bodies))
    assert len(dead) == 2
    with pytest.raises(ValueError, match="begins with tidewise"):
        Said("purchase", 0, "ann", {})


def test_notices_are_numbered_within_their_message() -> None:
    notices = [Notice(at, "ann", TYPE, 0, {"n": n}) for n, at in enumerate([2, 0, 1, 0, 3])]
    found = numbered(notices, [7, 7, 8, 9])
    assert [(offset, n, notice.body["n"]) for offset, n, notice in found] == [
        (7, 0, 1), (7, 1, 3), (7, 2, 2), (8, 0, 0), (9, 0, 4),
    ]  # fmt: skip


def test_posted_notices_are_read_by_their_receivers_partition() -> None:
    columns, _ = read(BODY, BODY)
    notices = [Notice(1, HERE[p], TYPE, START_MS, {"to": p}) for p in (0, 1, 2, 1)]
    posted = list(Poster(2, PARTITIONS, KEY).mail(notices, columns))
    assert [(each.place, each.target) for each in posted] == [((1, 0), p) for p in (0, 1, 2, 1)]
    for number, each in enumerate(posted):
        found, dead = decode([record(each.output.value)], Items(), LIMITS, verifier(KEY, each.target))
        assert not dead and found.user == [HERE[each.target]]
        assert found.source.tolist() == source_of(np.array([1]), np.array([number])).tolist()


@dataclass(frozen=True)
class Listening(Sequenced):
    """Nudges at once when it is told something."""

    kinds: ClassVar[frozenset[str]] = frozenset([TYPE])

    def anchor(self, user: UserState, seen: Seen) -> int:
        assert isinstance(seen.event, Told)
        return seen.time + int(seen.event.body["after_ms"])

    def about(self, own: Sequence, user: UserState) -> tuple[tuple[NudgeItem, ...], tuple[Evidence, ...]]:
        return (), ()


def world() -> World:
    made = World()
    for shopper in made.shoppers:
        engine = shopper.context.engine
        listening = Listening("listening", ("email",), "personalisation", 1, (0,), HOUR_MS)
        engine = replace(engine, triggers={listening.id: listening}, plan=None)
        shopper.context = replace(shopper.context, engine=engine)
    return made


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_a_trigger_sees_it_once_and_nothing_else_changes(cuts: int) -> None:
    async def run() -> World:
        made = world()
        for shopper in made.shoppers:
            await shopper.take()
        made.now = START_MS + 5000
        first, second = mail(HERE[1], after_ms=60_000), mail(HERE[1], 3, 1, after_ms=90_000)
        for value in (first, first, second, first, second):
            made.append(1, value)
        while made.shoppers[1].delivery.position("events") < 5:
            await made.process(1, cuts)
        return made

    made = asyncio.run(run())
    meta, keys = made.shoppers[1].meta, made.store.keys
    assert (meta.notices, meta.mail_repeats, meta.mail, meta.accepted) == (2, 3, 0, 0)
    state = UserState.unpack(made.store.strings[keys.engagement("u1", HERE[1])])
    assert {rule: timer.due for rule, timer in state.pending.items()} == {"listening": START_MS + 90_000}
    assert not state.identified and keys.user("u1", HERE[1]) not in made.store.strings
