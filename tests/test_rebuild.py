"""A declaration changes its mind: the run refuses, `goldwax rebuild` makes the table anew, and the run goes on."""

import json
import random
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from flows import Count, Debezium, EventLog, Json, Kpi, Pipeline, Silver, Snapshots
from flows.batching import Batching
from flows.commands.rebuild import Rebuilt, rebuild
from flows.commands.restaging import CannotRebuildError
from flows.commands.table_facts import TablePlace, table_facts, table_places
from flows.lake import Lake
from flows.run import Run
from flows.settings import Settings
from storage.delta.owned_table import table_id
from storage.errors import TableMismatchError
from tests import snapshot_feed
from tests.readers import IN_PROCESS, DataFusion, assert_all_read
from tests.snapshot_feed import STREAM, write_snapshot
from tests.test_stages import Chain

SOURCE = EventLog("things", format=Json(operation="op"))
SCHEMA = {"id": "int64", "kind": "string", "version": "int64", "day": "date", "note": "string"}
HISTORY = {"history": "scd2", "track": ["kind"]}


@dataclass(frozen=True)
class Change:
    """A change of mind; `op_before` tells whether things are deleted before it."""

    before: dict[str, Any]
    after: dict[str, Any]
    told: str
    deletes: bool = True


CHANGES = {
    "a current row becomes a history": Change({}, HISTORY, "history: made with scd1, declared scd2; track: made with "),
    "a history becomes a current row": Change(HISTORY, {}, "history: made with scd2, declared scd1; track: made with "),
    "other columns are tracked": Change(
        HISTORY, {"history": "scd2", "track": ["note"]}, r"track: made with \['kind'\], declared \['note'\]"
    ),
    "position becomes a column": Change(
        {"sequence_by": None}, {}, "sequence_by: made with None, declared version", deletes=False
    ),
    "a column becomes position": Change({}, {"sequence_by": None}, "sequence_by: made with version, declared None"),
    "a history of other dates": Change(
        HISTORY,
        {**HISTORY, "sequence_by": "day"},
        "sequence_by: made with version, declared day",
        deletes=False,
    ),
    "another key column": Change(
        {}, {"keys": ["id", "kind"]}, r"keys: made with \['id'\], declared \['id', 'kind'\]", deletes=False
    ),
    "one key column less": Change({"keys": ["id", "kind"]}, {}, r"keys: made with \['id', 'kind'\], declared \['id'\]"),
    "all at once": Change(
        {"keys": ["id", "kind"], "sequence_by": None},
        {"keys": ["kind"], "sequence_by": "version", "history": "scd2", "track": ["note"]},
        "keys: made with .*; sequence_by: made with .*; history: made with .*; track: made with",
        deletes=False,
    ),
}
EVERY_CHANGE = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


def things(**declared: Any) -> Silver:
    usual: dict[str, Any] = {"source": SOURCE, "schema": SCHEMA, "keys": ["id"], "sequence_by": "version"}
    return Silver("things", **{**usual, **declared})


def kinds(silver: Silver) -> Kpi:
    return Kpi("kinds", source=silver, group_by=["kind"], measures={"things": Count()}, strategy=silver.strategy)


def thing(number: int, version: int, kind: str = "a", note: str = "", op: str = "upsert") -> bytes:
    day = f"2026-03-{1 + version % 28:02}"
    row = {"op": op, "id": number, "version": version, "kind": kind, "day": day, "note": note}
    return json.dumps(row).encode()


def stream(seed: int, count: int, *, deletes: bool) -> list[bytes]:
    """Return events of a few things, some of them late, copies, or at one sequence with another."""
    chance = random.Random(seed)
    found: list[bytes] = []
    for position in range(count):
        if found and chance.random() < 0.1:
            found.append(chance.choice(found))
            continue
        op = "delete" if deletes and chance.random() < 0.2 else "upsert"
        version = max(0, position + chance.randrange(-20, 5))
        found.append(thing(chance.randrange(6), version, chance.choice("ab"), chance.choice("xyz"), op))
    return found


def fed(chain: Chain, events: list[bytes], size: int = 7) -> Chain:
    for start in range(0, len(events), size):
        chain.advance(*events[start : start + size])
    return chain


def made(lake: Path, silver: Silver, events: list[bytes]) -> Path:
    """Make the tables of a lake from events, by one declaration from the start."""
    fed(Chain(lake, kpi=kinds(silver)), events).advance()
    return lake


