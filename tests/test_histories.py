"""SCD1 and SCD2 through staging, Silver and Gold, with commits that fail and processes that start again."""

import json
import random
import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from flows import Count, EventLog, Json, Kpi, Silver
from flows.commands.rebuild import rebuild
from flows.history import History
from flows.lake import Lake
from flows.strategy import Strategy
from operators.schema import DeclarationError
from storage.errors import HoleError, TableMismatchError, TransientError
from tests.faults import Outcome, fault
from tests.histories import Event, Version, history
from tests.test_stages import Chain

SCHEMA = {"id": "int64", "version": "int64", "kind": "string", "note": "string"}
SOURCE = EventLog("things", format=Json(operation="op"))


def silver(kept: History = "scd2", strategy: Strategy = "deletion_vectors") -> Silver:
    return Silver(
        "things",
        source=SOURCE,
        schema=SCHEMA,
        keys=["id"],
        sequence_by="version",
        history=kept,
        track=["kind"] if kept == "scd2" else None,
        strategy=strategy,
    )


KINDS = Kpi("kinds", source=silver(), group_by=["kind"], measures={"things": Count()})


def value(number: int, event: Event) -> bytes:
    kind, note = event.row or ("", "")
    content = f'"op": "{event.op}", "id": {number}, "version": {event.sequence}, "kind": "{kind}", "note": "{note}"'
    return f"{{{content}}}".encode()


def partial(number: int, version: int, **values: str) -> bytes:
    return json.dumps({"op": "upsert", "id": number, "version": version, **values}).encode()


def stream(chance: random.Random, count: int) -> list[tuple[int, Event]]:
    """Return events of six things: late ones, deletes, copies, and two at one sequence."""
    found: list[tuple[int, Event]] = []
    for position in range(count):
        if found and chance.random() < 0.1:
            number, earlier = chance.choice(found)
            found.append((number, Event(earlier.op, earlier.sequence, position, earlier.row)))
            continue
        op = "delete" if chance.random() < 0.2 else "upsert"
        row = (chance.choice("ab"), chance.choice("xyz")) if op == "upsert" else ()
        found.append((chance.randrange(6), Event(op, position + chance.randrange(-20, 5), position, row)))
    return found


def versions(lake: Path) -> dict[int, list[Version]]:
    found: dict[int, list[Version]] = {}
    rows = pl.read_delta(str(lake / "silver/things"))
    for row in rows.sort("valid_from", "id").iter_rows(named=True) if "valid_from" in rows.columns else ():
        version = Version((row["kind"], row["note"]), row["valid_from"], row["valid_to"])
        found.setdefault(row["id"], []).append(version)
    return found


def current(lake: Path) -> dict[int, tuple[str, str]]:
    rows = pl.read_delta(str(lake / "silver/things"))
    rows = rows.filter("is_current") if "is_current" in rows.columns else rows
    return {number: (kind, note) for number, kind, note in rows.select("id", "kind", "note").iter_rows()}


def expected(events: list[tuple[int, Event]]) -> dict[int, list[Version]]:
    by_number: dict[int, list[Event]] = {}
    for number, event in events:
        by_number.setdefault(number, []).append(event)
    # `version` is a column too, though not a tracked one; what is compared are kind and note
    made = {number: history(own, 2, [0]) for number, own in by_number.items()}
    return {number: found for number, found in made.items() if found}


