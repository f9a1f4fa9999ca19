"""Staged events as another declaration would have staged them, as far as they have what that needs.

A staged upsert has all declared columns; a delete has those that were keys when it was staged, a truncate none
(`decode.Decoded`). Columns that a delete has beyond its keys are not looked at; they are kept, so that a declaration
may come back.
"""

from collections.abc import Sequence

import polars as pl

from operators.events import sequence_of

_EVENTS = ["upsert", "delete", "truncate"]
_OF_SNAPSHOT = pl.col("_partition") < 0  # whose sequence is their version, where it is no column


def lacking(rows: pl.DataFrame, keys: Sequence[str], old: str | None, new: str | None) -> pl.DataFrame:
    """Return the events that cannot be staged with these keys and the sequence `new`, each with what it `lacks`.

    Where the sequence is another than the `old` one that they were staged with: what no column holds, as a field of
    Debezium's source block, they all lack. Without a sequence truncates have no order, and an event of a snapshot needs
    the version, which it has where the old sequence was no column.
    """
    truncate = pl.col("_op") == "truncate"
    lacks = [pl.when(~truncate & pl.col(key).is_null()).then(pl.lit(key)) for key in keys]
    if old != new and new is None:
        lacks.append(pl.when(truncate).then(pl.lit("sequence_by")))
        lacks += [pl.when(_OF_SNAPSHOT).then(pl.lit("the version of their snapshot"))] if old in rows.columns else []
    elif old != new:
        missing = pl.col(new).is_null() if new in rows.columns else True
        lacks.append(pl.when(missing).then(pl.lit(new)))
    found = rows.filter(pl.col("_op").is_in(_EVENTS)).with_columns(lacks=pl.coalesce(lacks))
    return found.filter(pl.col("lacks").is_not_null()).select("_topic", "_partition", "_offset", "_op", "lacks")


def resequenced(rows: pl.DataFrame, old: str | None, new: str | None) -> pl.DataFrame:
    """Return staged rows, none of which is `lacking`, with the sequence that is declared now.

    What only the old sequence of a delete said is kept in its column. Rows that are no events stay as they are: they
    say what became of a record or, by its version, of a snapshot.
    """
    if old in rows.columns and old is not None:
        dtype = rows.schema[old]
        told = pl.col("_sequence").cast(dtype) if dtype != pl.Date else pl.col("_sequence").cast(pl.Int32).cast(dtype)
        kept = pl.when(pl.col("_op") == "delete").then(pl.coalesce(old, told)).otherwise(old)
        rows = rows.with_columns(kept.alias(old))
    position = pl.when(_OF_SNAPSHOT).then("_sequence").otherwise("_offset")
    event = pl.col("_op").is_in(_EVENTS)
    return rows.with_columns(
        _sequence=pl.when(event).then(sequence_of(new) if new else position).otherwise("_sequence")
    )
