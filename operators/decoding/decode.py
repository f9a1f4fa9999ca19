"""Records to change events: the first columnar step, and the gate that no unusable record passes.

A batch has no meaning: what becomes of a record depends on its own key and value, never on its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import polars as pl

from operators.decoding.avro_reader import Schemas
from operators.decoding.custom_events import CUSTOM_SEQUENCE, CustomEvents
from operators.decoding.debezium_events import DebeziumEvents
from operators.decoding.formats import Custom, Debezium, Format
from operators.decoding.readers import unknown
from operators.decoding.row_events import RowEvents
from operators.events import Columns, Judged, SequenceBy, without_null_updates
from operators.schema import DeclarationError, Schema, did_you_mean, type_name

_REJECTS = {"_row": pl.UInt32(), "stage": pl.String(), "reason": pl.String()}
UNMET = pl.Schema({"_row": pl.UInt32(), "expectation": pl.String(), "stops": pl.String()})
"""One row for each expectation that a record does not meet; `stops` says so where that stops the run."""
_NOTHING_UNMET = pl.DataFrame(schema=UNMET)


@dataclass(frozen=True)
class Decoded:
    """What became of the records of a batch; every record is in exactly one of the three.

    ``events``: ascending by `_row` (UInt32, index of the record in the batch). `_op` is "upsert", "delete" or
    "truncate"; `_sequence` is the declared sequence (`operators.sequences`; dates in days, timestamps in microseconds),
    all NULL when none is declared; `_unavailable` List(String) names the columns that the event does not carry,
    NULL when it carries all. The declared columns follow with their types; a delete has only its key columns, a
    truncate none. ``rejects``: `_row`, `stage` ("decode" or "expectation") and `reason` (received, expected), ascending
    by `_row`. ``dropped``: `_row` of records that rightly carry no event, ascending. ``unmet`` has the columns `UNMET`,
    ascending by `_row`. ``undecided``: `_row` of those upserts that may have fields besides the columns, ascending,
    from a decoder that looks for them (`watching`).
    """

    events: pl.DataFrame
    rejects: pl.DataFrame
    dropped: pl.Series
    unmet: pl.DataFrame = field(default_factory=lambda: _NOTHING_UNMET)
    undecided: Sequence[int] = ()


class RecordDecoder(Protocol):
    """Decodes the records of one table; used by one thread at a time."""

    @property
    def sequence_type(self) -> pl.DataType:
        """Type of the column `_sequence` of events."""
        ...

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None], /) -> Decoded:
        """Return what records with these raw keys and values say."""
        ...


class _Events(Protocol):
    def read(self, documents: Sequence[bytes], keys: Sequence[bytes | None]) -> Judged: ...


class Decoder:
    """Decodes the records of one table; built once, used by one thread at a time.

    ``sequence_by`` names a declared column of integer, date or timestamp type or, for Debezium, an integer of the
    source block such as ``source.lsn``, or several of them, the most significant first; None leaves the order of
    events to the caller. Beware of a column as the sequence of deletes: Debezium takes it from `before`, where only
    REPLICA IDENTITY FULL has its real value.
    A NULL in one of ``ignore_null_updates`` counts as a column that an upsert does not carry. ``schemas`` gives the
    Avro schemas of ids.
    ``check`` looks at what was decoded and may take events out (`operators.decoding.expectations`).

    Raises DeclarationError for keys or a sequence that the schema does not have or that cannot serve.
    """

    def __init__(  # noqa: PLR0913 - what a table declares of its records
        self,
        schema: Schema,
        keys: Sequence[str],
        sequence_by: SequenceBy,
        format: Format,  # noqa: A002 - the word users declare it by
        *,
        ignore_null_updates: Sequence[str] = (),
        schemas: Schemas = unknown,
        check: Callable[[Decoded], Decoded] | None = None,
    ) -> None:
        _check_keys(schema, keys)
        columns = Columns(schema, tuple(keys), sequence_by)
        _check_sequence(columns, format)
        _check_ignored(schema, [*keys, *columns.sequence_parts], ignore_null_updates)
        self._columns, self._check = columns, check
        self._ignored = [name for name in schema if name in ignore_null_updates]
        self._events: _Events
        self._deletes: Callable[[Sequence[bytes | None]], Judged] | None = None  # None: tombstones say nothing new
        match format:
            case Debezium():
                self._events = DebeziumEvents(columns, format, schemas)
            case Custom():
                self._events = CustomEvents(columns, format)
            case _:
                self._events = rows = RowEvents(columns, format, schemas)
                self._deletes = rows.deletes
        self._takes_all = isinstance(format, Custom)

    @property
    def sequence_type(self) -> pl.DataType:
        """Type of the column `_sequence` of events."""
        return pl.Binary() if len(self._columns.sequence_parts) > 1 else pl.Int64()

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Decoded:
        """Return what the records with these raw keys and values say; never raises for what is in them.

        Raises what `schemas` does, and CustomDecodeError.
        """
        tombstones = [] if self._takes_all or all(values) else [i for i, value in enumerate(values) if value is None]
        parts = [self._values(keys, values, has_tombstones=bool(tombstones))]
        dropped = [*parts[0].dropped]
        if tombstones and self._deletes:
            parts.append(self._deletes([keys[i] for i in tombstones]).moved(tombstones))
        else:
            dropped += tombstones
        rejects = sorted(reject for part in parts for reject in part.rejects)
        events = parts[0].events if len(parts) == 1 else pl.concat([part.events for part in parts]).sort("_row")
        decoded = Decoded(
            without_null_updates(events, self._ignored),
            pl.DataFrame([(row, "decode", reason) for row, reason in rejects], _REJECTS, orient="row"),
            pl.Series("_row", sorted(dropped), pl.UInt32),
        )
        return self._check(decoded) if self._check else decoded

    def _values(self, keys: Sequence[bytes | None], values: Sequence[bytes | None], *, has_tombstones: bool) -> Judged:
        if not has_tombstones:
            return self._events.read(cast("Sequence[bytes]", values), keys)
        rows = [i for i, value in enumerate(values) if value is not None]
        return self._events.read([value for value in values if value is not None], [keys[i] for i in rows]).moved(rows)


def _check_keys(schema: Schema, keys: Sequence[str]) -> None:
    if not keys:
        raise DeclarationError("keys=[]: expected at least one column that identifies a row")
    if len({*keys}) < len(keys):
        raise DeclarationError(f"keys: received {[*keys]}, expected each column once")
    for key in keys:
        if key not in schema:
            raise DeclarationError(f"key {key!r}: expected one of {', '.join(schema)}.{did_you_mean(key, schema)}")
        if schema[key].is_float() or schema[key].is_nested():
            raise DeclarationError(
                f"key {key!r} is a {type_name(schema[key])}; expected another type, as floats and lists cannot "
                "identify a row"
            )


def _check_ignored(schema: Schema, needed: Sequence[str], ignored: Sequence[str]) -> None:
    for name in ignored:
        if name not in schema:
            raise DeclarationError(
                f"ignore_null_updates: unknown column {name!r}; the table has: {', '.join(schema)}."
                f"{did_you_mean(name, schema)}"
            )
        if name in needed:
            raise DeclarationError(f"ignore_null_updates: {name!r} is of the key or the sequence, which is never NULL")


def _check_sequence(columns: Columns, fmt: Format) -> None:
    parts = columns.sequence_parts
    if columns.sequence_by is not None and (not parts or len({*parts}) < len(parts)):
        raise DeclarationError(f"sequence_by={[*parts]}: expected one column or several, none of them twice")
    for name in parts:
        _check_sequence_part(columns.schema, name, fmt)


def _check_sequence_part(schema: Schema, name: str, fmt: Format) -> None:
    if name in schema:
        dtype = schema[name]
        if not (dtype.is_integer() or isinstance(dtype, pl.Date | pl.Datetime)):
            raise DeclarationError(
                f"sequence_by={name!r} is a {type_name(dtype)}; expected an integer, a date or a timestamp"
            )
    elif isinstance(fmt, Custom):
        if name != CUSTOM_SEQUENCE:
            usable = [*schema, CUSTOM_SEQUENCE]
            raise DeclarationError(
                f"sequence_by={name!r}: expected one of {', '.join(usable)}.{did_you_mean(name, usable)}"
            )
    elif not (isinstance(fmt, Debezium) and name.startswith("source.") and name != "source."):
        usable = [*schema, "source.lsn", "source.ts_ms"] if isinstance(fmt, Debezium) else [*schema]
        raise DeclarationError(
            f"sequence_by={name!r}: expected one of {', '.join(usable)}.{did_you_mean(name, usable)}"
        )