@pytest.mark.parametrize("strategy", ["deletion_vectors", "rewrite"])
@pytest.mark.parametrize("kept", ["scd1", "scd2"])
@pytest.mark.parametrize("seed", range(2))
def test_silver_and_what_gold_makes_of_it_survive_failed_commits_and_restarts(
    tmp_path: Path, seed: int, kept: History, strategy: Strategy
) -> None:
    chance = random.Random(seed)
    events = stream(chance, 120)
    kpi = replace(KINDS, source=silver(kept, strategy), strategy=strategy)
    chain, at = Chain(tmp_path, kpi=kpi), 0
    while at < len(events):
        batch = events[at : at + chance.choice([1, 3, 10])]
        table = chance.choice(["silver/things", "silver/things__side", "gold/kinds"])
        outcome: Outcome | None = chance.choice([None, None, "lost", "unanswered", "unsure"])
        try:
            with fault(outcome, tmp_path / table, times=1):
                chain.advance(*(value(number, event) for number, event in batch))
        except TransientError:
            chain = Chain(tmp_path, at + len(batch), kpi=kpi)
        at += len(batch)
        if chance.random() < 0.2:
            chain = Chain(tmp_path, at, kpi=kpi)
    chain.advance()
    every = expected(events)
    is_open = {number: own[-1].row for number, own in every.items() if own[-1].valid_to is None}
    assert versions(tmp_path) == (every if kept == "scd2" else {})
    assert current(tmp_path) == is_open
    gold = pl.read_delta(str(tmp_path / "gold/kinds"))
    assert dict(gold.select("kind", "things").rows()) == Counter(kind for kind, _ in is_open.values())
    assert pl.read_delta(str(tmp_path / "silver/things__side")).height > 0


def test_a_history_whose_side_table_is_lost_stops_and_both_come_back_from_staging(tmp_path: Path) -> None:
    chain = Chain(tmp_path, kpi=KINDS)
    chain.advance(value(1, Event("upsert", 1, 0, ("a", "x"))))
    chain.advance(value(1, Event("delete", 5, 1)))
    shutil.rmtree(tmp_path / "silver/things__side")
    with pytest.raises(HoleError, match="things__side: the table is gone, and with it the events"):
        Chain(tmp_path, 2, kpi=KINDS)
    assert rebuild(silver(), Lake(str(tmp_path)), "demo", print)
    Chain(tmp_path, 2, kpi=KINDS).advance(value(1, Event("upsert", 3, 2, ("b", "y"))))
    assert versions(tmp_path) == {1: [Version(("a", "x"), 1, 3), Version(("b", "y"), 3, 5)]}


def test_rows_that_another_engine_moved_are_found_by_a_late_event(tmp_path: Path) -> None:
    chain = Chain(tmp_path, kpi=KINDS)
    for number in range(1, 4):
        chain.advance(value(number, Event("upsert", 5, 0, ("a", "x"))))
    for table in ("things", "things__side"):
        DeltaTable(tmp_path / f"silver/{table}").optimize.compact()
    chain.advance(value(9, Event("delete", 1, 3)))
    chain.advance(value(1, Event("upsert", 3, 4, ("b", "y"))))
    assert versions(tmp_path)[1] == [Version(("b", "y"), 3, 5), Version(("a", "x"), 5, None)]


def test_deletes_are_forgotten_after_their_retention_and_not_before(tmp_path: Path) -> None:
    """By the times of the log, which here are the offsets, in milliseconds."""
    for retention, found in (
        (timedelta(milliseconds=3), {2: ("b", "y")}),
        (timedelta(milliseconds=2), {1: ("b", "y"), 2: ("b", "y")}),
    ):
        lake = tmp_path / str(retention.microseconds)
        things = Silver(
            "things", source=SOURCE, schema=SCHEMA, keys=["id"], sequence_by="version", tombstone_retention=retention
        )
        kpi = replace(KINDS, source=things)
        chain = Chain(lake, kpi=kpi)
        for number, version in ((1, 5), (2, 5), (3, 5), (4, 5)):
            chain.advance(value(number, Event("delete", version, 0)))
        chain = Chain(lake, 4, kpi=kpi)
        chain.advance(value(2, Event("upsert", 9, 0, ("b", "y"))), value(5, Event("delete", 1, 0)))
        chain.advance(value(1, Event("upsert", 3, 0, ("b", "y"))), value(4, Event("upsert", 3, 0, ("b", "y"))))
        assert current(lake) == found
        chain.advance(value(6, Event("delete", 1, 0)))  # and with it goes what is not needed any more
        side = pl.read_delta(str(lake / "silver/things__side"))
        assert sorted(side["id"]) == sorted({1, 3, 4, 5, 6} - found.keys())


