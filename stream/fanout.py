"""The item side's part in engagement: who is interested in items, and the notices when one changes.

The lists of a partition (`stream.core.watchers`) live in the store; in memory are those used lately. Changed
ones are written with the checkpoint, whose outbox holds the notices, so both happen once or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from state.keys import Keys
from state.model import Delete, Put, Write
from state.store import Session
from stream import forward
from stream.core.items import Items
from stream.core.notices import Notice, body_of
from stream.core.watchers import Change, Goods, Interest, Terms, Watchers, note, tell
from stream.delivery import Output
from stream.ownership import partition_of
from stream.topics import EVENTS

HELD = 50_000
"""Lists and users in them that stay in memory after a checkpoint, 0.4 kB each; else all are read anew."""
NOTICES = 100_000
"""Notices that one message on `catalog` may cause; what the rest of its items would cause is left out."""


@dataclass
class Fanout:
    """The lists of item partition ``partition`` of ``partitions``; ``key`` signs the notices."""

    partition: int
    partitions: int
    key: bytes
    keys: Keys
    items: Items
    lists: dict[int, Watchers] = field(default_factory=dict)
    dirty: set[int] = field(default_factory=set)
    posts: list[tuple[int, Output]] = field(default_factory=list)
    _place: tuple[int, int] = (-1, 0)
    """Of the newest notice: the offset of its message, and how many that caused."""

    async def load(self, session: Session, ids: Iterable[int]) -> None:
        """Bring lists that are not in memory, in one MGET; of items without one an empty one."""
        missing = sorted(set(ids) - self.lists.keys())
        if missing:
            found = await session.get([self._key(at) for at in missing])
            for at, blob in zip(missing, found, strict=True):
                self.lists[at] = Watchers() if blob is None else Watchers.unpack(blob)

    def note(self, at: int, interest: Interest, goods: Goods) -> None:
        """Let an interest change the list of item ``at``."""
        note(self.lists[at], interest, goods)
        self.dirty.add(at)

    def tell(self, at: int, change: Change, terms: Terms, offset: int, received: int) -> None:
        """Post what a change has to say to the users concerned; ``offset`` is its message's. 15 µs each."""
        if not self.lists[at].users or self._made(offset) >= NOTICES:
            return
        for user, kind, body in tell(self.lists[at], change, terms):
            source = (forward.ITEM_SENDER + self.partition, offset, self._made(offset))
            said = body_of(Notice(0, user, kind, change.time, msgspec.structs.asdict(body)))
            target = partition_of(user, self.partitions)
            mail = forward.pack(self.key, target, source, received, said, forward.NOTICED)
            self.posts.append((target, Output(EVENTS.name, user.encode(), mail)))
            self._place = (offset, source[2] + 1)
        self.dirty.add(at)

    def _made(self, offset: int) -> int:
        last, n = self._place
        return n if last == offset else 0

    def writes(self) -> Iterator[Write]:
        """The lists that changed; one without users goes."""
        for at in sorted(self.dirty):
            held = self.lists[at]
            yield Put(self._key(at), held.pack()) if held.users else Delete(self._key(at))

    def taken(self) -> Sequence[tuple[int, Output]]:
        """The notices since the last time."""
        posts, self.posts = self.posts, []
        return posts

    def saved(self) -> None:
        """What `writes` gave is in the store."""
        self.dirty.clear()
        if len(self.lists) + sum(len(held.users) for held in self.lists.values()) > HELD:
            self.lists.clear()

    def _key(self, at: int) -> str:
        return self.keys.watchers(f"i{self.partition}", self.items.name(at))
