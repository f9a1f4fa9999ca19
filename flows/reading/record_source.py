"""The source of a dataflow: reads the partitions of one topic from where the staging table stands."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.announcing import announced
from flows.event_batch import EventBatch
from flows.reading.in_flight import InFlight, Limits, Progress
from flows.reading.read_ahead import ReadAhead
from flows.stopping import Stopping
from storage.delta.positions import partition_id
from storage.logs.records import RecordLog, Records

_READ_SECONDS = 0.0  # the stages of the worker would wait meanwhile
_IDLE = timedelta(milliseconds=10)
_FEW = 4_000  # records, which are decoded with others when they are committed


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a topic: where from, how far, and how much at once.

    `position` gives the position to start a partition at. A batch has at most `batch_records`.
    Without `tail`, a partition ends at the end offset it has when it is opened. A `silent` partition that
    stands at 0 says nothing before its first record.
    """

    topic: RecordLog
    partitions: Sequence[int]
    position: Callable[[int], int]
    tail: bool
    batch_records: int
    limits: Limits
    silent: bool = False

    @property
    def partition_ids(self) -> list[str]:
        """The partition ids of the topic."""
        return [partition_id(self.topic.name, partition) for partition in self.partitions]

    def check(self) -> None:
        """Find out now what would stop a worker when it opens a partition. Raises SourceError."""
        for partition in self.partitions:
            first, end = self.topic.bounds(partition)
            position = self.position(partition)
            if not first <= position <= end:
                self.topic.reader(partition, position).close()  # which says what is wrong


class RecordSource(FixedPartitionedSource[EventBatch | Records, int]):
    """Batches of events, or of records where they are few; each partition's first is empty and says where it starts.

    The engine's own resume state is not used: the lake says where to go on.
    """

    def __init__(
        self,
        readings: Sequence[Reading],
        decode: Callable[[Records], EventBatch],
        progress: Progress,
        stopping: Stopping,
    ) -> None:
        self._readings = {reading.topic.name: reading for reading in readings}
        self._decode, self._progress, self._stopping = decode, progress, stopping
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="reading")

    def list_parts(self) -> list[str]:
        """Return the partition ids of all that is read."""
        return [partition for reading in self._readings.values() for partition in reading.partition_ids]

    def build_part(self, _step_id: str, for_part: str, _resume_state: int | None) -> "_RecordPartition":
        """Open one partition."""
        name, _, partition = for_part.rpartition("/")
        reading = self._readings[name]
        in_flight = InFlight(for_part, reading.limits, self._progress)
        with announced():
            opened = _OpenPartition(reading, int(partition), in_flight, self._stopping)
        return _RecordPartition(opened, self._threads, self._decode)


class _OpenPartition:
    """A partition that is being read: by one thread at a time."""

    def __init__(self, reading: Reading, partition: int, in_flight: InFlight, stopping: Stopping) -> None:
        topic = reading.topic
        self.position = reading.position(partition)
        self.beginning = Records.empty(topic.name, partition, self.position)
        self.is_silent = reading.silent and not self.position
        self._end = None if reading.tail else topic.bounds(partition)[1]
        self._reader = topic.reader(partition, self.position)
        self._batch_records = reading.batch_records
        self._in_flight, self._stopping = in_flight, stopping

    @property
    def is_done(self) -> bool:
        """Tell whether nothing more is to be read."""
        return self._stopping.requested or (self._end is not None and self.position >= self._end)

    def read(self) -> Records | None:
        """Return the next records, None when there are none now or no more may be in flight."""
        if self.is_done or not self._in_flight.has_room():
            return None
        records = self._reader.read(self._batch_records, _READ_SECONDS)
        if records.end == records.start:
            return None
        self.position = records.end
        self._in_flight.emitted(records.end, len(records), records.nbytes)
        return records

    def close(self) -> None:
        self._reader.close()


class _RecordPartition(StatefulSourcePartition[EventBatch | Records, int]):
    """Gives the engine what is there: a backlog is read and decoded beside it, few records are read when it asks."""

    def __init__(self, opened: _OpenPartition, threads: Executor, decode: Callable[[Records], EventBatch]) -> None:
        self._opened = opened
        self._beginning: Records | None = None if opened.is_silent else opened.beginning
        self._ahead = ReadAhead(threads, decode, opened.read)
        self._awake: datetime | None = None

    def next_batch(self) -> Sequence[EventBatch | Records]:
        self._awake = None
        if self._beginning is not None:
            beginning, self._beginning = self._beginning, None
            return [beginning]
        is_busy = self._ahead.is_busy  # before the look at what is ready: the last batch is that before the end
        with announced():
            if ready := self._ahead.take():
                return ready
            if is_busy:
                return self._later()
            if self._opened.is_done:
                raise StopIteration
            return self._read()

    def _read(self) -> Sequence[EventBatch | Records]:
        records = self._opened.read()
        if records is None:
            return self._later()
        if len(records) >= _FEW:
            self._ahead.begin(records)
            return self._later()
        self._later()  # they are all there is: a moment later there is a batch worth reading
        return [records]

    def _later(self) -> Sequence[EventBatch | Records]:
        self._awake = datetime.now(UTC) + _IDLE
        return []

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._opened.position

    def close(self) -> None:
        self._ahead.end()
        self._opened.close()
