"""Staging and Silver of one table that does not ignore new fields, fed by hand; another process may decode for it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flows import EventLog, Json, Silver
from flows.event_batch import EventBatch
from flows.kpi import Kpi
from flows.lake import Lake
from flows.reading.in_flight import Progress
from flows.stages.decoding import Decoding, decode_records
from flows.stages.gold_stage import GoldStage
from flows.stages.learned import as_learned
from flows.stages.silver_stage import Handover, SilverStage
from flows.stages.staging_stage import StagingStage
from storage.logs.records import Records

PARTITIONS = ("things/0", "things/1")
SCHEMA = {"id": "int64", "version": "int64", "kind": "string"}


def silver(**declared: Any) -> Silver:
    """Return a table that learns columns, or what else is declared."""
    source = EventLog("things", format=Json(operation="op"))
    whole = {"source": source, "schema": SCHEMA, "keys": ["id"], "sequence_by": "version", "new_fields": "add"}
    return Silver("things", **{**whole, **declared})


def thing(number: int, version: int, op: str = "upsert", **fields: object) -> bytes:
    return json.dumps({"op": op, "id": number, "version": version, "kind": "a", **fields}).encode()


def records(partition: int, start: int, values: Sequence[bytes | None]) -> Records:
    end = start + len(values)
    offsets, keys = np.arange(start, end), [b'{"id": 1}'] * len(values)
    headers = [(("trace", b"x"),)] * len(values)
    return Records("things", partition, start, end, offsets, offsets, keys, values, headers)


class Run:
    """One start of the stages of a table, where those before it have left the lake.

    `elsewhere` is the decoder of another process, which knows what was learned before the start and no more.
    """

    def __init__(
        self, lake: Path, table: Silver | None = None, kpi: Kpi | None = None, *, merging: bool = True
    ) -> None:
        self.table = table or silver()
        where = Lake(str(lake))
        known = as_learned(self.table, where)
        self.elsewhere = known.decoder()
        self._known = known
        decoding = Decoding(known.decoder, known.schema)
        self.staging = StagingStage(known, where, "demo", PARTITIONS, decoding)
        self.ends = dict.fromkeys((0, 1), 0)
        if (lake / "staging/things").exists():
            self._look(lake)
        self.staged(*(records(partition, end, []) for partition, end in self.ends.items()))
        self.silver = SilverStage(known, where, "demo", Progress(dict)) if merging else None
        self.gold = GoldStage(kpi, where, "demo") if kpi else None

    def send(self, *values: bytes | None, partition: int = 0, elsewhere: bool = False) -> None:
        """Send values of one partition through all stages there are."""
        self.advance([self.batch(values, partition, elsewhere=elsewhere)])

    def batch(self, values: Sequence[bytes | None], partition: int = 0, *, elsewhere: bool) -> EventBatch | Records:
        """Return the next values of a partition; decoded by another process, or not yet."""
        start = self.ends[partition]
        self.ends[partition] += len(values)
        batch = records(partition, start, values)
        return decode_records(batch, self.elsewhere, self._known.schema) if elsewhere else batch

    def advance(self, batches: Sequence[EventBatch | Records]) -> None:
        """Send batches through all stages there are."""
        staged = self.staged(*batches)
        if self.silver:
            self._refresh(self.silver.advance(staged))

    def staged(self, *batches: EventBatch | Records) -> Sequence[EventBatch]:
        return self.staging.advance(batches)

    def _refresh(self, handovers: Sequence[Handover]) -> None:
        if self.gold:
            self.gold.advance(handovers)

    def _look(self, lake: Path) -> None:
        read = pl.read_delta(str(lake / "staging/things")).group_by("_partition").agg(pl.col("_offset").max() + 1)
        self.ends |= dict(read.rows())


def table(lake: Path, name: str) -> pl.DataFrame:
    """Return a table in an order that does not depend on its files, without the columns that say when."""
    rows = pl.read_delta(str(lake / f"{name}/things"))
    return rows.sort([c for c in ("_partition", "_offset", "id", "valid_from") if c in rows.columns])
