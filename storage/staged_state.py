"""What the staged events of one partition amount to."""

from collections.abc import Sequence

import polars as pl
from deltalake import DeltaTable


def read_newest(uri: str, partition_id: str, keys: Sequence[str], columns: Sequence[str]) -> pl.DataFrame:
    """Return `columns` and `_op` of the last upsert or delete of each key; of a partition where each key has one order.

    Memory: these columns of all its upserts and deletes.
    """
    wanted = [*dict.fromkeys([*keys, *columns, "_op", "_offset"])]
    events = _staged(uri, partition_id).filter(pl.col("_op").is_in(["upsert", "delete"])).select(wanted).collect()
    newest = events.sort("_offset").unique([*keys], keep="last", maintain_order=True)
    return newest[[*columns, "_op"]]


def read_fates(uri: str, partition_id: str, fates: Sequence[str]) -> pl.DataFrame:
    """Return `_op` and `_sequence` of the records of a partition with such a fate in `_op`."""
    return _staged(uri, partition_id).filter(pl.col("_op").is_in([*fates])).select("_op", "_sequence").collect()


def _staged(uri: str, partition_id: str) -> pl.LazyFrame:
    topic, _, partition = partition_id.rpartition("/")
    return pl.scan_delta(DeltaTable(uri)).filter(_topic=topic, _partition=int(partition))
