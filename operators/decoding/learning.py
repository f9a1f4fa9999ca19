"""Columns that a table learns from its records: fields that are not declared, typed by the first value they have.

| the value                             | the column                                                              |
|---------------------------------------|-------------------------------------------------------------------------|
| true or false                         | bool                                                                    |
| a number, no fraction nor exponent    | int64, or as long as a Debezium schema says; float64 beyond 64 bits     |
| any other number                      | float64                                                                 |
| text                                  | string                                                                  |
| an array of texts                     | list<string>                                                            |
| NULL                                  | none yet                                                                |
| anything else, such as an object      | none: the record is refused                                             |

1. Records are taken in their order. The first that has a value in an unknown field makes it a column. From then on
   values must fit the column, as they must fit a declared one; only an integer column grows to a longer one. Where
   absent fields keep their values, a record from then on that does not have the field does not carry the column.
2. A record of which one field is refused is refused whole, and teaches nothing.
3. What is taken stays taken, and what is refused stays refused, when the same records come again to a table that has
   learned from them already: so it does not matter when a table is made to have the columns, nor how records are cut
   into batches. What a record does not carry is another thing (`flows.stages.settling`).

A Debezium schema counts no further, because each value must say by itself what it is: an integer that is a timestamp
does not say its unit, nor Base64 of a decimal its scale, and both may change in the source. A number of more than 64
bits is a float64 because that is what others make of it (RFC 8259, "Numbers"). An object is refused because as JSON
text it could not be told from text.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from operators.decoding import refusals
from operators.decoding.documents import Reader
from operators.decoding.envelope import EnvelopeReader
from operators.decoding.formats import Debezium, Rows, keeps_absent
from operators.decoding.json_batch import tidy
from operators.decoding.json_values import Number, load, shown
from operators.decoding.known_fields import KnownFields
from operators.decoding.look import Field
from operators.decoding.readers import JsonReader, RecordReader, unframed
from operators.decoding.wire import wires_for
from operators.schema import Schema
from operators.wording import clip

MOST_COLUMNS = 200
"""Columns that a table may learn: records that each have another field must not make a table of them."""

_WINDOW = 4_000  # documents that are read again, at most, when a column is learned
_LONGEST_NAME = 255  # bytes; so all learned names are few enough for one pattern (`known_fields`)
_NOT_IN_NAMES = frozenset(" ,;{}()=")  # what Delta's writers refuse without column mapping
_INTEGERS: tuple[pl.DataType, ...] = (pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64())
_CONNECT = ("int8", "int16", "int32", "int64")
LEARNABLE: tuple[pl.DataType, ...] = (*_INTEGERS, pl.Float64(), pl.String(), pl.Boolean(), pl.List(pl.String()))
"""The types that a learned column may have."""


@dataclass(frozen=True)
class Settled:
    """What became of documents up to the first that makes the columns grow; `reached` is how many these are.

    ``columns`` is what the table must have learned before the others can be decided. ``rows`` has `_row` (UInt32, index
    of the document, ascending), `_unavailable` and the columns that the table had, for all documents reached but the
    ``refused`` ones, each of which has its reason.
    """

    reached: int
    columns: Schema
    rows: pl.DataFrame
    refused: dict[int, str]

    def part(self, start: int, end: int) -> "Settled":
        """Return the same of the documents from `start` up to `end`, which are counted from 0 then."""
        rows = self.rows.filter(pl.col("_row").is_between(start, end, closed="left"))
        refused = {row - start: reason for row, reason in self.refused.items() if start <= row < end}
        return Settled(end - start, self.columns, rows.with_columns(pl.col("_row") - start), refused)


class Learner:
    """Decides about documents that may have undeclared fields, for a table that declares `schema`.

    ``reserved`` are names that no column may have, because the table has them for itself. Without ``may_learn`` no
    column is learned, and a document with an unknown field is refused.
    """

    def __init__(
        self, schema: Schema, fmt: Rows | Debezium, reserved: Collection[str] = (), *, may_learn: bool
    ) -> None:
        self._format, self._may_learn = fmt, may_learn
        operation = [fmt.operation] if isinstance(fmt, Rows) and fmt.operation is not None else []
        self._declared = {*schema, *operation}
        self._taken = {name.lower(): name for name in (*self._declared, *reserved)}

    def settle(self, documents: Sequence[bytes], columns: Schema) -> Settled:
        """Decide about `documents` of the format for a table that has learned `columns` so far."""
        regular = tidy(unframed(documents, self._format)).documents
        schema = pl.Schema({"_row": pl.UInt32(), "_unavailable": pl.List(pl.String()), **columns})
        reads, refused = [pl.DataFrame(schema=schema)], dict[int, str]()
        at, grown = 0, columns
        while at < len(regular) and grown == columns:
            part = self._read(regular[at : at + _WINDOW], columns)
            reads.append(part.rows.with_columns(pl.col("_row") + at))
            refused |= {at + row: reason for row, reason in part.refused.items()}
            at, grown = at + part.reached, part.columns
        return Settled(at, grown, pl.concat(reads), refused)

    def _read(self, documents: Sequence[bytes], columns: Schema) -> Settled:
        """Decide about few documents."""
        read, reached, grown = self._reader(columns).read(documents), len(documents), columns
        refused = dict(read.refused)
        known = KnownFields([*self._declared, *columns], self._format)
        for row in sorted({*known.unlike(documents).nonzero()[0].tolist(), *refused}):
            outcome = self._judge(documents[row], columns, refused.get(row))
            if isinstance(outcome, str):
                refused[row] = outcome
            elif outcome != columns:
                reached, grown = row, outcome
                break
        rows = read.frame.filter((pl.col("_row") < reached) & ~pl.col("_row").is_in([*refused]))
        told = {row: reason for row, reason in sorted(refused.items()) if row < reached}
        return Settled(reached, grown, rows.select("_row", "_unavailable", *columns), told)

    def _judge(self, document: bytes, columns: Schema, fault: str | None) -> Schema | str:
        """Return the columns with what a document teaches, or why it is refused; `fault` is why it cannot be read."""
        try:
            value = load(document)
        except RecursionError:
            return refusals.DEEP
        except ValueError as error:
            return refusals.of_invalid(document, error)
        grown = self._grown(value, columns, widen=fault is not None)
        if isinstance(grown, str) or grown == columns:
            return fault or grown
        return self._reader(grown).read([document]).refused.get(0) or grown

    def _grown(self, value: object, columns: Schema, *, widen: bool) -> Schema | str:
        grown, lengths = dict(columns), _lengths(value) if isinstance(self._format, Debezium) else {}
        for name, found in self._row(value).items():
            if found is None or name in self._declared:
                continue
            dtype = _type_of(found, lengths.get(name))
            if name not in columns:
                if dtype is None or self._problem(name, grown):
                    return self._refusal(name, found, grown)
                grown[name] = dtype
            elif widen and self._may_learn and dtype in _INTEGERS and columns[name] in _INTEGERS:
                grown[name] = max(columns[name], dtype, key=_INTEGERS.index)
        return grown

    def _refusal(self, name: str, found: object, columns: Schema) -> str:
        expected = self._problem(name, columns) or "a number, text, true or false, or an array of texts"
        return f"field {clip(name, _LONGEST_NAME)!r}: received {shown(found)}, expected {expected}"

    def _problem(self, name: str, columns: Schema) -> str | None:
        """Return what would be right where an unknown field cannot become a column beside those learned."""
        if not self._may_learn:
            return "declared fields only; declare it, or new_fields='add'"
        if not _is_name(name):
            return f"a name that a column can have, of at most {_LONGEST_NAME} bytes; rename it in the source"
        if len(columns) >= MOST_COLUMNS:
            return f"one of at most {MOST_COLUMNS} learned columns; declare it"
        lower = name.lower()
        taken = self._taken.get(lower) or next((each for each in columns if each.lower() == lower), None)
        return (
            f"another name, as Delta does not tell it from column {taken!r}; rename it in the source" if taken else None
        )

    def _row(self, value: Any) -> Mapping[str, object]:
        """Return the object that holds the row of a loaded document, which has one."""
        if isinstance(self._format, Debezium):
            payload = value.get("payload")
            value = (payload if isinstance(payload, dict) else value)["after"]
        row: Mapping[str, object] = value
        return row

    def _reader(self, columns: Schema) -> RecordReader:
        below = ("after",) if isinstance(self._format, Debezium) else ()
        fields = [
            Field(name, (*below, name), dtype, wires_for(dtype, self._format), name) for name, dtype in columns.items()
        ]
        if below:
            return EnvelopeReader(fields, {})
        return JsonReader(Reader(fields), [*columns] if keeps_absent(self._format) else [])


def _is_name(name: str) -> bool:
    """Tell whether Delta, and what we do with columns, can take a name."""
    plain = name.isprintable() and not _NOT_IN_NAMES & {*name} and len(name.encode()) <= _LONGEST_NAME
    return plain and name[:1] not in ("", "_", "^", "*")


def _type_of(found: object, length: pl.DataType | None) -> pl.DataType | None:
    """Return the type of the column that a value makes; `length` is the integer type that a schema says."""
    if isinstance(found, bool):
        return pl.Boolean()
    if isinstance(found, int):
        fitting = [dtype for dtype in (length, pl.Int64()) if dtype and found in _range_of(dtype)]
        return fitting[0] if fitting else pl.Float64()
    if isinstance(found, Number | float):
        return pl.Float64()
    if isinstance(found, str):
        return pl.String()
    if isinstance(found, list) and all(each is None or type(each) is str for each in found):
        return pl.List(pl.String())
    return None


def _range_of(integer: pl.DataType) -> range:
    limit = 1 << (8 << _INTEGERS.index(integer)) - 1
    return range(-limit, limit)


def _lengths(value: Any) -> dict[str, pl.DataType]:
    """Return the integer types that the schema beside a payload gives the fields of `after`."""
    lengths = dict(zip(_CONNECT, _INTEGERS, strict=True))
    blocks = [block for block in _fields(value.get("schema")) if block.get("field") == "after"]
    told = [each for block in blocks for each in _fields(block) if each.get("type") in _CONNECT]
    return {str(each.get("field")): lengths[each["type"]] for each in told}


def _fields(schema: object) -> list[dict[str, Any]]:
    fields = schema.get("fields") if isinstance(schema, dict) else None
    return [each for each in fields if isinstance(each, dict)] if isinstance(fields, list) else []
