"""Staging and Silver of one table, fed with full snapshots and perhaps a stream, without the engine; it may crash."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flows import EventLog, Json, Silver, Snapshots
from flows.event_batch import EventBatch
from flows.history import History
from flows.lake import Lake
from flows.reading.in_flight import InFlight, Limits, Progress
from flows.reading.snapshot_source import SnapshotPartition, SnapshotReading
from flows.reading.snapshot_step import snapshot_partition
from flows.reading.snapshot_taking import Taking
from flows.stages.decoding import Decoding, decode_records
from flows.stages.silver_stage import SilverStage
from flows.stages.staging_stage import StagingStage
from flows.stopping import Stopping
from storage.delta.owned_table import read_positions
from storage.logs.records import Records
from tests.histories import Event, Row, Version

PIPELINE = "demo"
SCHEMA = {"id": "int64", "kind": "string", "note": "string"}
TYPES: dict[str, pl.DataType] = {"id": pl.Int64(), "kind": pl.String(), "note": pl.String()}
STREAM = EventLog("things", format=Json(operation="op"))

A, B, C = ("a", "x"), ("b", "y"), ("c", None)


State = Mapping[int, Row]
"""Key to the other values of a snapshot."""


def write_snapshot(path: Path, state: State, schema: Mapping[str, pl.DataType]) -> None:
    """Write a snapshot elsewhere and rename it, as one should."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pl.DataFrame([(key, *row) for key, row in state.items()], pl.Schema(schema), orient="row")
    rows.write_parquet(path.with_suffix(".tmp"))
    path.with_suffix(".tmp").rename(path)


class CrashError(Exception):
    """The process is gone."""


class Feed:
    """One start of the process: opens the tables, where it goes on is in the lake."""

    def __init__(self, silver: Silver, root: Path, rows: int = 3) -> None:
        assert silver.snapshots
        self._silver, lake = silver, Lake(str(root / "lake"))
        name = snapshot_partition(silver.snapshots.topic)
        partitions = [name, f"{STREAM.topic}/0"]
        progress = Progress(dict)
        self._staging = StagingStage(silver, lake, PIPELINE, partitions, Decoding(silver.decoder, silver.schema))
        held = read_positions(lake.staging(silver.name), PIPELINE, partitions)
        self.streamed = held.get(f"{STREAM.topic}/0", 0)
        source = silver.snapshots
        reading = SnapshotReading(
            source.topic,
            lambda: Taking(silver, source, lake),
            lambda: held.get(name, 0),
            tail=False,
            batch_rows=rows,
            limits=Limits(2 * rows, 2**30),
        )
        self._partition = SnapshotPartition(reading, InFlight(name, reading.limits, progress), Stopping())
        opening = self._staging.advance([*self._partition.next_batch(), self._of_stream(())])
        self._silver_stage = SilverStage(silver, lake, PIPELINE, progress)
        self._silver_stage.advance(opening)

    def take(self, batches: int = 10**9, *, merge_last: bool = True) -> None:
        """Take snapshots in until none is left; or crash after so many batches, the last perhaps only staged."""
        try:
            for number in range(1, batches + 1):
                batch = self.batches(1)
                if not batch:
                    return
                staged = self._staging.advance(batch)
                if number < batches or merge_last:
                    self._silver_stage.advance(staged)
            raise CrashError
        finally:
            self._partition.close()

    def batches(self, count: int, wait: float = 30) -> list[EventBatch]:
        """Return so many batches of snapshots, or fewer when there are no more or none come for so many seconds."""
        found: list[EventBatch] = []
        deadline = time.monotonic() + wait
        with suppress(StopIteration):
            while len(found) < count and time.monotonic() < deadline:
                found += [batch for batch in self._partition.next_batch() if isinstance(batch, EventBatch)]
                time.sleep(0.001)
        return found

    def merge(self, batches: Sequence[EventBatch]) -> None:
        """Take batches through staging and Silver."""
        self._silver_stage.advance(self._staging.advance(batches))

    def stream(self, values: Sequence[bytes]) -> None:
        """Merge the next values of the stream."""
        self.merge([self._of_stream(values)])

    def _of_stream(self, values: Sequence[bytes]) -> EventBatch:
        start, self.streamed = self.streamed, self.streamed + len(values)
        offsets = np.arange(start, self.streamed)
        records = Records(STREAM.topic, 0, start, self.streamed, offsets, offsets, [None] * len(values), values)
        return decode_records(records, self._silver.decoder(), self._silver.schema)


def table(root: Path, name: str) -> pl.DataFrame:
    return pl.read_delta(str(root / "lake" / name))


def current(root: Path, *columns: str) -> dict[int, Row]:
    """Return the rows of an SCD1 table by key."""
    rows = table(root, "silver/things").select("id", *columns).rows()
    assert len({row[0] for row in rows}) == len(rows)
    return {key: tuple(row) for key, *row in rows}


def versions(root: Path, *columns: str) -> dict[int, list[Version]]:
    """Return the rows of an SCD2 table by key, in order."""
    found: dict[int, list[Version]] = {}
    for row in table(root, "silver/things").sort("valid_from").iter_rows(named=True):
        version = Version(tuple(row[name] for name in columns), row["valid_from"], row["valid_to"])
        found.setdefault(row["id"], []).append(version)
    return found


def assert_each_offset_once(staged: pl.DataFrame) -> None:
    for _, rows in staged.group_by("_topic", "_partition"):
        assert rows["_offset"].sort().to_list() == [*range(rows.height)]


def things(root: Path, versions: str | int = "v={integer}.parquet", history: History = "scd1", **more: Any) -> Silver:
    source = Snapshots(str(root / "exports"), versions=versions)
    return Silver("things", source=source, schema=SCHEMA, keys=["id"], history=history, **more)


def write(root: Path, version: int, state: State) -> None:
    write_snapshot(root / f"exports/v={version}.parquet", state, TYPES)


def value(event: Event, key: int, **more: int) -> bytes:
    kind, note = event.row or ("", "")
    return json.dumps({"op": event.op, "id": key, "kind": kind, "note": note, **more}).encode()


def take(silver: Silver, root: Path) -> None:
    Feed(silver, root).take()


def quarantined(root: Path) -> list[tuple[str, str]]:
    rows = table(root, "quarantine/things").sort("_offset").select("value", "reason", "stage").rows()
    assert all(stage == "snapshot" for _, _, stage in rows)
    return [(value.decode(), reason) for value, reason, _ in rows]
