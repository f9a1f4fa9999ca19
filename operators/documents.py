"""JSON documents to typed columns, where what becomes of a document depends on that document alone.

The clean path is one columnar parse of all documents, in the forms (`Wire`) guessed from earlier ones. When that
fails the documents are taken apart, with the very same parse:

1. Look at the first document; if it has other forms than guessed, try once more with its forms.
2. Cut out the document that the parser blames, if it named one, else cut into equal pieces; go on with each piece.
3. A single document is parsed in its own forms. This verdict is decisive: if it fails here, it is refused.

A parse of many in guessed forms can only succeed for documents of these forms, and then equals their verdicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from operators.json_batch import UnreadableError, clip, parse
from operators.look import Field, Forms, Path, form_of, load, shown, value_at
from operators.wire import Reading, Wire

_PIECE = 256
_PAD = "\0"  # a child for sections of which only the presence matters: structs need one, no document has it


class Read(NamedTuple):
    """Columns of the documents that could be read, ascending by `_row` (index of the document), and all others.

    ``frame`` has `_row` UInt32, `_unavailable` List(String) (NULL if nothing is), one column per field, and one
    Boolean column per section that tells whether the object is there and not NULL.
    """

    frame: pl.DataFrame
    refused: list[int]


@dataclass(eq=False)
class Reader:
    """Reads regular documents (see `json_batch`); ``sections`` names the objects whose presence is wanted.

    Remembers the forms of the documents it saw, which decides how fast the next ones are read and nothing else.
    """

    fields: Sequence[Field]
    sections: Mapping[str, Path] = field(default_factory=dict)
    _guess: Forms = ()

    def __post_init__(self) -> None:
        self._guess = tuple(each.wires[0] for each in self.fields)

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns, in order; never raises for what is in them."""
        frames: list[pl.DataFrame] = [self._nothing]
        refused: list[int] = []
        todo = [(0, len(documents))] if documents else []
        while todo:
            start, stop = todo.pop()
            try:
                frame, bad = self._attempt(documents[start:stop])
            except UnreadableError as error:
                if stop - start == 1:
                    refused.append(start)
                else:
                    todo.extend(reversed(_cut(start, stop, error.row)))
                continue
            if bad is None:
                frames.append(_numbered(frame, start))
            elif stop - start == 1:
                refused.append(start)
            else:
                todo.extend(reversed(list(_without(start, bad))))
        return Read(pl.concat(frames) if len(frames) > 2 else frames[-1], refused)  # noqa: PLR2004  # nothing and one

    def explain(self, document: bytes) -> str:
        """Return why `document` was refused: what was received where, and what was expected."""
        default = tuple(each.wires[0] for each in self.fields)
        try:
            value = load(document)
        except RecursionError:
            return "invalid JSON, nested too deeply, or a value that does not fit its column"
        except ValueError as error:
            return f"invalid JSON: {clip(str(error), 100)}: received {clip(document.decode(), 100)}"
        forms = self._look(document, default)
        reason = self._misfits(forms, value, None)
        return reason or self._complaint(forms, document) or self._misfits(forms, value, document) or _unfit(document)

    def _misfits(self, forms: Forms, value: object, document: bytes | None) -> str | None:
        found = (_misfit(each, form, value, document) for each, form in zip(self.fields, forms, strict=True))
        return next(filter(None, found), None)

    def _complaint(self, forms: Forms, document: bytes) -> str | None:
        """Return what the parser has against a document whose values look right, unless it is one of the values."""
        try:
            self._parse([document], forms)
        except UnreadableError as error:
            message = str(error).removesuffix(" in row 0")
            return (
                clip(f"invalid JSON: {message.split(': ', 1)[1]}") if message.startswith("JSON parse error") else None
            )
        return None

    def _attempt(self, documents: Sequence[bytes]) -> tuple[pl.DataFrame, pl.Series | None]:
        """Parse `documents` in the guessed forms, else in those of the first one; raises UnreadableError."""
        if len(documents) > 1:
            try:
                return self._parse(documents, self._guess)
            except UnreadableError:
                own = self._look(documents[0], self._guess)
                if own == self._guess:
                    raise
                self._guess = own
                return self._parse(documents, own)
        return self._parse(documents, self._look(documents[0], self._guess))

    def _parse(self, documents: Sequence[bytes], forms: Forms) -> tuple[pl.DataFrame, pl.Series | None]:
        """Return the columns of `documents`, and which rows are bad (None: none); raises UnreadableError."""
        found = _Arrays(parse(documents, self._schema(forms)))
        readings = [form.read(found.column(each.path)) for each, form in zip(self.fields, forms, strict=True)]
        bad = _any(reading.bad for reading in readings)
        columns = [reading.values.alias(each.name) for each, reading in zip(self.fields, readings, strict=True)]
        presence = [found.presence(path).alias(name) for name, path in self.sections.items()]
        unavailable = self._unavailable(readings, len(documents))
        return pl.DataFrame([unavailable, *columns, *presence]), bad

    def _unavailable(self, readings: Sequence[Reading], height: int) -> pl.Series:
        masks = {
            each.label: reading.unavailable
            for each, reading in zip(self.fields, readings, strict=True)
            if each.label and reading.unavailable is not None and reading.unavailable.any()
        }
        if not masks:
            return pl.repeat(None, height, dtype=pl.List(pl.String), eager=True).alias("_unavailable")
        names = pl.concat_list(
            pl.when(mask).then(pl.lit(label)).otherwise(pl.lit(None, pl.String)) for label, mask in masks.items()
        ).list.drop_nulls()
        return pl.select(_unavailable=pl.when(names.list.len() > 0).then(names)).to_series()

    def _look(self, document: bytes, guess: Forms) -> Forms:
        """Return the forms that the values of `document` have, and those of `guess` where it has no value."""
        try:
            value = load(document)
        except RecursionError:
            return tuple(self._try(document, each, form) for each, form in zip(self.fields, guess, strict=True))
        except ValueError:
            return guess
        return tuple(form_of(each, form, value) for each, form in zip(self.fields, guess, strict=True))

    def _try(self, document: bytes, each: Field, guess: Wire) -> Wire:
        """Return the form of a field in a document too deep to look into, by parsing it in each."""
        for form in each.wires:
            if len(each.wires) == 1 or Reader([_only(each, form)]).accepts(document):
                return form
        return guess

    def accepts(self, document: bytes) -> bool:
        """Tell whether one document can be read in the first form of each field."""
        try:
            return self._parse([document], tuple(each.wires[0] for each in self.fields))[1] is None
        except UnreadableError:
            return False

    def _schema(self, forms: Forms) -> pa.Schema:
        tree: dict[str, Any] = {}
        for path in self.sections.values():
            _plant(tree, (*path, _PAD), pa.bool_())
        for each, form in zip(self.fields, forms, strict=True):
            _plant(tree, each.path, form.arrow)
        return pa.schema(_branches(tree))

    @cached_property
    def _nothing(self) -> pl.DataFrame:
        columns: dict[str, pl.DataType] = {"_row": pl.UInt32(), "_unavailable": pl.List(pl.String())}
        columns |= {each.name: each.dtype for each in self.fields}
        return pl.DataFrame(schema=columns | {name: pl.Boolean() for name in self.sections})


