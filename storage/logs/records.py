"""Records as a log delivers them, and the protocol every record log speaks.

A *position* is the next offset to read. Offsets grow within a partition and need not be contiguous: compaction
and transaction markers leave gaps, so a batch says which range it covers rather than how many records it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where each of some records was read from the first time, when they come again; the columns have equal length."""

    topics: Sequence[str]
    partitions: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Origin"]) -> "Origin":
        """Return the origins of several batches as one."""
        return cls(
            [topic for part in parts for topic in part.topics],
            np.concatenate([part.partitions for part in parts]),
            np.concatenate([part.offsets for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Records:
    """A batch of records of one partition, in offset order; the columns have equal length.

    ``start`` is the position before the batch and ``end`` the position after it: every record of the log with
    ``start <= offset < end`` is in the batch. ``timestamps`` are milliseconds since the epoch, -1 where the log
    has none. ``keys`` and ``values`` are the raw bytes, None for a NULL. ``headers`` is None when no record has any.
    ``origin`` is None but for records that come again; then ``offsets`` are those of the log that they come again in,
    where several may have the same.
    """

    topic: str
    partition: int
    start: int
    end: int
    offsets: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers | None] | None = None
    origin: Origin | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))

    @classmethod
    def joined(cls, parts: Sequence["Records"]) -> "Records":
        """Return batches of one partition, each of which begins where the one before ends, as one."""
        first, last = parts[0], parts[-1]
        headers = [[*(part.headers or [None] * len(part))] for part in parts]
        origins = [part.origin for part in parts if part.origin]
        return cls(
            first.topic,
            first.partition,
            first.start,
            last.end,
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.timestamps for part in parts]),
            [key for part in parts for key in part.keys],
            [value for part in parts for value in part.values],
            [each for part in headers for each in part] if any(part.headers for part in parts) else None,
            Origin.joined(origins) if origins else None,
        )

    @classmethod
    def empty(cls, topic: str, partition: int, position: int) -> "Records":
        """Build a batch that covers nothing and stands at `position`."""
        nothing = np.empty(0, np.int64)
        return cls(topic, partition, position, position, nothing, nothing, (), ())


class Reader(Protocol):
    """Reads one partition from a position onwards. Used by one thread at a time."""

    def read(self, max_records: int, timeout: float) -> Records:
        """Return the next records, at most `max_records`, waiting at most `timeout` seconds for the first.

        Returns an empty batch when nothing came in time; its `end` may still be ahead of its `start` when the
        log skipped offsets that hold no record. Batches follow each other without gap or overlap: the `start`
        of one is the `end` of the one before.

        Raises OffsetLostError when the position is outside what the log holds, SourceError when the log stays
        unreachable or refuses us.
        """
        ...

    def close(self) -> None:
        """Release connections and files; safe to call twice."""
        ...


class RecordLog(Protocol):
    """A partitioned, append-only log of records that can be read from any position.

    Opening and asking are cheap and hold nothing open; only a reader does.
    """

    @property
    def name(self) -> str:
        """The name that positions are kept under."""
        ...

    def partitions(self) -> Sequence[int]:
        """Return the partition numbers, ascending. Raises UnknownTopicError, SourceError."""
        ...

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset still held and the end offset (the next to be written, as readers see it)."""
        ...

    def reader(self, partition: int, position: int) -> Reader:
        """Open a reader that starts at `position`. Raises OffsetLostError when the log does not hold it."""
        ...


class Topic(RecordLog, Protocol):
    """A record log that knows when its records were written."""

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset with a timestamp at or after `timestamp_ms`, the end offset if there is none."""
        ...
