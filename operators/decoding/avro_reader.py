"""Avro records in Confluent's wire format to typed columns; what becomes of a record depends on it alone.

The records of a batch are read schema by schema, those of one side by side (`avro_walk`). A record must be one datum of
its schema, to the last byte.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from operators.decoding.avro_columns import Column, Values, binary
from operators.decoding.avro_datums import Datums, Flags, Ints
from operators.decoding.avro_schema import AvroSchemaError, Node, parse_schema
from operators.decoding.avro_walk import Piece, Walk, Wanted
from operators.decoding.documents import Read
from operators.decoding.formats import Avro, Debezium
from operators.decoding.json_values import Path
from operators.decoding.look import Field
from operators.decoding.wire_format import HEADER, in_hex, of_no_header, schema_ids
from operators.eager import constant, listed, rows_where

Schemas = Callable[[int], Sequence[str] | None]
"""The text of the schema with an id, after those that it refers to; None for an id that nobody knows."""


@dataclass(eq=False)
class AvroReader:
    """Reads `fields`, and the presence of `sections`, from framed Avro records.

    Where the root of a schema is no record, its value is that of the only field. With `keeps_absent`, fields with a
    label that do not exist in a record's schema are listed as unavailable. What `schemas` raises goes through.
    """

    fields: Sequence[Field]
    sections: Mapping[str, Path]
    format: Avro | Debezium
    schemas: Schemas
    keeps_absent: bool = False
    _known: dict[int, Node | str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._columns = [Column(each, self.format) for each in self.fields]
        parts = [(*each.path, part) for each in self.fields for part in ("scale", "value")]  # see `_variable`
        self._wanted = Wanted.tree([each.path for each in self.fields] + parts, self.sections)
        self._alone = Wanted.tree([()], {}) if len(self.fields) == 1 else Wanted()
        self._nothing = pl.DataFrame(
            schema={"_row": pl.UInt32(), "_unavailable": pl.List(pl.String())}
            | {each.name: each.dtype for each in self.fields}
            | {name: pl.Boolean() for name in self.sections}
        )

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns, as `documents.Reader.read` does."""
        datums = Datums(documents)
        ids = schema_ids(datums.data, datums.bounds)
        refused = {row: of_no_header(documents[row]) for row in np.flatnonzero(ids < 0).tolist()}
        frames = []
        for number in np.unique(ids[ids >= 0]).tolist():
            rows, node = np.flatnonzero(ids == number), self._schema(number)
            if isinstance(node, str):
                refused |= dict.fromkeys(rows.tolist(), node)
                continue
            frame, bad = self._of_schema(node, datums, rows)
            frames.append(frame)
            refused |= {row: bad[row] or _of_damaged(documents[row], number) for row in bad}
        frame = frames[0] if len(frames) == 1 else pl.concat([self._nothing, *frames]).sort("_row")
        return Read(frame, dict(sorted(refused.items())))

    def _schema(self, number: int) -> Node | str:
        """Return the type that a schema id stands for, or why it stands for none; what is known stays so."""
        if number not in self._known:
            texts = self.schemas(number)
            if texts is None:
                return f"schema id {number}: the registry does not know it"
            try:
                self._known[number] = parse_schema(texts)
            except AvroSchemaError as error:
                self._known[number] = f"schema id {number}: {error}"
        return self._known[number]

    def _of_schema(self, node: Node, datums: Datums, rows: Ints) -> tuple[pl.DataFrame, dict[int, str]]:
        """Return the frame of records of one schema, and the reason for each bad one; none for those of no datum."""
        walk, part = Walk(datums), datums.part(rows, HEADER)
        walk.read(node, part, self._wanted if node.kind == "record" else self._alone)
        datums.fail(part, part.at != part.end)
        found = _Found(rows, datums)
        columns = [self._column(i, walk, found) for i in range(len(self.fields))]
        presence = [found.presence(walk.sections[name]).alias(name) for name in self.sections]
        numbers = pl.Series("_row", rows.astype(np.uint32))
        frame = pl.DataFrame([numbers, self._unavailable(walk, found), *columns, *presence])
        bad = dict.fromkeys(rows[datums.bad[rows]].tolist(), "") | found.refused
        if bad:
            good = np.ones(len(rows), bool)
            good[np.searchsorted(rows, [*bad])] = False
            frame = rows_where(frame, good)
        return frame, bad

    def _column(self, i: int, walk: Walk, found: "_Found") -> pl.Series:
        each, parts = self.fields[i], []
        for piece in walk.pieces[i]:
            values = self._variable(i, piece, walk, found) or self._columns[i].read(piece, found.datums.data)
            parts.append((piece.rows, values))
        return found.column(each, parts)

    def _variable(self, i: int, piece: Piece, walk: Walk, found: "_Found") -> Values | None:
        """Return the values of a piece of VariableScaleDecimals, None if it is none: it is read in its two parts."""
        dtype = self.fields[i].dtype
        if not isinstance(dtype, pl.Decimal) or piece.node.names != ["scale", "value"]:
            return None
        first = len(self.fields) + 2 * i
        scale, value = (
            next((part for part in walk.pieces[first + j] if part.rows is piece.rows), None) for j in range(2)
        )
        if scale is None or value is None or (scale.node.kind, value.node.kind) != ("int", "bytes"):
            return None
        return self._columns[i].scaled(scale.raw, binary(value, found.datums.data), dtype)

    def _unavailable(self, walk: Walk, found: "_Found") -> pl.Series:
        if self.keeps_absent:
            for i, each in enumerate(self.fields):
                if each.label and walk.absent[i]:
                    found.note(each, np.concatenate(walk.absent[i]))
        names = [each.label for each in self.fields if each.label]
        masks = {name: found.unavailable[name] for name in names if name in found.unavailable}
        return listed("_unavailable", masks, len(found.rows))


