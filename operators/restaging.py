"""Staged events as another declaration would have staged them, as far as they have what that needs.

A staged upsert has all declared columns; a delete has those that were keys when it was staged, a truncate none
(`decode.Decoded`). Columns that a delete has beyond its keys are not looked at; they are kept, so that a declaration
may come back.
"""

from collections.abc import Sequence

import polars as pl

from operators.events import sequence_of

_EVENTS = ["upsert", "delete", "truncate"]


def lacking(rows: pl.DataFrame, keys: Sequence[str], sequence: str | None, *, resequenced: bool) -> pl.DataFrame:
    """Return the events that cannot be staged with these keys and this sequence, each with the column it `lacks`.

    With `resequenced` the sequence is another than they were staged with; what no column holds, as a field of
    Debezium's source block, they all lack. Without a sequence only truncates have no order.
    """
    truncate = pl.col("_op") == "truncate"
    lacks = [pl.when(~truncate & pl.col(key).is_null()).then(pl.lit(key)) for key in keys]
    if resequenced:
        missing = truncate if sequence is None else pl.col(sequence).is_null() if sequence in rows.columns else True
        lacks.append(pl.when(missing).then(pl.lit(sequence or "sequence_by")))
    found = rows.filter(pl.col("_op").is_in(_EVENTS)).with_columns(lacks=pl.coalesce(lacks))
    return found.filter(pl.col("lacks").is_not_null()).select("_topic", "_partition", "_offset", "_op", "lacks")


def resequenced(rows: pl.DataFrame, old: str | None, new: str | None) -> pl.DataFrame:
    """Return staged rows, none of which is `lacking`, with the sequence that is declared now.

    What only the old sequence of a delete said is kept in its column.
    """
    if old in rows.columns and old is not None:
        dtype = rows.schema[old]
        told = pl.col("_sequence").cast(dtype) if dtype != pl.Date else pl.col("_sequence").cast(pl.Int32).cast(dtype)
        kept = pl.when(pl.col("_op") == "delete").then(pl.coalesce(old, told)).otherwise(old)
        rows = rows.with_columns(kept.alias(old))
    event = pl.col("_op").is_in(_EVENTS)
    sequence = sequence_of(new) if new else pl.col("_offset")
    return rows.with_columns(_sequence=pl.when(event).then(sequence).otherwise("_offset"))
