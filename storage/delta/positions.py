"""How far a table has read, and which part of a batch is new to it.

1. A table holds one position, the next offset to read, for every partition it reads.
2. A batch covers a range ``[start, end)`` of one partition.
3. What ends at or before the position is already here: drop it.
4. What begins at the position, or before it and ends after it, is taken from the position on.
5. What begins after the position leaves a hole: the caller fills it or stops. Nothing is skipped silently.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from storage.errors import HoleError

Positions = Mapping[str, int]
"""Partition id (`partition_id`) to the next offset to read."""


@dataclass(frozen=True, slots=True)
class Range:
    """Offsets ``start <= offset < end`` of one partition; not every one of them needs to exist."""

    partition_id: str
    start: int
    end: int


def partition_id(topic: str, partition: int) -> str:
    """Return the name a position is kept under.

    >>> partition_id("shop.public.orders", 3)
    'shop.public.orders/3'
    """
    return f"{topic}/{partition}"


def take_from(position: int | None, batch: Range) -> int | None:
    """Return the first offset of the batch that is new to a table at `position`, None when all of it is known.

    A table without a position takes everything. Raises HoleError when offsets are missing in between.
    """
    if position is None or batch.start == position:
        return batch.start
    if batch.end <= position:
        return None
    if batch.start < position:
        return position
    raise HoleError(
        f"{batch.partition_id}: received records from offset {batch.start} on, expected {position}, the position the "
        f"table holds; offsets {position} to {batch.start - 1} are missing. Restart so that reading resumes there"
    )
