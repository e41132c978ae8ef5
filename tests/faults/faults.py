"""The faults: each disturbs a round while its workload plays, and notes what really happened.

A trial counts only when the fault struck while work was going on.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

import orjson
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from state.keys import Keys
from state.model import Epoch, Head
from stream.admin import connected, create_topics
from stream.topics import DECISIONS, ENGAGEMENTS, EVENTS
from tests.e2e.harness import environment
from tests.faults.check import check_mended, ports, read_all
from tests.faults.rounds import Disturb, Hand, Round
from tests.faults.worker import POINTS
from tests.faults.workload import askers, play, poison

Busy = Callable[[], bool]
ANYWHERE = "anywhere"
"""Where a worker was killed that did not come to its point."""
POINT_WITHIN_S = 12.0
"""A worker that has not come to its point by then is killed where it is."""
SLOTS = 3
"""Workers at a time while they are killed: one of them is on its way."""
COMPACTED_WITHIN_S = 60.0
SEVERAL_WITHIN_S, REFUSED_WITHIN_S = 60.0, 60.0
REFUSED = 3
"""Exit code of a worker whose store and log do not belong together."""


# Workers


def _points(each: Round) -> Iterator[str]:
    """All points for ever, from another place for each seed."""
    order = list(POINTS)
    first = each.seed * 7 % len(order)
    return cycle(order[first:] + order[:first])


async def kill(each: Round) -> None:
    """kill −9 before and after each step; the other worker takes over, a third one joins."""
    points = _points(each)

    async def slot(busy: Busy) -> None:
        while busy():
            await _kill_one(each, next(points), busy)

    async with each.shopping() as busy:
        await asyncio.gather(*(slot(busy) for _ in range(SLOTS)))


async def _kill_one(each: Round, point: str, busy: Busy, within_s: float = POINT_WITHIN_S) -> None:
    often = point.startswith("batch")  # a worker takes few partitions, and checkpoints once a second
    hand = await each.start(f"{point}:{each.rng.randint(1, 8 if often else 2)}", ready=False)
    code = await hand.ended(within_s)
    if busy():
        each.trials[point if code == -signal.SIGKILL else ANYWHERE] += 1
    hand.kill()


async def sigterm(each: Round) -> None:
    """SIGTERM in the middle of the work; the worker ends by itself, another takes over."""
    await each.start()
    async with each.shopping() as busy:
        while busy():
            hand = await each.start()
            await asyncio.sleep(each.rng.uniform(0.0, 2.0))
            oldest = each.alive[0] if each.rng.random() < 0.7 else hand
            each.trials["sigterm"] += busy()
            await each.stop(oldest)


async def join_leave(each: Round) -> None:
    """A second and a third worker join and leave: each time the partitions go round."""
    await each.start()
    async with each.shopping() as busy:
        while busy():
            if len(each.alive) < 3 and (len(each.alive) == 1 or each.rng.random() < 0.6):
                await each.start()
                each.trials["join"] += busy()
            else:
                await each.stop(each.rng.choice(each.alive))
                each.trials["leave"] += busy()
            await asyncio.sleep(each.rng.uniform(0.0, 2.0))


async def zombie(each: Round) -> None:
    """SIGSTOP for longer than the session timeout, then SIGCONT, while another has taken over."""
    await each.start()
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(0.5, 2.0))
            await _stun(each, each.rng.choice(each.alive), busy)


async def _stun(each: Round, hand: Hand, busy: Busy) -> None:
    """Counts only when a partition changed its owner meanwhile, and the sleeper woke while work went on."""
    before = await _owners(each)
    hand.signal(signal.SIGSTOP)
    deadline = time.monotonic() + 6 * each.settings.session_timeout_s
    while (moved := await _owners(each)) == before and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    await asyncio.sleep(each.rng.uniform(0.0, 2.0))
    hand.signal(signal.SIGCONT)
    await asyncio.sleep(2.0)
    each.trials["zombie"] += moved != before and busy()


async def _owners(each: Round) -> dict[str, Epoch]:
    """The epoch of each partition's head."""
    keys = Keys(each.settings.prefix)
    parts = [f"{side}{p}" for side in "ui" for p in range(each.settings.partitions)]
    async with ports(each.settings) as (store, _):
        heads = await store.get([keys.head(part) for part in parts])
    return {part: Head.unpack(head).epoch for part, head in zip(parts, heads, strict=True) if head}


