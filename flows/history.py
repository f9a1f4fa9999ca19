"""What a Silver table keeps of each key."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import polars as pl

from operators.schema import DeclarationError, Schema, did_you_mean
from operators.silver.scd2 import history_columns

History = Literal["scd1", "scd2"]
"""The current row alone; or a row for every state the key was in, valid from one sequence to the next."""


def checked_history(history: str, track: Sequence[str] | None, schema: Schema) -> None:
    """Check what a Silver table declares of its history. Raises DeclarationError."""
    if track is not None and history != "scd2":
        raise DeclarationError("track is for history='scd2': it says which columns begin a new row")
    for column in track or ():
        if column not in schema:
            raise DeclarationError(
                f"track: unknown column {column!r}; the table has: {', '.join(schema)}.{did_you_mean(column, schema)}"
            )
    if history == "scd2" and (taken := [name for name in schema if name.lower() in history_columns(pl.Int64())]):
        raise DeclarationError(f"column {taken[0]!r} is one that history='scd2' makes itself; rename it")


def checked_retention(history: str, retention: timedelta | None) -> None:
    """Check how long a Silver table remembers deletes. Raises DeclarationError."""
    if retention is None:
        return
    if history != "scd1":
        raise DeclarationError(
            "tombstone_retention is for history='scd1': the deletes of a history are the ends of its rows"
        )
    if retention <= timedelta(0):
        raise DeclarationError(f"tombstone_retention={retention}: expected a time, as timedelta(days=30)")
