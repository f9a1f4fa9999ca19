"""What orders the events of a key: one number or, of several columns, bytes that sort as those columns do.

A column of type `_sequence` holds it: Int64 for one column; for several Binary, in which each is a 64-bit integer,
most significant byte first, its sign bit turned round. In memory they are int64 and fixed-width bytes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Sequences = npt.NDArray[Any]
"""Sequences of events: int64, or bytes of one width."""

NEVER = int(np.iinfo(np.int64).min)
"""The sequence of a key that no event was seen of; of several columns, zero bytes. No event has it."""

BYTES = 8
"""How many a number takes in a sequence of several columns."""

_SIGN = np.uint64(1 << 63)


def stored_type(declared: pl.DataType) -> pl.DataType:
    """Return the type of `_sequence` for a declared one: a column's own, or a struct of several.

    >>> stored_type(pl.Date()), stored_type(pl.Struct({"day": pl.Date(), "number": pl.Int64()}))
    (Int64, Binary)
    """
    return pl.Binary() if isinstance(declared, pl.Struct) else pl.Int64()


def never(declared: pl.DataType, size: int) -> Sequences:
    """Return `NEVER` so many times, in the form that a declared type has in memory."""
    if isinstance(declared, pl.Struct):
        return np.zeros(size, f"S{BYTES * len(declared.fields)}")
    return np.full(size, NEVER)


def from_column(column: pl.Series) -> Sequences:
    """Return a `_sequence` column, which has no NULL, as it is in memory."""
    if column.dtype != pl.Binary:
        return column.to_numpy()
    if not len(column):
        return np.empty(0, f"S{BYTES}")
    width = len(column[0])
    values = column.to_arrow().cast(pa.binary(width))
    return np.frombuffer(values.buffers()[1], f"S{width}", len(values), values.offset * width)


def from_values(values: pl.Series) -> Sequences:
    """Return values of a declared type, none of them NULL, as they are in memory."""
    if not isinstance(values.dtype, pl.Struct):
        return values.to_physical().cast(pl.Int64).to_numpy()
    return _packed(values.struct.unnest().get_columns())


def to_values(sequences: Sequences, declared: pl.DataType) -> pl.Series:
    """Return sequences as values of a declared type.

    >>> both = pl.Struct({"batch": pl.Int16(), "line": pl.Int64()})
    >>> to_values(from_values(pl.Series([{"batch": 7, "line": -1}], dtype=both)), both).to_list()
    [{'batch': 7, 'line': -1}]
    """
    if not isinstance(declared, pl.Struct):
        return pl.Series(sequences).cast(declared)
    parts = (
        np.frombuffer(sequences.tobytes(), ">u8").reshape(len(sequences), len(declared.fields)).astype(np.uint64)
        ^ _SIGN
    )
    columns = (
        pl.Series(field.name, part.view(np.int64)).cast(field.dtype)
        for field, part in zip(declared.fields, np.ascontiguousarray(parts.T), strict=True)
    )
    return pl.DataFrame(list(columns)).to_struct()


def to_column(sequences: Sequences) -> pl.Series:
    """Return sequences as a `_sequence` column."""
    if sequences.dtype.kind == "i":
        return pl.Series("_sequence", sequences)
    width = sequences.dtype.itemsize
    fixed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(sequences), [None, pa.py_buffer(sequences.tobytes())]
    )
    return pl.Series("_sequence", fixed.cast(pa.large_binary()), pl.Binary)


def _packed(columns: Sequence[pl.Series]) -> Sequences:
    parts = [column.to_physical().cast(pl.Int64).to_numpy().view(np.uint64) ^ _SIGN for column in columns]
    packed = np.ascontiguousarray(np.stack(parts, axis=1).astype(">u8"))
    sequences: Sequences = packed.view(f"S{BYTES * len(parts)}").ravel()
    return sequences


def later(left: Sequences, right: Sequences) -> Sequences:
    """Return the greater of each two."""
    return np.maximum(left, right) if left.dtype.kind == "i" else np.where(left > right, left, right)


def latest(sequences: Sequences) -> Any:
    """Return the greatest of at least one sequence."""
    return sequences.max() if sequences.dtype.kind == "i" else np.sort(sequences)[-1]


def raise_to(target: Sequences, places: npt.NDArray[np.int64], sequences: Sequences) -> None:
    """Make each of these places of `target`, which may be named several times, at least as great as its sequences."""
    if sequences.dtype.kind == "i":
        np.maximum.at(target, places, sequences)
        return
    order = np.lexsort((sequences, places))
    last = np.append(places[order][1:] != places[order][:-1], True)[: len(order)]
    places, sequences = places[order][last], sequences[order][last]
    target[places] = later(target[places], sequences)


def earliest_of(starts: npt.NDArray[np.int64], sequences: Sequences) -> Sequences:
    """Return the least sequence of each group; groups begin at `starts`, the first at 0, and none is empty."""
    if sequences.dtype.kind == "i":
        return np.minimum.reduceat(sequences, starts) if len(starts) else sequences
    group = np.zeros(len(sequences), np.int64)
    group[starts] = 1
    order = np.lexsort((sequences, np.cumsum(group)))
    least: Sequences = sequences[order][starts]
    return least
