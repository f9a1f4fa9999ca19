"""The dataflow of a pipeline, top to bottom, one step a line."""

import gc
from collections.abc import Sequence
from functools import partial

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from flows.event_batch import EventBatch
from flows.kpi import Kpi
from flows.reading.in_flight import Progress
from flows.reading.readings import readings_of, sources_of
from flows.reading.record_source import RecordSource
from flows.reading.snapshot_source import SnapshotSource
from flows.run import Run
from flows.silver import Silver
from flows.sources import schemas_of
from flows.stages.decoding import Decoding
from flows.stages.gold_stage import GoldStage
from flows.stages.learned import as_learned
from flows.stages.silver_stage import Handover, SilverStage
from flows.stages.stage_logic import StageLogic
from flows.stages.staging_stage import StagingStage
from flows.stopping import Stopping
from storage.delta.owned_table import read_positions
from storage.logs.records import Records

_GARBAGE = 200_000  # objects made between two looks at the youngest


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
    silver = as_learned(silver, run.lake)
    name, at_once = silver.name, run.batching.at_once()
    readings = readings_of(silver, run)
    partitions = [partition for reading in readings for partition in reading.partition_ids]
    progress = Progress(partial(read_positions, run.lake.silver(name), run.pipeline, partitions))
    for reading in readings:
        reading.check()
    decode = _decoding(silver, run)
    stage = partial(StagingStage, silver, run.lake, run.pipeline, partitions, decode)
    merge = partial(SilverStage, silver, run.lake, run.pipeline, progress)

    events = _read(flow, name, sources_of(readings, decode, progress, stopping))  # EventBatch, or few Records
    to_stage = op.key_on(f"to_staging_{name}", events, lambda _: f"staging/{name}")  # (table, EventBatch or Records)
    staged = op.stateful_batch(f"stage_{name}", to_stage, lambda _: StageLogic(stage, _rows, run.batching))
    to_merge = op.map(f"to_silver_{name}", staged, lambda keyed: (f"silver/{name}", keyed[1]))  # (table, EventBatch)
    merged = op.stateful_batch(f"merge_{name}", to_merge, lambda _: StageLogic(merge, _rows, at_once))
    changes = op.key_rm(f"changes_of_{name}", merged)  # Handover
    op.output(f"merged_{name}", changes, Discard())
    return changes


def _decoding(silver: Silver, run: Run) -> Decoding:
    return Decoding(partial(silver.decoder, schemas_of(silver.format, run.settings)), silver.schema)


def _read(flow: Dataflow, name: str, sources: Sequence[RecordSource | SnapshotSource]) -> Stream[EventBatch | Records]:
    kinds = ["snapshots" if isinstance(source, SnapshotSource) else "read" for source in sources]
    streams = [op.input(f"{kind}_{name}", flow, source) for kind, source in zip(kinds, sources, strict=True)]
    return op.merge(f"events_{name}", *streams) if len(streams) > 1 else streams[0]


def _keep_gold(kpi: Kpi, changes: Stream[Handover], run: Run) -> None:
    refresh = partial(GoldStage, kpi, run.lake, run.pipeline)
    name, at_once = kpi.name, run.batching.at_once()

    to_refresh = op.key_on(f"to_gold_{name}", changes, lambda _: f"gold/{name}")  # (table, Handover)
    refreshed = op.stateful_batch(f"refresh_{name}", to_refresh, lambda _: StageLogic(refresh, _no_rows, at_once))
    op.output(f"refreshed_{name}", refreshed, Discard())


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