def _of_damaged(document: bytes, number: int) -> str:
    return f"invalid Avro: received {in_hex(document[HEADER:])}, expected one datum of schema id {number}"


class _Found:
    """What was found in records of one schema: puts what stands in some of them beside the others."""

    def __init__(self, rows: Ints, datums: Datums) -> None:
        self.rows, self.datums = rows, datums
        self.refused: dict[int, str] = {}
        self.unavailable: dict[str, Flags] = {}

    def presence(self, parts: Sequence[Ints]) -> pl.Series:
        """Return a mask of the records that are in one of the parts."""
        found = np.zeros(len(self.rows), bool)
        for part in parts:
            found[self._places(part)] = True
        return pl.Series(values=found)

    def note(self, each: Field, rows: Ints) -> None:
        """Note that these records have no value for a field that has a label."""
        if each.label:
            self.unavailable.setdefault(each.label, np.zeros(len(self.rows), bool))[self._places(rows)] = True

    def column(self, each: Field, parts: Sequence[tuple[Ints, Values]]) -> pl.Series:
        """Return a column of all records, NULL for those in none of the parts."""
        for rows, values in parts:
            self._check(rows, values)
            if values.reading.unavailable is not None:
                self.note(each, rows[values.reading.unavailable.fill_null(value=False).to_numpy()])
        if not parts:
            return constant(each.name, None, each.dtype, len(self.rows))
        if len(parts) == 1 and len(parts[0][0]) == len(self.rows):
            return parts[0][1].reading.values.alias(each.name)
        found = pl.concat([values.reading.values for _, values in parts])
        places = np.full(len(self.rows), -1)
        places[self._places(np.concatenate([rows for rows, _ in parts]))] = np.arange(len(found))
        known = pl.Series(places)
        return found.gather(known.set(known < 0, None)).alias(each.name)

    def _check(self, rows: Ints, values: Values) -> None:
        """Refuse the records whose values are bad, unless they are already."""
        bad = values.reading.bad
        if bad is None or not bad.any():
            return
        for place in bad.arg_true().to_list():
            row = int(rows[place])
            if not self.datums.bad[row] and row not in self.refused:
                self.refused[row] = values.reason(place)

    def _places(self, rows: Ints) -> Ints:
        return rows if len(self.rows) == len(self.datums.bad) else np.searchsorted(self.rows, rows)
