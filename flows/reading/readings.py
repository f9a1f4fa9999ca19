"""How one run reads what its Silver tables are made from: topics and full snapshots, from where staging stands."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from flows.reading.in_flight import Limits, Progress
from flows.reading.record_source import Reading, RecordSource
from flows.reading.snapshot_source import SnapshotReading, SnapshotSource
from flows.reading.snapshot_step import PARTITION, snapshot_partition
from flows.reading.snapshot_taking import Taking
from flows.run import Run
from flows.silver import Silver
from flows.snapshots import Snapshots
from flows.sources import EventLog, Kafka, start_position
from flows.stages.decoding import Decoding
from flows.stopping import Stopping
from storage.delta.owned_table import read_positions
from storage.delta.positions import partition_id
from storage.errors import HoleError, TableMismatchError
from storage.logs.retry_requests import RetryRequests
from storage.staging import retry_partition, retry_topic, staged_partitions

_BATCH_RECORDS = 20_000
_IN_FLIGHT_COMMITS = 2  # how many commits' worth of rows may be between a source and its Silver table
_IN_FLIGHT_BYTES = 256 * 2**20


def readings_of(silver: Silver, run: Run) -> list[Reading | SnapshotReading]:
    """Say how to read what a table is made from. Raises SourceError, TableMismatchError."""
    _check_snapshots_declared(silver, run)
    readings: list[Reading | SnapshotReading] = []
    if silver.stream:
        reading = _reading(silver, silver.stream, run)
        readings += [reading, _retrying(silver, reading, run)]
    if silver.snapshots:
        readings.append(_snapshot_reading(silver, silver.snapshots, run))
    return readings


def sources_of(
    readings: Sequence[Reading | SnapshotReading], decode: Decoding, progress: Progress, stopping: Stopping
) -> list[RecordSource | SnapshotSource]:
    """Return the sources that read so: one for all records, one for each list of snapshots."""
    records = [reading for reading in readings if isinstance(reading, Reading)]
    snapshots = [reading for reading in readings if isinstance(reading, SnapshotReading)]
    sources: list[RecordSource | SnapshotSource] = [SnapshotSource(each, progress, stopping) for each in snapshots]
    return [RecordSource(records, decode, progress, stopping), *sources] if records else sources


def _reading(silver: Silver, stream: Kafka | EventLog, run: Run) -> Reading:
    """Say how to read a topic: from where staging stands, or a new table from the declared start."""
    topic = stream.open(run.settings)
    partitions = topic.partitions()

    def position(partition: int) -> int:
        held = _position(silver, partition_id(topic.name, partition), run)
        return start_position(topic, partition, stream.start) if held is None else held

    limits = _limits(run, len(partitions))
    return Reading(topic, partitions, position, run.tail, min(_BATCH_RECORDS, run.batching.max_rows), limits)


def _retrying(silver: Silver, reading: Reading, run: Run) -> Reading:
    """Say how to read the records that are sent in again: from where staging stands, as one more partition."""
    requests = RetryRequests(run.lake.retries(silver.name), retry_topic(silver.name), reading.topic.name)
    staging, name = run.lake.staging(silver.name), retry_partition(silver.name)

    def position(_: int) -> int:
        return read_positions(staging, run.pipeline, [name]).get(name, 0)

    return replace(reading, topic=requests, partitions=requests.partitions(), position=position, silent=True)


def _snapshot_reading(silver: Silver, snapshots: Snapshots, run: Run) -> SnapshotReading:
    """Say how to take snapshots in: after those that staging has."""

    def position() -> int:
        return _position(silver, snapshot_partition(snapshots.topic), run) or 0

    rows = min(_BATCH_RECORDS, run.batching.max_rows)
    taking = partial(Taking, silver, snapshots, run.lake)
    return SnapshotReading(snapshots.topic, taking, position, run.tail, rows, _limits(run, 1))


def _check_snapshots_declared(silver: Silver, run: Run) -> None:
    """Check that the snapshots of which staging has rows still are a source: a lost Silver table needs them again."""
    staging, declared = run.lake.staging(silver.name), silver.snapshots.topic if silver.snapshots else None
    for name in staged_partitions(staging, run.pipeline):
        topic, _, partition = name.rpartition("/")
        if int(partition) == PARTITION and topic != declared:
            raise TableMismatchError(
                f"{staging}: it holds events of snapshots of {topic!r}, and Silver {silver.name!r} declares "
                f"{'none' if declared is None else repr(declared)}. Declare them as before, or move the staging, "
                "quarantine and Silver tables away: all are then read anew"
            )


def _position(silver: Silver, name: str, run: Run) -> int | None:
    """Return where staging stands in a partition, None when it is new to it. Raises HoleError."""
    staging, merged = run.lake.staging(silver.name), run.lake.silver(silver.name)
    if (held := read_positions(staging, run.pipeline, [name]).get(name)) is not None:
        return held
    if reached := read_positions(merged, run.pipeline, [name]).get(name):
        raise HoleError(
            f"{staging}: the table is gone or new, while silver/{silver.name} has read {name} up to {reached}. "
            "Restore it, or move the Silver and quarantine tables away too: all are then read anew"
        )
    return None


def _limits(run: Run, partitions: int) -> Limits:
    share = max(1, partitions)
    return Limits(max(1, _IN_FLIGHT_COMMITS * run.batching.max_rows // share), _IN_FLIGHT_BYTES // share)
