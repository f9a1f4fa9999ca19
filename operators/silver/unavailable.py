"""Values a change event did not carry: each keeps the value its key had before.

PostgreSQL does not log a large (TOASTed) value that an update left alone; Debezium then sends
`__debezium_unavailable_value` (Debezium documentation, PostgreSQL connector, "Toasted values").
"""

import numpy as np
import polars as pl

from operators.silver.rank import Ints

UNAVAILABLE = "_unavailable"
"""Column of change events: the names of the columns whose value is unavailable, NULL when there are none."""


def fill_unavailable(events: pl.DataFrame, slots: Ints, held: pl.DataFrame, held_slots: Ints) -> pl.DataFrame:
    """Return `events` with every unavailable value replaced by the one its key had before.

    `events` is sorted by slot and rank, with `slots` beside it. `held` has at most one row a slot: what the keys
    were before the batch. A value that was never seen is NULL.
    """
    names = events[UNAVAILABLE].explode(empty_as_null=True).drop_nulls().unique().to_list()
    row_of_event = np.searchsorted(held_slots, slots) if len(held_slots) else None
    for name in sorted(names):
        available = ~events[UNAVAILABLE].list.contains(name).fill_null(value=False).to_numpy()
        source = _latest(available, slots)
        filled = events[name].gather(np.maximum(source, 0))
        before = _held_values(held[name], held_slots, slots, row_of_event)
        events = events.with_columns(pl.when(pl.Series(source >= 0)).then(filled).otherwise(before).alias(name))
    return events


def _latest(available: np.ndarray[tuple[int], np.dtype[np.bool_]], slots: Ints) -> Ints:
    """Return for each row the last available row of its slot up to here, -1 where there is none."""
    latest = np.maximum.accumulate(np.where(available, np.arange(len(slots)), -1))
    first = np.searchsorted(slots, slots, side="left")
    return np.where(latest >= first, latest, -1)


def _held_values(column: pl.Series, held_slots: Ints, slots: Ints, places: Ints | None) -> pl.Series:
    if places is None:
        return pl.Series(column.name, [None] * len(slots), dtype=column.dtype)
    places = np.minimum(places, len(held_slots) - 1)
    known = pl.Series(held_slots[places] == slots)
    values = column.gather(places)
    return pl.select(pl.when(known).then(values).otherwise(None)).to_series()
