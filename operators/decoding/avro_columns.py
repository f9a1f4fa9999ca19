"""Avro values as columns of the declared types, by the rules for JSON values (`wire`).

| declared     | Avro types                                                                                      |
|--------------|-------------------------------------------------------------------------------------------------|
| int          | int, long                                                                                       |
| float        | float, double, int, long; finite                                                                |
| bool         | boolean                                                                                         |
| string       | string, enum                                                                                    |
| decimal      | bytes or fixed with logical type decimal; a number or text whose value fits exactly             |
| date         | int or long of no other logical type: days since the epoch; text YYYY-MM-DD                     |
| timestamp    | int or long of a timestamp's logical type, or of none, in the format's unit; ISO 8601 text      |
| list<string> | array of strings                                                                                |

What JSON has text forms of takes the way through JSON: how such a text is read is decided in one place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa

from operators.arrow_arrays import arrow_int64
from operators.decoding import refusals
from operators.decoding.avro_datums import Flags, Ints
from operators.decoding.avro_schema import Node
from operators.decoding.avro_walk import Piece, Texts
from operators.decoding.decimal_bytes import rescaled, series_of
from operators.decoding.documents import Reader
from operators.decoding.formats import PLACEHOLDER, Debezium, Rows
from operators.decoding.look import Field
from operators.decoding.wire import Reading, read_days, read_integer_instant
from operators.decoding.wire_format import in_hex
from operators.eager import constant
from operators.wording import clip

_UNITS = ("ms", "us", "ns")
_PLACEHOLDER = pl.Series([PLACEHOLDER.encode()], dtype=pl.Binary)
_LONGEST = 64  # bytes of a number that is shown as one
_DAY32 = 2**31


@dataclass(frozen=True, slots=True)
class Values:
    """A column of the declared type, and for each place that is bad in it a function that says why."""

    reading: Reading
    reason: Callable[[int], str]


@dataclass(eq=False)
class Column:
    """Reads the values of one field, whatever types its writers gave it."""

    field: Field
    format: Rows | Debezium

    def read(self, piece: Piece, data: bytes) -> Values:  # noqa: PLR0911 - one a type
        """Return the values of `piece`, whose texts and bytes are in `data`."""
        node, dtype = piece.node, self.field.dtype
        match node.kind:
            case "string" | "enum":
                return self._of_texts(node, _texts(piece, data))
            case "int" | "long":
                return self._of_integers(node, pl.Series(piece.raw))
            case "float" | "double" if dtype.is_float():
                return self._by_wire(pl.Series(piece.raw))
            case "float" | "double" if dtype.is_decimal():
                return self._by_json(pl.Series(piece.raw), ~np.isfinite(piece.raw))
            case "boolean" if isinstance(dtype, pl.Boolean):
                return self._as(Reading(pl.Series(piece.raw)))
            case "bytes" | "fixed" if isinstance(dtype, pl.Decimal) and node.meaning == "decimal":
                return self._of_unscaled(_binary(piece.raw, data), node.scale, dtype)
            case "array" if isinstance(dtype, pl.List) and piece.raw is not None:
                return self._of_lists(piece.raw, data)
            case _:
                return self.unfit(node, len(piece.rows))

    def unfit(self, node: Node, height: int) -> Values:
        """Return so many values of a type that can never be the declared one."""
        return self._as(self._nothing(height), lambda _: f"Avro's {node.shown}")

    def scaled(self, scales: Ints, content: pl.Series, dtype: pl.Decimal) -> Values:
        """Return decimals, each of a scale of its own (``io.debezium.data.VariableScaleDecimal``)."""
        values = constant("", None, dtype, len(scales))
        for scale in np.unique(scales).tolist():
            places = np.flatnonzero(scales == scale)
            values = values.scatter(places, rescaled(content.gather(places), scale, dtype))
        return self._as(Reading(values, values.is_null()), lambda i: _decimal_text(content[i], int(scales[i])))

    def _of_texts(self, node: Node, texts: pl.Series) -> Values:
        dtype = self.field.dtype
        damaged = texts.is_null()
        if isinstance(dtype, pl.String):
            found = self._by_wire(texts)
        elif isinstance(dtype, pl.Decimal | pl.Date | pl.Datetime):
            found = self._by_json(texts, damaged.to_numpy())
        else:
            return self.unfit(node, len(texts))
        if not damaged.any():
            return found
        bad = damaged if found.reading.bad is None else damaged | found.reading.bad
        reading = Reading(found.reading.values, bad, found.reading.unavailable)
        return Values(reading, lambda i: self._told("invalid UTF-8") if damaged[i] else found.reason(i))

    def _of_integers(self, node: Node, numbers: pl.Series) -> Values:
        dtype, meaning = self.field.dtype, node.meaning
        if dtype.is_integer():
            values = numbers.cast(dtype, strict=False)
            return self._as(Reading(values, values.is_null()), lambda i: str(numbers[i]))
        if dtype.is_float():
            return self._by_wire(numbers)
        if dtype.is_decimal() and meaning is None:
            return self._by_json(numbers, np.zeros(len(numbers), bool))
        if isinstance(dtype, pl.Date) and meaning in (None, "date"):
            days = numbers.clip(-_DAY32, _DAY32 - 1).cast(pl.Int32).cast(pl.Date)
            return self._as(read_days(days), lambda i: str(numbers[i]))
        if isinstance(dtype, pl.Datetime) and meaning in (None, *_UNITS):
            return self._as(read_integer_instant(meaning or self.format.timestamps, numbers), lambda i: str(numbers[i]))
        return self.unfit(node, len(numbers))

    def _of_unscaled(self, content: pl.Series, scale: int, dtype: pl.Decimal) -> Values:
        values = rescaled(content, scale, dtype)
        unavailable = content == _PLACEHOLDER if isinstance(self.format, Debezium) else None
        bad = values.is_null() if unavailable is None else values.is_null() & ~unavailable
        return self._as(Reading(values, bad, unavailable), lambda i: _decimal_text(content[i], scale))

    def _of_lists(self, lists: Texts, data: bytes) -> Values:
        texts = _decoded(_binary((lists.start, lists.end), data))
        damaged = texts.is_null().to_numpy() & lists.present
        ends = np.cumsum(lists.counts)
        items = pl.select(pl.when(pl.Series(lists.present)).then(texts)).to_series()
        offsets = arrow_int64(np.concatenate([[0], ends]))
        found = self._by_wire(series_of(pa.LargeListArray.from_arrays(offsets, items.to_arrow())))
        bad = np.zeros(len(ends), bool)
        bad[np.searchsorted(ends, np.flatnonzero(damaged), side="right")] = True
        return self._as(
            Reading(found.reading.values, pl.Series(bad), found.reading.unavailable), lambda _: "invalid UTF-8"
        )

    def _by_wire(self, values: pl.Series) -> Values:
        """Read values as JSON's are read once the parser is done with them."""
        return self._as(self.field.wires[0].read(values.cast(self.field.dtype)), lambda i: _shown(values[i]))

    def _by_json(self, values: pl.Series, bad: Flags) -> Values:
        """Read values as the JSON values that they would be; those that are `bad` cannot be one."""
        name = self.field.path[-1]
        documents = values.rename(name).to_frame().select(pl.struct(name).struct.json_encode()).to_series()
        frame, refused = self._json.read(documents.cast(pl.Binary).to_list())
        places = pl.Series(np.full(len(values), -1)).scatter(frame["_row"].to_numpy(), np.arange(frame.height))
        known = pl.select(pl.when(places >= 0).then(places)).to_series()
        bad = bad | (places < 0).to_numpy()
        unavailable = frame["_unavailable"].is_not_null().gather(known).fill_null(value=False)
        reading = Reading(frame[self.field.name].gather(known), pl.Series(bad), unavailable)
        return Values(reading, lambda i: refused.get(i) or self._told(_shown(values[i])))

    @cached_property
    def _json(self) -> Reader:
        each = self.field
        return Reader([Field(each.name, each.path[-1:], each.dtype, each.wires, each.label or each.name)])

    def _as(self, reading: Reading, shown: Callable[[int], str] = str) -> Values:
        return Values(reading, lambda i: self._told(shown(i)))

    def _told(self, received: str) -> str:
        return f"column {self.field.path[-1]!r}: received {received}, expected {refusals.expected(self.field)}"

    def _nothing(self, height: int) -> Reading:
        return Reading(
            constant("", None, self.field.dtype, height), constant("", value=True, dtype=pl.Boolean(), height=height)
        )


