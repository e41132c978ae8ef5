"""What a shop a hundred times larger takes, and what breaks first: the tables of `docs/scaling.md`.

``python -m benchmarks.scaling [--users 1e8] [--items 1e7] [--rate 1e6] [--json]``. Formulas stand in the
docstrings; `Measured` has their inputs, from `docs/performance.md`, `Assumed` what nobody measured. Where a
formula does not do (partitions by popularity, a queue under bursts, catching up) a seeded simulation stands.
An event touches as many rows as measured, each by the popularity of its item, independently: Zipf's law with
exponent 1, of which the most popular of 10 million items has 6 % of the events.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """From `docs/performance.md`: µs of CPU, bytes; an event's unless it says otherwise."""

    worker_us: float = 70.0
    """Where the time goes: the worker, one event a message."""
    broker_us: float = 84.0
    store_us: float = 9.3
    follow_us: float = 4.4
    """What an event sends: of a record of neighbours, as followed."""
    touched: float = 12.85
    """Rows that an event changes."""
    entries: float = 28.5
    record_b: float = 629.0
    """Of a record of neighbours."""
    state_b: float = 652.0
    """Goals, P7: a user's state, a list, an item's row, its neighbours, in the store."""
    list_b: float = 1991.0
    row_b: float = 1584.0
    view_b: float = 2080.0
    held_row_b: float = 4550.0
    """Memory: of a row held by a worker."""
    known_b: float = 2100.0
    """Of an item that a worker knows: popularity, neighbours, names."""
    held_user_b: float = 2220.0
    entry_ns: float = 300.0
    """Goals, P3: of an entry of a row; clicks, W = 50: 1 s / (46,000 · 2 · 50) is 217, W = 10: 417."""


@dataclass(frozen=True)
class Assumed:
    """What nobody measured."""

    busy: float = 0.5
    """Share of a core that a worker, a broker or a shard is used at."""
    event_b: float = 240.0
    sent_list_b: float = 1940.0
    """A list on its topic: bytes of the view and the user's name."""
    name_b: float = 12.0
    replicas: int = 3
    """Copies of a log; the store has two."""
    cycle_s: float = 0.1
    """Between two transactions of a partition."""
    publish_s: float = 0.1
    checkpoint_s: float = 1.0
    retention_days: float = 7.0
    cached_users: int = 100_000
    cores: int = 16
    ram_b: float = 128e9
    network_b: float = 1.25e9
    """Of a machine: 10 Gbit/s."""
    fill: float = 0.6
    """Share of a machine's memory or network that is used."""
    silence_s: float = 60.0
    """Session and rebalance timeout, by default: the partitions of a dead worker wait that long at most."""


MEASURED, ASSUMED = Measured(), Assumed()
KNOWN_ITEMS = 900_000
"""Items that a worker counts at most: codes of 20 bits (`stream/core/rows.py`)."""
PARTITIONS = 1024
"""Most that the setting allows."""
CORE = 1e6
"""µs in a second."""


@dataclass(frozen=True)
class Shop:
    """``rate``: events/s."""

    users: float
    items: float
    rate: float

    def times(self, share: float) -> Shop:
        """A smaller or larger one of the same kind."""
        return Shop(self.users * share, self.items * share, self.rate * share)


@lru_cache(64)
def popularity(items: int) -> tuple[F64, F64]:
    """(how many items, share of each in the events): p(r) = 1 / (r · H), ranks 1 to 1,000 singly, then in
    groups of 0.5 % in rank; a group's sum is exact, its items count as equal."""
    groups = np.geomspace(1, items + 1, 4000).astype(int)
    edges = np.unique(np.r_[np.arange(1, min(items, 1000) + 1), groups, items + 1])
    many = np.diff(edges).astype(np.float64)
    sums = digamma(edges[1:].astype(np.float64)) - digamma(edges[:-1].astype(np.float64))
    return many, sums / sums.sum() / many


def changed(shop: Shop, seconds: float) -> float:
    """Different rows changed in some time: Σ over items of 1 − e^(−rate · rows an event · p · seconds)."""
    many, share = popularity(int(shop.items))
    return float(-(many * np.expm1(-shop.rate * MEASURED.touched * share * seconds)).sum())


def records(shop: Shop, publish_s: float = ASSUMED.publish_s) -> float:
    """Records of neighbours a second: each changed row once an interval."""
    return changed(shop, publish_s) / publish_s


