"""The dataflow of a pipeline, top to bottom, one step a line."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from flows.batching import Batching
from flows.event_batch import Decoding, EventBatch
from flows.gold_stage import GoldStage
from flows.in_flight import Limits, Progress
from flows.kpi import Kpi
from flows.lake import Lake
from flows.reading import Reading, RecordSource
from flows.settings import Settings
from flows.silver import Silver
from flows.silver_stage import Handover, SilverStage
from flows.snapshot_source import SnapshotReading, SnapshotSource
from flows.snapshot_step import PARTITION, snapshot_partition
from flows.snapshot_taking import Taking
from flows.snapshots import Snapshots
from flows.sources import EventLog, Kafka, start_position
from flows.stage_logic import StageLogic
from flows.staging_stage import StagingStage
from flows.stopping import Stopping
from storage.errors import HoleError, TableMismatchError
from storage.owned_table import read_positions
from storage.positions import partition_id
from storage.records import Records
from storage.staging import staged_partitions

_BATCH_RECORDS = 20_000
_IN_FLIGHT_COMMITS = 2  # how many commits' worth of rows may be between a topic and its Silver table
_GARBAGE = 200_000  # objects made between two looks at the youngest
_IN_FLIGHT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a pipeline is given besides its declaration."""

    pipeline: str
    lake: Lake
    settings: Settings
    batching: Batching
    tail: bool


def build(silvers: Sequence[Silver], kpis: Sequence[Kpi], run: Run) -> Dataflow:
    """Return the dataflow of these tables. Raises SourceError when a topic cannot be reached."""
    collect_seldom()
    flow, stopping = Dataflow(run.pipeline), Stopping()
    for silver in silvers:
        changes = _keep_silver(flow, silver, run, stopping)  # (silver, Handover)
        for kpi in kpis:
            if kpi.source is silver:
                _keep_gold(kpi, changes, run)
    stopping.on_signals()
    return flow


def _keep_silver(flow: Dataflow, silver: Silver, run: Run, stopping: Stopping) -> Stream[Handover]:
    name, at_once = silver.name, run.batching.at_once()
    readings = _readings(silver, run)
    partitions = [partition for reading in readings for partition in reading.partition_ids]
    progress = Progress(partial(read_positions, run.lake.silver(name), run.pipeline, partitions))
    for reading in readings:
        reading.check()
    decode = Decoding(silver.decoder, silver.schema)
    stage = partial(StagingStage, silver, run.lake, run.pipeline, partitions, decode)
    merge = partial(SilverStage, silver, run.lake, run.pipeline, partitions, progress)

    streams: list[Stream[EventBatch | Records]] = []
    for reading in readings:
        if isinstance(reading, SnapshotReading):
            streams.append(op.input(f"snapshots_{name}", flow, SnapshotSource(reading, progress, stopping)))
        else:
            records = op.input(f"read_{name}", flow, RecordSource(reading, progress, stopping))  # Records
            streams.append(op.map(f"decode_{name}", records, decode))
    events = op.merge(f"events_{name}", *streams) if len(streams) > 1 else streams[0]  # EventBatch, or few Records
    to_stage = op.key_on(f"to_staging_{name}", events, lambda _: f"staging/{name}")  # (table, EventBatch or Records)
    staged = op.stateful_batch(f"stage_{name}", to_stage, lambda _: StageLogic(stage, _rows, run.batching))
    to_merge = op.map(f"to_silver_{name}", staged, lambda keyed: (f"silver/{name}", keyed[1]))  # (table, EventBatch)
    merged = op.stateful_batch(f"merge_{name}", to_merge, lambda _: StageLogic(merge, _rows, at_once))
    changes = op.key_rm(f"changes_of_{name}", merged)  # Handover
    op.output(f"merged_{name}", changes, Discard())
    return changes


def _keep_gold(kpi: Kpi, changes: Stream[Handover], run: Run) -> None:
    refresh = partial(GoldStage, kpi, run.lake, run.pipeline)
    name, at_once = kpi.name, run.batching.at_once()

    to_refresh = op.key_on(f"to_gold_{name}", changes, lambda _: f"gold/{name}")  # (table, Handover)
    refreshed = op.stateful_batch(f"refresh_{name}", to_refresh, lambda _: StageLogic(refresh, _no_rows, at_once))
    op.output(f"refreshed_{name}", refreshed, Discard())


def _readings(silver: Silver, run: Run) -> list[Reading | SnapshotReading]:
    """Say how to read what a table is made from. Raises SourceError, TableMismatchError."""
    _check_snapshots_declared(silver, run)
    readings: list[Reading | SnapshotReading] = []
    if silver.stream:
        readings.append(_reading(silver, silver.stream, run))
    if silver.snapshots:
        readings.append(_snapshot_reading(silver, silver.snapshots, run))
    return readings


def _reading(silver: Silver, stream: Kafka | EventLog, run: Run) -> Reading:
    """Say how to read a topic: from where staging stands, or a new table from the declared start."""
    topic = stream.open(run.settings)
    partitions = topic.partitions()

    def position(partition: int) -> int:
        held = _position(silver, partition_id(topic.name, partition), run)
        return start_position(topic, partition, stream.start) if held is None else held

    limits = _limits(run, len(partitions))
    return Reading(topic, partitions, position, run.tail, min(_BATCH_RECORDS, run.batching.max_rows), limits)


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


def collect_seldom() -> None:
    """Let the garbage collector look for cycles less often: every record read is an object, and none is part of one."""
    gc.set_threshold(_GARBAGE, 20, 50)


def _rows(batch: EventBatch | Records) -> int:
    return batch.events.height if isinstance(batch, EventBatch) else len(batch)


def _no_rows(_: Handover) -> int:
    return 0


class Discard(DynamicSink[object]):
    """The end of a stream whose results are in the lake."""

    def build(self, _step_id: str, _worker_index: int, _worker_count: int) -> "_DiscardPartition":
        """Return a worker's end."""
        return _DiscardPartition()


class _DiscardPartition(StatelessSinkPartition[object]):
    def write_batch(self, items: list[object]) -> None:
        """Let the items go."""