@pytest.mark.parametrize("kept", ["scd1", "scd2"])
def test_deletes_of_a_partition_that_is_gone_are_not_forgotten(tmp_path: Path, kept: History) -> None:
    kpi = replace(KINDS, source=silver(kept))
    Chain(tmp_path, kpi=kpi).advance(value(1, Event("upsert", 1, 0, ("a", "x"))), value(1, Event("delete", 5, 1)))
    chain = Chain(tmp_path, kpi=kpi, partition=1)
    chain.advance(value(1, Event("upsert", 3, 0, ("b", "y"))), value(7, Event("delete", 1, 1)))
    chain.advance(value(1, Event("upsert", 4, 2, ("c", "y"))))
    assert current(tmp_path) == {}


def test_what_a_key_is_pieced_together_from_survives_when_another_engine_moves_it(tmp_path: Path) -> None:
    kpi = replace(KINDS, source=silver("scd1"))
    chain = Chain(tmp_path, kpi=kpi)
    chain.advance(value(1, Event("upsert", 10, 0, ("a", "m"))), partial(1, 20, kind="b"))
    chain.advance(*(value(number, Event("delete", 1, 0)) for number in range(2, 12)))
    chain.advance(*(value(number, Event("upsert", 2, 0, ("r", "s"))) for number in range(2, 12)))
    chain.advance(value(50, Event("delete", 1, 0)))
    DeltaTable(tmp_path / "silver/things__side").optimize.compact()
    chain.advance(partial(1, 30, note="n"), value(51, Event("delete", 1, 0)))
    chain.advance(value(1, Event("upsert", 15, 0, ("late", "late"))))
    assert current(tmp_path)[1] == ("b", "n")
    Chain(tmp_path, chain._next, kpi=kpi).advance(value(1, Event("delete", 25, 0)))
    (row,) = pl.read_delta(str(tmp_path / "silver/things")).filter(id=1).select("kind", "note").rows()
    assert row == (None, "n")


def test_late_events_find_rows_that_compaction_moved(tmp_path: Path) -> None:
    events = stream(random.Random(7), 240)
    chain = Chain(tmp_path, kpi=KINDS)
    for at in range(0, len(events), 3):
        chain.advance(*(value(number, event) for number, event in events[at : at + 3]))
    for table in ("silver/things", "silver/things__side"):
        assert "OPTIMIZE" in {entry["operation"] for entry in DeltaTable(tmp_path / table).history()}
    assert versions(tmp_path) == expected(events)


def test_gold_catches_up_with_a_history_from_its_change_feed(tmp_path: Path) -> None:
    events = stream(random.Random(3), 100)
    chain = Chain(tmp_path, kpi=KINDS)
    chain.advance(*(value(number, event) for number, event in events[:30]))
    with suppress(TransientError), fault("lost", tmp_path / "gold/kinds"):
        for at in range(30, 100, 10):
            chain.advance(*(value(number, event) for number, event in events[at : at + 10]))
    reached = chain._next
    Chain(tmp_path, reached, kpi=KINDS).advance(*(value(number, event) for number, event in events[reached:]))
    gold = pl.read_delta(str(tmp_path / "gold/kinds"))
    assert dict(gold.select("kind", "things").rows()) == Counter(kind for kind, _ in current(tmp_path).values())
    assert versions(tmp_path) == expected(events)


def test_a_history_in_which_another_writer_put_a_second_open_row_is_refused(tmp_path: Path) -> None:
    chain = Chain(tmp_path, kpi=KINDS)
    chain.advance(value(1, Event("upsert", 1, 0, ("a", "x"))), value(2, Event("upsert", 1, 0, ("a", "x"))))
    row = pl.read_delta(str(tmp_path / "silver/things")).filter(id=1)
    row.with_columns(valid_from=pl.lit(7)).write_delta(str(tmp_path / "silver/things"), mode="append")
    with pytest.raises(
        TableMismatchError, match=r"two rows of a key are valid at the same time, .*'valid_from': 1.* 7"
    ):
        Chain(tmp_path, 2, kpi=KINDS).advance(value(1, Event("upsert", 9, 0, ("b", "x"))))


