"""Columns that tables have besides the declared ones; their names begin with an underscore."""

import polars as pl

TECHNICAL = pl.Schema(
    {
        "_sequence": pl.Int64(),
        "_row_hash": pl.Int64(),
        "_topic": pl.String(),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "_changed_at": pl.Datetime("us", "UTC"),
    }
)
"""Columns of every Silver row behind the declared ones: the event it shows, and when that was written."""
