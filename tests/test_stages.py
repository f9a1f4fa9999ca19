"""The stages one after the other, without the engine, where a commit is made to fail."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import Count, EventLog, Kpi, Silver
from flows.event_batch import EventBatch, decode_records
from flows.gold_stage import GoldStage
from flows.in_flight import Progress
from flows.lake import Lake
from flows.silver_stage import SilverStage
from flows.staging_stage import StagingStage
from storage.records import Records

THINGS = Silver(
    "things",
    source=EventLog("things"),
    schema={"id": "int64", "kind": "string"},
    keys=["id"],
)
KINDS = Kpi("kinds", source=THINGS, group_by=["kind"], measures={"things": Count()})
TABLES = ("staging/things", "silver/things", "gold/kinds")


class Chain:
    """Staging, Silver and Gold of one lake, fed by hand."""

    def __init__(self, lake: Path) -> None:
        where, partitions = Lake(str(lake)), ["things/0"]
        self._decoder = THINGS.decoder()
        self._staging = StagingStage(THINGS, where, "demo", partitions)
        self._next = 0
        self.advance()
        self._silver = SilverStage(THINGS, where, "demo", partitions, Progress(dict))
        self._gold = GoldStage(KINDS, where, "demo")

    def advance(self, *ids: int) -> None:
        """Send upserts of these keys through all stages that there are."""
        staged = self._staging.advance([self._batch(ids)])
        if hasattr(self, "_gold"):
            self._gold.advance(self._silver.advance(staged))

    def _batch(self, ids: tuple[int, ...]) -> EventBatch:
        start, self._next = self._next, self._next + len(ids)
        values = [b'{"id": %d, "kind": "%d"}' % (each, each % 2) for each in ids]
        offsets = np.arange(start, self._next)
        records = Records("things", 0, start, self._next, offsets, offsets, [None] * len(ids), values)
        return decode_records(records, self._decoder, THINGS.schema)


@pytest.mark.parametrize("broken", TABLES)
def test_a_commit_that_raised_and_happened_is_counted_once(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Deltalake raises when it cannot write a checkpoint, at every tenth version: the commit is there all the same."""
    chain = Chain(tmp_path)
    (tmp_path / broken / "_delta_log/_last_checkpoint").mkdir()
    for step in range(12):
        chain.advance(step, step + 100)
        silver = pl.read_delta(str(tmp_path / "silver/things"))
        gold = pl.read_delta(str(tmp_path / "gold/kinds"))
        assert sorted(silver["id"]) == sorted([*range(step + 1), *range(100, 101 + step)])
        assert gold["things"].sum() == 2 * (step + 1), step
    assert f"{broken}: the outcome of a commit is unknown" in caplog.text
