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
from flows.learned import as_learned
from flows.reading import Reading, RecordSource
from flows.settings import Settings
from flows.silver import Silver
from flows.silver_stage import Handover, SilverStage
from flows.sources import start_position
from flows.stage_logic import StageLogic
from flows.staging_stage import StagingStage
from flows.stopping import Stopping
from storage.errors import HoleError
from storage.owned_table import read_positions
from storage.positions import partition_id
from storage.records import Records, Topic

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
    topic, name = silver.source.open(run.settings), silver.name
    silver = as_learned(silver, run.lake)
    reading = _reading(silver, topic, run)
    partitions = [partition_id(topic.name, partition) for partition in reading.partitions]
    at_once = run.batching.at_once()
    progress = Progress(partial(read_positions, run.lake.silver(name), run.pipeline, partitions))
    reading.check()
    decode = Decoding(silver.decoder, silver.schema)
    stage = partial(StagingStage, silver, run.lake, run.pipeline, partitions, decode)
    merge = partial(SilverStage, silver, run.lake, run.pipeline, partitions, progress)

    records = op.input(f"read_{name}", flow, RecordSource(reading, progress, stopping))  # Records
    events = op.map(f"decode_{name}", records, decode)  # EventBatch, or few Records
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


def _reading(silver: Silver, topic: Topic, run: Run) -> Reading:
    """Say how to read a topic: from where staging stands, or a new table from the declared start."""
    staging, merged = run.lake.staging(silver.name), run.lake.silver(silver.name)
    partitions = topic.partitions()

    def position(partition: int) -> int:
        name = partition_id(topic.name, partition)
        if (held := read_positions(staging, run.pipeline, [name]).get(name)) is not None:
            return held
        if reached := read_positions(merged, run.pipeline, [name]).get(name):
            raise HoleError(
                f"{staging}: the table is gone or new, while silver/{silver.name} has read {name} up to {reached}. "
                "Restore it, or move the Silver and quarantine tables away too: all are then read anew from the topic"
            )
        return start_position(topic, partition, silver.source.start)

    max_rows, share = run.batching.max_rows, max(1, len(partitions))
    limits = Limits(max(1, _IN_FLIGHT_COMMITS * max_rows // share), _IN_FLIGHT_BYTES // share)
    return Reading(topic, partitions, position, run.tail, min(_BATCH_RECORDS, max_rows), limits)


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
