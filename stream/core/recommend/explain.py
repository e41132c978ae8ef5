"""Why an item stands in a user's list, or does not: its score taken apart. Pure.

    score(j) = (ε + Σ_c w_c · f_c(j)) · exp(Σ_d v_d · g_d(j)),   w_c = exp(θ_c + θ_{b,c} − φ_c·L_c)

as in `mixture`: for each channel its evidence, its weight and the entries behind it, for each feature what it
multiplies the score by. Nothing is modelled a second time: the candidates, evidence and features are those of
`Recommender.search`, so what is told adds up to the score of `Recommender.rank` (to the rounding of 32-bit
floats, which lists are scored in). About 1 ms an item: it is for people, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stream.core.recommend import alike, kernel, personal, popular, trend
from stream.core.recommend.lists import Found, Recommender, Sources
from stream.core.recommend.mixture import KINDS, LEAST
from stream.core.recommend.query import Query

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

Figures = dict[str, float]

RANKED, BARRED, BLOCKED, ABSENT = "ranked", "barred", "blocked", "no candidate"
"""What may be said of an item: it is ranked; or it is not, for it is barred (bought lately), hidden or out of
stock, or nothing speaks for it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One part of a channel's evidence: the item of the user's own behind it, if any, and its figures."""

    because: str | None
    value: float
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel: ``contribution`` = ``weight`` · ``evidence``, the sum of ``entries``.

    ``weight`` = exp(``theta`` + ``of_kind`` − ``phi`` · ``log_total``).
    """

    channel: str
    component: str
    strategy: str
    evidence: float
    weight: float
    contribution: float
    theta: float
    of_kind: float
    phi: float
    log_total: float | None
    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature: ``contribution`` = ``weight`` · ``value``, in the exponent."""

    feature: str
    value: float
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """An item's score: ``score`` = (``least`` + sum of contributions) · ``factor``.

    ``factor`` is exp(sum of the features' contributions). ``kind`` is the user's. ``status`` one of `RANKED`,
    `BARRED`, `BLOCKED`, `ABSENT`; ``place`` among the user's ``candidates`` from 1, None unless it is ranked;
    ``reasons`` why it is not. What is barred has the score that it would have.
    """

    item: str
    kind: str
    status: str
    reasons: list[str]
    place: int | None
    candidates: int
    score: float
    least: float
    factor: float
    channels: list[Channel]
    features: list[Feature]


def explain(
    recommender: Recommender, sources: Sources, query: Query, item: int, exclude: I32 | None = None
) -> Explanation:
    """Explain one item to the one user of a query.

    ``item`` is a local id, ``exclude`` [m] are items that must not appear. ~1 ms. Raises ValueError unless
    the query is of one user.
    """
    if len(query) != 1:
        raise ValueError(f"a query of {len(query)} users cannot be explained: ask about one")
    sources.hood.reserve()
    found = recommender.search(sources, query)
    barred = exclude if exclude is not None else np.zeros(0, dtype=np.int32)
    (at,) = found.candidates.find(np.zeros(1, np.int64), np.array([item], np.int32)).tolist()
    status, reasons = _status(recommender, sources, item, at, barred)
    channels = _channels(recommender, sources, query, found, at, item)
    features = _features(recommender, found, at)
    least = LEAST if at >= 0 else 0.0
    factor = float(np.exp(sum(each.contribution for each in features)))
    return Explanation(
        sources.hood.items.name(item),
        KINDS[int(found.kind[0])],
        status,
        reasons,
        _place(recommender, sources, found, at, barred) if status == RANKED else None,
        len(found.candidates.item),
        (least + sum(each.contribution for each in channels)) * factor,
        least,
        factor,
        channels,
        features,
    )


# Whether it is ranked at all


def _status(
    recommender: Recommender, sources: Sources, item: int, at: int, barred: I32
) -> tuple[str, list[str]]:
    if sources.hood.blocked[item]:
        return BLOCKED, ["it is hidden or out of stock"]
    if item in barred:
        return BARRED, ["it was bought lately"]
    if at < 0:
        return ABSENT, [_ABSENT.get(name, f"{name} does not give it") for name in recommender.names]
    return RANKED, []


_ABSENT = {
    kernel.NAME: "item-item: it is in the lists of none of the user's newest items",
    personal.NAME: "repeat: the user had nothing to do with it",
    alike.NAME: f"content: it is not among the {alike.KIN} items most like one of the three newest",
    popular.NAME: f"popular: it is not among the {popular.CANDIDATES} best that are trending",
    trend.NAME: f"trend: it is among the {trend.CANDIDATES} best of none of its channels",
}


def _place(recommender: Recommender, sources: Sources, found: Found, at: int, barred: I32) -> int:
    """The item's place among all candidates, by falling score and rising hash."""
    items, hashes = found.candidates.item, sources.hood.items.hashes
    weighed = found.candidates.weighed(recommender.mixture.factors(found.candidates, found.kind))
    scores = recommender.mixture.scores(weighed, found.features)
    better = (scores > scores[at]) | ((scores == scores[at]) & (hashes[items] < hashes[items[at]]))
    return 1 + int(np.count_nonzero(better & ~np.isin(items, barred)))


# The parts of the score


def _channels(
    recommender: Recommender, sources: Sources, query: Query, found: Found, at: int, item: int
) -> list[Channel]:
    mixture, candidates = recommender.mixture, found.candidates
    # As lists are scored: weights are rounded to 32 bits first.
    weights = mixture.factors(candidates, found.kind)[:, 0].astype(np.float32)
    totals = candidates.totals()[:, 0]
    strategies = [each for part in recommender.components for each in part.strategies]
    told = []
    owners = [(p, c) for p, each in enumerate(recommender.components) for c in range(len(each.channels))]
    for c, (part, own) in enumerate(owners):
        component = recommender.names[part]
        evidence = float(candidates.values[c, at]) if at >= 0 else 0.0
        told.append(
            Channel(
                recommender.channels[c],
                component,
                strategies[c],
                evidence,
                float(weights[c]),
                float(weights[c]) * evidence,
                float(mixture.theta[c]),
                float(mixture.kinds[found.kind[0], c]),
                float(mixture.phi[c]),
                float(np.log(totals[c])) if totals[c] > 0 else None,
                _entries(component, own, found, part, sources, query, item) if evidence else [],
            )
        )
    return told


def _features(recommender: Recommender, found: Found, at: int) -> list[Feature]:
    mixture = recommender.mixture
    column = np.flatnonzero(found.features.at == at)
    if at < 0 or not len(column):
        return []
    entry = found.features.entry[column[0]]
    values, weights = found.features.values[:, entry].tolist(), mixture.v.astype(np.float32).tolist()
    return [
        Feature(name, value, weight, weight * value)
        for name, value, weight in zip(mixture.features, values, weights, strict=True)
    ]


def _entries(
    component: str, channel: int, found: Found, part: int, sources: Sources, query: Query, item: int
) -> list[Entry]:
    """What a component gave for an item in one of its channels, the largest first."""
    if component == popular.NAME:
        return [Entry(None, float(value), _popular(sources, item)) for value in _shares(sources, item)]
    if component == trend.NAME:
        value = float(sources.trends.of(np.array([item], dtype=np.int32))[channel, 0])
        return [Entry(None, value, _trend(sources, item))]
    given = found.candidates.parts[part]
    values = given.channel(channel)
    about, entries = _ABOUT.get(component), []
    for column in np.flatnonzero((given.item[0] == item) & (values[0] != 0)).tolist():
        owner = -1 if given.because is None else int(given.because[0, column])
        value = float(values[0, column])
        figures = about(sources, query, owner, item) if about and owner >= 0 else {}
        if component == kernel.NAME:
            figures = _discounted(figures, value, alike=channel == _ALIKE)
        entries.append(Entry(sources.hood.items.name(owner) if owner >= 0 else None, value, figures))
    return sorted(entries, key=lambda entry: -entry.value)


# The figures behind an entry

_ALIKE = 3
"""The number of this channel among those of item-item."""


def _pair(sources: Sources, query: Query, owner: int, item: int) -> Figures:
    """How the user's own item i leads to j: S(i→j) and what it is made of (`Similarity`).

    C is read back from the row part; of a list made by content (`by_content`) it is a pseudo-count. N stands
    there where S depends on it.
    """
    hood, constants = sources.hood, sources.hood.similarity
    place = int(np.flatnonzero(hood.cols[owner] == item)[0])
    row_part = float(hood.scores[owner, place])
    row_sum = 1.0 if hood.by_content[owner] else float(hood.row_sum[owner])
    damped = (row_sum + constants.damping) ** constants.row_exponent
    i, j = np.array([[owner]], dtype=np.int32), np.array([[item]], dtype=np.int32)
    parts = np.array([[row_part]], dtype=np.float32) * hood.column[item]
    return {
        "count": float((row_part * damped) ** (1 / constants.power)),
        "row sum": row_sum,
        "column sum": float(hood.col_sum[item]),
        **({"total": hood.total} if constants.needs_total else {}),
        "similarity": float(hood.whole(i, j, parts)[0, 0]),
        "likeness": float(hood.likeness[owner, place]) / 255,
        "items ago": _items_ago(query, owner),
    }


def _discounted(figures: Figures, value: float, alike: bool) -> Figures:
    """With what the channel makes of S: r^k; and, of "alike" only, the likeness, which is a factor there."""
    likeness = figures.pop("likeness")
    if alike:
        figures["likeness"] = likeness
        value /= likeness
    return figures | {"discount": value / figures["similarity"]}


def _had(sources: Sources, query: Query, owner: int, item: int) -> Figures:
    """What the user had to do with the item."""
    interest = query.interest
    at = int(np.flatnonzero(interest.item == item)[0])
    last, first = float(interest.last[at]), float(interest.first[at])
    times = int(interest.count[at])
    return {
        "times": times,
        "events ago": int(interest.events[0]) - int(interest.at[at]),
        "days ago": max(float(query.time_ms[0]) / 1000 - last, 0.0) / 86_400,
        "mean gap in days": (last - first) / max(times - 1, 1) / 86_400,
    }


def _kin(sources: Sources, query: Query, owner: int, item: int) -> Figures:
    """How alike the catalogue makes the user's own item and this one."""
    i, j = np.array([owner], dtype=np.int32), np.array([item], dtype=np.int32)
    return {
        "cosine": float(sources.hood.content.item_cosine(i, j)[0]),
        "column sum": float(sources.hood.col_sum[item]),
        "items ago": _items_ago(query, owner),
    }


def _items_ago(query: Query, owner: int) -> int:
    return int(np.flatnonzero(query.profile[0] == owner)[0])


def _popular(sources: Sources, item: int) -> Figures:
    return {"popularity": float(sources.hood.popularity[item])}


def _trend(sources: Sources, item: int) -> Figures:
    now, usual = sources.hood.at_once(item + 1)
    return {"now": float(now[item]), "usual": float(usual[item]), "season": float(sources.hood.season[item])}


def _shares(sources: Sources, item: int) -> F32:
    return popular.evidence(sources.hood, np.array([item], dtype=np.int32), sources.trending)


_ABOUT: Mapping[str, Callable[[Sources, Query, int, int], Figures]] = {
    kernel.NAME: _pair,
    personal.NAME: _had,
    alike.NAME: _kin,
}
