"""Full snapshots as a source, through staging and Silver, with processes that end anywhere and start again."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import EventLog, Json, Silver, Snapshots
from flows.history import History
from operators.schema import DeclarationError
from storage.errors import SourceError, TransientError
from tests.faults import Outcome, fault
from tests.histories import Event, history
from tests.snapshot_feed import (
    CrashError,
    Feed,
    State,
    assert_each_offset_once,
    current,
    table,
    versions,
    write_snapshot,
)

SCHEMA = {"id": "int64", "kind": "string", "note": "string"}
TYPES: dict[str, pl.DataType] = {"id": pl.Int64(), "kind": pl.String(), "note": pl.String()}
STREAM = EventLog("things", format=Json(operation="op"))

A, B, C = ("a", "x"), ("b", "y"), ("c", None)


def things(root: Path, versions: str | int = "v={integer}.parquet", history: History = "scd1", **more: Any) -> Silver:
    source = Snapshots(str(root / "exports"), versions=versions)
    return Silver("things", source=source, schema=SCHEMA, keys=["id"], history=history, **more)


def write(root: Path, version: int, state: State) -> None:
    write_snapshot(root / f"exports/v={version}.parquet", state, TYPES)


def events_between(before: State, after: State, version: int) -> Iterator[tuple[int, Event]]:
    """Yield what makes one snapshot into the next, as dull Python."""
    for key in sorted({*before, *after}):
        if key not in after:
            yield key, Event("delete", version, 0)
        elif before.get(key) != after[key]:
            yield key, Event("upsert", version, 0, after[key])


_states = st.dictionaries(st.integers(0, 9), st.sampled_from([A, B, C]))
_crashes = st.none() | st.tuples(st.integers(1, 6), st.booleans())


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(_states, st.booleans(), _crashes), min_size=1, max_size=6), st.sampled_from(["scd1", "scd2"]))
def test_any_snapshots_and_any_crashes_give_the_newest_snapshot_and_its_history(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[State, bool, tuple[int, bool] | None]],
    kind: History,
) -> None:
    """A snapshot is older than one that was taken in, or newer; an older one is refused, and said so once."""
    root = tmp_path_factory.mktemp("snapshots")
    silver, newest, held = things(root, history=kind), 0, dict[int, Any]()
    events: dict[int, list[Event]] = {}
    late: list[int] = []
    crashed = True
    for state, is_late, crash in steps:
        if is_late and not crashed:
            late.append(newest - 1 - len(late) % 10)
        else:
            newest += 100
            for key, event in events_between(held, state, newest):
                events.setdefault(key, []).append(event)
            held = {**state}
        write(root, late[-1] if is_late and not crashed else newest, state)
        try:
            Feed(silver, root).take(*([crash[0]] if crash else []), merge_last=not crash or crash[1])
            crashed = False
        except CrashError:
            crashed = True
    Feed(silver, root).take()
    assert_each_offset_once(table(root, "staging/things"))
    if kind == "scd1":
        assert current(root, "kind", "note") == held
    else:
        made = {key: history(own, 2, [0, 1]) for key, own in events.items()}
        assert versions(root, "kind", "note") == made
    refused = [(json.loads(row["headers"]), row["value"]) for row in table(root, "quarantine/things").to_dicts()]
    names = {f"v={version}.parquet" for version in late}
    assert sorted(value.decode() for _, value in refused) == sorted(names)
    assert all(headers == [["snapshot", value.decode()]] for headers, value in refused)


def value(event: Event, key: int, **more: int) -> bytes:
    kind, note = event.row or ("", "")
    return json.dumps({"op": event.op, "id": key, "kind": kind, "note": note, **more}).encode()


_streamed = st.tuples(
    st.just("stream"), st.integers(0, 4), st.sampled_from(["upsert", "upsert", "delete"]), st.sampled_from([A, B, C])
)
_taken = st.tuples(st.just("snapshot"), _states, st.integers(-1, 12), st.none() | st.integers(1, 3))


@settings(deadline=None, max_examples=15)
@given(st.lists(_streamed | _taken, min_size=2, max_size=14), st.sampled_from(["scd1", "scd2"]))
def test_snapshots_beside_a_stream_in_any_order_are_events_like_any_other(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], kind: History
) -> None:
    """The stream's sequence is its position, and a snapshot says with its version up to which it knows the stream."""
    root = tmp_path_factory.mktemp("beside")
    initial = Snapshots(str(root / "exports"), versions="v={integer}.parquet")
    silver = Silver("things", source=STREAM, initial=initial, schema=SCHEMA, keys=["id"], history=kind)
    (root / "exports").mkdir()
    events: dict[int, list[Event]] = {}
    streamed, newest, held = 0, -1, dict[int, Any]()
    for step in steps:
        if step[0] == "stream":
            _, key, op, row = step
            event = Event(op, streamed, 1_000 + streamed, row if op == "upsert" else ())
            Feed(silver, root).stream([value(event, key)])
            events.setdefault(key, []).append(event)
            streamed += 1
            continue
        _, state, more, crash = step
        newest = max(newest + 1, more)
        for key, event in events_between(held, state, newest):
            events.setdefault(key, []).append(event)
        held = {**state}
        write(root, newest, state)
        with suppress(CrashError):
            Feed(silver, root).take(*([crash] if crash else []))
        Feed(silver, root).take()
    assert_each_offset_once(table(root, "staging/things"))
    made = {key: found for key, own in events.items() if (found := history(own, 2, [0, 1]))}
    if kind == "scd2":
        assert versions(root, "kind", "note") == made
    else:
        open_rows = {key: own[-1].row for key, own in made.items() if own[-1].valid_to is None}
        assert current(root, "kind", "note") == open_rows


