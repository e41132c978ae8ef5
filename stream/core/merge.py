"""An anonymous user becomes a known one, at `sign_up` and `login`: once, wherever the two live.

Three steps, each an event of its partition's log, so that a replay takes them at the same places:

1. The known user's partition reads the login. It notes the login's position in the user's state (``asked``)
   and sends the anonymous user's partition a *request*.
2. That partition answers with everything it holds of the anonymous user at this place of its log
   (history, cart, what he prefers), and begins anew with him: an anonymous id is handed over once.
3. The known user's partition reads the answer. If it still waits for it, it takes everything over.

What was counted of the anonymous history stays counted and is not counted again; pairs between the two
histories are made by what comes next. Both histories become one by time (of equal times his own first);
the last L stay. Interest is what `interest.add` makes of the interactions that came, after the user's own. A
`forget` between login and answer makes the answer void. An id whose events ever carried `user` (as far as
engagement saw them) is nobody's device, and hands nothing over. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.bought import Bought
from stream.core.engaged import CartLine, Preference, Seen, UserState, observe
from stream.core.interest import add
from stream.core.users import Rows
from stream.core.weights import Decay
from stream.events import CODE, MERGED, REQUEST, Event, Line
from stream.mail import position_of

if TYPE_CHECKING:
    from stream.codec import Columns

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

FORGET = CODE["forget"]
_LOGINS = (CODE["sign_up"], CODE["login"])
_FOLLOWED = {FORGET, REQUEST, MERGED, *_LOGINS}
ASKED = 64
"""Answers a user may wait for at a time; the one waited for longest is given up."""


class Request(msgspec.Struct, frozen=True):
    """The body of a request: hand ``anonymous`` over to ``user``. ``time`` is the login's, in ms."""

    time: int
    user: str
    anonymous: str


class Answer(msgspec.Struct, frozen=True):
    """The body of an answer. ``asked`` is the login's position, ``time`` its time in ms.

    ``seen`` interactions ever, ``newest`` the greatest time of one in ms; ``history`` of item, second and
    kind, in order; ``cart`` of item, pieces and price, as of its last change ``changed`` in ms;
    ``attributes`` are what was preferred; ``bought`` of item and second, what was bought last.
    """

    time: int
    user: str
    anonymous: str
    asked: int
    seen: int = 0
    newest: int = 0
    history: list[tuple[str, int, int]] = []
    cart: list[tuple[str, int, float | None]] = []
    changed: int = 0
    attributes: dict[str, Preference] = {}
    bought: list[tuple[str, int]] = []


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the step sees it: to whom, and the position of the login."""

    user: str
    position: int


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as the step sees it: ``item``, ``second``, ``kind``, ``units`` [m] are the history's,
    ``bought`` is what was bought last, and in which second."""

    position: int
    seen: int
    newest: int
    item: I32
    second: I64
    kind: U8
    units: I64
    changed: int
    attributes: Mapping[str, Preference] = field(default_factory=dict)
    bought: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Handover:
    """What the step hands over because of event number ``at``: the answer's contents, items by local id."""

    at: int
    user: str
    position: int
    seen: int
    newest: int
    item: I32
    second: U32
    kind: U8
    cart: Mapping[str, CartLine]
    changed: int
    attributes: Mapping[str, Preference] = field(default_factory=dict)
    bought: Mapping[int, int] = field(default_factory=dict)


def event_of(message: Request | Answer) -> Event:
    """What engagement sees of a request: the end of the user's state; or of an answer: things in a cart."""
    if isinstance(message, Request):
        return Event(type="merged", time="", anonymous=message.anonymous)
    lines = [Line(item, price, quantity) for item, quantity, price in message.cart]
    return Event(type="add_to_cart" if lines else "login", time="", user=message.user, items=lines)


