"""Columns that tables have besides the declared ones; their names begin with an underscore."""

import polars as pl

from operators.sequences import stored_type

TECHNICAL = ("_sequence", "_row_hash", "_topic", "_partition", "_offset", "_changed_at")
"""Columns of every Silver row behind the declared ones: the event it shows, and when that was written."""


def technical(sequence: pl.DataType) -> pl.Schema:
    """Return these columns of a table whose sequence is declared with this type."""
    return pl.Schema(
        {
            "_sequence": stored_type(sequence),
            "_row_hash": pl.Int64(),
            "_topic": pl.String(),
            "_partition": pl.Int32(),
            "_offset": pl.Int64(),
            "_changed_at": pl.Datetime("us", "UTC"),
        }
    )