async def undisturbed(each: Round) -> None:
    """Last year's log, once with a calm worker and once with workers that are killed: the same digest."""
    calm = each.sibling()
    await calm.prepare()
    try:
        await calm.start()
        async with calm.shopping() as busy:
            while busy():
                await asyncio.sleep(0.1)
        await calm.judge()
    finally:
        await calm.tidy()
    each.kind, each.same_as = "recorded", calm.verdict.digest
    each.problems += [f"undisturbed: {problem}" for problem in calm.verdict.problems]
    await kill(each)


# Servers


async def broker_killed(each: Round) -> None:
    """One broker of three is killed, and started again some seconds later."""
    cluster = each.bench.the_cluster
    await each.start()
    await each.start()
    async with each.shopping() as busy:
        for number in cycle(each.rng.sample(sorted(cluster.nodes), 3)):
            await asyncio.sleep(each.rng.uniform(2.0, 4.0))
            if not busy():
                break
            await asyncio.to_thread(cluster.kill, number)
            await asyncio.sleep(each.rng.uniform(2.0, 6.0))
            each.trials["killed"] += busy()
            await asyncio.to_thread(cluster.start, number)
            await asyncio.sleep(4.0)  # its copies catch up, or two would be missing at the next kill


async def brokers_restarted(each: Round) -> None:
    """All brokers are killed at once, and started again."""
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(3.0, 6.0))
            each.trials["restarted"] += busy()
            await asyncio.to_thread(each.bench.the_cluster.restart_all)
            await asyncio.sleep(8.0)


async def store_killed(each: Round) -> None:
    """The store is killed, and started again with all it acknowledged (`appendfsync always`)."""
    valkey = each.bench.the_valkey
    await each.start()
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(2.0, 4.0))
            await asyncio.to_thread(valkey.kill)
            await asyncio.sleep(each.rng.uniform(0.0, 4.0))
            each.trials["restarted"] += busy()
            await asyncio.to_thread(valkey.start)
            await asyncio.sleep(3.0)


async def store_back_in_time(each: Round) -> None:
    """The store loses its last second or so, as `appendfsync everysec` may in a power cut."""
    valkey = each.bench.the_valkey
    await each.start()
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(3.0, 5.0))
            await asyncio.to_thread(valkey.snapshot)
            await asyncio.sleep(each.rng.uniform(0.2, 1.5))
            await asyncio.to_thread(valkey.kill)
            each.trials["back"] += busy()
            await asyncio.to_thread(valkey.restore)
            await asyncio.to_thread(valkey.start)
            await asyncio.sleep(4.0)


async def store_full(each: Round) -> None:
    """The store has no memory left for some seconds (`maxmemory`, `noeviction`)."""
    valkey = each.bench.the_valkey
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(2.0, 4.0))
            await asyncio.to_thread(valkey.config, "maxmemory", 1_000_000)
            await asyncio.sleep(each.rng.uniform(2.0, 5.0))
            each.trials["full"] += busy()
            await asyncio.to_thread(valkey.config, "maxmemory", 0)


# Connections


async def store_cut(each: Round) -> None:
    """All connections between workers and store are reset, or stall for longer than a trip may take."""
    await each.start()
    await each.start()
    proxy = each.bench.the_store_proxy
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(0.5, 3.0))
            if each.rng.random() < 0.6:
                await proxy.cut(each.rng.choice((0.0, 0.0, 0.5, 2.0)))
                each.trials["cut"] += busy()
            else:
                await proxy.stall(each.rng.choice((0.5, 2.0, 4.0)))
                each.trials["stalled"] += busy()


async def broker_cut(each: Round) -> None:
    """All connections between workers and some brokers are reset, or stall."""
    await each.start()
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(1.0, 3.0))
            some = each.rng.sample(each.bench.node_proxies, each.rng.randint(1, 3))
            if each.rng.random() < 0.6:
                seconds = each.rng.choice((0.0, 0.5, 2.0))
                await asyncio.gather(*(proxy.cut(seconds) for proxy in some))
                each.trials["cut"] += busy()
            else:
                seconds = each.rng.choice((1.0, 2.5, 5.0))
                await asyncio.gather(*(proxy.stall(seconds) for proxy in some))
                each.trials["stalled"] += busy()