class _Arrays:
    """The nested columns of parsed documents, taken apart once."""

    def __init__(self, root: pa.StructArray) -> None:
        self._structs = {(): root}
        self._children: dict[Path, dict[str, pa.Array]] = {}

    def column(self, path: Path) -> pl.Series:
        series = pl.from_arrow(self._array(path))
        if not isinstance(series, pl.Series):
            raise TypeError(f"received {type(series)}, expected a column")
        return series

    def presence(self, path: Path) -> pl.Series:
        return pl.Series(values=self._array(path).is_valid())

    def _array(self, path: Path) -> pa.Array:
        parent = path[:-1]
        if parent not in self._children:
            struct = self._structs[()] if not parent else self._array(parent)
            names = [struct.type.field(i).name for i in range(struct.type.num_fields)]
            self._children[parent] = dict(zip(names, struct.flatten(), strict=True))
        return self._children[parent][path[-1]]


def _plant(tree: dict[str, Any], path: Path, dtype: pa.DataType) -> None:
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
    tree[path[-1]] = dtype


def _branches(tree: Mapping[str, Any]) -> list[pa.Field]:
    return [
        pa.field(name, pa.struct(_branches(below)) if isinstance(below, dict) else below)
        for name, below in tree.items()
    ]


def _numbered(frame: pl.DataFrame, start: int) -> pl.DataFrame:
    return frame.with_row_index("_row", start)


def _any(masks: Iterator[pl.Series | None]) -> pl.Series | None:
    total = None
    for mask in masks:
        if mask is not None and mask.any():
            total = mask if total is None else total | mask
    return total


def _cut(start: int, stop: int, blamed: int | None) -> list[tuple[int, int]]:
    """Return non-empty pieces of `[start, stop)`, in order and at least two."""
    if stop - start > _PIECE:
        return [(at, min(at + _PIECE, stop)) for at in range(start, stop, _PIECE)]
    at = start + blamed if blamed is not None and start + blamed < stop else (start + stop) // 2
    end = at + 1 if blamed is not None else at
    return [(low, high) for low, high in ((start, at), (at, end), (end, stop)) if low < high]


def _without(start: int, bad: pl.Series) -> Iterator[tuple[int, int]]:
    """Return the pieces between bad rows, and each bad row on its own, in order."""
    at = start
    for row in bad.arg_true().to_list():
        if at < start + row:
            yield at, start + row
        yield start + row, start + row + 1
        at = start + row + 1
    if at < start + len(bad):
        yield at, start + len(bad)


def _only(each: Field, form: Wire) -> Field:
    return Field(each.name, each.path, each.dtype, (form,))


def _misfit(each: Field, form: Wire, value: object, document: bytes | None) -> str | None:
    """Return what is wrong with one field of a document that holds `value`, None when nothing is.

    Goes by how the value looks and, given the `document`, by parsing this one field.
    """
    for depth in range(1, len(each.path)):
        section = value_at(value, each.path[:depth])
        if section is not None and not isinstance(section, dict):
            return f"field {each.path[depth - 1]!r}: received {shown(section)}, expected an object"
    found = value_at(value, each.path)
    if found is None:
        return None
    if form.looks(found) and (document is None or Reader([_only(each, form)]).accepts(document)):
        return None
    expected = " or ".join(dict.fromkeys(wire.expected for wire in each.wires if wire.expected != "the placeholder"))
    return f"column {each.path[-1]!r}: received {shown(found)}, expected {expected}"


def _unfit(document: bytes) -> str:
    return f"received {clip(document.decode())}, expected one JSON object with the declared types"
