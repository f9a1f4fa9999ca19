"""What makes one full snapshot of a table into the next: rows that are new or different, and keys that are gone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from operators.equality import equal_rows


@dataclass(frozen=True, slots=True)
class Diff:
    """`upserts` are rows of the newer snapshot, `deletes` rows of the older one; `unchanged` counts the others."""

    upserts: pl.DataFrame
    deletes: pl.DataFrame
    unchanged: int


def diff(rows: pl.DataFrame, held: pl.DataFrame, spared: pl.DataFrame, keys: Sequence[str]) -> Diff:
    """Compare a snapshot with the one before.

    `rows` and `held` have the declared columns, `held` perhaps more; keys are not NULL and stand in each at most once.
    A key of `spared` that is in no row is not gone: nobody knows. Memory: 8 bytes a row of either, and two columns.
    """
    if not held.height:
        return Diff(rows, held, 0)
    places = held.select(keys).with_row_index("_held")
    found = rows.select(keys).join(places, on=keys, how="left", maintain_order="left")["_held"]
    common = np.flatnonzero(found.is_not_null().to_numpy())
    counterparts = found.drop_nulls().to_numpy()
    same = np.ones(len(common), bool)
    for name in rows.columns:
        same &= equal_rows(rows.select(name)[common], held.select(name)[counterparts])
    wanted = np.ones(rows.height, bool)
    wanted[common[same]] = False
    gone = np.ones(held.height, bool)
    gone[counterparts] = False
    deletes = held[np.flatnonzero(gone)].join(spared.select(keys).drop_nulls(), on=keys, how="anti")
    return Diff(rows[np.flatnonzero(wanted)], deletes, int(same.sum()))