def _texts(piece: Piece, data: bytes) -> pl.Series:
    """Return texts, NULL where they are no UTF-8."""
    if piece.node.kind == "enum":
        return pl.Series(piece.node.symbols, dtype=pl.String).gather(np.clip(piece.raw, 0, len(piece.node.symbols) - 1))
    return _decoded(_binary(piece.raw, data))


def _decoded(content: pl.Series) -> pl.Series:
    try:
        return content.cast(pl.String)
    except pl.exceptions.ComputeError:  # one by one, to find which
        return pl.Series([_text(each) for each in content], dtype=pl.String)


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _binary(stretches: tuple[Ints, Ints], data: bytes) -> pl.Series:
    """Return stretches of `data`, which follow each other; Arrow copies every second one of these and those between."""
    start, end = stretches
    offsets = np.empty(2 * len(start) + 1, np.int64)
    offsets[0:-1:2], offsets[1::2], offsets[-1] = start, end, end[-1] if len(end) else 0
    both = pa.Array.from_buffers(pa.large_binary(), 2 * len(start), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    return series_of(both.take(arrow_int64(np.arange(0, 2 * len(start), 2))))


def binary(piece: Piece, data: bytes) -> pl.Series:
    """Return the bytes of a piece."""
    return _binary(piece.raw, data)


def _decimal_text(content: bytes, scale: int) -> str:
    if not 0 < len(content) <= _LONGEST:
        return in_hex(content)
    return str(Decimal(f"{int.from_bytes(content, 'big', signed=True)}e{-scale}"))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return clip(f'"{value}"' if isinstance(value, str) else str(value), 100)
