"""Protocols: what of a data set counts, who is asked when, and what the right answers are.

* `leave-one-out` (strict, as the tables of S3-Rec, TIGER, eSASRec): a user's last event is the test, the one
before the
  validation. Counts and learning come from everything before the validation event; the query is the user with
  all but the last; all items are ranked, those he had are left out.
* `sessions`: counts from the training file; each click of the test file after a session's first is predicted
from
  those before it, if its item is known from training; of session pairs what they ask for. Nothing is left
  out. The test changes users, not
  counts, and nothing is learned from it; with ``online`` it counts and teaches as it comes.
* `next-basket`: baskets from a moment on are predicted, each from everything strictly before it; they count
and teach as
  they come. ``static``: nothing of the test period counts but the users' own baskets. Without times, the last
  basket of each user is the target.
* `prequential`: every event is predicted before it counts (Dawid 1984; Gama et al. 2013), from the second of
a user.

What is the same everywhere: the settings, but that nothing is left out as bought or taken for noise. Lists
are as shown: rules, diversity and exposure bounds count; only exploration and rotation are off, for the data
tell nothing of what was seen.
Models among the `components` are fitted from what has counted until then, ten times and before a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stream.evaluation.engine import Engine, Lines, steps
from stream.evaluation.history import History, HistoryError, together
from stream.evaluation.measures import MONDAY_MS, WEEK_MS, Answers
from stream.settings import Settings

Bool = NDArray[np.bool_]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

Progress = Callable[[int, int], None]
"""Called with interactions done and of all."""
PROTOCOLS = ("leave-one-out", "sessions", "next-basket", "prequential")
_QUERIES = 512
REFRESHES = 10
"""Models are fitted anew after each tenth of a history, and before a test begins."""


def settings_for(settings: Settings, size: int | None = None) -> Settings:
    """The settings in which a data set is evaluated: one partition, all users in memory, nothing left out;
    with a ``size``, lists of that length.
    """
    return settings.model_copy(
        update={
            "partitions": 1, "cached_users": 10_000_000, "exclude_bought_s": 0.0, "repeat_s": 0,
            "bot_events": 0, "explore_share": 0.0, "rotation": 1.0,
            "list_items": settings.list_items if size is None else size,
        }
    )  # fmt: skip


@dataclass
class Asked:
    """Gathers queries and their answers."""

    size: int
    lists: list[I32] = field(default_factory=list)
    counts: list[I64] = field(default_factory=list)
    targets: list[I32] = field(default_factory=list)
    user: list[I32] = field(default_factory=list)
    time_ms: list[I64] = field(default_factory=list)

    def add(self, lists: I32, row: I64, item: I32, user: I32, time_ms: I64) -> None:
        """Lists [q, K] with their targets: ``row`` [t] ascending, ``item`` [t]."""
        self.lists.append(lists)
        self.counts.append(np.bincount(row, minlength=len(lists)))
        self.targets.append(item)
        self.user.append(user)
        self.time_ms.append(time_ms)

    def answers(self) -> Answers:
        """All of them. Raises HistoryError when nobody was asked."""
        if not self.lists:
            raise HistoryError("there is nothing to predict: no user has enough events for this protocol")
        counts = np.concatenate(self.counts)
        return Answers(
            np.concatenate(self.lists),
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate(self.targets).astype(np.int32),
            np.concatenate(self.user),
            np.concatenate(self.time_ms),
        )


@dataclass
class Run:
    """One evaluation: an engine over a history. ``size`` is the length of the lists; with ``alone`` each
    channel of the mixture is asked for its own lists, too: `single`."""

    settings: Settings
    history: History
    size: int = 20
    progress: Progress = lambda done, total: None
    alone: bool = False

    def __post_init__(self) -> None:
        self.engine = Engine(settings_for(self.settings, self.size), self.history.users, self.history.items)
        self.asked = Asked(self.size)
        self._single: dict[str, list[I32]] = {}
        self._had = np.zeros(len(self.history.users), dtype=np.bool_)
        self._done = 0

    async def open(self) -> None:
        """Begin with the catalogue."""
        await self.engine.open(self.history.catalog)

    async def count(self, part: History, learn: bool = True, pairs: bool = True) -> None:
        """Let events count, without asking."""
        for at in steps(part.user, part.event):
            await self._count(part, at, learn, pairs)

    async def test(self, part: History, wanted: Bool, learn: bool, pairs: bool) -> None:
        """Ask for each event's user before the event counts; ``wanted`` [N] are its targets.

        What up to 64 events of different users change reaches lists together, so that some are made from a
        little less than there is: one by one gives the same figures at eight times the time.
        """
        for at in steps(part.user, part.event):
            held = np.flatnonzero(wanted[at] & self._had[part.user[at]]) + at.start
            if len(held):
                await self._ask(part, held)
            await self._count(part, at, learn, pairs)

    async def _ask(self, part: History, held: I64) -> None:
        users, first = np.unique(part.user[held], return_index=True)
        time_ms = part.time_ms[held[first]]
        row = np.searchsorted(users, part.user[held])
        order = np.argsort(row, kind="stable")
        lists = await self.engine.rank(users.tolist(), time_ms, _NOTHING)
        if self.alone:
            for name, found in (await self.engine.alone(users.tolist(), time_ms, self.size)).items():
                self._single.setdefault(name, []).append(found)
        self.asked.add(lists, row[order], part.item[held][order], users, time_ms)

    def single(self) -> dict[str, Answers]:
        """The answers that each channel would have given by itself, to the same queries."""
        whole = self.asked.answers()
        return {name: replace(whole, lists=np.concatenate(lists)) for name, lists in self._single.items()}

    async def _count(self, part: History, at: slice, learn: bool, pairs: bool) -> None:
        lines = Lines.of(part, at)
        await self.engine.count(lines, learn, pairs)
        self._had[lines.user] = True
        tenth = len(self.history) / REFRESHES
        due = (self._done + len(lines.user)) // tenth > self._done // tenth
        self._done += len(lines.user)
        if due and pairs:
            await self.engine.refresh()
        self.progress(self._done, len(self.history))


_NOTHING = (np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))


async def leave_one_out(run: Run, validation: bool = False) -> Answers:
    """Strict leave-one-out; ``validation`` predicts the second-last event instead, from all before it."""
    history = run.history
    left = _from_the_end(history)
    enough = np.bincount(history.user, weights=left == 2, minlength=len(history.users)) > 0
    await run.count(history.part((left >= 2) | ~enough[history.user]))
    await run.engine.refresh()
    if not validation:
        await run.count(history.part((left == 1) & enough[history.user]), learn=False, pairs=False)
    target = history.part((left == int(validation)) & enough[history.user])
    seen = history.part(left > int(validation))
    await _all_at_once(run, target, seen)
    return run.asked.answers()


async def _all_at_once(run: Run, target: History, seen: History) -> None:
    """Ask for everybody after everything; what a user had is left out."""
    time_ms = int(run.history.time_ms.max()) + 1
    order = np.argsort(seen.user, kind="stable")
    had, item = seen.user[order], seen.item[order]
    users, row = np.unique(target.user, return_inverse=True)
    for low in range(0, len(users), _QUERIES):
        some = users[low : low + _QUERIES]
        begin, end = np.searchsorted(had, [some[0], some[-1] + 1])
        at = np.searchsorted(some, had[begin:end])
        mine = some[np.minimum(at, len(some) - 1)] == had[begin:end]
        exclude = at[mine].astype(np.int32), item[begin:end][mine]
        times = np.full(len(some), time_ms)
        lists = await run.engine.rank(some.tolist(), times, exclude)
        near = np.flatnonzero((row >= low) & (row < low + len(some)))
        near = near[np.argsort(row[near], kind="stable")]
        run.asked.add(lists, row[near] - low, target.item[near], some, times)


def had_before(history: History) -> float:
    """Share of the targets of `leave_one_out` that their user had before: they are left out of lists."""
    left = _from_the_end(history)
    key = history.user.astype(np.int64) << 32 | history.item
    enough = np.bincount(history.user, weights=left == 2, minlength=len(history.users)) > 0
    found = np.isin(key[(left == 0) & enough[history.user]], key[left > 0])
    return float(found.mean()) if len(found) else 0.0


def _from_the_end(history: History) -> I64:
    """How many events of its user come after each interaction's: [N]."""
    begins = history.begins
    user = history.user[begins]
    order = np.argsort(user, kind="stable")
    counts = np.bincount(user)
    rank = np.empty(len(user), dtype=np.int64)
    rank[order] = np.arange(len(user)) - (np.cumsum(counts) - counts)[user[order]]
    left = counts[user] - 1 - rank
    return np.repeat(left, np.diff(begins, append=len(history)))