def check(lake: Path, silver: Silver) -> None:
    """Do what a pipeline does before it runs."""
    pipeline, settings = Pipeline("demo", [silver, kinds(silver)]), Settings.from_environment()
    pipeline._check(Run("demo", Lake(str(lake)), settings, Batching(1, timedelta(0)), tail=False))


def rebuilt(lake: Path, silver: Silver) -> Rebuilt | None:
    return rebuild(silver, Lake(str(lake)), "demo", lambda _: None)


def rows(lake: Path, table: str, version: int | None = None) -> pl.DataFrame:
    """Return the rows of a table; of SCD1 without the event they show: of several that say the same, any may stand."""
    found = pl.scan_delta(str(lake / table), version=version).collect()
    if table.startswith("silver") and "valid_from" not in found.columns:
        found = found.select(pl.exclude("^_.*$"))
    return found.sort(pl.all())


def assert_same(lake: Path, expected: Path) -> None:
    """Check that Silver and Gold of two lakes are the same."""
    for table in ("silver/things", "gold/kinds"):
        assert_frame_equal(rows(lake, table), rows(expected, table))


@pytest.mark.parametrize("strategy", ["deletion_vectors", "rewrite"])
@EVERY_CHANGE
def test_after_a_rebuild_all_is_as_if_it_had_been_declared_so_from_the_start(
    tmp_path: Path, change: Change, strategy: str
) -> None:
    before, after = things(**change.before, strategy=strategy), things(**change.after, strategy=strategy)
    early, late = stream(1, 80, deletes=change.deletes), stream(2, 60, deletes=True)
    lake = made(tmp_path / "lake", before, early)
    old, version = rows(lake, "silver/things"), DeltaTable(lake / "silver/things").version()

    told = f"silver/things: .* made by another declaration .{change.told}.*run `goldwax rebuild MODULE things`"
    with pytest.raises(TableMismatchError, match=told):
        check(lake, after)
    done = rebuilt(lake, after)
    assert done
    assert done.version > version

    expected = made(tmp_path / "expected", after, early)
    assert_frame_equal(rows(lake, "silver/things"), rows(expected, "silver/things"))
    assert_frame_equal(rows(lake, "silver/things", version), old)
    assert_all_read(IN_PROCESS, str(lake / "silver/things"), pl.read_delta(str(expected / "silver/things")))

    chain = fed(Chain(lake, len(early), kpi=kinds(after)), late)
    expected = made(tmp_path / "again", after, early + late)
    assert_same(lake, expected)
    chain = fed(Chain(lake, len(early) + len(late), kpi=kinds(after)), early)  # copies, and the state is read back
    chain.advance()
    assert_same(lake, made(tmp_path / "at_last", after, early + late + early))
    assert not [*lake.glob("silver/*__rebuild*")]


def test_a_declaration_may_come_back(tmp_path: Path) -> None:
    """What only the staged sequence of a delete said is not lost when the sequence is another one for a while."""
    first, then = things(**HISTORY), things(sequence_by=None)
    events = stream(8, 90, deletes=True)
    lake = made(tmp_path / "lake", first, events[:30])
    rebuilt(lake, then)
    fed(Chain(lake, 30, kpi=kinds(then)), [event for event in events[30:60] if b"delete" not in event]).advance()
    rebuilt(lake, first)
    kept = events[:30] + [event for event in events[30:60] if b"delete" not in event]
    fed(Chain(lake, len(kept), kpi=kinds(first)), events[60:]).advance()
    assert_same(lake, made(tmp_path / "expected", first, kept + events[60:]))


def test_a_table_made_anew_by_the_same_declaration_has_the_same_rows_and_a_new_past(tmp_path: Path) -> None:
    """Readers of the change feed see all rows go and come; two rebuilds later, nothing of the first is left."""
    silver, events = things(**HISTORY), stream(9, 50, deletes=True)
    lake = made(tmp_path / "lake", silver, events)
    old, gold, first_id = rows(lake, "silver/things"), rows(lake, "gold/kinds"), table_id(str(lake / "silver/things"))
    for _ in range(2):
        done = rebuilt(lake, silver)
        assert done
        assert done.rows == old.height
        assert_frame_equal(rows(lake, "silver/things"), old)
    assert table_id(str(lake / "silver/things")) != first_id
    version = DeltaTable(lake / "silver/things").version()
    feed = DataFusion().changes(str(lake / "silver/things"), version, version)
    assert feed["_change_type"].value_counts().sort("_change_type").rows() == [
        ("delete", old.height),
        ("insert", old.height),
    ]
    Chain(lake, len(events), kpi=kinds(silver)).advance()
    assert_frame_equal(rows(lake, "gold/kinds"), gold)
    assert len([*lake.glob("silver/*")]) == 3, "the table, what is beside it, and what was until the last rebuild"
    (place,) = (
        each for each in table_places(Pipeline("demo", [silver]), Lake(str(lake))) if each.name == "things__side"
    )
    assert pl.read_delta(place.uri).height > 0


