"""Change events from a user's own function, whose answer is checked before anything of it is used."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

import polars as pl

from operators.decoding.formats import Custom
from operators.decoding.wire import Reading
from operators.eager import constant
from operators.events import Columns, Judged, judge
from operators.instants import in_text, off_calendar
from operators.schema import type_name
from operators.wording import clip

CUSTOM_SEQUENCE = "_sequence"
"""What `sequence_by` names when the function itself says what orders the events of a key."""

_OPERATIONS = ("upsert", "delete", "truncate")


class CustomDecodeError(Exception):
    """A user's decode function failed, or gave back something else than what it has to."""


class CustomEvents:
    """Gives records to a function and checks the events that it gives back."""

    def __init__(self, columns: Columns, fmt: Custom) -> None:
        self._columns, self._format = columns, fmt

    def read(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> Judged:
        """Return the events of records, which may have no value. Raises CustomDecodeError."""
        records = pl.DataFrame({"key": pl.Series(keys, dtype=pl.Binary), "value": pl.Series(values, dtype=pl.Binary)})
        events = self._decoded(records)
        self._check(events, len(values))
        return judge(self._candidates(events), self._columns)

    def _decoded(self, records: pl.DataFrame) -> pl.DataFrame:
        try:
            return self._format.decode(records)
        except Exception as error:
            raise CustomDecodeError(
                f"{self._format.name} failed with {type(error).__name__}: {error}. Mend it, and give a record that "
                "cannot be decoded a `_reason` instead; nothing of this batch was kept"
            ) from error

    def _check(self, events: pl.DataFrame, height: int) -> None:
        if not isinstance(events, pl.DataFrame):
            self._fail(f"a {type(events).__name__}, expected a polars DataFrame")
        if events.height != height:
            self._fail(f"{events.height} rows for {height} records, expected a row for each, in their order")
        needed = ["_op", *self._columns.schema]
        if CUSTOM_SEQUENCE in self._columns.sequence_parts:
            needed.append(CUSTOM_SEQUENCE)
        if missing := [name for name in needed if name not in events.columns]:
            self._fail(f"no column {missing[0]!r}, expected {', '.join(needed)} and, if wanted, _reason")
        if unknown := [name for name in events.columns if name not in (*needed, "_reason")]:
            self._fail(f"a column {unknown[0]!r}, expected {', '.join(needed)} and, if wanted, _reason")

    def _fail(self, received: str) -> NoReturn:
        raise CustomDecodeError(f"{self._format.name}: received {received}. Mend the function; nothing was kept")

    def _candidates(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the columns of events and `_reason`: the function's, or what is wrong with the record's values."""
        operation = self._cast(events["_op"], pl.String()).values
        reasons = [self._cast(events["_reason"], pl.String()).values] if "_reason" in events.columns else []
        reasons.append(self._of_operation(operation))
        columns = {}
        for name, dtype in self._columns.schema.items():
            read = self._cast(events[name], dtype)
            columns[name] = read.values
            if read.bad is not None and read.bad.any():
                reasons.append(_of_misfit(events[name], read.bad, dtype))
        technical = [
            pl.int_range(events.height, dtype=pl.UInt32, eager=True).alias("_row"),
            operation,
            self._sequence(events, columns).alias("_sequence"),
            constant("_unavailable", None, pl.List(pl.String()), events.height),
        ]
        frame = pl.DataFrame([*technical, *columns.values()])
        frame = frame.with_columns(pl.coalesce(map(pl.lit, reasons)).alias("_reason"))
        rest = [name for name in columns if name not in self._columns.keys]
        upsert, truncate = pl.col("_op") == "upsert", pl.col("_op") == "truncate"
        return frame.with_columns(
            *(pl.when(upsert).then(pl.col(name)).alias(name) for name in rest),
            *(pl.when(~truncate).then(pl.col(name)).alias(name) for name in self._columns.keys),
        )

    def _sequence(self, events: pl.DataFrame, columns: Mapping[str, pl.Series]) -> pl.Series:
        parts = [
            columns[name].to_physical().cast(pl.Int64)
            if name in columns
            else self._cast(events[CUSTOM_SEQUENCE], pl.Int64()).values
            for name in self._columns.sequence_parts
        ] or [constant("", None, pl.Int64(), events.height)]
        return parts[0] if len(parts) == 1 else pl.DataFrame(parts).to_struct()

    def _of_operation(self, operation: pl.Series) -> pl.Series:
        """Return the reason against an operation, NULL where there is none."""
        known = [*_OPERATIONS] if self._columns.sequence_parts else [*_OPERATIONS[:2]]
        received = pl.format(
            "_op: received {}, expected one of {}", operation.fill_null("NULL"), pl.lit(", ".join(known))
        )
        return pl.select(pl.when(~pl.lit(operation.is_in(known).fill_null(value=False))).then(received)).to_series()

    def _cast(self, values: pl.Series, dtype: pl.DataType) -> Reading:
        """Return values of the declared type, and which of them cannot be one. Raises CustomDecodeError."""
        if values.dtype != dtype and not _is_safe(values.dtype, dtype):
            self._fail(f"column {values.name!r} of type {values.dtype}, expected {type_name(dtype)}")
        cast = values.cast(dtype, strict=False)
        beyond = (~cast.is_finite()).fill_null(value=False) if dtype.is_float() else off_calendar(cast)
        bad = (cast.is_null() & values.is_not_null()) | beyond
        return Reading(cast, bad if bad.any() else None)


def _is_safe(found: pl.DataType, declared: pl.DataType) -> bool:
    """Tell whether values of a type can be cast one by one, each to the same value or none."""
    if isinstance(found, pl.Null):
        return True
    match declared:
        case pl.Decimal():
            return found.is_integer() or (isinstance(found, pl.Decimal) and found.scale <= declared.scale)
        case pl.Datetime():
            return isinstance(found, pl.Datetime)
        case pl.List():
            return isinstance(found, pl.List) and isinstance(found.inner, pl.Null | pl.String)
        case _ if declared.is_integer():
            return found.is_integer()
        case _:
            return declared.is_float() and (found.is_float() or found.is_integer())


def _of_misfit(values: pl.Series, bad: pl.Series, dtype: pl.DataType) -> pl.Series:
    places = bad.arg_true()
    texts = in_text(values.gather(places))
    shown = [f"column {values.name!r}: received {clip(text, 100)}, expected {type_name(dtype)}" for text in texts]
    return pl.Series([None], dtype=pl.String).new_from_index(0, len(values)).scatter(places, shown)
