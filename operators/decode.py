"""Records to change events: the first columnar step, and the gate that no unusable record passes.

A batch has no meaning: what becomes of a record depends on its own key and value, never on its neighbours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import polars as pl

from operators.debezium_events import DebeziumEvents
from operators.events import Columns, Judged
from operators.formats import Debezium, Format
from operators.json_batch import tidy
from operators.json_events import JsonEvents
from operators.schema import DeclarationError, Schema, did_you_mean

_REJECTS = {"_row": pl.UInt32(), "stage": pl.String(), "reason": pl.String()}


@dataclass(frozen=True)
class Decoded:
    """What became of the records of a batch; every record is in exactly one of the three.

    ``events``: ascending by `_row` (UInt32, index of the record in the batch). `_op` is "upsert", "delete" or
    "truncate"; `_sequence` Int64 is the declared sequence (dates in days, timestamps in microseconds since the epoch),
    all NULL when none is declared; `_unavailable` List(String) names the columns whose value Debezium did not send,
    NULL when it sent all. The declared columns follow with their types; a delete has only its key columns, a
    truncate none. ``rejects``: `_row`, `stage` ("decode") and `reason` (received, expected), ascending by `_row`.
    ``dropped``: `_row` of records that rightly carry no event, ascending. ``undecided``: `_row` of those upserts that
    may have fields besides the columns, ascending, from a decoder that looks for them (`watching`).
    """

    events: pl.DataFrame
    rejects: pl.DataFrame
    dropped: pl.Series
    undecided: Sequence[int] = ()


class _Events(Protocol):
    def read(self, documents: Sequence[bytes], keys: Sequence[bytes | None]) -> Judged: ...


class Decoder:
    """Decodes the records of one table; built once, used by one thread at a time.

    ``sequence_by`` names a declared column of integer, date or timestamp type or, for Debezium, an integer of the
    source block such as ``source.lsn``; None leaves the order of events to the caller. Beware of a column as the
    sequence of deletes: Debezium takes it from `before`, where only REPLICA IDENTITY FULL has its real value.

    Raises DeclarationError for keys or a sequence that the schema does not have or that cannot serve.
    """

    def __init__(self, schema: Schema, keys: Sequence[str], sequence_by: str | None, format: Format) -> None:  # noqa: A002  # the word users declare it by
        _check_keys(schema, keys)
        _check_sequence(schema, sequence_by, format)
        columns = Columns(schema, tuple(keys), sequence_by)
        self._columns = columns
        self._events: _Events
        self._deletes: Callable[[Sequence[bytes | None]], Judged] | None = None  # None: tombstones say nothing new
        if isinstance(format, Debezium):
            self._events = DebeziumEvents(columns, format)
        else:
            self._events = rows = JsonEvents(columns, format)
            self._deletes = rows.deletes

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Decoded:
        """Return what the records with these raw keys and values say; never raises for what is in them."""
        tombstones = [] if all(values) else [i for i, value in enumerate(values) if value is None]
        parts = [self._values(keys, values, has_tombstones=bool(tombstones))]
        dropped = [*parts[0].dropped]
        if tombstones and self._deletes:
            parts.append(self._deletes([keys[i] for i in tombstones]).moved(tombstones))
        else:
            dropped += tombstones
        rejects = sorted(reject for part in parts for reject in part.rejects)
        events = parts[0].events if len(parts) == 1 else pl.concat([part.events for part in parts]).sort("_row")
        return Decoded(
            events,
            pl.DataFrame([(row, "decode", reason) for row, reason in rejects], _REJECTS, orient="row"),
            pl.Series("_row", sorted(dropped), pl.UInt32),
        )

    def _values(self, keys: Sequence[bytes | None], values: Sequence[bytes | None], *, has_tombstones: bool) -> Judged:
        rows = [i for i, value in enumerate(values) if value is not None] if has_tombstones else range(len(values))
        present = [value for value in values if value is not None] if has_tombstones else values
        tidied = tidy(cast("Sequence[bytes]", present))
        index = tidied.places if not has_tombstones else [rows[i] for i in tidied.places]
        whole = len(index) == len(values)
        judged = self._events.read(tidied.documents, keys if whole else [keys[i] for i in index])
        rejects = [(rows[i], reason) for i, reason in tidied.rejects]
        moved = judged if whole else judged.moved(index)
        return Judged(moved.events, [*rejects, *moved.rejects], moved.dropped)


def _check_keys(schema: Schema, keys: Sequence[str]) -> None:
    if not keys:
        raise DeclarationError("keys=[]: expected at least one column that identifies a row")
    for key in keys:
        if key not in schema:
            raise DeclarationError(f"key {key!r}: expected one of {', '.join(schema)}.{did_you_mean(key, schema)}")
        if schema[key].is_float() or schema[key].is_nested():
            raise DeclarationError(
                f"key {key!r} is a {schema[key]}; expected another type, as floats and lists cannot identify a row"
            )


def _check_sequence(schema: Schema, name: str | None, fmt: Format) -> None:
    if name is None:
        return
    if name in schema:
        dtype = schema[name]
        if not (dtype.is_integer() or isinstance(dtype, pl.Date | pl.Datetime)):
            raise DeclarationError(f"sequence_by={name!r} is a {dtype}; expected an integer, a date or a timestamp")
    elif not (isinstance(fmt, Debezium) and name.startswith("source.") and name != "source."):
        usable = [*schema, "source.lsn", "source.ts_ms"] if isinstance(fmt, Debezium) else [*schema]
        raise DeclarationError(
            f"sequence_by={name!r}: expected one of {', '.join(usable)}.{did_you_mean(name, usable)}"
        )
