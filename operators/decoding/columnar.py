"""One columnar parse of documents whose values have known forms."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from operators.decoding.json_batch import UnreadableError, parse
from operators.decoding.json_values import Path, value_at
from operators.decoding.look import Field, Forms
from operators.decoding.wire import Reading, Wire
from operators.eager import constant

_PAD = pa.field("\0", pa.bool_())  # for objects of which only the presence matters: structs need a child
_TELLING = 512  # documents that show which sections a table's documents usually lack


class Parsed(NamedTuple):
    """Columns, one row per document, and for each field (by index) with bad values a mask of the rows it is bad in.

    ``frame`` has `_unavailable` List(String), one column per field and one Boolean column per section.
    """

    frame: pl.DataFrame
    bad: dict[int, pl.Series]

    @property
    def bad_rows(self) -> pl.Series | None:
        """Mask of the rows that are bad in any field, None when there are none."""
        return pl.select(pl.any_horizontal(*self.bad.values())).to_series() if self.bad else None

    def first_bad(self, row: int) -> int:
        """Return the first field that is bad in a bad row."""
        return next(i for i, mask in sorted(self.bad.items()) if mask[row])


@dataclass(eq=False)
class Columnar:
    """Parses `fields` and the presence of `sections`.

    Remembers which sections many documents all lacked. In the next ones these are parsed as nothing but NULL, which
    is faster and fails for any document that has them; then all is parsed again, so nobody sees the difference. After
    each such failure it takes twice as many batches in a row that lack sections to try again.
    """

    fields: Sequence[Field]
    sections: Mapping[str, Path]

    def __post_init__(self) -> None:
        self._vacant: frozenset[Path] = frozenset()
        self._in_a_row, self._enough = 0, 1  # batches that lacked sections

    def parse(self, documents: Sequence[bytes], forms: Forms, values: Sequence[object] = ()) -> Parsed:
        """Return the columns of regular `documents` in these forms; raises UnreadableError for all of them.

        ``values`` are the loaded documents, needed for forms that the parser must not see.
        """
        found = self._arrays(documents, forms)
        readings = [
            form.read(found.column(each.path, form.arrow, form.cast) if form.arrow else _texts(each, values))
            for each, form in zip(self.fields, forms, strict=True)
        ]
        bad = {i: reading.bad for i, reading in enumerate(readings) if reading.bad is not None and reading.bad.any()}
        columns = [reading.values.alias(each.name) for each, reading in zip(self.fields, readings, strict=True)]
        presence = [found.presence(path).alias(name) for name, path in self.sections.items()]
        return Parsed(pl.DataFrame([self._unavailable(readings, len(documents)), *columns, *presence]), bad)

    def _arrays(self, documents: Sequence[bytes], forms: Forms) -> "_Arrays":
        if self._vacant:
            try:
                return _Arrays(parse(documents, self._schema(forms, self._vacant)))
            except UnreadableError:
                self._vacant, self._in_a_row, self._enough = frozenset(), 0, 2 * self._enough
        found = _Arrays(parse(documents, self._schema(forms)))
        if len(documents) >= _TELLING:
            self._learn(frozenset(path for path in self.sections.values() if not found.presence(path).any()))
        return found

    def _learn(self, vacant: frozenset[Path]) -> None:
        self._in_a_row = self._in_a_row + 1 if vacant else 0
        if self._in_a_row >= self._enough:
            self._vacant = vacant

    def fault(self, documents: Sequence[bytes], forms: Forms) -> UnreadableError | None:
        """Return why the parser cannot read `documents`, faster than `parse`; None: it can, but values may not fit."""
        try:
            parse(documents, self._schema(forms))
        except UnreadableError as error:
            return error
        return None

    def accepts(self, index: int, form: Wire, document: bytes) -> bool:
        """Tell whether one document can be read as far as this field goes, in this form."""
        try:
            return not Columnar([self.fields[index]], {}).parse([document], (form,)).bad
        except UnreadableError:
            return False

    @cached_property
    def nothing(self) -> pl.DataFrame:
        """The frame of no documents, with `_row`."""
        columns: dict[str, pl.DataType] = {"_row": pl.UInt32(), "_unavailable": pl.List(pl.String())}
        columns |= {each.name: each.dtype for each in self.fields}
        return pl.DataFrame(schema=columns | {name: pl.Boolean() for name in self.sections})

    def _unavailable(self, readings: Sequence[Reading], height: int) -> pl.Series:
        masks = {
            each.label: reading.unavailable
            for each, reading in zip(self.fields, readings, strict=True)
            if each.label and reading.unavailable is not None and reading.unavailable.any()
        }
        if not masks:
            return constant("_unavailable", None, pl.List(pl.String()), height)
        names = pl.concat_list(
            pl.when(mask).then(pl.lit(label)).otherwise(pl.lit(None, pl.String)) for label, mask in masks.items()
        ).list.drop_nulls()
        return pl.select(_unavailable=pl.when(names.list.len() > 0).then(names)).to_series()

    def _schema(self, forms: Forms, vacant: Collection[Path] = ()) -> pa.Schema:
        tree: dict[str, Any] = {}
        for path in self.sections.values():
            if not _is_below(path, vacant):
                _plant(tree, path, pa.null() if path in vacant else None)
        for each, form in zip(self.fields, forms, strict=True):
            if not _is_below(each.path, vacant):
                _plant(tree, each.path if form.arrow else each.path[:-1], form.arrow)
        return pa.schema(_branches(tree))


class _Arrays:
    """The nested columns of parsed documents, taken apart once."""

    def __init__(self, root: pa.StructArray) -> None:
        self._root = root
        self._children: dict[Path, dict[str, pa.Array]] = {}

    def column(self, path: Path, dtype: pa.DataType, cast: pa.DataType | None) -> pl.Series:
        """Return a column of `dtype`, as `cast` if that is given; raises UnreadableError if values do not fit that."""
        array = self._array(path)
        if pa.types.is_null(array.type):
            array = pa.nulls(len(array), cast or dtype)
        try:
            series = pl.from_arrow(array if cast is None else array.cast(cast))
        except pa.ArrowInvalid as error:
            raise UnreadableError(str(error)) from None
        if not isinstance(series, pl.Series):
            raise TypeError(f"received {type(series)}, expected a column")
        return series

    def presence(self, path: Path) -> pl.Series:
        """Return a mask of the documents that have an object at `path`, which none has where a field is read."""
        array = self._array(path)
        return pl.Series(values=(array if pa.types.is_struct(array.type) else pa.nulls(len(array))).is_valid())

    def _array(self, path: Path) -> pa.Array:
        """Return what stands at `path`, or the nothing but NULL that stands above it."""
        parent = path[:-1]
        if parent not in self._children:
            struct = self._array(parent) if parent else self._root
            if pa.types.is_null(struct.type):
                return struct
            names = [struct.type.field(i).name for i in range(struct.type.num_fields)]
            self._children[parent] = dict(zip(names, struct.flatten(), strict=True))
        return self._children[parent][path[-1]]


def _texts(each: Field, values: Sequence[object]) -> pl.Series:
    found = (value_at(value, each.path) for value in values)
    return pl.Series([None if value is None else str(value) for value in found], dtype=pl.String)


def _is_below(path: Path, sections: Collection[Path]) -> bool:
    return any(path[:end] in sections for end in range(1, len(path)))


def _plant(tree: dict[str, Any], path: Path, dtype: pa.DataType | None) -> None:
    """Add a leaf of type `dtype` to `tree`, or without one a branch; an empty path adds nothing."""
    for step in path if dtype is None else path[:-1]:
        tree = tree.setdefault(step, {})
    if dtype is not None:
        tree[path[-1]] = dtype


def _branches(tree: Mapping[str, Any]) -> list[pa.Field]:
    return [
        pa.field(name, pa.struct(_branches(below) or [_PAD]) if isinstance(below, dict) else below)
        for name, below in tree.items()
    ]
