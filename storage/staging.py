"""Reading a staging table: the rows a later stage has not seen yet, and what a restart must remember."""

from collections.abc import Iterator

import polars as pl
from deltalake import DeltaTable

_STEP = 200_000  # offsets read at a time, which bounds the memory of a catch-up


def read_range(uri: str, partition: int, start: int | None, end: int) -> Iterator[tuple[int, int, pl.DataFrame]]:
    """Yield the staged rows of ``start <= offset < end`` of one partition, as (start, end, rows), without gaps.

    `rows` are in offset order and at most 200,000 offsets wide. `start` None means from the first row staged;
    then nothing is yielded when there is none.
    """
    staged = pl.scan_delta(DeltaTable(uri)).filter(pl.col("_partition") == partition)
    if start is None:
        first = staged.filter(pl.col("_offset") < end).select(pl.col("_offset").min()).collect().item()
        if first is None:
            return
        start = int(first)
    for low in range(start, end, _STEP):
        high = min(low + _STEP, end)
        rows = staged.filter(pl.col("_offset").is_between(low, high, closed="left")).collect()
        yield low, high, rows.sort("_offset")


def read_deletes(uri: str, positions: dict[int, int]) -> tuple[pl.DataFrame, int | None]:
    """Return the delete events below the `positions` (by partition), and the newest truncate's sequence below them.

    What lies at or beyond a position will come again and must not be honoured early.
    """
    staged = pl.scan_delta(DeltaTable(uri)).filter(pl.col("_op").is_in(["delete", "truncate"])).collect()
    merged = staged.filter(
        pl.col("_offset") < pl.col("_partition").replace_strict(positions, default=0, return_dtype=pl.Int64)
    )
    floor = merged.filter(pl.col("_op") == "truncate")["_sequence"].max()
    return merged.filter(pl.col("_op") == "delete"), None if floor is None else int(floor)  # type: ignore[arg-type]
