"""How much is between the sources and the tables, and how the sources hold back.

Within an epoch the engine queues without bound, so a source must stop by itself. Each partition counts the records
and bytes it has emitted and not seen merged. They are settled

1. when the Silver stage reports the position it has merged up to, in the same process, or
2. when the engine asks the next batch after an epoch has ended: by then every worker has processed it.
"""

from collections import deque
from dataclasses import dataclass

from storage.positions import Range


class Progress:
    """Positions merged so far, written by the stages and read by the sources of one process.

    A dictionary store is atomic under the interpreter lock, so no other lock is needed.
    """

    def __init__(self) -> None:
        self._merged: dict[str, int] = {}

    def settle(self, merged: Range) -> None:
        """Note that a partition is merged up to the end of `merged`."""
        self._merged[merged.partition_id] = merged.end

    def position(self, partition_id: str) -> int:
        """Return the position a partition is merged up to, -1 when that is not known."""
        return self._merged.get(partition_id, -1)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one partition may have in flight: `records`, and `bytes` of keys and values."""

    records: int
    bytes: int


class InFlight:
    """Emitted and not yet settled records of one partition."""

    def __init__(self, partition_id: str, limits: Limits, progress: Progress) -> None:
        self._partition_id = partition_id
        self._limits = limits
        self._progress = progress
        self._batches: deque[tuple[int, int, int]] = deque()
        self._records = self._bytes = 0

    def emitted(self, end: int, records: int, size: int) -> None:
        """Count a batch that ends at position `end`."""
        self._batches.append((end, records, size))
        self._records += records
        self._bytes += size

    def settle_all(self) -> None:
        """Forget everything: the epoch it was emitted in has ended."""
        self._batches.clear()
        self._records = self._bytes = 0

    def has_room(self) -> bool:
        """Tell whether another batch may be emitted."""
        merged = self._progress.position(self._partition_id)
        while self._batches and self._batches[0][0] <= merged:
            _, records, size = self._batches.popleft()
            self._records -= records
            self._bytes -= size
        return self._records < self._limits.records and self._bytes < self._limits.bytes
