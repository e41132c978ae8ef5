"""One batch of the fuzz: made from its seed, held against all laws, and shrunk when one breaks."""

from __future__ import annotations

import base64
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

from tests.fuzz import laws
from tests.fuzz.laws import Tally
from tests.fuzz.messages import Feed, Message
from tests.fuzz.packed import FORMATS, Format, cases, holds

Law = Callable[[Sequence[Message], str], object]

PACKED = 100
"""Damaged values of inner formats a batch."""
BATCH_S, SHRINK_S = 60, 30
"""A batch that takes longer has hung; how long a failing one is made smaller."""


def _law_of(each: Format) -> Law:
    return lambda messages, seed: holds(each, messages[0].value or b"")


LAWS: dict[str, Law] = {
    "events": laws.events,
    "catalog": laws.catalog,
    **{each.name: _law_of(each) for each in FORMATS},
}
"""What must hold, by the name of what is read."""


@dataclass
class Case:
    """Messages that break a law, and how."""

    kind: str
    seed: str
    messages: list[Message]
    error: str

    def save(self, folder: Path) -> Path:
        """Write it as JSON, bytes in Base64; returns the path."""
        path = folder / f"fuzz-{self.kind}-{self.seed.replace('/', '-')}.json"
        path.write_text(
            json.dumps(asdict(self), default=lambda raw: base64.b64encode(raw).decode(), indent=1)
        )
        return path

    @classmethod
    def load(cls, path: Path) -> Case:
        """The inverse of `save`."""
        found = json.loads(path.read_text())
        return cls(
            found["kind"], found["seed"], [_message(each) for each in found["messages"]], found["error"]
        )


def _message(given: dict[str, object]) -> Message:
    key, value, headers = given["key"], given["value"], given["headers"]
    assert isinstance(headers, list)
    return Message(
        int(str(given["offset"])),
        int(str(given["timestamp"])),
        None if key is None else base64.b64decode(str(key)),
        None if value is None else base64.b64decode(str(value)),
        [(name, base64.b64decode(data)) for name, data in headers],
    )


@dataclass
class Outcome:
    """What a batch came to."""

    tally: Tally = field(default_factory=Tally)
    packed: int = 0
    failures: list[Case] = field(default_factory=list)


def run(seed: str) -> Outcome:
    """The batch of a seed. Nothing is raised."""
    outcome, feed = Outcome(), Feed(seed)
    for kind, messages in (("events", feed.batch()), ("catalog", feed.catalog()), *_packed(seed)):
        try:
            found = _attempt(kind, messages, seed)
        except (Exception, RecursionError) as error:
            outcome.failures.append(_shrunk(kind, messages, seed, error))
            continue
        outcome.packed += kind not in ("events", "catalog")
        if isinstance(found, Tally):
            outcome.tally.add(found)
    return outcome


def again(case: Case) -> None:
    """Hold a case against its law once more; raises what it raised."""
    _attempt(case.kind, case.messages, case.seed)


def _packed(seed: str) -> Iterator[tuple[str, list[Message]]]:
    for each, value in cases(Random(seed), PACKED):
        yield each.name, [Message(0, 0, None, value)]


def _attempt(kind: str, messages: Sequence[Message], seed: str) -> object:
    """Hold messages against a law, within a time."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{kind}: no answer within {BATCH_S} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(BATCH_S)
    try:
        return LAWS[kind](messages, seed)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _shrunk(kind: str, messages: Sequence[Message], seed: str, error: BaseException) -> Case:
    """A smaller case that breaks at the same place: with fewer messages, as long as there is time."""
    deadline, kept, mark = time.monotonic() + SHRINK_S, list(messages), _place(error)
    size = len(kept) // 2
    while size and time.monotonic() < deadline and not isinstance(error, TimeoutError):
        for start in range(0, len(kept), size):
            fewer = kept[:start] + kept[start + size :]
            if time.monotonic() > deadline or (fewer and _breaks(kind, fewer, seed) == mark):
                kept = fewer if time.monotonic() <= deadline else kept
                break
        else:
            size //= 2
    return Case(kind, seed, kept, "".join(traceback.format_exception(error)))


def _breaks(kind: str, messages: Sequence[Message], seed: str) -> str:
    try:
        _attempt(kind, messages, seed)
    except (Exception, RecursionError) as error:
        return _place(error)
    return ""


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {frame.filename}:{frame.lineno}"
