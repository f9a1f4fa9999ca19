"""Change events from plain JSON: each value is the row, a tombstone deletes the row of its Kafka key."""

import json
from collections.abc import Sequence

import polars as pl

from operators.documents import Reader
from operators.events import Columns, Judged, judge, sequence_of
from operators.formats import Json
from operators.json_batch import tidy
from operators.look import Field
from operators.schema import DeclarationError
from operators.wire import wires_for


class JsonEvents:
    """Reads the values and keys of a topic in `Json` format. Raises DeclarationError for a typed operation column."""

    def __init__(self, columns: Columns, fmt: Json) -> None:
        dtype = columns.schema.get(fmt.operation or "", pl.String())
        if not isinstance(dtype, pl.String):
            raise DeclarationError(f"operation {fmt.operation!r} is declared as {dtype}; expected a string")
        fields = [Field(name, (name,), dtype, wires_for(dtype, fmt)) for name, dtype in columns.schema.items()]
        if fmt.operation is not None:
            fields.append(Field("_operation", (fmt.operation,), pl.String(), wires_for(pl.String(), fmt)))
        self._columns = columns
        self._format = fmt
        self._rows = Reader(fields)
        self._keys = KeyReader(columns, fmt)

    def read(self, documents: Sequence[bytes], keys: Sequence[bytes | None]) -> Judged:
        """Return the events of `documents`; `keys` are not looked at, the row has its business key."""
        del keys
        frame, refused = self._rows.read(documents)
        column = self._columns.sequence_column
        sequence = sequence_of(column) if column else pl.lit(None, pl.Int64)
        candidates = frame.with_columns(*self._operation(), _sequence=sequence)
        if (candidates["_op"] == "delete").any():
            upsert = pl.col("_op").ne_missing("delete")
            rest = [name for name in self._columns.schema if name not in self._columns.keys]
            candidates = candidates.with_columns(pl.when(upsert).then(pl.col(name)).alias(name) for name in rest)
        judged = judge(candidates, self._columns)
        return Judged(judged.events, [*judged.rejects, *refused.items()], [])

    def deletes(self, keys: Sequence[bytes | None]) -> Judged:
        """Return one delete per Kafka key, with the business key that it holds."""
        found, rejects = self._keys.read(keys)
        column = self._columns.sequence_column
        absent = [
            pl.lit(None, dtype).alias(name)
            for name, dtype in self._columns.schema.items()
            if name not in self._columns.keys
        ]
        sequence = sequence_of(column) if column in self._columns.keys and column else pl.lit(None, pl.Int64)
        reason = pl.lit(None, pl.String)
        candidates = found.with_columns(*absent, _op=pl.lit("delete"), _sequence=sequence, _reason=reason)
        judged = judge(candidates, self._columns)
        tombstones = [(row, f"tombstone: {reason}") for row, reason in [*judged.rejects, *rejects]]
        return Judged(judged.events, tombstones, [])

    def _operation(self) -> list[pl.Expr]:
        """Return `_op` and `_reason`."""
        name = self._format.operation
        if name is None:
            return [pl.lit("upsert").alias("_op"), pl.lit(None, pl.String).alias("_reason")]
        known = {**dict.fromkeys(self._format.upserts, "upsert"), **dict.fromkeys(self._format.deletes, "delete")}
        op = pl.col("_operation").replace_strict(known, default=None, return_dtype=pl.String)
        received = pl.format(
            "operation {}: received {}, expected one of {}",
            pl.lit(repr(name)),
            pl.col("_operation").str.slice(0, 100).fill_null("NULL or nothing"),
            pl.lit(", ".join(known)),
        )
        return [op.alias("_op"), pl.when(op.is_null()).then(received).alias("_reason")]


class KeyReader:
    """Reads business keys from Kafka keys: JSON objects with the key columns, or one scalar for one key column."""

    def __init__(self, columns: Columns, fmt: Json) -> None:
        self._names = columns.keys
        self._reader = Reader(
            [Field(k, (k,), columns.schema[k], wires_for(columns.schema[k], fmt)) for k in self._names]
        )

    def read(self, keys: Sequence[bytes | None]) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
        """Return `_row`, `_unavailable` and the key columns of the keys that could be read; (row, reason) of others."""
        tidied = tidy([self._as_object(key) for key in keys])
        frame, refused = self._reader.read(tidied.documents)
        index = pl.Series("_row", tidied.places, pl.UInt32)
        rejects = [(i, self._reason(keys[i], reason)) for i, reason in tidied.rejects]
        rejects += [(tidied.places[i], f"Kafka key: {reason}") for i, reason in refused.items()]
        return frame.with_columns(index.gather(frame["_row"])), rejects

    def _as_object(self, key: bytes | None) -> bytes:
        """Return the key as a JSON object if it is a scalar for the one key column, else as it is."""
        if key is None or key[:1] == b"{" or len(self._names) > 1:
            return key or b""
        try:
            scalar = json.loads(key, parse_int=float)
        except (ValueError, RecursionError):
            return key
        if isinstance(scalar, dict | list):
            return key
        return b"{%s:%s}" % (json.dumps(self._names[0]).encode(), key.strip())

    def _reason(self, key: bytes | None, reason: str) -> str:
        if key is None:
            return f"received no Kafka key, expected one with {', '.join(self._names)}"
        return f"Kafka key: {reason}"
