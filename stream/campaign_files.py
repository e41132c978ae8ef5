"""Campaign files: YAML to checked campaigns, with file and line of everything that is wrong.

Only the plain part of YAML is read: mappings, lists, texts, numbers, true, false and null, as in JSON; no
tags, anchors, aliases or merge keys, no second document. `yes`, `on` and 2026-05-01 are texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from stream.core import campaigns
from stream.core.campaigns import Campaign, Fault, Registry
from stream.core.loyalty import Program
from stream.core.triggers import TYPES

MOST_BYTES = 65_536
"""Bytes of a campaign file."""
MOST_DEEP = 50
"""Levels of nesting."""
MOST_DIGITS = 18
"""Characters of a number: it fits into 64 bits; what is longer is a text."""


TRIGGERS: Registry = {name: kind.parameters for name, kind in TYPES.items()}
"""The triggers that run, and their parameters."""


class Problem(Struct, frozen=True):
    """What is wrong in a file: the line (from 1), the field, the start of its value, and the mend."""

    file: str
    line: int
    field: str
    value: str
    wrong: str
    mend: str

    @property
    def message(self) -> str:
        """One line, as compilers have it: ``file:line: field: what is wrong: the mend``."""
        where = f"{self.field}: " if self.field else ""
        return f"{self.file}:{self.line}: {where}{self.wrong}: {self.mend}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A campaign file: its campaign, or what is wrong with it."""

    file: str
    campaign: Campaign | None
    problems: list[Problem]
    line: int = 1
    """Where its id stands."""


def load(place: Path, registry: Registry = TRIGGERS) -> list[Loaded]:
    """The campaigns of a file, or of a folder's `*.yaml` by name; other names with yaml or yml behind a dot
    are told. Raises OSError."""
    if not place.is_dir():
        return [load_file(place, registry)]
    found = [load_file(path, registry) for path in sorted(place.glob("*.yaml"))]
    others = sorted(path for path in place.iterdir() if path.suffix != ".yaml")
    return [
        *_distinct(found),
        *(_misnamed(path, said[1]) for path in others if (said := _YAML.fullmatch(path.name))),
    ]


def running(folder: str) -> list[Campaign]:
    """The campaigns of a worker; none without a folder. Raises OSError, ValueError with every problem."""
    if not folder:
        return []
    found = load(Path(folder))
    told = [problem.message for each in found for problem in each.problems]
    if told:
        raise ValueError("\n".join(told))
    return [each.campaign for each in found if each.campaign is not None]


def load_program(file: str) -> Program | None:
    """The loyalty program of a file; none without one. Raises OSError, ValueError with every problem."""
    if not file:
        return None
    read = _Reading()
    with Path(file).open("rb") as opened:
        document = read.document(opened.read(MOST_BYTES + 1))
    program, faults = (None, []) if read.faults else campaigns.read_part(document, Program)
    told = sorted([*read.faults, *((read.line(fault.path), fault) for fault in faults)], key=itemgetter(0))
    if told:
        raise ValueError(
            "\n".join(
                Problem(file, line, each.field, each.value, each.wrong, each.mend).message
                for line, each in told
            )
        )
    return program


def load_file(path: Path, registry: Registry = TRIGGERS) -> Loaded:
    """The campaign of a file. Raises OSError."""
    with path.open("rb") as opened:
        return load_text(opened.read(MOST_BYTES + 1), str(path), registry, path.parent)


def load_text(data: bytes, file: str, registry: Registry = TRIGGERS, folder: Path | None = None) -> Loaded:
    """The campaign of a file's bytes; files of codes or items that it names are looked for in the
    folder."""
    read = _Reading()
    document = read.document(data)
    if folder is not None:
        read.lists(document, folder)
    campaign: Campaign | None = None
    faults: list[Fault] = []
    if isinstance(document, dict) or not read.faults:
        campaign, faults = campaigns.read(document, registry)
    told = sorted([*read.faults, *((read.line(fault.path), fault) for fault in faults)], key=itemgetter(0))
    problems = [Problem(file, line, each.field, each.value, each.wrong, each.mend) for line, each in told]
    return Loaded(file, None if problems else campaign, problems, read.lines.get(("id",), 1))


def _distinct(found: Iterable[Loaded]) -> Iterator[Loaded]:
    """Two campaigns of one name: the later file is wrong."""
    first: dict[str, str] = {}
    for each in found:
        name = each.campaign.id if each.campaign else ""
        if name and first.setdefault(name, each.file) != each.file:
            wrong = f"{name} is the id of {first[name]}, too"
            yield Loaded(
                each.file, None, [Problem(each.file, each.line, "id", name, wrong, "give another one")]
            )
        else:
            yield each


def _misnamed(path: Path, name: str) -> Loaded:
    problem = Problem(str(path), 1, "", "", "files of this ending are not read", f"name it {name}.yaml")
    return Loaded(str(path), None, [problem])


