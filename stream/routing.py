"""What of a batch is counted here: misrouted events go on as mail, mail that came twice is dropped. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream import forward
from stream.codec import Columns, Record, parts
from stream.core.users import UserTable
from stream.delivery import Output
from stream.ownership import partition_of
from stream.topics import EVENTS

Bool = NDArray[np.bool_]


class Posted(NamedTuple):
    """Mail on `events`: where its event stood (offset, index), its target partition, the message.

    Receivers keep the last position of every sender, so mail leaves in the order of its positions.
    """

    place: tuple[int, int]
    target: int
    output: Output


@dataclass(frozen=True, slots=True)
class Routed:
    """A batch, sorted: ``columns`` is what counts here, ``mail`` goes on.

    ``senders`` are the last source positions after it. ``strangers`` are users of other partitions whose
    events came as mail nevertheless: they count here, but must not be taken for users of this partition.
    """

    columns: Columns
    senders: Mapping[int, int]
    mail: list[Posted] = field(default_factory=list)
    repeats: int = 0
    strangers: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Router:
    """Sorts the batches of one partition of ``partitions``; ``key`` signs what goes on."""

    partition: int
    partitions: int
    key: bytes

    def route(
        self,
        columns: Columns,
        records: Sequence[Record],
        base: int,
        table: UserTable,
        senders: Mapping[int, int],
    ) -> Routed:
        """Sort a batch. ``columns.offset`` is that of ``records`` plus ``base``.

        Users in ``table`` belong here; of others the partition is computed. About 0.1 µs an event where all
        are at home, 10 µs one that goes on.
        """
        targets = self._targets(columns.user, table)
        came = columns.sender >= 0
        if not targets and not came.any():
            return Routed(columns, senders)
        away = np.array([name in targets for name in columns.user], dtype=np.bool_) & ~came
        repeated, seen = _repeated(columns, senders)
        return Routed(
            columns.take(~away & ~repeated),
            seen,
            list(self._mail(columns, np.flatnonzero(away).tolist(), records, base, targets)),
            int(np.count_nonzero(repeated)),
            targets.keys() & {columns.user[at] for at in np.flatnonzero(came).tolist()},
        )

    def _targets(self, users: Sequence[str], table: UserTable) -> dict[str, int]:
        """The partitions of users who belong to others."""
        names = list(dict.fromkeys(users))
        unknown = np.flatnonzero(table.slots(names) < 0).tolist()
        owners = {names[at]: partition_of(names[at], self.partitions) for at in unknown if names[at]}
        return {name: owner for name, owner in owners.items() if owner != self.partition}

    def _mail(
        self,
        columns: Columns,
        events: Sequence[int],
        records: Sequence[Record],
        base: int,
        targets: Mapping[str, int],
    ) -> Iterator[Posted]:
        for offset, group in groupby(events, lambda at: int(columns.offset[at])):
            record = records[bisect_left(records, offset - base, key=lambda record: record.offset)]
            bodies = parts(record.value or b"")
            for at in group:
                user, index = columns.user[at], int(columns.index[at])
                source, received = (self.partition, offset, index), int(columns.received[at])
                mail = forward.pack(self.key, targets[user], source, received, bodies[index])
                yield Posted((offset, index), targets[user], Output(EVENTS.name, user.encode(), mail))


def _repeated(columns: Columns, senders: Mapping[int, int]) -> tuple[Bool, dict[int, int]]:
    """Which events [E] are mail that came before; the last source position of every sender."""
    repeated, seen = np.zeros(len(columns.time), dtype=np.bool_), dict(senders)
    for sender in np.unique(columns.sender[columns.sender >= 0]).tolist():
        events = np.flatnonzero(columns.sender == sender)
        reached = np.maximum.accumulate(np.append(seen.get(sender, -1), columns.source[events]))
        repeated[events] = columns.source[events] <= reached[:-1]
        seen[sender] = int(reached[-1])
    return repeated, seen