# Logs


async def poisoned(each: Round) -> None:
    """Bursts of what nobody can read, between good events, and a kill while they are worked on."""
    await each.start()
    async with each.shopping() as busy:
        while busy():
            await asyncio.sleep(each.rng.uniform(1.0, 3.0))
            now_ms = time.time_ns() // 1_000_000
            await play(poison(each.rng.randrange(2**32), 150, now_ms), each.settings)
            each.trials["burst"] += busy()
            if each.rng.random() < 0.3:
                each.alive[0].kill()
                await each.start()


async def aborted(each: Round) -> None:
    """A producer whose transactions are partly aborted: gaps and markers; workers die meanwhile."""
    points = _points(each)
    await each.start()
    async with each.shopping(transactional=True) as busy:
        while busy():
            await _kill_one(each, next(points), busy)
    await _count_gaps(each, "gaps")


async def compacted(each: Round) -> None:
    """A log of which compaction removed records before any worker saw them; then it grows as usual."""
    await _configure(each, {"cleanup.policy": "compact", "segment.ms": "500"} | _CLEAN_AT_ONCE)
    keyed = [one for one in each.messages() if one.key is not None and one.value is not None]
    await play(keyed, each.settings)
    deadline = time.monotonic() + COMPACTED_WITHIN_S
    while not await _count_gaps(each, "gaps") and time.monotonic() < deadline:
        await play(keyed[:40], each.settings)  # a segment ends only when something comes after it
        await asyncio.sleep(1.0)
    await _configure(each, {"cleanup.policy": "delete"})
    points = _points(each)
    async with each.shopping() as busy:
        while busy():
            await _kill_one(each, next(points), busy)


_CLEAN_AT_ONCE = {
    "min.cleanable.dirty.ratio": "0.01",
    "max.compaction.lag.ms": "500",
    "delete.retention.ms": "100",
}


async def _configure(each: Round, config: dict[str, str]) -> None:
    """Set the configuration of `events`, and nothing else of it."""
    resource = ConfigResource(ConfigResourceType.TOPIC, EVENTS.full(each.settings), config)
    async with connected(each.settings) as client:
        await client.alter_configs([resource])


async def _count_gaps(each: Round, name: str) -> int:
    """How many offsets between records nobody can read; noted as one trial when there are any."""
    records = (await read_all(each.settings, [EVENTS]))[EVENTS.name]
    gaps: int = sum(
        later.offset - earlier.offset - 1
        for earlier, later in pairwise(records)
        if earlier.partition == later.partition
    )
    each.trials[name] = int(gaps > 0)
    return gaps


async def recreated(each: Round) -> None:
    """`events` is deleted and made again: the worker that runs ends and says why, and so does a new one.

    After `tidewise mend` a worker goes on; the old log was checked before, for afterwards it is gone.
    """
    await each.start()
    async with each.shopping():
        pass
    await each.judge()
    before = await read_all(each.settings)
    running = await each.start()
    await _make_anew(each)
    for hand in (running, await each.start(ready=False)):
        hand.expected.add(REFUSED)
        code = await hand.ended(REFUSED_WITHIN_S)
        each.trials["refused"] += code == REFUSED
        if code is None:
            each.problems.append(f"a worker goes on with a log made anew, see {hand.path}")
            hand.kill()
    await _mend(each)
    await each.freeze()
    await check_mended(each.settings, before, each.verdict)


async def _make_anew(each: Round) -> None:
    async with connected(each.settings) as client:
        await client.delete_topics([EVENTS.full(each.settings)])
    await asyncio.sleep(2.0)
    await create_topics(each.settings)
    await play(each.messages(each.seed + 1), each.settings)


async def _mend(each: Round) -> None:
    command = [sys.executable, "-m", "stream.cli", "mend", "--from", "beginning"]
    with (each.folder / "mend.log").open("wb") as log:
        done = subprocess.Popen(command, env=environment(each.settings), stdout=log, stderr=log)
        code = await asyncio.to_thread(done.wait, REFUSED_WITHIN_S)
    each.trials["mended"] += code == 0
    if code:
        each.problems.append(f"`tidewise mend` ended with {code}, see {log.name}")


# Coupons