_YAML = re.compile(r"(.+)\.ya?ml(\.txt)?", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d+|(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)", re.ASCII)
_A_LINE = {"codes": "a code", "items": "an item"}
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(slots=True)
class _Reading:
    """YAML to plain values, with the line of every path, and what cannot be read."""

    lines: dict[campaigns.Path, int] = field(default_factory=dict)
    faults: list[tuple[int, Fault]] = field(default_factory=list)

    def line(self, path: campaigns.Path) -> int:
        """Where a path stands, or the nearest place around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def document(self, data: bytes) -> Any:
        """The document's value; what cannot be read at all is None and a fault."""
        if len(data) > MOST_BYTES:
            return self._refuse((), "the file is too large", f"at most {MOST_BYTES} bytes")
        try:
            text = data.decode()
            if self._beyond_plain(text):
                return None
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            return self._refuse((), f"byte {error.start} is not UTF-8", "save the file as UTF-8")
        except yaml.YAMLError as error:
            return self._unreadable(error, text)
        if root is None:
            return self._refuse((), "the file is empty", "give fields, such as id: cart")
        return self._value(root, ())

    def lists(self, document: Any, folder: Path) -> None:
        """Put codes and items of files in the place of the files' names."""
        coupon = document.get("coupon") if isinstance(document, dict) else None
        if not isinstance(coupon, dict):
            return
        self._list(coupon, "codes", ("coupon",), folder)
        offers = coupon.get("offers")
        for place, each in enumerate(offers if isinstance(offers, list) else ()):
            if isinstance(each, dict):
                self._list(each, "codes", ("coupon", "offers", place), folder)
                self._list(each, "items", ("coupon", "offers", place), folder)

    def _list(self, part: dict[str, Any], name: str, path: campaigns.Path, folder: Path) -> None:
        named = part.get(name)
        if not isinstance(named, str):
            return
        try:
            lines = (folder / named).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            mend = f"name a file beside this one, with {_A_LINE[name]} a line"
            why = "there is no such file" if isinstance(error, FileNotFoundError) else error
            self._refuse((*path, name), f"{named} cannot be read ({why})", mend, value=named)
            lines = ["unreadable"]
        part[name] = [line.strip() for line in lines if line.strip()]

    def _beyond_plain(self, text: str) -> bool:
        """Whether there is a tag, an anchor, an alias or too deep a nesting; the first is told."""
        deep = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if deep > MOST_DEEP:
                wrong, mend = "this is nested too deeply", f"at most {MOST_DEEP} levels"
                self._refuse((), wrong, mend, _line(event.start_mark))
                return True
            said = [getattr(event, "tag", None), getattr(event, "anchor", None)]
            if any(said):
                wrong = f"the tag or anchor {next(filter(None, said))} is not allowed"
                mend = "write the value out, in quotes if it begins with !, & or *"
                self._refuse((), wrong, mend, _line(event.start_mark))
                return True
        return False

    def _unreadable(self, error: yaml.YAMLError, text: str) -> None:
        """The line as it stands is all there is to show: of fields nothing is known."""
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        mend = "indent by spaces, put a space behind a colon, quote texts with : or #"
        if "'\\t'" in said:
            said, mend = "a tab stands there", "indent by spaces"
        elif "end of stream" in said or "expected ','" in said:
            mark = getattr(error, "context_mark", None) or mark
            mend = "close quotes and brackets, quote texts with : or #"
        elif "another document" in said:
            said, mend = "a second document begins", "give each campaign a file of its own"
        line = _line(mark)
        shown = "".join(text.splitlines()[line - 1 : line]).strip()[:60]
        self._refuse(
            (),
            f"this is not YAML ({said}): {shown}" if shown else f"this is not YAML ({said})",
            mend,
            line,
            shown,
        )

    def _refuse(self, path: campaigns.Path, wrong: str, mend: str, line: int = 0, value: str = "") -> None:
        self.faults.append((line or self.line(path), Fault(path, value[:60], wrong, mend)))

    def _value(self, node: yaml.Node, path: campaigns.Path) -> Any:
        self.lines.setdefault(path, _line(node.start_mark))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(each, (*path, place)) for place, each in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: campaigns.Path) -> Any:
        """As in JSON: quoted texts stay texts, and so does everything plain that JSON does not know."""
        text = str(node.value)
        if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
            self._refuse(path, "half of a surrogate pair is no character", "leave it out")
            return text.encode(errors="replace").decode()
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return _plain(text) if plain else text

    def _mapping(self, node: yaml.MappingNode, path: campaigns.Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        times = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, value in node.value:
            line = _line(key.start_mark)
            if not isinstance(key, yaml.ScalarNode) or not isinstance(self._scalar(key, path), str):
                self._refuse(path, "a name is no text", "give a text before the colon, in quotes", line)
                continue
            here = (*path, str(key.value))
            if key.style is None and key.value != key.value.strip():
                wrong = "the line begins with a space of another kind, as programs for texts put it"
                self._refuse(here, wrong, "delete it, and indent by plain spaces", line, key.value)
                continue
            if key.value in found:
                wrong = f"{key.value} stands here {times[key.value]} times, first in line {self.lines[here]}"
                self._refuse(here, wrong, "leave one", line, str(value.value))
                continue
            self.lines[here] = line
            found[key.value] = self._value(value, here)
        return found


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MOST_DIGITS or not _NUMBER.fullmatch(text):
        return text
    number = float(text)
    return int(text) if text.lstrip("+-").isdigit() else number if isfinite(number) else text


def _line(mark: Any) -> int:
    """The line of a mark of PyYAML, from 1."""
    return 1 if mark is None else int(mark.line) + 1
