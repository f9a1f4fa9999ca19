"""The source of a dataflow that takes full snapshots in."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.announcing import announced
from flows.event_batch import EventBatch
from flows.reading.in_flight import InFlight, Limits, Progress
from flows.reading.snapshot_step import PARTITION, Step, snapshot_partition
from flows.reading.snapshot_taking import Taking
from flows.stopping import Stopping
from storage.errors import TransientError
from storage.logs.records import Records

_log = logging.getLogger("goldwax")

_IDLE = timedelta(milliseconds=10)
_LOOK_EVERY = timedelta(seconds=1)

Batch = EventBatch | Records
"""Records only where there are none: in the batch that says where a partition begins."""


@dataclass(frozen=True, slots=True)
class SnapshotReading:
    """How to take the snapshots of one Silver table in: from which position on, how far, and how much at once.

    A batch has at most `batch_rows`. Without `tail`, it ends when no snapshot is left to take in.
    """

    topic: str
    taking: Callable[[], Taking]
    position: Callable[[], int]
    tail: bool
    batch_rows: int
    limits: Limits

    @property
    def partition_ids(self) -> list[str]:
        """The one partition there is."""
        return [snapshot_partition(self.topic)]

    def check(self) -> None:
        """Find out now what would stop a worker at its first look. Raises SourceError, TransientError."""
        if not self.position():
            self.taking().check()

    def source(self, progress: Progress, stopping: Stopping) -> "SnapshotSource":
        """Return the source that reads so."""
        return SnapshotSource(self, progress, stopping)


class SnapshotSource(FixedPartitionedSource[Batch, None]):
    """Batches of change events; the first is empty and says where the position is.

    The engine's own resume state is not used: the lake says where to go on.
    """

    def __init__(self, reading: SnapshotReading, progress: Progress, stopping: Stopping) -> None:
        self._reading, self._progress, self._stopping = reading, progress, stopping

    def list_parts(self) -> list[str]:
        """Return the partition id of the snapshots."""
        return self._reading.partition_ids

    def build_part(self, _step_id: str, for_part: str, _resume_state: None) -> "SnapshotPartition":
        """Open the partition."""
        in_flight = InFlight(for_part, self._reading.limits, self._progress)
        with announced():
            return SnapshotPartition(self._reading, in_flight, self._stopping)


class SnapshotPartition(StatefulSourcePartition[Batch, None]):
    """Looks for a snapshot when all before it is merged, beside the engine, and emits what it changes."""

    def __init__(self, reading: SnapshotReading, in_flight: InFlight, stopping: Stopping) -> None:
        self._reading, self._in_flight, self._stopping = reading, in_flight, stopping
        self._taking = reading.taking()
        self._position = reading.position()
        self._batches: Iterator[Batch] = iter([Records.empty(reading.topic, PARTITION, self._position)])
        self._is_last = False
        self._beside = ThreadPoolExecutor(1, "snapshots")
        self._looking: Future[Step | None] | None = None
        self._awake: datetime | None = None

    def next_batch(self) -> list[Batch]:
        """Return the next batch of a snapshot that was taken in, or nothing."""
        self._awake = None
        if self._stopping.requested:
            raise StopIteration
        if not self._in_flight.has_room():
            return self._later(_IDLE)
        batch = next(self._batches, None)
        if batch is None:
            return self._look()
        self._position = batch.end
        size = int(batch.events.estimated_size()) if isinstance(batch, EventBatch) else 0
        self._in_flight.emitted(batch.end, batch.end - batch.start, size)
        return [batch]

    def next_awake(self) -> datetime | None:
        """Return when there may be more."""
        return self._awake

    def snapshot(self) -> None:
        """Return nothing: the lake holds the position."""

    def close(self) -> None:
        """End the thread."""
        self._beside.shutdown()

    def _look(self) -> list[Batch]:
        if self._is_last and not self._reading.tail:
            raise StopIteration
        if self._looking is None:
            if not self._in_flight.is_clear():
                return self._later(_IDLE)
            self._looking = self._beside.submit(self._taking.look)
        if not self._looking.done():
            return self._later(_IDLE)
        looking, self._looking = self._looking, None
        with announced():
            return self._take(looking)

    def _take(self, looking: Future[Step | None]) -> list[Batch]:
        try:
            step = looking.result()
        except TransientError as error:
            if not self._reading.tail:
                raise
            _log.warning("%s; looking again", error)
            return self._later(_LOOK_EVERY)
        if step is None:
            self._is_last = True
            return self._later(_LOOK_EVERY if self._reading.tail else timedelta(0))
        self._batches, self._is_last = step.batches(self._position, self._reading.batch_rows), step.is_last
        return []

    def _later(self, delay: timedelta) -> list[Batch]:
        self._awake = datetime.now(UTC) + delay
        return []
