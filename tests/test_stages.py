"""The stages one after the other, without the engine, where a commit is made to fail."""

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable

from flows import Count, EventLog, Json, Kpi, Pipeline, Silver
from flows.event_batch import EventBatch
from flows.lake import Lake
from flows.reading.in_flight import Progress
from flows.stages.decoding import Decoding, decode_records
from flows.stages.gold_stage import GoldStage
from flows.stages.silver_stage import SilverStage
from flows.stages.staging_stage import StagingStage
from flows.stages.tables import silver_table
from operators.schema import DeclarationError
from storage.delta.owned_table import OwnedTable
from storage.logs.records import Records
from tests.faults import Outcome, fault

THINGS = Silver(
    "things",
    source=EventLog("things", format=Json(operation="op")),
    schema={"id": "int64", "version": "int64", "kind": "string"},
    keys=["id"],
    sequence_by="version",
)
KINDS = Kpi("kinds", source=THINGS, group_by=["kind"], measures={"things": Count()})
TABLES = ("staging/things", "silver/things", "gold/kinds")


class Chain:
    """Staging, Silver and Gold of one lake, fed by hand."""

    def __init__(self, lake: Path, start: int = 0, kpi: Kpi = KINDS, partition: int = 0) -> None:
        where, partitions, self._things = Lake(str(lake)), [f"{kpi.source.name}/{partition}"], kpi.source
        self._decoder = self._things.decoder()
        decoding = Decoding(self._things.decoder, self._things.schema)
        self._staging = StagingStage(self._things, where, "demo", partitions, decoding)
        self._next, self._partition = start, partition
        self.advance()
        self._silver = SilverStage(self._things, where, "demo", Progress(dict))
        self._gold = GoldStage(kpi, where, "demo")

    def advance(self, *values: bytes) -> None:
        """Send these values through all stages that there are."""
        self.advance_batches(values)

    def advance_batches(self, *batches: tuple[bytes, ...]) -> None:
        """Send several batches at once."""
        staged = self._staging.advance([self._batch(values) for values in batches])
        if hasattr(self, "_gold"):
            self._gold.advance(self._silver.advance(staged))

    def _batch(self, values: tuple[bytes, ...]) -> EventBatch:
        start, self._next = self._next, self._next + len(values)
        offsets = np.arange(start, self._next)
        records = Records(
            self._things.name, self._partition, start, self._next, offsets, offsets, [None] * len(values), values
        )
        return decode_records(records, self._decoder, self._things.schema)


def thing(number: int, version: int, op: str = "upsert") -> bytes:
    return b'{"op": "%s", "id": %d, "version": %d, "kind": "%d"}' % (op.encode(), number, version, number % 2)


@pytest.mark.parametrize("outcome", ["lost", "unsure"])
@pytest.mark.parametrize("broken", TABLES)
def test_a_commit_that_raised_is_counted_once_whether_it_happened_or_not(
    broken: str, outcome: Outcome, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log entry is lost; or it is put, but neither the put nor reading it back says so."""
    chain = Chain(tmp_path)
    for step in range(8):
        with fault(outcome if step % 3 == 1 else None, at=tmp_path / broken, times=1):
            chain.advance(thing(step, 1), thing(step + 100, 1), thing(0, step + 1))
        silver = pl.read_delta(str(tmp_path / "silver/things")).sort("id")
        gold = pl.read_delta(str(tmp_path / "gold/kinds"))
        assert silver.select("id", "version").rows() == [
            (0, step + 1),
            *((number, 1) for number in [*range(1, step + 1), *range(100, 101 + step)]),
        ]
        assert gold["things"].sum() == 2 * (step + 1), step
    staged = pl.read_delta(str(tmp_path / "staging/things"))
    assert sorted(staged["_offset"]) == [*range(24)]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    expected = r"(version \d+ was not written|whose outcome was unknown, has become version \d+)"
    assert all(re.search(f"{broken}: .*{expected}.*reading back where the table stands", line) for line in told), told


@pytest.mark.parametrize("outcome", ["lost", "unanswered", "unsure"])
def test_batches_of_one_partition_that_were_committed_without_an_answer_are_merged_all_the_same(
    outcome: Outcome, tmp_path: Path
) -> None:
    chain = Chain(tmp_path)
    with fault(outcome, at=tmp_path / "staging/things", times=1):
        chain.advance_batches((thing(1, 1), thing(2, 1)), (thing(1, 2),), (thing(3, 1),))
    silver = pl.read_delta(str(tmp_path / "silver/things")).sort("id")
    assert silver.select("id", "version").rows() == [(1, 2), (2, 1), (3, 1)]


def test_a_deleted_key_stays_dead_for_older_events_after_a_restart(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.advance(thing(1, 1), thing(2, 1), thing(3, 1))
    chain.advance(thing(1, 5, "delete"), thing(2, 5, "delete"), thing(2, 6))
    restarted = Chain(tmp_path, start=6)
    restarted.advance(thing(1, 4), thing(2, 5), thing(3, 2))
    silver = pl.read_delta(str(tmp_path / "silver/things")).sort("id")
    assert silver.select("id", "version").rows() == [(2, 6), (3, 2)]
    restarted.advance(thing(1, 7))
    assert pl.read_delta(str(tmp_path / "gold/kinds")).sort("kind").rows() == [("0", 1, 1), ("1", 2, 2)]


def test_tables_of_strategy_rewrite_ask_nothing_new_of_their_readers(tmp_path: Path) -> None:
    """Another strategy is no other table: it goes on with the same rows."""
    rewritten = Silver(
        "things", source=THINGS.source, schema=THINGS.columns, keys=["id"], sequence_by="version", strategy="rewrite"
    )
    plain = silver_table(rewritten, "demo")
    table = OwnedTable(str(tmp_path / "silver/things"), plain)
    assert DeltaTable(table.uri).protocol().min_reader_version == 1
    chain = Chain(tmp_path)
    chain.advance(thing(1, 1), thing(2, 1))
    assert DeltaTable(table.uri).protocol().min_reader_version == 3
    assert pl.read_delta(table.uri)["id"].sort().to_list() == [1, 2]
    with pytest.raises(DeclarationError, match=r"Kpi 'kinds': strategy: received 'rewrites', .*Did you mean 'rewrite'"):
        Kpi("kinds", source=THINGS, group_by=["kind"], measures={"n": Count()}, strategy="rewrites")  # type: ignore[arg-type]


def test_a_retention_too_short_for_readers_and_merges_under_way_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"retention is 0:00:59, expected at least 0:01:00"):
        Pipeline("demo", tables=[THINGS, KINDS], retention=timedelta(seconds=59))