def answer(
    handover: Handover, request: Request, names: Sequence[str], bought: Sequence[str], most_bytes: int
) -> bytes:
    """The answer's bytes, at most so many: as much of the newest history as fits, the rest if it fits.

    ``names`` and ``bought`` are those of the items of the history, and of what was bought last.
    """
    columns = (handover.second.tolist(), handover.kind.tolist())
    history = list(zip(names, *columns, strict=True))
    cart = [(item, line.quantity, line.price) for item, line in sorted(handover.cart.items())]
    whole = Answer(
        request.time,
        request.user,
        request.anonymous,
        handover.position,
        handover.seen,
        handover.newest,
        history,
        cart,
        handover.changed,
        dict(sorted(handover.attributes.items())),
        list(zip(bought, handover.bought.values(), strict=True)),
    )
    while len(body := msgspec.json.encode(whole)) > most_bytes:
        if whole.history:
            kept = whole.history[(len(whole.history) + 1) // 2 :]
            whole = msgspec.structs.replace(whole, history=kept)
        elif whole.cart or whole.attributes or whole.bought:
            whole = msgspec.structs.replace(whole, cart=[], attributes={}, bought=[])
        else:
            break
    return body


class Facts:
    """What engagement will know of users at a place within the batch, and which answers they wait for.

    Only users who log in, are handed over or forgotten are followed. ``void`` are the numbers of requests
    and answers that change nothing.
    """

    def __init__(self, states: Mapping[str, UserState], columns: Columns, fresh: Bool) -> None:
        self.void: set[int] = set()
        self._columns, self._fresh, self._before = columns, fresh, states
        self._states: dict[str, UserState] = {}
        self._events: dict[str, list[int]] = {}
        kind = columns.kind
        followed = {columns.user[at] for at in columns.details if int(kind[at]) in _FOLLOWED}
        for at in sorted(columns.details) if followed else ():
            if columns.user[at] in followed:
                self._events.setdefault(columns.user[at], []).append(at)

    def until(self, user: str, at: int) -> UserState:
        """A user's facts before event number ``at``; it must never fall."""
        state = self._states.get(user)
        if state is None:
            state = (self._before.get(user) or UserState()).copy()
        waiting = self._events.get(user, [])
        while waiting and waiting[0] < at:
            state = self._after(state, waiting.pop(0))
        self._states[user] = state
        return state

    def asked(self) -> dict[str, tuple[int, ...]]:
        """After the batch: the positions that users wait for, of all who are followed."""
        end = len(self._columns.time)
        return {user: self.until(user, end).asked for user in sorted(self._events)}

    def _after(self, state: UserState, at: int) -> UserState:
        """The facts after an event. Requests and answers that come to nothing are noted as void."""
        columns, kind = self._columns, int(self._columns.kind[at])
        if not self._fresh[at]:
            return state
        if kind == FORGET:
            return UserState(asked=tuple(min(each, ~each) for each in state.asked))
        if kind == REQUEST:
            if not state.identified:
                return UserState(asked=state.asked)
            self.void.add(at)
        elif kind == MERGED:
            self._answered(state, at)
        else:
            _observe_all(state, columns, at)
            if kind in _LOGINS and _asks(columns.details[at]):
                position = position_of(int(columns.offset[at]), int(columns.index[at]))
                state.asked = (*state.asked, position)[-ASKED:]
        return state

    def _answered(self, state: UserState, at: int) -> None:
        given = self._columns.handed[at]
        if given.position in state.asked:
            _observe_all(state, self._columns, at)
        else:
            self.void.add(at)
        state.asked = tuple(each for each in state.asked if given.position not in (each, ~each))


def logins(columns: Columns, fresh: Bool) -> list[int]:
    """Numbers of the logins in a batch that ask for an anonymous user, in order."""
    return [
        at
        for at, event in columns.details.items()
        if event.type in ("sign_up", "login") and fresh[at] and at not in columns.handed and _asks(event)
    ]


def _asks(event: Event) -> bool:
    """Nobody is merged into himself."""
    return event.user is not None and event.anonymous is not None and event.user != event.anonymous


def seen_of(columns: Columns, at: int) -> list[Seen]:
    """An event as engagement sees it: mostly one.

    What is taken over is seen as what was done: a cart filled when it last changed, each preference told.
    """
    event, time, received = columns.details[at], int(columns.time[at]), int(columns.received[at])
    given = columns.handed.get(at)
    if not isinstance(given, Given):
        return [Seen(at, time, received, event.type, event)]
    liked = [
        (told.time, Event(type="preferences", time="", user=event.user, attributes={name: told.value}))
        for name, told in given.attributes.items()
    ]
    done = [(given.changed or time, event), *liked]
    return [Seen(at, when, received, each.type, each) for when, each in done]


def _observe_all(state: UserState, columns: Columns, at: int) -> None:
    for seen in seen_of(columns, at):
        observe(state, seen)


def hand_over(rows: Rows, row: int, state: UserState, at: int, asked: Asked) -> Handover:
    """What is handed over of the user in ``row``; nothing of one who is somebody's own."""
    held = rows.item[row] >= 0 if not state.identified else np.zeros(rows.item.shape[1], dtype=np.bool_)
    any_at_all = not state.identified
    bought = zip(rows.bought.item[row].tolist(), rows.bought.second[row].tolist(), strict=True)
    return Handover(
        at,
        asked.user,
        asked.position,
        int(rows.seen[row]) * any_at_all,
        int(rows.newest[row]) * any_at_all,
        rows.item[row, held],
        rows.time[row, held],
        rows.kind[row, held],
        dict(state.cart) if any_at_all else {},
        state.changed * any_at_all,
        dict(state.attributes) if any_at_all else {},
        {item: second for item, second in bought if item >= 0 and any_at_all},
    )


def take_over(rows: Rows, given: Given, decay: Decay, hashes: U64) -> Rows:
    """The user who is alone in ``rows`` with what was given: histories by time, interest added."""
    second = np.concatenate([rows.time[0].astype(np.int64), given.second])
    item, kind = np.concatenate([rows.item[0], given.item]), np.concatenate([rows.kind[0], given.kind])
    # Places without an item have time 0 and stand first: they stay at the left.
    order = np.argsort(second, kind="stable")[len(given.item) :]
    zeros = np.zeros(len(given.item), dtype=np.int64)
    # What stands together and is of one second and kind came as one event, as far as a history tells.
    event = np.cumsum((np.diff(given.second, prepend=-1) != 0) | (np.diff(given.kind, prepend=0) != 0))
    columns = (zeros, given.item, event, given.second * 1000, given.units)
    return replace(
        rows,
        item=item[order][None],
        time=second[order][None].astype(np.uint32),
        kind=kind[order][None],
        seen=rows.seen + given.seen,
        newest=np.maximum(rows.newest, given.newest),
        interest=add(rows.interest, *columns, decay, hashes),
        bought=_buy(rows.bought, given.bought, hashes),
    )


def _buy(before: Bought, given: Mapping[int, int], hashes: U64) -> Bought:
    item, second = (np.array(list(part), dtype=np.int64) for part in (given.keys(), given.values()))
    return before.add(np.zeros(len(given), dtype=np.int64), item.astype(np.int32), second, hashes)
