"""Which events a Silver table has merged: by its positions, and for records that were sent in again by their requests.

Such a record has the position that it had, which lies below that of its partition whether its request is merged or not.
"""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from flows.event_batch import POSITION
from flows.lake import Lake
from flows.silver import Silver
from storage.staging import is_below, read_range, retry_topic, staged_ranges


class Merged:
    """What a Silver table at `positions` has merged."""

    def __init__(self, silver: Silver, lake: Lake, pipeline: str, positions: Mapping[str, int]) -> None:
        self._positions = positions
        self._again = _to_come_again(silver.name, lake.staging(silver.name), pipeline, positions)

    @property
    def anything(self) -> bool:
        """Tell whether there has been a merge at all."""
        return bool(self._positions)

    def has(self, prefix: str = "") -> pl.Expr:
        """Tell of each event whether it is merged; `prefix` is what the names of its position begin with."""
        below = is_below(self._positions, prefix)
        if not self._again.height:
            return below
        place = pl.struct(pl.col(f"{prefix}{name}").alias(name) for name in POSITION)
        return below & ~place.is_in(self._again.to_struct().implode())


def _to_come_again(silver: str, staging: str, pipeline: str, positions: Mapping[str, int]) -> pl.DataFrame:
    """Return the positions of the records of requests that are staged, and not merged by a table at `positions`."""
    found = [pl.DataFrame(schema=POSITION)]
    for staged in staged_ranges(staging, pipeline, retry_topic(silver)):
        wanted = replace(staged, start=max(staged.start, positions.get(staged.partition_id, 0)))
        found += [rows.select(POSITION.names()) for _, _, rows in read_range(staging, wanted, staged.start)]
    return pl.concat(found)
