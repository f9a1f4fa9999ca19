"""How much is between the sources and the tables, and how the sources hold back.

Within an epoch the engine queues without bound, so a source must stop by itself: each partition counts the records
and bytes it has emitted and not seen merged. How far Silver is merged it learns from the Silver stage, where that runs
in the same process, and from the lake where it does not.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from storage.delta.positions import Positions, Range

_ASK_EVERY = 0.05  # seconds between two looks into the lake


class Progress:
    """Positions merged so far, written by the stages and read by the sources of one process.

    `ask` reads the positions from the lake. A dictionary store is atomic under the interpreter lock, so no other lock
    is needed; two workers that ask at the same time do no harm.
    """

    def __init__(self, ask: Callable[[], Positions]) -> None:
        self._ask = ask
        self._merged: dict[str, int] = {}
        self._is_local = False
        self._asked = 0.0

    def settle(self, merged: Range) -> None:
        """Note that a partition is merged up to the end of `merged`, by a stage of this process."""
        self._is_local = True
        self._merged[merged.partition_id] = merged.end

    def position(self, partition_id: str) -> int:
        """Return the position a partition is merged up to, -1 when that is not known."""
        return self._merged.get(partition_id, -1)

    def refresh(self) -> None:
        """Ask the lake, now and then, unless the Silver stage runs in this process."""
        now = time.monotonic()
        if not self._is_local and now - self._asked >= _ASK_EVERY:
            self._asked = now
            self._merged.update(self._ask())


@dataclass(frozen=True, slots=True)
class Limits:
    """What one partition may have in flight: `records`, and `bytes` of keys and values."""

    records: int
    bytes: int


class InFlight:
    """Emitted and not yet merged records of one partition."""

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

    def has_room(self) -> bool:
        """Tell whether another batch may be emitted."""
        if not self._is_below_limits():
            self._let_go()
        return self._is_below_limits()

    def is_clear(self) -> bool:
        """Tell whether all that was emitted is merged."""
        self._let_go()
        return not self._batches

    def _let_go(self) -> None:
        """Forget the batches that are merged."""
        self._progress.refresh()
        merged = self._progress.position(self._partition_id)
        while self._batches and self._batches[0][0] <= merged:
            _, records, size = self._batches.popleft()
            self._records -= records
            self._bytes -= size

    def _is_below_limits(self) -> bool:
        return self._records < self._limits.records and self._bytes < self._limits.bytes
