"""A KPI kept up to date from before- and after-images: what went is retracted, what came is added."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from operators.eager import rows_where
from operators.gold.measures import Accumulators, Measure
from operators.gold.windows import Tumbling
from operators.keys.changes import Changes
from operators.keys.key_index import KeyIndex, Slots
from operators.keys.slot_rows import SlotRows
from operators.schema import DeclarationError, Schema, did_you_mean, type_name

ROWS = "_rows"
"""Technical column: how many source rows stand behind a Gold row. It goes when there are none left."""
WINDOW_START, WINDOW_END = "window_start", "window_end"


class Rollup:
    """The rows of one KPI: one a group, a group being equal values of `group_by` and, if any, one window.

    NULL is a value like others to group by. `plan` leaves the state as it is, `apply` changes it.
    """

    def __init__(
        self, schema: Schema, group_by: Sequence[str], window: Tumbling | None, measures: Mapping[str, Measure]
    ) -> None:
        _check_columns(schema, group_by, window)
        _check_names(group_by, window, measures)
        self._window = window
        self._measures = [Accumulators.of(name, measure, schema) for name, measure in measures.items()]
        self._group_by = list(group_by)
        self.grain = [*group_by, *([WINDOW_START] if window else [])]
        self.schema = self._gold_schema(schema)
        self.inputs = _distinct([*group_by, *([window.on] if window else []), *_columns_of(measures)])
        self._index, self._groups = KeyIndex(self.grain), SlotRows(self.schema)

    def load(self, rows: pl.DataFrame) -> Slots:
        """Take in rows of the Gold table as they stand, and return their slots."""
        slots = self._index.admit(rows)
        self._groups.put(slots, rows)
        return slots

    def plan(self, before: pl.DataFrame, after: pl.DataFrame) -> Changes:
        """Return what the Gold table must change when source rows `before` go and `after` come.

        Both have at least the columns `inputs`.
        """
        deltas = self._deltas(before, after)
        slots = self._index.admit(deltas)
        present = self._groups.present(slots)
        held, held_slots = self._groups.rows(slots[present]), slots[present]
        inserted = self._finished(rows_where(deltas, ~present))
        combined = self._finished(self._add(held, rows_where(deltas, present)))
        alive = (combined[ROWS] > 0).to_numpy()
        return Changes(
            inserted,
            slots[~present],
            rows_where(held, alive),
            rows_where(combined, alive),
            held_slots[alive],
            rows_where(held, ~alive),
            held_slots[~alive],
        )

    def apply(self, changes: Changes) -> None:
        """Make the state what it is after `changes`."""
        self._groups.remove(changes.deleted_slots)
        self._groups.put(np.concatenate([changes.inserted_slots, changes.updated_slots]), changes.after)

    def batch(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the whole Gold table computed at once from all source rows."""
        return self._finished(self._deltas(rows.clear(), rows))

    def _deltas(self, before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
        """Return the change to the accumulators of each group that moved."""
        signs = pl.Series("_sign", np.repeat([-1, 1], [before.height, after.height]))
        signed = pl.concat([before[self.inputs], after[self.inputs]]).hstack([signs])
        if self._window:
            signed = signed.with_columns(self._window.start().alias(WINDOW_START))
        aggregates = [each for measure in self._measures for each in measure.contributions()]
        groups = signed.group_by(self.grain, maintain_order=True)
        deltas = groups.agg(pl.col("_sign").sum().alias(ROWS), *aggregates)
        if any(measure.is_float for measure in self._measures):
            numbered = deltas.select(self.grain).with_row_index("_group")
            numbers = signed.select(self.grain).join(
                numbered, on=self.grain, how="left", nulls_equal=True, maintain_order="left"
            )["_group"]
            for measure in self._measures:
                deltas = measure.add_floats(deltas, signed, numbers)
        return deltas.filter(pl.any_horizontal(pl.col(ROWS) != 0, *(measure.moved() for measure in self._measures)))

    def _add(self, held: pl.DataFrame, deltas: pl.DataFrame) -> pl.DataFrame:
        sums = [column for measure in self._measures for column in measure.combined(held, deltas)]
        return deltas.with_columns(held[ROWS] + deltas[ROWS], *sums)

    def _finished(self, rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.with_columns(measure.value(rows) for measure in self._measures)
        if self._window:
            rows = rows.with_columns(self._window.end(pl.col(WINDOW_START)).alias(WINDOW_END))
        return rows.select(pl.col(name).cast(dtype) for name, dtype in self.schema.items())

    def _gold_schema(self, schema: Schema) -> pl.Schema:
        columns: Schema = {name: schema[name] for name in self._group_by}
        if self._window:
            columns |= {WINDOW_START: pl.Datetime("us", "UTC"), WINDOW_END: pl.Datetime("us", "UTC")}
        for measure in self._measures:
            if measure.name.lower() in map(str.lower, columns) or not measure.name or measure.name.startswith("_"):
                raise DeclarationError(
                    f"measure {measure.name!r}: the name is empty, taken by another column (Delta does not tell "
                    "upper and lower case apart), or begins with an underscore, which is kept for technical columns; "
                    "choose another"
                )
            columns[measure.name] = measure.dtype
        columns[ROWS] = pl.Int64()
        for measure in self._measures:
            columns |= measure.columns
        return pl.Schema(columns)


def _check_columns(schema: Schema, group_by: Sequence[str], window: Tumbling | None) -> None:
    if not group_by and window is None:
        raise DeclarationError("received neither group_by nor window; expected at least one of them to name the grain")
    for name in group_by:
        if name not in schema:
            raise DeclarationError(
                f"group_by: unknown column {name!r}; the table has: {', '.join(schema)}.{did_you_mean(name, schema)}"
            )
        if schema[name].is_float() or schema[name].is_nested():
            raise DeclarationError(
                f"group_by: column {name!r} is of type {type_name(schema[name])}; floats and lists cannot identify a "
                "group, use a column of another type"
            )
    if window and window.on not in schema:
        raise DeclarationError(
            f"window: unknown column {window.on!r}; the table has: {', '.join(schema)}."
            f"{did_you_mean(window.on, schema)}"
        )
    if window and schema[window.on] not in (pl.Date(), pl.Datetime("us", "UTC")):
        raise DeclarationError(
            f"window: column {window.on!r} is of type {type_name(schema[window.on])}, expected a timestamp or a date"
        )


def _check_names(group_by: Sequence[str], window: Tumbling | None, measures: Mapping[str, Measure]) -> None:
    if len(set(group_by)) < len(group_by):
        raise DeclarationError(f"group_by: received {list(group_by)!r}, expected each column once")
    if window and (WINDOW_START in [*group_by, *_columns_of(measures)] or WINDOW_END in group_by):
        raise DeclarationError(
            f"received a source column {WINDOW_START!r} or {WINDOW_END!r} beside a window, which makes columns of "
            "these names itself; rename the source column"
        )


def _columns_of(measures: Mapping[str, Measure]) -> list[str]:
    return [measure.column for measure in measures.values() if measure.column is not None]


def _distinct(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