def covered(shop: Shop, items: float) -> float:
    """Share of events that the most popular ``items`` have."""
    return float((digamma(items + 1) - digamma(1)) / (digamma(shop.items + 1) - digamma(1)))


def workers(shop: Shop) -> int:
    """⌈rate · µs of the worker / (10^6 · busy)⌉: what following costs comes on top."""
    return math.ceil(shop.rate * MEASURED.worker_us / (CORE * ASSUMED.busy))


def partitions(shop: Shop) -> int:
    """Two a worker, up to a power of two: so that one that is lost is shared by several."""
    return 1 << (2 * workers(shop) - 1).bit_length()


def following(shop: Shop, publish_s: float = ASSUMED.publish_s) -> float:
    """Cores that one worker takes to follow: records a second · µs of a record / 10^6."""
    return records(shop, publish_s) * MEASURED.follow_us / CORE


def rested(shop: Shop, cores: float = 0.1) -> float:
    """The `publish_s` at which following takes a tenth of a core; by bisection."""
    return solved(lambda seconds: -following(shop, seconds), -cores, 0.01, 1e5)


def worker_bytes(shop: Shop) -> float:
    """Of one process: items · bytes known + items / workers · bytes of a row + cached users · bytes."""
    rows = shop.items / workers(shop) * MEASURED.held_row_b
    return shop.items * MEASURED.known_b + rows + ASSUMED.cached_users * MEASURED.held_user_b


def store_bytes(shop: Shop) -> float:
    """users · (state + list) + items · (row + neighbours), one copy."""
    user, item = MEASURED.state_b + MEASURED.list_b, MEASURED.row_b + MEASURED.view_b
    return shop.users * user + shop.items * item


def mail_messages(shop: Shop) -> float:
    """Of increments a second: n = partitions; n / cycle transactions a second, and each reaches
    n · (1 − (1 − 1/n)^(rows it changes)) partitions."""
    n = partitions(shop)
    touched = shop.rate / n * ASSUMED.cycle_s * MEASURED.touched
    return n / ASSUMED.cycle_s * n * -math.expm1(touched * math.log1p(-1 / n))


def mail_bytes(shop: Shop) -> float:
    """Of increments a second, at most: an event has a segment of 24 bytes in each of as many partitions as
    rows, 12 an entry, and 10 and a name for each item of a segment: two of each earlier item's, and all of
    its own: 3 · rows − 2; 20 a message."""
    rows = MEASURED.touched
    event = 24 * rows + 12 * MEASURED.entries + (3 * rows - 2) * (10 + ASSUMED.name_b)
    return shop.rate * event + 20 * mail_messages(shop)


def hot_cores(shop: Shop, share: float) -> float:
    """Cores that the row of an item takes which has ``share`` of the events: rate · share · entries · ns.
    An event's entries go half to the rows of earlier items, so the row gets half of its own events', and half
    of those after them."""
    return shop.rate * share * MEASURED.entries * MEASURED.entry_ns / 1e9


def solved(rising: Callable[[float], float], bound: float, low: float, high: float) -> float:
    """Where a rising function reaches a bound, to 0.1 %; ``high`` if it does not."""
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rising(middle) >= bound else (middle, high)
    return high


# Simulations


def uneven(shop: Shop, parts: int, seed: int = 7) -> float:
    """Load of the fullest item partition ÷ the mean: items fall on partitions at random; mean of 20 times.
    Those from rank 100,000 on are evenly spread."""
    ranks = 1 / np.arange(1, min(int(shop.items), 100_000) + 1)
    whole = float(digamma(shop.items + 1) - digamma(1))
    random, found = np.random.default_rng(seed), []
    for _ in range(20):
        loads = np.bincount(random.integers(0, parts, len(ranks)), ranks / whole, parts)
        found.append((loads.max() + (1 - ranks.sum() / whole) / parts) * parts)
    return float(np.mean(found))


def waiting(arrivals: F64, capacity: F64) -> F64:
    """Backlog [n] after each step of a queue: b = max(b + arrivals − capacity, 0) (Lindley, 1952)."""
    level = np.cumsum(arrivals - capacity)
    found: F64 = level - np.minimum(np.minimum.accumulate(level), 0)
    return found


@dataclass(frozen=True)
class Episode:
    """Of a partition: longest wait of an event, and how long until none waits longer than 1 s."""

    wait_s: float
    over_s: float


STEP_S, BEGINS = 0.1, 600


