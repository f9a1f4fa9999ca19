"""Change events from rows: each value is the row, a tombstone deletes the row of its Kafka key."""

import json
from collections.abc import Sequence

import polars as pl

from operators.decoding.avro_reader import AvroReader, Schemas
from operators.decoding.documents import Read, Reader
from operators.decoding.formats import Avro, Rows
from operators.decoding.look import Field
from operators.decoding.readers import JsonReader, RecordReader, framed, row_reader
from operators.decoding.wire import wires_for
from operators.events import UNORDERED, Columns, Judged, judge, sequence_of
from operators.schema import DeclarationError, type_name


class RowEvents:
    """Reads the values and keys of a topic of rows. Raises DeclarationError for a typed operation column."""

    def __init__(self, columns: Columns, fmt: Rows, schemas: Schemas) -> None:
        dtype = columns.schema.get(fmt.operation or "", pl.String())
        if not isinstance(dtype, pl.String):
            raise DeclarationError(f"operation {fmt.operation!r} is declared as {type_name(dtype)}; expected a string")
        fields = [
            Field(name, (name,), dtype, wires_for(dtype, fmt), None if name in columns.keys else name)
            for name, dtype in columns.schema.items()
        ]
        if fmt.operation is not None:
            fields.append(Field("_operation", (fmt.operation,), pl.String(), wires_for(pl.String(), fmt)))
        self._columns = columns
        self._format = fmt
        self._rows = row_reader(fields, fmt, schemas)
        self._keys = KeyReader(columns, fmt, schemas)

    def read(self, documents: Sequence[bytes], keys: Sequence[bytes | None]) -> Judged:
        """Return the events of `documents`; `keys` are not looked at, the row has its business key."""
        del keys
        frame, refused = self._rows.read(documents)
        candidates = frame.with_columns(*self._operation(), _sequence=self._columns.sequence(sequence_of))
        if (candidates["_op"] != "upsert").any():
            upsert, truncate = pl.col("_op").eq_missing("upsert"), pl.col("_op").eq_missing("truncate")
            rest = ["_unavailable", *(name for name in self._columns.schema if name not in self._columns.keys)]
            candidates = candidates.with_columns(
                *(pl.when(upsert).then(pl.col(name)).alias(name) for name in rest),
                *(pl.when(~truncate).then(pl.col(name)).alias(name) for name in self._columns.keys),
            )
        judged = judge(candidates, self._columns)
        return Judged(judged.events, [*judged.rejects, *refused.items()], [])

    def deletes(self, keys: Sequence[bytes | None]) -> Judged:
        """Return one delete per Kafka key, with the business key that it holds."""
        found, rejects = self._keys.read(keys)
        absent = [
            pl.lit(None, dtype).alias(name)
            for name, dtype in self._columns.schema.items()
            if name not in self._columns.keys
        ]
        has_sequence = {*self._columns.sequence_parts} <= {*self._columns.keys}
        sequence = self._columns.sequence(sequence_of) if has_sequence else pl.lit(None, pl.Int64)
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
        fmt = self._format
        known = dict.fromkeys(fmt.upserts, "upsert") | dict.fromkeys(fmt.deletes, "delete")
        known |= dict.fromkeys(fmt.truncates, "truncate")
        op = pl.col("_operation").replace_strict(known, default=None, return_dtype=pl.String)
        received = pl.format(
            "operation {}: received {}, expected one of {}",
            pl.lit(repr(name)),
            pl.col("_operation").str.slice(0, 100).fill_null("NULL or nothing"),
            pl.lit(", ".join(known)),
        )
        unordered = (op == "truncate") & pl.lit(not self._columns.sequence_parts)
        why = pl.lit(f"operation {name!r}: {UNORDERED}")
        return [op.alias("_op"), pl.when(op.is_null()).then(received).when(unordered).then(why).alias("_reason")]


class KeyReader:
    """Reads business keys from Kafka keys: objects with the key columns, or a bare value for one key column."""

    def __init__(self, columns: Columns, fmt: Rows, schemas: Schemas) -> None:
        self._names = columns.keys
        fields = [Field(k, (k,), columns.schema[k], wires_for(columns.schema[k], fmt)) for k in self._names]
        self._reader: RecordReader
        if isinstance(fmt, Avro):
            self._reader = AvroReader(fields, {}, fmt, schemas)
        else:
            self._reader = framed(_Objects(JsonReader(Reader(fields)), self._names), fmt)

    def read(self, keys: Sequence[bytes | None]) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
        """Return `_row`, `_unavailable` and the key columns of the keys that could be read; (row, reason) of others."""
        frame, refused = self._reader.read([key or b"" for key in keys])
        return frame, [(row, self._reason(keys[row], reason)) for row, reason in refused.items()]

    def _reason(self, key: bytes | None, reason: str) -> str:
        if key is None:
            return f"received no Kafka key, expected one with {', '.join(self._names)}"
        return f"Kafka key: {reason}"


class _Objects:
    """Reads JSON scalars for the one key column as objects with it."""

    def __init__(self, reader: RecordReader, names: Sequence[str]) -> None:
        self._reader, self._names = reader, names

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns."""
        return self._reader.read([self._as_object(document) for document in documents])

    def _as_object(self, key: bytes) -> bytes:
        """Return the key as a JSON object if it is a scalar for the one key column, else as it is."""
        if key[:1] == b"{" or len(self._names) > 1:
            return key
        try:
            scalar = json.loads(key, parse_int=float)
        except (ValueError, RecursionError):
            return key
        if isinstance(scalar, dict | list):
            return key
        return b"{%s:%s}" % (json.dumps(self._names[0]).encode(), key.strip())
