"""The source of a dataflow: reads the partitions of one topic from where the staging table stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from flows.announcing import announced
from flows.in_flight import InFlight, Limits, Progress
from flows.stopping import Stopping
from storage.positions import partition_id
from storage.records import RecordLog, Records

_READ_SECONDS = 0.0  # the stages of the worker would wait meanwhile
_IDLE = timedelta(milliseconds=10)
_FEW = 2_000  # records


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


class RecordSource(FixedPartitionedSource[Records, int]):
    """Batches of records; each partition's first batch is empty and says where it starts.

    The engine's own resume state is not used: the lake says where to go on.
    """

    def __init__(self, readings: Sequence[Reading], progress: Progress, stopping: Stopping) -> None:
        self._readings = {reading.topic.name: reading for reading in readings}
        self._progress, self._stopping = progress, stopping

    def list_parts(self) -> list[str]:
        """Return the partition ids of all that is read."""
        return [partition for reading in self._readings.values() for partition in reading.partition_ids]

    def build_part(self, _step_id: str, for_part: str, _resume_state: int | None) -> "_RecordPartition":
        """Open one partition."""
        name, _, partition = for_part.rpartition("/")
        reading = self._readings[name]
        in_flight = InFlight(for_part, reading.limits, self._progress)
        with announced():
            return _RecordPartition(reading, int(partition), in_flight, self._stopping)


class _RecordPartition(StatefulSourcePartition[Records, int]):
    def __init__(self, reading: Reading, partition: int, in_flight: InFlight, stopping: Stopping) -> None:
        topic = reading.topic
        self._position = reading.position(partition)
        self._end = None if reading.tail else topic.bounds(partition)[1]
        opening = Records.empty(topic.name, partition, self._position)
        self._opening: Records | None = None if reading.silent and not self._position else opening
        self._reader = topic.reader(partition, self._position)
        self._batch_records = reading.batch_records
        self._in_flight, self._stopping = in_flight, stopping
        self._awake: datetime | None = None

    def next_batch(self) -> list[Records]:
        self._awake = None
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return [opening]
        if self._stopping.requested or (self._end is not None and self._position >= self._end):
            raise StopIteration
        if not self._in_flight.has_room():
            self._awake = datetime.now(UTC) + _IDLE
            return []
        return self._read()

    def _read(self) -> list[Records]:
        with announced():
            records = self._reader.read(self._batch_records, _READ_SECONDS)
        if records.end == records.start:
            self._awake = datetime.now(UTC) + _IDLE
            return []
        self._position = records.end
        self._in_flight.emitted(records.end, len(records), records.nbytes)
        if len(records) < _FEW:  # all there is: a moment later there is a batch worth reading
            self._awake = datetime.now(UTC) + _IDLE
        return [records]

    def next_awake(self) -> datetime | None:
        return self._awake

    def snapshot(self) -> int:
        return self._position

    def close(self) -> None:
        self._reader.close()