def episode(rate: float, busy: float, factor: float, seconds: float, seed: int = 7) -> Episode:
    """After a minute ``factor`` times as many events for some seconds; a factor of 0: nothing is worked on,
    and as many come as ever. Arrivals are Poisson's, in steps of 0.1 s; an hour."""
    steps, ends = 36_000, BEGINS + round(seconds / STEP_S)
    mean, able = np.full(steps, rate * STEP_S), np.full(steps, rate * STEP_S / busy)
    if factor:
        mean[BEGINS:ends] *= factor
    else:
        able[BEGINS:ends] = 0
    arrivals = np.random.default_rng(seed).poisson(mean).astype(np.float64)
    wait = waiting(arrivals, able) / (rate / busy)
    late = np.flatnonzero(wait > 1.0)
    # What waits while nothing is worked on waits for the end of that, too.
    still = seconds if not factor else 0.0
    over = (late[-1] + 1 - BEGINS) * STEP_S if len(late) else 0.0
    return Episode(max(float(wait.max()), still), over)


# Tables

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A heading, the names of its columns, rows."""

    name: str
    columns: Row
    rows: list[Row]

    def markdown(self) -> str:
        """As it stands on the page."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def said(value: float, unit: str = "") -> str:
    """Two significant digits, with a prefix: 2,100,000 is ``2.1 M``."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.995 * size:
            return f"{_two(value / size)} {prefix}{unit}".strip()
    return f"{_two(value)} {unit}".strip()


def _two(value: float) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.1e}")
    return f"{rounded:,.{max(1 - math.floor(math.log10(rounded)), 0)}f}"


def inputs() -> Table:
    """What was measured."""
    one, where = MEASURED, "[where the time goes](performance.md#where-the-time-goes)"
    goals, sent = "[P7](performance.md#goals)", "[what an event sends](performance.md#what-an-event-sends)"
    memory = "[memory](performance.md#memory)"
    rows: list[Row] = [
        (
            "CPU of an event: worker, broker, store",
            f"{one.worker_us:g}, {one.broker_us:g}, {one.store_us:g} µs",
            where,
        ),
        ("rows that an event changes; entries it makes", f"{one.touched:g}; {one.entries:g}", sent),
        ("a record of neighbours; following it", f"{one.record_b:g} B; {one.follow_us:g} µs", sent),
        ("in the store: a user's state, his list", f"{one.state_b:g}, {one.list_b:g} B", goals),
        ("in the store: an item's row, its list", f"{one.row_b:g}, {one.view_b:g} B", goals),
        (
            "in a worker: a row, a known item, a user",
            f"{one.held_row_b:g}, {one.known_b:g}, {one.held_user_b:g} B",
            memory,
        ),
        (
            "an entry, counted and ranked",
            f"{one.entry_ns:g} ns",
            "[P3](performance.md#goals), clicks: 217 (W = 50) to 417 (W = 10)",
        ),
    ]
    return Table("What was measured", ("", "", "where"), rows)


def takes(shop: Shop) -> Table:
    """Processors and memory."""
    rate, count = shop.rate, workers(shop)
    rows: list[Row] = [
        ("workers, without following", f"{count}", f"rate · {MEASURED.worker_us:g} µs, half busy"),
        ("partitions", f"{partitions(shop)}", "two a worker, a power of two"),
        ("rows changed in `publish_s` (0.1 s)", said(changed(shop, 0.1)), "Σ 1 − e^(−λ)"),
        ("records of neighbours", said(records(shop), "/s"), "the same ÷ 0.1 s"),
        (
            "following them, each worker",
            f"{said(following(shop))} cores",
            f"records · {MEASURED.follow_us:g} µs",
        ),
        (
            "memory of a worker",
            said(worker_bytes(shop), "B"),
            f"items · {said(MEASURED.known_b, 'B')} + its rows + its users",
        ),
        ("messages of `increments`", said(mail_messages(shop), "/s"), "partitions² ÷ 0.1 s, those not empty"),
        (
            "brokers' CPU",
            f"{said(rate * MEASURED.broker_us / CORE)} cores",
            f"rate · {MEASURED.broker_us:g} µs, single events",
        ),
        ("store's CPU", f"{said(rate * MEASURED.store_us / CORE)} cores", f"rate · {MEASURED.store_us:g} µs"),
        ("store's memory, users", said(store_bytes(replace(shop, items=0)), "B"), "users · (state + list)"),
        ("store's memory, items", said(store_bytes(replace(shop, users=0)), "B"), "items · (row + list)"),
    ]
    return Table("What it takes", ("", "", "how"), rows)


def flows(shop: Shop, publish_s: float, checkpoint_s: float) -> dict[str, tuple[float, float]]:
    """By name: bytes a second as written once, and how often they are read.

    Every event makes a list, for users rarely have two events in a transaction where they are many."""
    rate, made = shop.rate, records(shop, publish_s)
    return {
        "`events`": (rate * ASSUMED.event_b, 1),
        "`increments`": (mail_bytes(shop), 1),
        "`neighbors`": (made * (MEASURED.record_b + ASSUMED.name_b), workers(shop)),
        "`recommendations`": (rate * ASSUMED.sent_list_b, 1),
        "store: states of users": (rate * MEASURED.state_b, 1),
        "store: lists of users": (rate * MEASURED.list_b, 0),
        "store: lists of items": (made * MEASURED.view_b, 0),
        "store: rows, by checkpoints": (changed(shop, checkpoint_s) / checkpoint_s * MEASURED.row_b, 0),
    }


def network(shop: Shop) -> Table:
    """Bytes a second, at the default intervals and at those that following allows."""
    slow = rested(shop)
    now = flows(shop, ASSUMED.publish_s, ASSUMED.checkpoint_s)
    then = flows(shop, slow, slow)
    rows: list[Row] = [
        (name, said(now[name][0], "B/s"), said(then[name][0], "B/s"), _read(*then[name])) for name in now
    ]
    columns = ("", "intervals 0.1 and 1 s", f"both {said(slow, 's')}", "read, then")
    return Table("Network", columns, rows)


def _read(written: float, times: float) -> str:
    return said(written * times, "B/s") if times else "–"


Limit = tuple[str, Callable[[Shop], float], float]


def limits() -> list[Limit]:
    """What grows, and its bound: (name, function of a shop, bound)."""
    machine = ASSUMED.ram_b * ASSUMED.fill
    return [
        ("following takes half of each worker's core", following, ASSUMED.busy),
        ("codes of items, 20 bits a worker", lambda shop: shop.items, KNOWN_ITEMS),
        ("CPU of one store node, half busy", lambda s: s.rate * MEASURED.store_us / CORE, ASSUMED.busy),
        ("the most popular item's row, half a core", lambda s: hot_cores(s, covered(s, 1)), ASSUMED.busy),
        (f"memory of one store node, {said(machine, 'B')}", store_bytes, machine),
        (
            f"memory of a worker, {said(machine / ASSUMED.cores, 'B')} a core",
            worker_bytes,
            machine / ASSUMED.cores,
        ),
        ("network into one store node, 6 Gbit/s", _into_store, ASSUMED.network_b * ASSUMED.fill),
        ("a message of `increments` an event", lambda shop: mail_messages(shop) / shop.rate, 1.0),
        ("1,024 partitions", partitions, PARTITIONS + 1),
    ]


def _into_store(shop: Shop) -> float:
    found = flows(shop, ASSUMED.publish_s, ASSUMED.checkpoint_s)
    return sum(written for name, (written, _) in found.items() if name.startswith("store"))


def breaks(shop: Shop) -> Table:
    """The share of the shop at which each bound is reached, least first; 1 is the whole."""
    shares = [(_reached(shop, grown, bound), name) for name, grown, bound in limits()]
    rows = [_broken(shop, share, name) for share, name in sorted(shares)]
    return Table("What breaks first", ("bound", "events/s", "items", "users", "of the goal"), rows)


def _reached(shop: Shop, grown: Callable[[Shop], float], bound: float) -> float:
    return solved(lambda share: grown(shop.times(share)), bound, 1e-5, 100.0)


def _broken(shop: Shop, share: float, name: str) -> Row:
    if share > 99:
        return name, "–", "–", "–", "more than 100 ×"
    small = shop.times(share)
    sizes = (small.rate, small.items, small.users)
    return name, *map(said, sizes), f"1/{_two(1 / share)}" if share < 0.95 else f"{_two(share)} ×"


def hot(shop: Shop) -> Table:
    """Item partitions: the fullest beside the mean, and a hot item's row."""
    rows: list[Row] = []
    for n in (4, 64, partitions(shop)):
        fullest = uneven(shop, n)
        cores = fullest * hot_cores(shop, 1 / n)
        rows.append((f"fullest of {n} partitions", f"{fullest:.1f} × the mean, {said(cores)} cores"))
    for share in (0.01, 0.05):
        rows.append((f"row of an item in {share:.0%} of the events", f"{said(hot_cores(shop, share))} cores"))
    bound = ASSUMED.busy / hot_cores(shop, 1.0)
    rows.append(("most that an item may have, half a core", f"{bound:.1%} of the events"))
    rows += [
        (f"events of the {said(n)} most popular items", f"{covered(shop, n):.0%}")
        for n in (1e5, 9e5)
        if n < shop.items
    ]
    return Table("Hot items", ("", ""), rows)