async def sessions(run: Run, train: History, test: History, online: bool = False) -> Answers:
    """Predict every click of the test after a session's first."""
    known = np.zeros(len(run.history.items), dtype=np.bool_)
    known[train.item] = True
    await run.count(train)
    await run.engine.refresh()
    asked = known[test.item] if test.asked is None else known[test.item] & test.asked
    await run.test(test, asked, online, online)
    return run.asked.answers()


async def next_basket(run: Run, test_share: float, static: bool = False) -> Answers:
    """Predict the baskets of the last share of the period, or each user's last where there are no times."""
    history = run.history
    if not history.timed:
        left = _from_the_end(history)
        await run.count(history.part(left > 0))
        await run.engine.refresh()
        await run.test(
            history.part(left == 0), np.ones(int(np.count_nonzero(left == 0)), np.bool_), False, False
        )
        return run.asked.answers()
    cut = split_ms(history, test_share)
    await run.count(history.part(history.time_ms < cut))
    await run.engine.refresh()
    part = history.part(history.time_ms >= cut)
    await run.test(part, np.ones(len(part), dtype=np.bool_), not static, not static)
    return run.asked.answers()


def split_ms(history: History, share: float) -> int:
    """Where the test period begins, in ms: where the data's own protocol has it, else after whole weeks; in
    less than four of them at the share of the time."""
    if history.test_ms is not None:
        return history.test_ms
    begin, end = int(history.time_ms[0]), int(history.time_ms[-1])
    if end - begin < 4 * WEEK_MS:
        return end - int((end - begin) * share)
    first, last = ((int(history.time_ms[at]) - MONDAY_MS) // WEEK_MS for at in (0, -1))
    return MONDAY_MS + (last + 1 - max(round((last - first + 1) * share), 1)) * WEEK_MS


def last_sessions(history: History, share: float = 0.2) -> tuple[History, History]:
    """The history without the last sessions, and those: whole users by their first event, or, where there are
    no times, in the order of the file. Raises HistoryError where there are too few."""
    users, first = np.unique(history.user, return_index=True)
    users = users[np.argsort(first, kind="stable")] if history.timed else users
    last = users[len(users) - round(len(users) * share) :]
    if not 0 < len(last) < len(users):
        raise HistoryError(f"{len(users)} sessions are too few to be split: give --test FILE")
    tested = np.isin(history.user, last)
    return history.part(~tested), history.part(tested)


async def prequential(run: Run) -> Answers:
    """Predict every event before it counts."""
    await run.test(run.history, np.ones(len(run.history), dtype=np.bool_), True, True)
    return run.asked.answers()


def popularity(history: History, before_ms: int | None = None) -> I64:
    """Interactions of each item: [items]."""
    item = history.item if before_ms is None else history.item[history.time_ms < before_ms]
    return np.bincount(item, minlength=len(history.items))


async def answers(
    settings: Settings,
    protocol: str,
    history: History,
    test: History | None = None,
    *,
    size: int = 20,
    online: bool = False,
    static: bool = False,
    test_share: float = 9 / 53,
    alone: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[Answers, Run]:
    """Evaluate a configuration by a protocol. Raises HistoryError where the data do not fit it."""
    if protocol == "sessions":
        history, test = together(*(last_sessions(history) if test is None else (history, test)))
    run = Run(settings, history, size, progress, alone)
    await run.open()
    if protocol == "sessions" and test is not None:
        return await sessions(run, history, test, online), run
    if protocol == "leave-one-out":
        return await leave_one_out(run), run
    if protocol == "next-basket":
        return await next_basket(run, test_share, static), run
    return await prequential(run), run


def vectors(history: History) -> sparse.csr_array | None:
    """Attributes of items as rows of length 1, each attribute weighed by its rarity: [items, attributes]."""
    if not history.catalog:
        return None
    number = {name: at for at, name in enumerate(history.items)}
    tokens: dict[str, int] = {}
    row, column = [], []
    for event in history.catalog:
        told = msgspec.json.decode(event)
        if (at := number.get(told["item"])) is not None:
            for name, value in (told.get("attributes") or {}).items():
                for one in value if isinstance(value, list) else [value]:
                    row.append(at)
                    column.append(tokens.setdefault(f"{name}={one}", len(tokens)))
    if not tokens:
        return None
    rarity = np.log1p(len(history.items) / np.bincount(column, minlength=len(tokens)))[column]
    found = sparse.csr_array((rarity, (row, column)), shape=(len(history.items), len(tokens)))
    length = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(length, 1e-12)) @ found)