ASKING, CODES, ASKING_S = 10_000, 1000, 45.0
"""Users who ask for a coupon, codes that there are, and how long they come in."""
_GIVES = """id: hello
trigger: {type: welcome}
steps: [0s]
message: {template: hello}
coupon: {pool: hello, codes: codes.txt, value: 1}
"""


async def coupons(each: Round) -> None:
    """kill −9 while ten thousand users ask for a thousand codes: each goes to one of them."""
    folder = each.folder / "campaigns"
    folder.mkdir()
    (folder / "hello.yaml").write_text(_GIVES)
    (folder / "codes.txt").write_text("".join(f"HELLO-{n}\n" for n in range(CODES)))
    changed = {"campaigns": str(folder)}
    each.settings = each.settings.model_copy(update=changed)
    each.worker_settings = each.worker_settings.model_copy(update=changed)
    points = cycle([point for point in POINTS if point.startswith("batch")])  # nobody touches an item
    task = asyncio.create_task(play(askers(ASKING, ASKING_S), each.settings))

    def busy() -> bool:
        return not task.done()

    async def slot() -> None:
        while busy():
            await _kill_one(each, next(points), busy)

    await asyncio.gather(task, *(slot() for _ in range(SLOTS)))
    await each.judge()
    await _given_once(each)


async def _given_once(each: Round) -> None:
    """All codes are out, each to one user, and whoever got none was told why."""
    records = await read_all(each.settings, (ENGAGEMENTS, DECISIONS))
    messages = {told["id"]: told for told in map(orjson.loads, _values(records[ENGAGEMENTS.name]))}
    users: dict[str, set[str]] = {}
    for told in messages.values():
        users.setdefault(told["coupon"]["code"], set()).add(told["user"])
    decisions = {told["id"]: told for told in map(orjson.loads, _values(records[DECISIONS.name]))}
    refused = {told["user"] for told in decisions.values() if told["reason"] == "pool"}
    each.verdict.counted["coupons"] = len(messages)
    each.verdict.repeat("a code", (f"{code}: {sorted(who)}" for code, who in users.items() if len(who) > 1))
    each.verdict.miss("codes", range(len(users), CODES))
    each.verdict.miss("answers", range(len(refused), ASKING - CODES))


def _values(records: Sequence[Any]) -> list[bytes]:
    return [record.value for record in records]


# For a quick look


async def several(each: Round) -> None:
    """A few of all, one after the other, on whatever broker and store there are."""
    proxy, points = (
        each.bench.the_store_proxy,
        ("batch-3-after-exec", "item-lists-sent", "take-3-outbox-sent"),
    )
    await each.start()
    async with each.steady_shopping() as busy:
        await asyncio.gather(*(_kill_one(each, point, busy, SEVERAL_WITHIN_S) for point in points))
        await each.start()
        await _stun(each, each.alive[0], busy)
        await proxy.cut()
        each.trials["cut"] += busy()
        await proxy.stall(2.5)
        each.trials["stalled"] += busy()
        await each.stop(each.alive[0])
        each.trials["leave"] += busy()


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, how many trials of it a whole run wants, and the most rounds it takes for them.

    ``every``: so many different trials must come up, too.
    """

    disturb: Disturb
    trials: int
    rounds: int
    every: int = 1


FAULTS: dict[str, Fault] = {
    "kill": Fault(kill, 100, 14, every=len(POINTS)),
    "undisturbed": Fault(undisturbed, 5, 2),
    "sigterm": Fault(sigterm, 5, 2),
    "join-leave": Fault(join_leave, 20, 5),
    "zombie": Fault(zombie, 10, 5),
    "broker-killed": Fault(broker_killed, 5, 4),
    "brokers-restarted": Fault(brokers_restarted, 2, 2),
    "store-killed": Fault(store_killed, 5, 3),
    "store-back-in-time": Fault(store_back_in_time, 4, 3),
    "store-full": Fault(store_full, 4, 2),
    "store-cut": Fault(store_cut, 10, 3),
    "broker-cut": Fault(broker_cut, 10, 4),
    "poisoned": Fault(poisoned, 5, 2),
    "aborted": Fault(aborted, 2, 2),
    "compacted": Fault(compacted, 2, 2),
    "recreated": Fault(recreated, 3, 1),
    "coupons": Fault(coupons, 10, 2),
}