def take(silver: Silver, root: Path) -> None:
    Feed(silver, root).take()


def quarantined(root: Path) -> list[tuple[str, str]]:
    rows = table(root, "quarantine/things").sort("_offset").select("value", "reason", "stage").rows()
    assert all(stage == "snapshot" for _, _, stage in rows)
    return [(value.decode(), reason) for value, reason, _ in rows]


def test_a_row_says_which_snapshot_it_comes_from(tmp_path: Path) -> None:
    write(tmp_path, 7, {1: A, 2: A})
    os.utime(tmp_path / "exports/v=7.parquet", (1_700_000_000.25, 1_700_000_000.25))
    take(things(tmp_path), tmp_path)
    write(tmp_path, 9, {2: B, 3: C})
    take(things(tmp_path), tmp_path)
    staged = table(tmp_path, "staging/things").sort("_offset")
    assert staged.select("_topic", "_partition", "_offset", "_op", "_sequence", "id", "kind").rows() == [
        ("exports", -1, 0, "upsert", 7, 1, "a"),
        ("exports", -1, 1, "upsert", 7, 2, "a"),
        ("exports", -1, 2, "dropped", 7, None, None),
        ("exports", -1, 3, "delete", 9, 1, None),
        ("exports", -1, 4, "upsert", 9, 2, "b"),
        ("exports", -1, 5, "upsert", 9, 3, "c"),
        ("exports", -1, 6, "dropped", 9, None, None),
    ]
    assert staged["_changed_at"][0] == datetime.fromtimestamp(1_700_000_000.25, UTC)
    silver = table(tmp_path, "silver/things").sort("id")
    assert silver.select("id", "kind", "_sequence", "_offset").rows() == [(2, "b", 9, 4), (3, "c", 9, 5)]


def test_all_snapshots_that_are_there_are_taken_in_by_version(tmp_path: Path) -> None:
    for version, state in ((10, {1: B}), (9, {1: A, 2: A}), (8, {})):
        write(tmp_path, version, state)
    take(things(tmp_path, history="scd2"), tmp_path)
    rows = table(tmp_path, "silver/things").sort("id", "valid_from").select("id", "kind", "valid_from", "valid_to")
    assert rows.rows() == [(1, "a", 9, 10), (1, "b", 10, None), (2, "a", 9, 10)]


def test_a_late_snapshot_is_refused_once_and_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, 5, {1: A})
    take(things(tmp_path), tmp_path)
    write(tmp_path, 4, {2: B})
    for _ in range(2):
        take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {1: A}
    assert quarantined(tmp_path) == [("v=4.parquet", "version 4 came after 5 was taken in")]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == [f"{tmp_path}/exports: snapshot v=4.parquet is not taken in: version 4 came after 5 was taken in"]


