"""Reading a staging table: the rows a later stage has not seen yet, and what a restart must remember."""

from collections.abc import Iterator, Mapping

import polars as pl
from deltalake import DeltaTable

from storage.delta.owned_table import read_positions, topic_positions
from storage.delta.positions import Range, partition_id
from storage.delta.table_declaration import read_snapshot
from storage.errors import HoleError

_STEP = 200_000  # offsets read at a time, which bounds the memory of a catch-up
_RETRY_STEP = 20  # likewise requests, of up to 10,000 records each
_RETRY = "retry/"
_FIRST = "/first"


def first_staged(partition_id: str) -> str:
    """Return the name under which a staging table keeps the offset its rows of a partition begin at."""
    return f"{partition_id}{_FIRST}"


def staged_partitions(uri: str, pipeline: str) -> list[str]:
    """Return the ids of all partitions that a staging table has rows of, or may have."""
    snapshot, mine = read_snapshot(uri), f"{pipeline}/"
    names = [name.removeprefix(mine) for name in snapshot.transactions if name.startswith(mine)] if snapshot else []
    return sorted(name.removesuffix(_FIRST) for name in names if name.endswith(_FIRST))


def retry_partition(silver: str) -> str:
    """Return the partition id of the records sent in again for a Silver table; no topic has a name with a slash.

    Its offsets are numbers of requests, in the column `_retried` of staging.
    """
    return partition_id(retry_topic(silver), 0)


def retry_topic(silver: str) -> str:
    """Return the topic's part of `retry_partition`."""
    return f"{_RETRY}{silver}"


def staged_ranges(uri: str, pipeline: str, *topics: str) -> list[Range]:
    """Return the range that a staging table holds of each partition of topics; none where there is no table."""
    ends = {name: end for topic in topics for name, end in topic_positions(uri, pipeline, topic).items()}
    firsts = read_positions(uri, pipeline, map(first_staged, ends))
    return [Range(name, firsts[first_staged(name)], end) for name, end in ends.items()]


def read_range(uri: str, wanted: Range, first: int) -> Iterator[tuple[int, int, pl.DataFrame]]:
    """Yield the staged rows of a range as (start, end, rows), at most 200,000 offsets wide, without gaps.

    `first` is the offset the table's rows of this partition begin at. Rows are in offset order. Raises HoleError
    when the range begins before it. Of the partition of retries, fewer offsets come at a time.
    """
    if wanted.start < first:
        raise HoleError(
            f"{uri}: offsets {wanted.start} to {first - 1} of {wanted.partition_id} are missing here, and a later "
            "table still has to read them. Restore the staging table, or move the tables made from it away"
        )
    topic, _, partition = wanted.partition_id.rpartition("/")
    staged = pl.scan_delta(DeltaTable(uri))
    if topic.startswith(_RETRY):
        column, step = "_retried", _RETRY_STEP
    else:
        column, step = "_offset", _STEP
        staged = staged.filter(pl.col("_retried").is_null(), _topic=topic, _partition=int(partition))
    for low in range(wanted.start, wanted.end, step):
        high = min(low + step, wanted.end)
        rows = staged.filter(pl.col(column).is_between(low, high, closed="left")).collect()
        yield low, high, rows.sort(column, "_partition", "_offset")


def is_below(positions: Mapping[str, int], prefix: str = "") -> pl.Expr:
    """Tell of each event whether it lies below the position of its partition, which is 0 where none is given.

    `prefix` is what the names of the columns of its place begin with.
    """
    position = pl.format("{}/{}", f"{prefix}_topic", f"{prefix}_partition").replace_strict(
        dict(positions), default=0, return_dtype=pl.Int64
    )
    return pl.col(f"{prefix}_offset") < position