def queues(shop: Shop) -> Table:
    """Bursts and outages of one partition."""
    rate = shop.rate / partitions(shop)
    cases = [(1.5, 60.0, 0.5), (2.0, 60.0, 0.5), (3.0, 60.0, 0.5), (3.0, 60.0, 0.7)]
    cases += [(0.0, 10.0, 0.5), (0.0, ASSUMED.silence_s, 0.5), (0.0, ASSUMED.silence_s, 0.8)]
    rows: list[Row] = []
    for factor, seconds, busy in cases:
        found = episode(rate, busy, factor, seconds)
        what = f"{factor:g} × the events" if factor else "nobody works"
        rows.append(
            (f"{what} for {seconds:g} s", f"{busy:.0%}", f"{found.wait_s:.0f} s", f"{found.over_s:.0f} s")
        )
    return Table("Bursts and outages", ("", "busy", "longest wait", "over after"), rows)


def recovery(shop: Shop) -> Table:
    """What is read again."""
    topic, parts = shop.items * (MEASURED.record_b + ASSUMED.name_b), partitions(shop)
    kept = shop.rate * ASSUMED.event_b * 86_400 * ASSUMED.retention_days * ASSUMED.replicas
    speed = ASSUMED.network_b * ASSUMED.fill
    rows: list[Row] = [
        ("`neighbors`, whole, by each worker that starts", said(topic, "B")),
        ("– following it, CPU", said(shop.items * MEASURED.follow_us / CORE, "s")),
        (
            "– by all workers at once, from brokers that send 100 Gbit/s",
            said(topic * workers(shop) / 12.5e9, "s"),
        ),
        ("rows of a partition, as they are touched", said(shop.items / parts * MEASURED.row_b, "B")),
        ("states of a partition's users, as they come", said(shop.users / parts * MEASURED.state_b, "B")),
        ("a store shard of 25 GB, from its file at 6 Gbit/s", said(25e9 / speed, "s")),
        ("`events`, 7 days, three copies", said(kept, "B")),
        (
            "a day of events replayed by the same workers, nothing new coming",
            f"{24 * ASSUMED.busy:.0f} h",
        ),
    ]
    return Table("Recovery", ("what", ""), rows)