def test_an_empty_snapshot_deletes_everything_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, 1, {1: A, 2: A})
    write(tmp_path, 2, {})
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind") == {}
    assert "snapshot v=2.parquet is empty: all its keys are deleted" in caplog.text


def test_a_refused_row_is_in_quarantine_and_its_key_stays_as_it_was(tmp_path: Path) -> None:
    """Also when the run ends between the commits of quarantine and of staging."""
    write(tmp_path, 1, {1: A, 2: A, 3: A})
    take(things(tmp_path), tmp_path)
    rows = [(1, "b", "y"), (1, "b", "z"), (None, "a", "x"), (3, "b", "y"), (4, "a", "x"), (4, "a", "x")]
    pl.DataFrame(rows, pl.Schema(TYPES), orient="row").write_parquet(tmp_path / "exports/v=2.parquet")
    with suppress(TransientError), fault("lost", tmp_path / "lake/staging/things"):
        Feed(things(tmp_path), tmp_path, rows=100).take()
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {1: A, 3: B, 4: A}
    reason = "its key has different rows in this snapshot, expected one"
    assert quarantined(tmp_path) == [
        ('{"id": null, "kind": "a", "note": "x"}', "column 'id': received NULL, expected a value"),
        ('{"id": 1, "kind": "b", "note": "y"}', reason),
        ('{"id": 1, "kind": "b", "note": "z"}', reason),
    ]
    assert_each_offset_once(table(tmp_path, "staging/things"))


def test_a_snapshot_with_other_columns_is_refused_as_a_whole_and_the_next_one_taken(tmp_path: Path) -> None:
    write(tmp_path, 1, {1: A, 2: A})
    pl.DataFrame({"id": [1], "kind": [5]}).write_parquet(tmp_path / "exports/v=2.parquet")
    write(tmp_path, 3, {2: B})
    take(things(tmp_path, history="scd2"), tmp_path)
    problems = "column 'kind' is Int64, expected String; column 'note' is missing; found id, kind"
    assert quarantined(tmp_path) == [("v=2.parquet", f"{problems}. Write it anew, as a later version")]
    rows = table(tmp_path, "silver/things").sort("id", "valid_from").select("id", "valid_from", "valid_to").rows()
    assert rows == [(1, 1, 3), (2, 1, 3), (2, 3, None)]


