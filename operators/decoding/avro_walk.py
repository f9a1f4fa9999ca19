"""A walk through an Avro schema that reads many datums at once, and keeps of them what is wanted."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from operators.decoding.avro_datums import Datums, Flags, Ints, Part
from operators.decoding.avro_schema import Node
from operators.decoding.json_values import Path

_DEEPEST = 100


class Piece(NamedTuple):
    """A wanted value of some datums, all of which have it in the same type.

    `raw` is an array of numbers, of flags or of places in an enum's symbols; for bytes, where they begin and end; for
    an array of strings, `Texts`; None for any other type.
    """

    node: Node
    rows: Ints
    raw: Any


class Texts(NamedTuple):
    """Lists of texts: how many each datum has; of each text, in order, where it begins and ends, and if it is there."""

    counts: Ints
    start: Ints
    end: Ints
    present: Flags


@dataclass(eq=False)
class Wanted:
    """What is wanted of a value: for fields (by index), as a section (by name), and below."""

    fields: list[int] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    below: dict[str, "Wanted"] = field(default_factory=dict)

    @classmethod
    def tree(cls, fields: Sequence[Path], sections: Mapping[str, Path]) -> "Wanted":
        """Return what is wanted of a datum, for fields and sections at these paths."""
        root = cls()
        for i, path in enumerate(fields):
            root._at(path).fields.append(i)
        for name, path in sections.items():
            root._at(path).sections.append(name)
        return root

    def _at(self, path: Path) -> "Wanted":
        place = self
        for step in path:
            place = place.below.setdefault(step, Wanted())
        return place

    def all_fields(self) -> list[int]:
        """Return the fields that want this value, or one below it."""
        return [*self.fields, *(i for below in self.below.values() for i in below.all_fields())]


class Walk:
    """Reads datums of one schema.

    Then `pieces` has what was found for each field, `absent` the datums in whose type a field does not exist, and
    `sections` those that have a section.
    """

    def __init__(self, datums: Datums) -> None:
        self._datums = datums
        self.pieces: dict[int, list[Piece]] = defaultdict(list)
        self.absent: dict[int, list[Ints]] = defaultdict(list)
        self.sections: dict[str, list[Ints]] = defaultdict(list)

    def read(self, node: Node, part: Part, wanted: Wanted | None, depth: int = 0) -> None:
        """Read one value of each datum of `part`."""
        if depth > _DEEPEST:
            self._datums.fail(part, np.ones(len(part.rows), bool))
        elif node.kind == "union":
            self._union(node, part, wanted, depth)
        elif node.kind == "record":
            self._record(node, part, wanted, depth)
        else:
            self._leaf(node, part, wanted, depth)

    def _union(self, node: Node, part: Part, wanted: Wanted | None, depth: int) -> None:
        branch = self._datums.integer(part)
        self._datums.fail(part, (branch < 0) | (branch >= len(node.parts)))
        branch = np.where(self._datums.bad[part.rows], -1, branch)
        for i, each in enumerate(node.parts):
            chosen = branch == i
            if chosen.all():
                self.read(each, part, wanted, depth + 1)
            elif chosen.any():
                places = np.flatnonzero(chosen)
                some = part.some(places)
                self.read(each, some, wanted, depth + 1)
                part.resume(places, some)

    def _record(self, node: Node, part: Part, wanted: Wanted | None, depth: int) -> None:
        if wanted:
            self._note(node, part.rows, None, wanted)
        below = wanted.below if wanted else {}
        for name, each in zip(node.names, node.parts, strict=True):
            self.read(each, part, below.get(name), depth + 1)
        for name in below.keys() - {*node.names}:
            for i in below[name].all_fields():
                self.absent[i].append(part.rows)

    def _leaf(self, node: Node, part: Part, wanted: Wanted | None, depth: int) -> None:
        raw = self._raw(node, part, wanted, depth)
        if wanted and node.kind != "null":
            self._note(node, part.rows, raw, wanted)

    def _note(self, node: Node, rows: Ints, raw: Any, wanted: Wanted) -> None:
        for i in wanted.fields:
            self.pieces[i].append(Piece(node, rows, raw))
        for name in wanted.sections:
            self.sections[name].append(rows)

    def _raw(self, node: Node, part: Part, wanted: Wanted | None, depth: int) -> Any:  # noqa: PLR0911 - one a type
        datums = self._datums
        match node.kind:
            case "null":
                return None
            case "boolean":
                return datums.boolean(part)
            case "int":
                return datums.integer32(part)
            case "long":
                return datums.integer(part)
            case "float" | "double":
                return datums.floating(part, 4 if node.kind == "float" else 8)
            case "bytes" | "string":
                return datums.sized(part)
            case "fixed":
                return datums.fixed(part, np.full(len(part.rows), node.size))
            case "enum":
                found = datums.integer32(part)
                datums.fail(part, (found < 0) | (found >= len(node.symbols)))
                return found
            case _:
                return self._many(node, part, wanted, depth)

    def _many(self, node: Node, part: Part, wanted: Wanted | None, depth: int) -> Texts | None:
        """Read an array or a map: blocks of items up to an empty one, the next item of all datums at a time."""
        item = node.parts[0]
        texts = _Texts(len(part.rows)) if wanted and wanted.fields and _is_text(item) and node.kind == "array" else None
        left = np.zeros(len(part.rows), np.int64)
        active = np.arange(len(part.rows))
        while active.size:
            fresh = active[left[active] == 0]
            if fresh.size:
                left[fresh], ended = self._block(item, part, fresh, skips=texts is None)
                active = np.setdiff1d(active, fresh[ended], assume_unique=True)
            going = active[left[active] > 0]
            some = part.some(going)
            if node.kind == "map":
                self._datums.sized(some)
            if texts:
                texts.take(going, *self._text(item, some))
            else:
                self.read(item, some, None, depth + 1)
            part.resume(going, some)
            left[going] -= 1
            active = active[~self._datums.bad[part.rows[active]]]
        return texts.joined() if texts else None

    def _block(self, item: Node, part: Part, places: Ints, *, skips: bool) -> tuple[Ints, Flags]:
        """Read how many items come; none that can be skipped or take no byte. Tell who is at the end."""
        some = part.some(places)
        counts = self._datums.integer(some)
        sized = np.flatnonzero(counts < 0)
        if sized.size:
            known = some.some(sized)
            sizes = self._datums.integer(known)
            if skips:
                self._datums.fixed(known, sizes)
            some.resume(sized, known)
            counts[sized] = 1 if skips else -counts[sized]
        items = counts.copy()
        if skips:
            items[sized] = 0
        if item.may_be_empty():
            items[:] = 0
        self._datums.fail(some, (counts < 0) | (items > some.end - some.at))
        part.resume(places, some)
        return np.where(self._datums.bad[some.rows], 0, items), (counts == 0) | self._datums.bad[some.rows]

    def _text(self, item: Node, part: Part) -> tuple[Ints, Ints, Flags]:
        """Read a string, or a union of one and null."""
        if item.kind == "string":
            return *self._datums.sized(part), np.ones(len(part.rows), bool)
        branch = self._datums.integer(part)
        self._datums.fail(part, (branch < 0) | (branch >= len(item.parts)))
        present = branch == [each.kind for each in item.parts].index("string")
        places = np.flatnonzero(present)
        some = part.some(places)
        start, end = part.at.copy(), part.at.copy()
        start[places], end[places] = self._datums.sized(some)
        part.resume(places, some)
        return start, end, present


def _is_text(item: Node) -> bool:
    kinds = sorted(each.kind for each in item.parts) if item.kind == "union" else [item.kind]
    return kinds in (["string"], ["null", "string"])


class _Texts:
    """Collects the texts of lists, the next one of some lists at a time."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._taken: list[tuple[Ints, Ints, Ints, Flags]] = []

    def take(self, places: Ints, start: Ints, end: Ints, present: Flags) -> None:
        self._taken.append((places, start, end, present))

    def joined(self) -> Texts:
        nothing = np.empty(0, np.int64)
        columns = zip(*self._taken, strict=True) if self._taken else [[nothing]] * 3 + [[nothing.astype(bool)]]
        places, start, end, present = (np.concatenate([*column]) for column in columns)
        order = np.argsort(places, kind="stable")
        counts = np.bincount(places, minlength=self._height)
        return Texts(counts, start[order], end[order], present[order])
