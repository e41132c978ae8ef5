"""One interleaving: workers, their group, and what goes wrong, until all is quiet again.

`SimWorker` is the live worker without Faust: its ways of taking, giving up, feeding and reading again are the
very code of `stream.app`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

from faust.types import TP

import stream.app
from state.keys import Keys
from state.model import Head
from stream.app import Worker
from stream.delivery import Ports
from stream.settings import Settings
from stream.topics import CATALOG, EVENTS, INCREMENTS
from stream.transport import Bundle, BundleMessage
from tests.simulation.loop import SimLoop, Stuck
from tests.simulation.ports import Faults, Host, Net, Server, SimLog, SimSender, SimStore, WorkerLog

INPUTS = {"u": (EVENTS.name,), "i": (INCREMENTS.name, CATALOG.name)}
DISTURBED_S = 3.0
"""Faults begin within this time."""
QUIET_WITHIN_S = 60.0
"""Virtual time after the last fault in which all must be processed: a verification and some seeks."""


class SimEvent:
    """A Faust event: a bundle, and its acknowledgement."""

    __slots__ = ("_ack", "message")

    def __init__(self, bundle: Bundle, ack: Callable[[Bundle], None]) -> None:
        self.message = BundleMessage.__new__(BundleMessage)
        self.message.bundle = bundle
        self._ack = ack

    def ack(self) -> None:
        self._ack(self.message.bundle)


class SimStream:
    """A Faust stream: events as they were put in."""

    def __init__(self, host: Host) -> None:
        self.enable_acks = True
        self.queue: asyncio.Queue[SimEvent] = asyncio.Queue(maxsize=4)
        self._host = host

    async def events(self) -> AsyncIterator[SimEvent]:
        while True:
            event = await self.queue.get()
            await self._host.hop()
            yield event


class SimConsumer:
    """Faust's consumer over the bundling transport: positions, fetches, seeks, commits."""

    def __init__(self, world: World, worker: SimWorker) -> None:
        self._world, self._worker = world, worker
        self._assigned: tuple[TP, ...] = ()
        self.positions: dict[TP, int] = {}
        self._sought: set[TP] = set()
        self._waiter: asyncio.Future[None] | None = None
        world.log.readers.append(self._wake)

    def assignment(self) -> tuple[TP, ...]:
        return self._assigned

    def assign(self, assigned: Sequence[TP]) -> None:
        """Reading rests until `resume`."""
        self._assigned = tuple(assigned)
        self.positions = {}
        self._sought.update(INPUT_TPS)

    def resume(self) -> None:
        """Seek to what is committed, or to something older, as a broker may that lost a commit."""
        world = self._world
        for tp in self._assigned:
            at = world.group.committed.get(tp, 0)
            if at and world.net.roll(world.net.faults.older):
                at = world.net.rng.randrange(at)
            self.positions[tp] = at
        self._wake()

    async def seek(self, tp: TP, offset: int) -> None:
        await self._worker.host.hop()
        self._world.net.note(self._worker.host.name, "seek", *tp, offset)
        if tp in self.positions:
            self.positions[tp] = offset
            self._sought.add(tp)
            self._wake()

    def committed(self, topic: str, partition: int) -> int:
        """The group's offset, for planted bugs: nothing else may believe it."""
        return self._world.group.committed.get(TP(topic, partition), 0)

    async def fetch(self) -> None:
        """Read for ever: bundles of random sizes, partition by partition."""
        world, worker = self._world, self._worker
        while True:
            due = [tp for tp in self.positions if self._waiting(tp)]
            if not due:
                await self._rest()
                continue
            tp = due[int(world.net.rng.random() * len(due))]
            bundle = self._bundle(tp)
            self._sought.discard(tp)
            await worker.host.hop()
            if tp not in self._sought and tp in self.positions:
                self.positions[tp] = bundle.next
                event = SimEvent(bundle, self._acked)
                await worker.streams[side_of(tp)].queue.put(event)

    async def _rest(self) -> None:
        """Until something was appended or sought."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _waiting(self, tp: TP) -> bool:
        records = self._world.log.parts[tp].records
        return bool(records) and records[-1].offset >= self.positions[tp]

    def _bundle(self, tp: TP) -> Bundle:
        first, part = self.positions[tp], self._world.log.part(*tp)
        at = part.at(first)
        records = part.records[at : at + self._world.net.rng.choice((1, 2, 3, 20))]
        return Bundle(tp.topic, tp.partition, records, first, records[-1].offset + 1)

    def _acked(self, bundle: Bundle) -> None:
        self._world.group.commit(self._worker, {TP(bundle.topic, bundle.partition): bundle.next})


def side_of(tp: TP) -> str:
    return "u" if tp.topic == EVENTS.name else "i"


INPUT_TPS: tuple[TP, ...] = tuple(TP(t, p) for topics in INPUTS.values() for t in topics for p in range(4))


class SimWorker(Worker):
    """A worker of a simulated group. ``build`` may set what the sides need."""

    def __init__(self, world: World, name: str) -> None:
        self.host = Host(world.net, name)
        self.world = world
        with patch.object(stream.app, "faust_app", lambda _: SimpleNamespace(consumer=None)):
            super().__init__(world.settings)
        self.consumer = SimConsumer(world, self)
        self._app = cast(Any, SimpleNamespace(consumer=self.consumer))
        self.streams = {side: SimStream(self.host) for side in INPUTS}
        self._ports = Ports(
            WorkerLog(world.log, self.host, self.consumer),
            SimStore(world.server, self.host),
            SimSender(world.log, self.host),
            self.host.now_ms,
            self.dead_letters,
        )
        self._item_ports = self._ports
        self._told = asyncio.Event()
        self._next_assignment: Sequence[TP] = ()
        self._all: list[asyncio.Task[Any]] = []

    def dead_letters(self, partition: int, topic: str, record: Any) -> Sequence[Any]:
        return self._contexts.dead_letters(partition, topic, record)

    def start(self) -> None:
        self.spawn(self._join())
        self.spawn(self.consumer.fetch())
        for side, stream_of in self.streams.items():
            self.spawn(self._feed(side, cast(Any, stream_of)))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._all.append(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def tell(self, assigned: Sequence[TP]) -> None:
        """The group's new assignment."""
        self._next_assignment = assigned
        self._told.set()

    async def _join(self) -> None:
        """What Faust does around a rebalance."""
        while True:
            await self._told.wait()
            await self.host.hop()
            self._told.clear()
            self.consumer.assign(self._next_assignment)
            if self.world.net.rng.random() < 0.7:
                for each in self.streams.values():
                    while not each.queue.empty():
                        each.queue.get_nowait()
            self.world.net.note(
                self.host.name, "assigned", [f"{tp[0]}/{tp[1]}" for tp in self.consumer.assignment()]
            )
            await self._on_rebalance_complete()
            if not self._told.is_set():
                self.consumer.resume()

    @property
    def settled(self) -> bool:
        """Whether it knows the newest assignment and runs all that it has."""
        reading = bool(self.consumer.positions or not self._next_assignment)
        return reading and not self._told.is_set() and self.host.stalled_until <= self.world.loop.now

    def fail(self, error: BaseException) -> None:
        """Whatever ends a worker, here it should not: no log is cut, no disk is lost."""
        if not self.host.dead:
            self.world.net.violate(f"{self.host.name} ended: {error!r}")
            self.die()

    def die(self) -> None:
        """Nothing of its memory goes on; what it had sent may still land."""
        self.host.dead = True
        for task in [*self._all, *self._tasks.values()]:
            task.cancel()