def test_the_counts_of_a_table_begin_again_with_its_rebuild(tmp_path: Path) -> None:
    silver, events = things(), stream(10, 50, deletes=True)
    lake = made(tmp_path / "lake", silver, events)
    uri = str(lake / "silver/things")
    for _ in range(2):
        facts = table_facts(TablePlace("silver", "things", uri))
        assert facts
        assert facts.totals["read"] == sum(facts.totals.values()) - facts.totals["read"] == 50
        assert facts.positions == {"things/0": 50}
        rebuilt(lake, silver)


def test_a_column_may_be_added_and_tracked_in_one_go(tmp_path: Path) -> None:
    before, after = things(**HISTORY), things(history="scd2", track=["size"], schema={**SCHEMA, "size": "int64"})
    lake = made(tmp_path / "lake", before, [thing(1, 1), thing(1, 2), thing(2, 1)])
    rebuilt(lake, after)
    larger = thing(1, 3)[:-1] + b', "size": 7}'
    fed(Chain(lake, 3, kpi=kinds(after)), [larger]).advance()
    found = pl.read_delta(str(lake / "silver/things")).sort("id", "valid_from")
    assert found.select("id", "size", "valid_from", "is_current").rows() == [
        (1, None, 1, False),
        (1, 7, 3, True),
        (2, None, 1, True),
    ]


def test_snapshots_that_were_taken_in_are_not_taken_in_again(tmp_path: Path) -> None:
    """Under the new sequence, which one of them had a key would be told anew, and at one sequence a delete wins."""
    schema = {"id": "int64", "a": "int64", "b": "int64"}
    types = {"id": pl.Int64(), "a": pl.Int64(), "b": pl.Int64()}
    initial = Snapshots(str(tmp_path / "exports"), versions="v={integer}.parquet")
    before, after = (things(schema=schema, source=STREAM, sequence_by=by, initial=initial) for by in ("a", "b"))
    for version, state in ((1, {1: (1, 1), 2: (1, 1)}), (2, {1: (1, 1), 2: (1, 1), 3: (1, 1)})):
        write_snapshot(tmp_path / f"exports/v={version}.parquet", state, types)
    snapshot_feed.take(before, tmp_path)
    rebuilt(tmp_path / "lake", after)
    staged = rows(tmp_path / "lake", "staging/things")
    snapshot_feed.take(after, tmp_path)
    assert_frame_equal(rows(tmp_path / "lake", "staging/things"), staged)
    write_snapshot(tmp_path / "exports/v=3.parquet", {1: (1, 1), 3: (1, 2)}, types)
    snapshot_feed.take(after, tmp_path)
    assert snapshot_feed.current(tmp_path, "a", "b") == {1: (1, 1), 3: (1, 2)}
    assert rows(tmp_path / "lake", "quarantine/things").is_empty()


@pytest.mark.parametrize("old", ["source.lsn", "a"])
def test_the_versions_of_snapshots_stay_their_sequence_or_are_missing(tmp_path: Path, old: str) -> None:
    """Beside a position, the sequence of a snapshot's rows is its version, which staging may not say of them."""
    schema = {"id": "int64", "a": "int64"}
    initial = Snapshots(str(tmp_path / "exports"), versions="v={integer}.parquet")
    debezium = EventLog("things", format=Debezium())
    before, after = (
        things(schema=schema, source=debezium, sequence_by=by, initial=initial, history="scd2") for by in (old, None)
    )
    write_snapshot(tmp_path / "exports/v=7.parquet", {1: (3,)}, {"id": pl.Int64(), "a": pl.Int64()})
    snapshot_feed.take(before, tmp_path)
    if old == "a":
        with pytest.raises(CannotRebuildError, match="upserts without the version of their snapshot: 1"):
            rebuilt(tmp_path / "lake", after)
        return
    rebuilt(tmp_path / "lake", after)
    assert rows(tmp_path / "lake", "silver/things")["valid_from"].to_list() == [7]