def test_a_kpi_may_count_by_a_column_of_any_name_where_there_is_no_history(tmp_path: Path) -> None:
    flags = Silver("things", source=SOURCE, schema={"id": "int64", "is_current": "bool"}, keys=["id"])
    chain = Chain(tmp_path, kpi=Kpi("kinds", source=flags, group_by=["is_current"], measures={"things": Count()}))
    chain.advance(
        *(b'{"op": "upsert", "id": %d, "is_current": %s}' % (n, [b"true", b"false"][n % 2]) for n in range(3))
    )
    assert dict(pl.read_delta(str(tmp_path / "gold/kinds")).select("is_current", "things").rows()) == {
        True: 2,
        False: 1,
    }


def test_a_process_that_dies_between_the_two_commits_remembers_nothing_too_early(tmp_path: Path) -> None:
    chain = Chain(tmp_path, kpi=KINDS)
    chain.advance(value(1, Event("upsert", 1, 0, ("a", "x"))))
    with suppress(TransientError), fault("lost", tmp_path / "silver/things"):
        chain.advance(value(1, Event("delete", 5, 1)))
    side = str(tmp_path / "silver/things__side")
    assert pl.read_delta(side)["_op"].to_list() == ["delete"], "each attempt takes back what the one before left"
    assert versions(tmp_path) == {1: [Version(("a", "x"), 1, None)]}
    again = Chain(tmp_path, 2, kpi=KINDS)
    again.advance(value(1, Event("upsert", 3, 2, ("b", "y"))))
    assert versions(tmp_path) == {1: [Version(("a", "x"), 1, 3), Version(("b", "y"), 3, 5)]}


@pytest.mark.parametrize(
    ("declared", "first", "then", "dtype"),
    [
        ("timestamp", "2026-03-01T10:00:00Z", "2026-03-02T10:00:00.000001Z", pl.Datetime("us", "UTC")),
        ("date", "1969-12-31", "2026-03-02", pl.Date()),
        ("int16", 7, 8, pl.Int16()),
    ],
)
def test_rows_are_valid_in_the_type_of_the_sequence(
    tmp_path: Path, declared: str, first: object, then: object, dtype: pl.DataType
) -> None:
    things = Silver(
        "things",
        source=SOURCE,
        schema={"id": "int64", "at": declared, "kind": "string"},
        keys=["id"],
        sequence_by="at",
        history="scd2",
    )
    chain = Chain(tmp_path, kpi=Kpi("kinds", source=things, group_by=["kind"], measures={"things": Count()}))
    chain.advance(
        *(
            json.dumps({"op": "upsert", "id": 1, "at": at, "kind": kind}).encode()
            for at, kind in ((then, "b"), (first, "a"))
        )
    )
    rows = pl.read_delta(str(tmp_path / "silver/things")).sort("valid_from")
    assert (rows["valid_from"].dtype, rows["valid_to"].dtype) == (dtype, dtype)
    assert rows["valid_from"].to_list() == rows["at"].to_list()
    assert rows["valid_to"].to_list() == [rows["at"][1], None]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"history": "scd3"}, "history: received 'scd3', expected 'scd1' or 'scd2'. Did you mean 'scd2'"),
        ({"track": ["kind"]}, "track is for history='scd2'"),
        ({"history": "scd2", "track": ["kid"]}, "unknown column 'kid'; the table has: id, .*Did you mean 'kind'"),
        (
            {"history": "scd2", "schema": {**SCHEMA, "valid_to": "int64"}},
            "column 'valid_to' is one that history='scd2'",
        ),
        ({"history": "scd2", "name": "a__side"}, "names that end with '__side'"),
        ({"history": "scd2", "tombstone_retention": timedelta(days=1)}, "tombstone_retention is for history='scd1'"),
        (
            {"tombstone_retention": timedelta(0)},
            r"tombstone_retention=0:00:00: expected a time, as timedelta\(days=30\)",
        ),
        ({"name": "a__side_1f"}, "or have '__side_' in them, are kept for what is remembered beside a Silver table"),
        (
            {"name": "a__rebuild"},
            "names that end with '__rebuild', or have '__rebuild_' in them, are kept for rebuilds",
        ),
        ({"name": "a__rebuild_1f"}, "are kept for rebuilds"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: dict[str, object], message: str) -> None:
    whole = {"name": "things", "source": SOURCE, "schema": SCHEMA, "keys": ["id"], **declared}
    with pytest.raises(DeclarationError, match=message):
        Silver(**whole)  # type: ignore[arg-type]
