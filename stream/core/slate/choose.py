"""From the best-scored candidates to the list that is shown. Pure and deterministic.

The steps, in this order:

1. **Filters.** Blocked items and those of rules `exclude` are out, whatever any other step says.
2. **Boosts.** Scores are multiplied by the factors of all rules `boost` that apply.
3. **Rotation.** Scores are multiplied by `fatigue`. The candidates are sorted anew, ties by ascending hash.
4. **Pins and exploration are drawn**: which items will stand where. Pins take the first candidate that fits;
of
   two for one place the rule told first wins. Exploration draws among young items below the list.
5. **Quotas** of rules `limit`: pins count first (and stay even if they alone are too many), then what is
   explored, then the rest, best first.
6. **Diversity** (MMR) chooses and orders the rest, among the best twice as many as the list has places.
7. **Exposure**: the bounds' controller re-orders it, knowing where pins and explored items stand.
8. **Places**: explored items and pins go to theirs, the others fill the rest in order; gaps close.

All but the seventh look at one user at a time: how users are cut into batches, and their order, change
nothing. The exposure of a batch is balanced as a whole: another order of the users changes nothing, other
cuts do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from stream.core.slate import exploration
from stream.core.slate.diversity import diversify
from stream.core.slate.exposure import Balance, Exposure, account, given_to, settle, worth
from stream.core.slate.facts import F32, I32, I64, U8, U64, Bool, Facts, Slates, picked
from stream.core.slate.knobs import Knobs
from stream.core.slate.prepared import Prepared
from stream.core.slate.quotas import Quota, within
from stream.core.slate.rotation import fatigue

BOOSTED, ROTATED, DIVERSE, BALANCED, EXPLORED, PINNED = 1, 2, 4, 8, 16, 32
"""Bits of ``Chosen.why``: what touched an entry. `DIVERSE` and `BALANCED`: the step moved it up."""

_TINY, _HUGE = np.float32(1e-37), np.float32(1e37)


@dataclass(frozen=True, slots=True)
class Chosen:
    """``positions`` [U, size] in the slates, best first, −1 padded; ``why`` [U, size] bits; the new state;
    ``excluded`` how many candidates rules took out."""

    positions: I32
    why: U8
    state: Exposure
    excluded: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """Slates as they stand between steps.

    ``place`` [U, N] where each candidate stood at first (None: there); ``live`` [U, N] may be listed;
    ``scores`` [U, N] adjusted; ``why`` [U, N], written by the steps.
    """

    slates: Slates
    facts: Facts
    rules: Prepared
    knobs: Knobs
    live: Bool
    scores: F32
    why: U8
    place: I64 | None = None

    @property
    def drawn(self) -> Bool:
        """Candidates that are pinned or explored."""
        found: Bool = (self.why & np.uint8(PINNED | EXPLORED)) > 0
        return found

    def matches(self, number: int) -> Bool:
        """Candidates a rule applies to, that may be listed."""
        return self.rules.matches(number, self.facts, self.slates) & self.live


def choose(slates: Slates, facts: Facts, rules: Prepared, knobs: Knobs, state: Exposure) -> Chosen:
    """The lists of U users. ``rules`` are brought up to date with items that are new, not with changed ones.

    Cost a user of a thousand with N = 60, size = 20: 0.1 µs with everything off, 1–4 µs a rule (a quota 3),
    3 µs rotation, 3 µs exploration where all have young candidates, 10 µs diversity, 5–10 µs exposure bounds.
    At least, for one user as for twenty: 10 µs, 60 µs a rule (a quota 400), 0.1, 0.2, 0.2 and 0.9 ms.
    """
    rules.reserve(facts)
    live = (slates.items >= 0) & ~facts.blocked.take(slates.items, mode="wrap")
    work = _Work(slates, facts, rules, knobs, live, slates.scores, np.zeros(live.shape, dtype=np.uint8))
    if _idle(work):
        first = np.arange(knobs.size, dtype=np.int32)
        return Chosen(np.tile(first, (len(live), 1)), work.why[:, : knobs.size], state)
    work, excluded = _filtered(work)
    work = _sorted(_rotated(_boosted(work)))
    reserved = _explored(work, _pinned(work))
    work = _limited(work, reserved)
    order = _diverse(work, _organic(work))
    state = state.under_bounds(knobs.bounds)
    order, bias = _balanced(work, order, reserved, state)
    chosen = _placed(work, order, reserved)
    return Chosen(
        chosen if work.place is None else _back(work.place, chosen),
        np.where(chosen >= 0, picked(work.why, chosen), np.uint8(0)),
        _accounted(work, chosen, bias, state),
        excluded,
    )


def _idle(work: _Work) -> bool:
    """Whether no step has anything to do."""
    knobs, size = work.knobs, work.knobs.size
    return (
        not (work.rules.rules or knobs.diversity or len(knobs.bounds))
        and (knobs.rotation == 1 or work.slates.ignored is None)
        and work.live.shape[1] >= size
        and bool((work.live[:, :size] & (work.scores[:, :size] > 0)).all())
        and not (knobs.explore_share and work.live[:, size:].any())
    )


def _back(place: I64, chosen: I32) -> I32:
    return np.where(chosen >= 0, picked(place, chosen), -1).astype(np.int32)


# 1–3: what each candidate is worth


def _filtered(work: _Work) -> tuple[_Work, int]:
    out = [work.matches(number) for number in work.rules.numbers("exclude")]
    if not out:
        return work, 0
    gone = np.logical_or.reduce(out)
    return replace(work, live=work.live & ~gone), int(np.count_nonzero(gone))


def _boosted(work: _Work) -> _Work:
    for number in work.rules.numbers("boost"):
        hit = work.matches(number)
        work.why[hit] |= BOOSTED
        factor = np.float32(work.rules.rules[number].factor)
        # Never to 0, which only guests have.
        raised = np.clip(work.scores * factor, _TINY, _HUGE)
        work = replace(work, scores=np.where(hit & (work.scores > 0), raised, work.scores))
    return work


def _rotated(work: _Work) -> _Work:
    slates, knobs = work.slates, work.knobs
    if slates.ignored is None or slates.shown_ms is None or knobs.rotation == 1:
        return work
    if not (slates.ignored > 0).any():
        return work
    factor = fatigue(
        slates.ignored, slates.shown_ms, slates.time_ms, knobs.rotation, knobs.rotation_half_life_ms
    )
    work.why[factor < 1] |= ROTATED
    lowered = np.maximum(work.scores * factor, _TINY)
    return replace(work, scores=np.where(work.scores > 0, lowered, work.scores))


def _sorted(work: _Work) -> _Work:
    """By falling score, ties by ascending hash; nothing to do while no score was changed."""
    slates = work.slates
    if work.scores is slates.scores:
        return work
    words = (~work.scores.view(np.uint32)).astype(np.uint64) << np.uint64(32)
    words |= work.facts.hashes.take(slates.items, mode="wrap") >> np.uint64(32)
    words[slates.items < 0] = np.iinfo(np.uint64).max
    place = np.argsort(words, axis=1)
    return replace(
        work,
        slates=replace(slates, items=picked(slates.items, place)),
        live=picked(work.live, place),
        scores=picked(work.scores, place),
        why=picked(work.why, place),
        place=place,
    )


# 4: what stands at a place of its own


def _pinned(work: _Work) -> I32:
    """Columns that rules pin: [U, size], −1 where a place is free."""
    reserved = np.full((len(work.slates), work.knobs.size), -1, dtype=np.int32)
    for number in work.rules.numbers("pin"):
        position = work.rules.rules[number].position - 1
        if position < work.knobs.size:
            hit = work.matches(number) & (work.why & PINNED == 0)
            row = np.flatnonzero(hit.any(axis=1) & (reserved[:, position] < 0))
            column = hit[row].argmax(axis=1)
            reserved[row, position] = column
            work.why[row, column] |= PINNED
    return reserved


def _explored(work: _Work, reserved: I32) -> I32:
    """The same with columns of young items in places that the lists lend."""
    slates, facts, knobs = work.slates, work.facts, work.knobs
    if not knobs.explore_share:
        return reserved
    free = work.live & ~work.drawn
    ranked = free & (work.scores > 0)
    listed = ranked & (ranked.cumsum(axis=1) <= knobs.size)
    able = free & ~listed
    if able.any():
        able &= exploration.young(facts, slates.items, slates.time_ms[:, None], knobs.explore_days)
    if not able.any():
        return reserved
    wanted = exploration.counts(slates, knobs.explore_share, knobs.size)
    column = exploration.draw(facts, slates, able, listed, wanted)
    place = exploration.places(slates, knobs.size, reserved < 0, column.shape[1])
    row, which = np.nonzero((column >= 0) & (place >= 0))
    reserved[row, place[row, which]] = column[row, which]
    work.why[row, column[row, which]] |= EXPLORED
    return reserved


# 5–7: the others


def _quotas(work: _Work) -> list[Quota]:
    found = []
    for number in work.rules.numbers("limit"):
        rule = work.rules.rules[number]
        kinds: U64 = np.ones(1, dtype=np.uint64)
        if rule.per:
            kinds = getattr(work.facts, rule.per).take(work.slates.items, mode="wrap")
        found.append(Quota(np.where(work.matches(number), kinds, np.uint64(0)), rule.most))
    return found


def _limited(work: _Work, reserved: I32) -> _Work:
    """Without what quotas have no room for; an explored item among it leaves its place."""
    quotas = _quotas(work)
    if not quotas:
        return work
    pinned, drawn = (work.why & PINNED) != 0, work.drawn
    kept = work.live & drawn
    if kept.any():
        kept = within(quotas, kept, pinned)
    ranked = work.live & (work.scores > 0) & ~drawn
    live = within(quotas, ranked | kept, kept)
    reserved[(reserved >= 0) & ~picked(kept, reserved)] = -1
    work.why[drawn & ~kept] &= np.uint8(255 - EXPLORED)
    return replace(work, live=live)


def _organic(work: _Work) -> I64:
    """Columns of what has no place of its own, best first: [U, N], −1 padded; [U, size] if that will do."""
    knobs = work.knobs
    width = work.live.shape[1] if knobs.diversity or len(knobs.bounds) else knobs.size
    ranked = work.live & (work.scores > 0) & ~work.drawn
    if ranked[:, :width].all() and ranked.shape[1] >= width:
        return np.broadcast_to(np.arange(width), (len(ranked), width))
    rank = ranked.cumsum(axis=1) - 1
    row, column = (ranked & (rank < width)).nonzero()
    order = np.full((len(ranked), width), -1, dtype=np.int64)
    order[row, rank[row, column]] = column
    return order


def _diverse(work: _Work, order: I64) -> I64:
    """The best `size` by MMR among twice as many first, the rest behind them."""
    knobs = work.knobs
    if not knobs.diversity:
        return order
    near = order[:, : 2 * knobs.size]
    items, scores = picked(work.slates.items, near), picked(work.scores, near)
    chosen = diversify(work.rules.sketches, items, scores, near >= 0, knobs.size, knobs.diversity)
    if not len(knobs.bounds):
        anew = np.where(chosen >= 0, picked(order, chosen), -1)
        _mark_risen(work, order, anew, DIVERSE)
        return anew
    rank = np.arange(order.shape[1]) + np.full(order.shape, knobs.size)
    row, step = np.nonzero(chosen >= 0)
    rank[row, chosen[row, step]] = step
    anew = picked(order, np.argsort(rank, axis=1, kind="stable"))
    _mark_risen(work, order, anew, DIVERSE)
    return anew


def _mark_risen(work: _Work, before: I64, after: I64, bit: int) -> None:
    """Set a bit of ``why`` where a column stands further in front than before."""
    old = np.full((len(before), work.why.shape[1] + 1), before.shape[1], dtype=np.int64)
    np.put_along_axis(old, before, np.broadcast_to(np.arange(before.shape[1]), before.shape), axis=1)
    row, place = np.nonzero((after >= 0) & (picked(old, after) > np.arange(after.shape[1])))
    work.why[row, after[row, place]] |= np.uint8(bit)


def _balanced(work: _Work, order: I64, reserved: I32, state: Exposure) -> tuple[I64, I64]:
    """The order that keeps to the exposure bounds, and the bias that does it."""
    bounds = work.knobs.bounds
    if not len(bounds) or not len(order):
        return order, state.bias
    group = _numbers(work)
    # After MMR scores no longer fall: the best place is worth the best score.
    scores = np.where(order >= 0, picked(work.scores, order), np.float32(0))
    scores = -np.sort(-scores, axis=1)
    free = reserved < 0
    value = worth(work.knobs.size)
    weight = np.zeros(reserved.shape, dtype=np.int64)
    row, place = np.nonzero(free)
    weight[row, (np.cumsum(free, axis=1) - 1)[row, place]] = value[place]
    fixed = given_to(picked(group, reserved), ~free, len(bounds))
    full = np.minimum(np.count_nonzero(scores > 0, axis=1), np.count_nonzero(free, axis=1))
    full += np.count_nonzero(~free, axis=1)
    total = int(np.cumsum(np.append(0, value))[full].sum())
    batch = Balance.of(scores, picked(group, order), work.slates.user, weight, fixed, total)
    bias = settle(batch, bounds, state)
    best = batch.order(bias)
    anew = np.where(best >= 0, picked(order, best), -1)
    _mark_risen(work, order, anew, BALANCED)
    return anew, bias


def _numbers(work: _Work) -> I64:
    """Number of each candidate's group in the bounds: [U, N]. By the items where these are fewer."""
    items, facts, bounds = work.slates.items, work.facts, work.knobs.bounds
    if len(facts) < items.size:
        return bounds.index(facts.group[: len(facts)]).take(items, mode="wrap")
    return bounds.index(facts.group.take(items, mode="wrap"))


# 8: the list


def _placed(work: _Work, order: I64, reserved: I32) -> I32:
    """Columns of the list: [U, size], −1 padded."""
    free, size = reserved < 0, work.knobs.size
    if (more := size - order.shape[1]) > 0:
        order = np.pad(order, ((0, 0), (0, more)), constant_values=-1)
    chosen = np.where(free, picked(order, free.cumsum(axis=1) - 1), reserved).astype(np.int32)
    held = chosen >= 0
    if (held[:, 1:] & ~held[:, :-1]).any():
        chosen = picked(chosen, (~held).argsort(axis=1, kind="stable"))
    return chosen


def _accounted(work: _Work, chosen: I32, bias: I64, state: Exposure) -> Exposure:
    bounds, size = work.knobs.bounds, work.knobs.size
    if not len(bounds):
        return state
    held = chosen >= 0
    given = given_to(picked(_numbers(work), chosen), held, len(bounds))
    value = worth(size)
    return account(bounds, state, bias, given, int((held * value).sum()), int(value.sum()))
