"""Reading a staging table: the rows a later stage has not seen yet, and what a restart must remember."""

from collections.abc import Iterator, Mapping

import polars as pl
from deltalake import DeltaTable

from storage.errors import HoleError
from storage.positions import Range
from storage.table_declaration import read_snapshot

_STEP = 200_000  # offsets read at a time, which bounds the memory of a catch-up
_FIRST = "/first"


def first_staged(partition_id: str) -> str:
    """Return the name under which a staging table keeps the offset its rows of a partition begin at."""
    return f"{partition_id}{_FIRST}"


def staged_partitions(uri: str, pipeline: str) -> list[str]:
    """Return the ids of all partitions that a staging table has rows of, or may have."""
    snapshot, mine = read_snapshot(uri), f"{pipeline}/"
    names = [name.removeprefix(mine) for name in snapshot.transactions if name.startswith(mine)] if snapshot else []
    return sorted(name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST))


def read_range(uri: str, wanted: Range, first: int) -> Iterator[tuple[int, int, pl.DataFrame]]:
    """Yield the staged rows of a range as (start, end, rows), at most 200,000 offsets wide, without gaps.

    `first` is the offset the table's rows of this partition begin at. Rows are in offset order. Raises HoleError
    when the range begins before it.
    """
    if wanted.start < first:
        raise HoleError(
            f"{uri}: offsets {wanted.start} to {first - 1} of {wanted.partition_id} are missing here, and a later "
            "table still has to read them. Restore the staging table, or move the tables made from it away"
        )
    topic, _, partition = wanted.partition_id.rpartition("/")
    staged = pl.scan_delta(DeltaTable(uri)).filter(_topic=topic, _partition=int(partition))
    for low in range(wanted.start, wanted.end, _STEP):
        high = min(low + _STEP, wanted.end)
        rows = staged.filter(pl.col("_offset").is_between(low, high, closed="left")).collect()
        yield low, high, rows.sort("_offset")


def read_deletes(uri: str, positions: Mapping[str, int]) -> tuple[pl.DataFrame, int | None]:
    """Return the delete events below the `positions`, and the newest truncate's sequence below them.

    What lies at or beyond a position will come again and must not be honoured early.
    """
    staged = pl.scan_delta(DeltaTable(uri)).filter(pl.col("_op").is_in(["delete", "truncate"])).collect()
    merged = staged.filter(is_below(positions))
    floor = merged.filter(pl.col("_op") == "truncate")["_sequence"].max()
    return merged.filter(pl.col("_op") == "delete"), None if floor is None else int(floor)  # type: ignore[arg-type]


def is_below(positions: Mapping[str, int]) -> pl.Expr:
    """Tell of each event whether it lies below the position of its partition, which is 0 where none is given."""
    position = pl.format("{}/{}", "_topic", "_partition").replace_strict(
        dict(positions), default=0, return_dtype=pl.Int64
    )
    return pl.col("_offset") < position