def test_a_snapshot_that_cannot_be_read_yet_is_looked_at_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a file, or a directory of which a part is missing, must not look like deletes."""
    write(tmp_path, 1, {1: A, 2: A, 3: A})
    write(tmp_path, 2, {1: B})
    whole = (tmp_path / "exports/v=2.parquet").read_bytes()
    (tmp_path / "exports/v=2.parquet").write_bytes(whole[:-9])
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {1: A, 2: A, 3: A}
    assert "v=2.parquet: it cannot be read" in caplog.text
    assert "not taken in; looked at again later" in caplog.text
    (tmp_path / "exports/v=2.parquet").write_bytes(whole)
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {1: B}


def test_a_name_without_a_version_is_passed_over_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, 1, {1: A})
    shutil.copy(tmp_path / "exports/v=1.parquet", tmp_path / "exports/latest.parquet")
    take(things(tmp_path), tmp_path)
    assert "exports/latest.parquet: passed over: its name does not say a version as declared" in caplog.text


@pytest.mark.parametrize("outcome", ["lost", "unanswered", "unsure"])
@pytest.mark.parametrize("broken", ["staging/things", "silver/things", "silver/things__side", "quarantine/things"])
def test_a_commit_that_raised_changes_no_row(tmp_path: Path, broken: str, outcome: Outcome) -> None:
    silver = things(tmp_path, history="scd2", track=["kind"])
    states: list[State] = [{1: A, 2: A, 3: A, 4: A}, {1: B, 2: ("a", "z"), 4: A}, {1: B, 3: C}, {1: A, 2: C}]
    for version, state in enumerate(states):
        write(tmp_path, version, state)
        if not version:
            take(silver, tmp_path)
            continue
        pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "exports/v=99.parquet")
        with suppress(TransientError), fault(outcome, tmp_path / "lake" / broken, times=1 + version % 2):
            take(silver, tmp_path)
        (tmp_path / "exports/v=99.parquet").unlink()
    take(silver, tmp_path)
    events: dict[int, list[Event]] = {}
    for version, (before, after) in enumerate(zip([{}, *states], states, strict=False)):
        for key, event in events_between(before, after, version):
            events.setdefault(key, []).append(event)
    assert versions(tmp_path, "kind", "note") == {key: history(own, 2, [0]) for key, own in events.items()}
    assert_each_offset_once(table(tmp_path, "staging/things"))
    assert [value for value, _ in quarantined(tmp_path)] == ["v=99.parquet"]


def test_lost_tables_come_back_from_staging_though_the_files_are_gone(tmp_path: Path) -> None:
    write(tmp_path, 1, {1: A, 2: A})
    write(tmp_path, 2, {1: B})
    take(things(tmp_path), tmp_path)
    shutil.rmtree(tmp_path / "lake/silver/things")
    shutil.rmtree(tmp_path / "exports")
    (tmp_path / "exports").mkdir()
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {1: B}
    write(tmp_path, 3, {3: C})
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {3: C}


def test_a_column_that_was_added_is_filled_by_the_next_snapshot(tmp_path: Path) -> None:
    write(tmp_path, 1, {1: A})
    narrow = Silver("things", source=things(tmp_path).source, schema={"id": "int64", "kind": "string"}, keys=["id"])
    take(narrow, tmp_path)
    write(tmp_path, 2, {1: A})
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind", "note") == {1: A}


def test_one_snapshot_alone_may_go_when_it_was_taken_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    initial = Snapshots(str(tmp_path / "exports/whole"), versions=-1)
    silver = Silver("things", source=STREAM, initial=initial, schema=SCHEMA, keys=["id"])
    rows = pl.DataFrame([(1, *A), (2, *A)], pl.Schema(TYPES), orient="row")
    (tmp_path / "exports/whole").mkdir(parents=True)
    rows.write_parquet(tmp_path / "exports/whole/part-0.parquet")
    Feed(silver, tmp_path).stream([value(Event("upsert", 0, 0, B), 1)])
    take(silver, tmp_path)
    assert "exports/whole: no complete snapshot is here yet" in caplog.text
    (tmp_path / "exports/whole/_SUCCESS").touch()
    take(silver, tmp_path)
    assert current(tmp_path, "kind", "note") == {1: B, 2: A}
    shutil.rmtree(tmp_path / "exports")
    take(silver, tmp_path)
    assert current(tmp_path, "kind", "note") == {1: B, 2: A}


def test_rows_with_a_sequence_of_their_own_keep_it_and_a_delete_takes_only_the_row_it_knows(tmp_path: Path) -> None:
    """The stream deleted 1 and changed 3 before the first snapshot, which was older, came."""
    schema = {"id": "int64", "lsn": "int64", "kind": "string", "note": "string"}
    types = {"id": pl.Int64(), "lsn": pl.Int64(), "kind": pl.String(), "note": pl.String()}
    initial = Snapshots(str(tmp_path / "exports"))
    silver = Silver("things", source=STREAM, initial=initial, schema=schema, keys=["id"], sequence_by="lsn")
    streamed = [value(Event("delete", 0, 0), 1, lsn=20), value(Event("upsert", 0, 0, C), 3, lsn=21)]
    Feed(silver, tmp_path).stream(streamed)
    write_snapshot(tmp_path / "exports/a.parquet", {1: (5, *A), 2: (6, *A), 3: (7, *A), 4: (8, *A), 5: (9, *A)}, types)
    take(silver, tmp_path)
    assert current(tmp_path, "lsn", "kind") == {2: (6, "a"), 3: (21, "c"), 4: (8, "a"), 5: (9, "a")}
    Feed(silver, tmp_path).stream([value(Event("upsert", 0, 0, B), 5, lsn=30)])
    write_snapshot(tmp_path / "exports/b.parquet", {2: (6, *A), 3: (7, *A)}, types)
    os.utime(tmp_path / "exports/b.parquet", (4e9, 4e9))
    take(silver, tmp_path)
    assert current(tmp_path, "lsn", "kind") == {2: (6, "a"), 3: (21, "c"), 5: (30, "b")}


@pytest.mark.parametrize(
    ("pattern", "names", "dtype", "expected"),
    [
        (
            "{date}.parquet",
            ["2026-02-28.parquet", "20260301.parquet"],
            pl.Date(),
            [date(2026, 2, 28), date(2026, 3, 1)],
        ),
        (
            "at {timestamp}.parquet",
            ["at 2026-03-01T10:00:00Z.parquet", "at 20260301T100001.parquet"],
            pl.Datetime("us", "UTC"),
            [datetime(2026, 3, 1, 10, tzinfo=UTC), datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC)],
        ),
        (
            "arrival",
            ["b.parquet", "a.parquet"],
            pl.Datetime("us", "UTC"),
            [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), datetime(2023, 11, 14, 22, 13, 21, tzinfo=UTC)],
        ),
    ],
)
def test_rows_are_valid_in_the_type_of_the_versions(
    tmp_path: Path, pattern: str, names: list[str], dtype: pl.DataType, expected: list[object]
) -> None:
    for number, (name, state) in enumerate(zip(names, [{1: A}, {1: B}], strict=True)):
        write_snapshot(tmp_path / "exports" / name, state, TYPES)
        os.utime(tmp_path / "exports" / name, (1_700_000_000 + number, 1_700_000_000 + number))
    take(things(tmp_path, versions=pattern, history="scd2"), tmp_path)
    rows = table(tmp_path, "silver/things").sort("valid_from")
    assert rows["valid_from"].dtype == dtype
    assert rows.select("kind", "valid_from", "valid_to").rows() == [("a", *expected), ("b", expected[1], None)]


def test_a_delta_table_of_which_every_version_that_changes_rows_is_a_snapshot(tmp_path: Path) -> None:
    def overwrite(state: State) -> None:
        rows = pl.DataFrame([(key, *row) for key, row in state.items()], pl.Schema(TYPES), orient="row")
        rows.write_delta(tmp_path / "exports", mode="overwrite")

    silver = things(tmp_path, versions="delta", history="scd2")
    overwrite({9: A})
    overwrite({1: A, 2: A})
    take(silver, tmp_path)
    overwrite({1: B, 2: A})
    overwrite({1: B})
    take(silver, tmp_path)
    rows = table(tmp_path, "silver/things").sort("id", "valid_from").select("id", "kind", "valid_from", "valid_to")
    assert rows.rows() == [(1, "a", 1, 2), (1, "b", 2, None), (2, "a", 1, 3)]
    shutil.rmtree(tmp_path / "exports")
    overwrite({1: B})
    with pytest.raises(SourceError, match="the table is at version 0, expected at least 3"):
        take(silver, tmp_path)


SOURCE = Snapshots("exports")
BY_LSN = Snapshots("exports", versions="lsn={integer}")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"source": SOURCE, "initial": BY_LSN}, "initial is for a source of change events"),
        ({"source": SOURCE, "sequence_by": "note"}, "sequence_by='note': the sequence of snapshots is their version"),
        (
            {"initial": SOURCE},
            "its versions cannot be compared with the sequence of the stream, the position. Expected",
        ),
        ({"initial": Snapshots("exports", versions="delta")}, "its versions cannot be compared"),
        ({"initial": Snapshots("exports", versions="{date}")}, "its versions cannot be compared"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: dict[str, Any], message: str) -> None:
    whole = {"source": STREAM, "schema": SCHEMA, "keys": ["id"], **declared}
    with pytest.raises(DeclarationError, match=message):
        Silver("things", **whole)


def test_snapshots_that_cannot_be_are_refused() -> None:
    with pytest.raises(DeclarationError, match="expected a path that ends with a name"):
        Snapshots("/")
    with pytest.raises(DeclarationError, match="expected a pattern of names with one of"):
        Snapshots("exports", versions="newest")
    with pytest.raises(DeclarationError, match="versions of a Delta table are always whole"):
        Snapshots("exports", versions="delta", marker=None)


def test_versions_that_are_comparable_are_taken_beside_a_stream() -> None:
    for initial, sequence_by in ((BY_LSN, None), (Snapshots("exports", versions=0), None), (SOURCE, "id")):
        Silver("things", source=STREAM, initial=initial, schema=SCHEMA, keys=["id"], sequence_by=sequence_by)