class Group:
    """The consumer group: who has which partition, and the committed offsets."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.committed: dict[TP, int] = {}
        self.owner: dict[TP, SimWorker] = {}

    def rebalance(self, slow: SimWorker | None = None, without: Sequence[SimWorker] = ()) -> None:
        """Give every partition to somebody. ``slow`` hears of it late, ``without`` get nothing."""
        world, rng = self._world, self._world.net.rng
        members = [worker for worker in world.workers if worker not in without and not worker.host.dead]
        if not members:
            return
        for side, topics in INPUTS.items():
            for partition in range(world.partitions):
                owner = rng.choice(members)
                self.owner.update({TP(topic, partition): owner for topic in topics})
                world.net.note("owner", f"{side}{partition}", owner.host.name)
        for worker in world.workers:
            wait = rng.uniform(0.5, 3.0) if worker is slow else rng.random() * 0.05
            world.net.later(wait, self._tell, worker)

    def _tell(self, worker: SimWorker) -> None:
        if not worker.host.dead:
            worker.tell([tp for tp, owner in self.owner.items() if owner is worker])

    def commit(self, worker: SimWorker, positions: Mapping[TP, int]) -> None:
        """The offsets of partitions that a worker has; others are refused in silence, as by Faust."""
        net = self._world.net
        if net.roll(net.faults.commit):
            if net.rng.random() < 0.5:
                net.later(net.some_time(), self._commit, worker, positions)
            return
        self._commit(worker, positions)

    def _commit(self, worker: SimWorker, positions: Mapping[TP, int]) -> None:
        self.committed.update({tp: at for tp, at in positions.items() if self.owner.get(tp) is worker})


class World:
    """Everything of one interleaving. A subclass says what the sides do, what comes in, and what is right."""

    partitions = 2
    settings: Settings
    most_workers = 3

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = SimLoop(self.rng)  # type: ignore[abstract]
        self.net = Net(self.loop, self.rng, self.swizzle())
        self.log = SimLog(self.net)
        self.server = Server(self.net, Keys(self.settings.prefix))
        self.group = Group(self)
        self.workers: list[SimWorker] = []
        self._made = 0

    # What a subclass says

    def worker(self, name: str) -> SimWorker:
        raise NotImplementedError

    async def produce(self) -> None:
        """Append the input, over some time."""
        raise NotImplementedError

    async def wrong(self) -> str:
        """What differs from the truth; empty: nothing. Called when every record has been read."""
        raise NotImplementedError

    # The run

    def swizzle(self) -> Faults:
        """A random choice of faults: a run with all of them at once finds less than many with some."""
        rng = self.rng

        def some(most: float) -> float:
            return most * rng.random() if rng.random() < 0.4 else 0.0

        return Faults(
            doubt=some(0.12),
            full=some(0.1),
            send=some(0.2),
            read=some(0.1),
            commit=some(0.5),
            older=some(1.0),
            gaps=some(0.5),
            skew_ms=rng.choice((0, 0, 0, 200)),
        )

    def run(self) -> list[str]:
        """The violations."""
        try:
            self.loop.run_until_complete(self._run())
        except Stuck:
            self.net.violate("stuck: nothing is ready, and no timer is set")
        self._end()
        return self.net.violations

    async def _run(self) -> None:
        for _ in range(self.rng.randint(1, self.most_workers - 1)):
            self.join()
        self.group.rebalance()
        input_ends = self.loop.create_task(self.produce())
        await self._disturb()
        await input_ends
        self.net.calm = True
        await self._settle()

    def join(self) -> SimWorker:
        self._made += 1
        worker = self.worker(f"w{self._made}")
        self.workers.append(worker)
        worker.start()
        return worker

    async def _settle(self) -> None:
        """Until all is read, nothing is wrong and nothing is under way, twice; or the time is over."""
        deadline = self.loop.now + QUIET_WITHIN_S
        good = 0
        while self.loop.now < deadline and not self.net.violations:
            await asyncio.sleep(0.5)
            good = good + 1 if not await self._unquiet() else 0
            if good == 2:
                return
        if not self.net.violations:
            self.net.violate(await self._unquiet() or "it came right too late")

    async def _unquiet(self) -> str:
        if self.net.late:
            return "something is still under way"
        for worker in self.workers:
            if not worker.settled:
                return f"{worker.host.name} hangs in a rebalance"
        return self._unread() or await self.wrong()

    def _unread(self) -> str:
        for side, topics in INPUTS.items():
            for partition in range(self.partitions):
                key = self.server.data.keys.head(f"{side}{partition}")
                stored = self.server.data.strings.get(key)
                positions = Head.unpack(stored).positions if stored is not None else {}
                for topic in topics:
                    records = self.log.part(topic, partition).records
                    at = positions[topic].offset if topic in positions else 0
                    if records and at <= records[-1].offset:
                        return f"{topic}/{partition} hangs at {at}, the last record is {records[-1].offset}"
        return ""

    def tally(self) -> Counter[str]:
        """How often each fault came."""
        names = {"trip lost": "trips to the store lost", "send fails": "sends failed", "seek": "seeks"}
        found = Counter(each[2] for each in self.net.trace if each[1] == "fault")
        for each in self.net.trace:
            if len(each) > 2 and each[2] in names:
                found[names[each[2]]] += 1
        return found

    def digest(self) -> str:
        """A hash of all that happened: the same for the same seed."""
        return sha256(repr((self.loop.steps, self.net.trace)).encode()).hexdigest()

    def _end(self) -> None:
        for worker in self.workers:
            worker.die()
        with suppress(Stuck):
            self.loop.drain()

    # What goes wrong

    async def _disturb(self) -> None:
        kinds = (
            self._rebalance,
            self._zombie,
            self._crash,
            self._stall,
            self._power_cut,
            self._away,
            self._third,
        )
        chosen = self.rng.sample(kinds, self.rng.randint(0, 3))
        some = [self.rng.choice(chosen) for _ in range(self.rng.randint(0, 4))] if chosen else []
        times = sorted(self.rng.random() * self.rng.choice((0.1, 0.5, DISTURBED_S)) for _ in some)
        for at, what in zip(times, some, strict=True):
            await asyncio.sleep(max(0.0, at - self.loop.now))
            if self.workers:
                self.net.note("fault", what.__name__.strip("_"))
                await what()
        await asyncio.sleep(self.rng.random() * self.rng.choice((0.1, 1.0)))

    def _anyone(self) -> SimWorker:
        return self.rng.choice(self.workers)

    async def _rebalance(self) -> None:
        self.group.rebalance()

    async def _zombie(self) -> None:
        """One is taken for dead and does not know."""
        lost = self._anyone()
        self.group.rebalance(slow=lost, without=[lost])

    async def _third(self) -> None:
        if len(self.workers) < self.most_workers:
            self.join()
            self.group.rebalance()

    async def _crash(self) -> None:
        dying = self._anyone()
        dying.die()
        self.workers.remove(dying)
        self.net.later(self.rng.random(), self._replace)

    def _replace(self) -> None:
        self.join()
        self.group.rebalance()

    async def _stall(self) -> None:
        """One stops for a while; the group may give its partitions away meanwhile, and then back."""
        stalled = self._anyone()
        stalled.host.stalled_until = self.loop.now + self.rng.random() * self.rng.choice((0.3, 3.0))
        if self.rng.random() < 0.7:
            self.group.rebalance(slow=stalled, without=[stalled])

    async def _power_cut(self) -> None:
        self.server.snapshot()
        await asyncio.sleep(self.rng.random() * self.rng.choice((0.05, 0.5, 2.0)))
        self.server.go_back()

    async def _away(self) -> None:
        """The store is restarted and keeps everything."""
        self.server.restart(self.rng.random() * self.rng.choice((0.1, 2.0)))