def machines(shop: Shop) -> Table:
    """Machines of 16 cores, 128 GB and 10 Gbit/s: the greatest of what CPU, memory and network ask for."""
    slow = rested(shop)
    found = flows(shop, slow, slow)
    logs = [each for name, each in found.items() if name.startswith("`")]
    sent = sum(written * (ASSUMED.replicas - 1 + times) for written, times in logs)
    into = sum(written for name, (written, _) in found.items() if name.startswith("store"))
    box, wire = ASSUMED.cores * ASSUMED.busy, ASSUMED.network_b * ASSUMED.fill
    ram = ASSUMED.ram_b * ASSUMED.fill
    rows: list[Row] = [
        _machines("workers", workers(shop) * ASSUMED.busy / box, workers(shop) * worker_bytes(shop) / ram, 0),
        _machines("brokers", shop.rate * MEASURED.broker_us / CORE / box, 0, sent / wire),
        _machines(
            "store, two copies",
            2 * shop.rate * MEASURED.store_us / CORE / box,
            2 * store_bytes(shop) / ram,
            2 * into / wire,
        ),
    ]
    return Table("Machines", ("", "by CPU", "by memory", "by network", "machines"), rows)


def _machines(name: str, *asked: float) -> Row:
    return name, *(str(math.ceil(each)) if each else "–" for each in asked), str(math.ceil(max(asked)))


def tables(shop: Shop) -> Iterable[Table]:
    """All of the page."""
    return [inputs(), *(each(shop) for each in (takes, network, breaks, hot, queues, recovery, machines))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=float, default=1e8)
    parser.add_argument("--items", type=float, default=1e7)
    parser.add_argument("--rate", type=float, default=1e6, help="events/s")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = tables(Shop(given.users, given.items, given.rate))
    if given.json:
        print(json.dumps({each.name: [each.columns, *each.rows] for each in found}, ensure_ascii=False))
    else:
        print("\n\n".join(f"## {each.name}\n\n{each.markdown()}" for each in found))


if __name__ == "__main__":
    main()
