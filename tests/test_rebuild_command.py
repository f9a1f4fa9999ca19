"""`goldwax rebuild MODULE TABLE`: what it says, what it refuses and leaves alone, the engine before and after it."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import pytest

from flows import EventLog, Json
from flows.commands.cli import main
from flows.commands.rebuild import rebuild
from flows.commands.restaging import CannotRebuildError
from flows.lake import Lake
from storage.delta.definition import DEFINITION
from storage.delta.delta_log import DeltaLog
from storage.delta.table_declaration import read_snapshot
from storage.delta.table_removal import tables_at
from storage.errors import TableMismatchError
from storage.logs.event_log_writer import EventLogWriter, NewRecord
from storage.object_store import open_store
from tests import orders
from tests.avro_records import datum, framed, record
from tests.engine import Engine, assert_same_tables, tables
from tests.object_stores import Bucket
from tests.readers import ON_OBJECT_STORES, assert_all_read
from tests.registry_double import running_registry
from tests.test_rebuild import HISTORY, assert_same, check, kinds, made, rebuilt, thing, things
from tests.test_running import write_events
from tests.test_stages import Chain
from tests.written_tables import store_at

DELETE = thing(2, 7, op="delete")
MODULE = """
from tests import orders
pipeline = orders.pipeline()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a module with the pipeline of `tests.orders`, whose lake is in `lake`."""
    (tmp_path / "a_shop_to_rebuild.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GOLDWAX_LAKE", str(tmp_path / "lake"))
    monkeypatch.delitem(sys.modules, "a_shop_to_rebuild", raising=False)
    return "a_shop_to_rebuild"


def test_the_engine_refuses_what_is_declared_otherwise_and_goes_on_after_a_rebuild(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three partitions, with quarantined records, deletes by tombstone and by operation."""
    events = tmp_path / "events"
    write_events(events, 3_000)
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events)}, ("-w", "2"))
    engine.run(TEST_MAX_ROWS="500")
    output, _ = engine.start(TEST_HISTORY="scd2").communicate(timeout=60)
    refused = r"silver/orders: .*\(history: made with scd1, declared scd2\)\. .*`goldwax rebuild MODULE orders`"
    assert re.search(refused, output), output

    monkeypatch.setenv("TEST_HISTORY", "scd2")
    assert main(["rebuild", module, "orders"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"orders/2: merged up to [\d,]+$", told, re.MULTILINE)
    assert re.search(r"silver orders: version \d+ has [\d,]+ rows made anew; .* Start the pipeline again", told)
    write_events(events, 2_000, seed=2)
    engine.run()
    uninterrupted = Engine(tmp_path / "other", {"GOLDWAX_EVENTS": str(events)})
    uninterrupted.run()
    assert_same_tables(tables(engine.lake), tables(uninterrupted.lake))
    assert main(["tables", module]) == 0
    assert f"read {5_000:,}, " in capsys.readouterr().out.partition("silver orders:")[2]


def test_records_in_avro_that_would_be_events_now_stop_a_rebuild(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second order has no country, which was the key."""
    schema = record("Order", op="string", order_id="long", country=["null", "string"])
    with running_registry() as registry:
        number = registry.register("orders-value", schema)
        values = [
            framed(number, datum(schema, {"op": "u", "order_id": each, "country": country}))
            for each, country in enumerate(["DE", None])
        ]
        with EventLogWriter(tmp_path / "events", "orders", orders.PARTITIONS) as writer:
            writer.append([NewRecord(None, value) for value in values])
        monkeypatch.setenv("GOLDWAX_REGISTRY_URL", registry.url)
        monkeypatch.setenv("TEST_FORMAT", "avro")
        Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(tmp_path / "events")}).run(TEST_KEYS="country")
        assert main(["rebuild", module, "orders"]) == 1
    assert "records are in quarantine that would be events now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("order", "pipeline 'shop' has no table 'order'; expected one of: orders. Did you mean 'orders'?"),
        ("orders_by_country", "'orders_by_country' is a Kpi, which the pipeline makes anew by itself"),
        ("orders", "staging/orders: no staging table is here to make rows from. Where the pipeline has run before"),
    ],
)
def test_a_table_that_cannot_be_rebuilt_is_told(
    table: str, message: str, module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rebuild", module, table]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("declared", "events", "message"),
    [
        (
            {"source": EventLog("others", format=Json(operation="op"))},
            [thing(1, 1)],
            "other events would be staged (topic: made with things, declared others). Declare it as it was, or move",
        ),
        (
            {"source": EventLog("things", format=Json())},
            [thing(1, 1)],
            "other events would be staged (format: made with",
        ),
        (
            {"keys": ["id", "kind"]},
            [thing(1, 1), DELETE, DELETE],
            "lack what they need now (deletes without kind: 2; the first: things/0 offset 1). Declare it as it was",
        ),
        (
            {"sequence_by": "day"},
            [thing(1, 1), DELETE],
            "lack what they need now (deletes without day: 1; the first: things/0 offset 1)",
        ),
        (
            {"sequence_by": "size"},
            [thing(1, 1), thing(2, 2)],
            "lack what they need now (upserts without size: 2; the first: things/0 offset 0)",
        ),
        (
            {"sequence_by": None},
            [thing(1, 1), b'{"op": "upsert", "id": 2}', b"{"],
            "records are in quarantine that would be events now, and staging has none of them (the first: things/0 off",
        ),
    ],
)
def test_what_staging_cannot_make_is_refused_and_everything_left_as_it_was(
    declared: Mapping[str, Any], events: list[bytes], message: str, tmp_path: Path
) -> None:
    before = things(schema={**things().columns, "size": "int64"})
    lake = made(tmp_path / "lake", before, events)
    files = sorted(path for path in lake.rglob("*") if path.is_file())
    with pytest.raises(CannotRebuildError, match=re.escape(message)):
        rebuilt(lake, things(schema=before.columns, **declared))
    assert sorted(path for path in lake.rglob("*") if path.is_file()) == files
    check(lake, before)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"source": EventLog("others", format=Json(operation="op"))}, "topic: made with things, declared others"),
        ({}, {"source": EventLog("things", format=Json())}, "format: made with"),
        ({}, {"ignore_null_updates": ["note"], "history": "scd2"}, "ignore_null_updates: made otherwise"),
        ({}, {"sequence_by": ["version", "id"]}, "sequence_by: made with version, declared"),
        ({"sequence_by": ["version", "id"]}, {}, "sequence_by: made with"),
    ],
)
def test_a_rebuild_is_offered_only_for_what_it_can_change(
    before: Mapping[str, Any], after: Mapping[str, Any], told: str, tmp_path: Path
) -> None:
    lake, declared = made(tmp_path, things(**before), [thing(1, 1)]), things(**after)
    with pytest.raises(TableMismatchError, match=f"{told}.*as it was, or move the staging, quarantine and Silver"):
        check(lake, declared)
    with pytest.raises(CannotRebuildError, match=f"other events would be staged .*{told}"):
        rebuilt(lake, declared)


def test_records_that_are_refused_by_both_declarations_stay_in_quarantine(tmp_path: Path) -> None:
    lake = made(tmp_path / "lake", things(), [thing(1, 1), b"{", b'{"op": "upsert"}'])
    assert rebuilt(lake, things(sequence_by=None))


def test_a_silver_table_that_was_moved_away_is_made_by_the_pipeline(tmp_path: Path) -> None:
    """Staging is made ready for it, and what lay beside the old one is gone."""
    before, after, events = things(**HISTORY), things(history="scd2", sequence_by=None), [thing(1, 2), thing(1, 1)]
    lake = made(tmp_path / "lake", before, events)
    (lake / "silver/things").rename(tmp_path / "away")
    assert rebuilt(lake, after) is None
    check(lake, after)
    Chain(lake, 2, kpi=kinds(after)).advance()
    assert_same(lake, made(tmp_path / "expected", after, events))


def test_a_table_that_was_put_aside_and_comes_back_has_what_was_beside_it(tmp_path: Path) -> None:
    silver = things(**HISTORY)
    lake = made(tmp_path / "lake", silver, [thing(1, 2), thing(1, 3), thing(1, 9, op="delete")])
    (lake / "silver/things").rename(tmp_path / "away")
    assert rebuilt(lake, silver) is None
    (tmp_path / "away").rename(lake / "silver/things")
    Chain(lake, 3, kpi=kinds(silver)).advance(thing(1, 5, kind="b"))
    expected = made(tmp_path / "x", silver, [thing(1, 2), thing(1, 3), thing(1, 9, op="delete"), thing(1, 5, kind="b")])
    assert_same(lake, expected)


def test_a_staging_table_that_does_not_say_what_it_was_made_by_is_told_to_be_run_once(tmp_path: Path) -> None:
    """As tables from before it was kept are; where staging stays as it is, nobody needs to know."""
    lake = made(tmp_path / "lake", things(), [thing(1, 1)])
    for table in ("staging/things", "silver/things"):
        _forget_definition(lake / table)
    with pytest.raises(CannotRebuildError, match=r"does not say by which\. Run the pipeline once declared as it was"):
        rebuilt(lake, things(keys=["id", "kind"]))
    assert rebuilt(lake, things(**HISTORY))
    check(lake, things(**HISTORY))
    Chain(lake, 1, kpi=kinds(things(**HISTORY)))
    assert rebuilt(lake, things(keys=["id", "kind"]))


def test_a_table_of_another_pipeline_is_left_alone(tmp_path: Path) -> None:
    lake = made(tmp_path / "lake", things(), [thing(1, 1)])
    with pytest.raises(
        TableMismatchError, match="silver/things: a table is already here that pipeline 'other' has not"
    ):
        rebuild(things(), Lake(str(lake)), "other", lambda _: None)


def test_a_rebuild_on_an_object_store_leaves_the_table_and_what_it_needs(bucket: Bucket, tmp_path: Path) -> None:
    after = things(**HISTORY)
    local = made(tmp_path / "lake", things(), [thing(1, 1), thing(2, 1), thing(1, 2), DELETE])
    for path in (path for path in local.rglob("*") if path.is_file()):
        obstore.put(store_at(bucket.uri), str(path.relative_to(tmp_path)), path.read_bytes())
    lake = Lake(f"{bucket.uri}/lake")
    for _ in range(3):
        rebuild(after, lake, "demo", lambda _: None)
    expected = made(tmp_path / "expected", after, [thing(1, 1), thing(2, 1), thing(1, 2), DELETE])
    assert_all_read(ON_OBJECT_STORES, lake.silver("things"), pl.read_delta(str(expected / "silver/things")))
    left = tables_at(f"{lake.root}/silver")
    assert len(left) == 3, "the table, what is beside it, and what was until the last rebuild"
    assert lake.side("things").rpartition("/")[2] in left


def _forget_definition(table: Path) -> None:
    """Make a table what it would be without the words of its definition."""
    snapshot = read_snapshot(str(table))
    assert snapshot
    kept = {name: value for name, value in snapshot.properties.items() if name != DEFINITION}
    forgotten = {"metaData": {**snapshot.metadata, "configuration": kept}}
    DeltaLog(open_store(str(table)), str(table)).commit(snapshot.version + 1, [forgotten], {})
