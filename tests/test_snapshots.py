"""Full snapshots as a source, through staging and Silver: one law a test."""

import json
import logging
import os
import shutil
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from flows import Silver, Snapshots
from storage.errors import SourceError, TransientError
from tests.faults import fault
from tests.histories import Event
from tests.snapshot_feed import (
    SCHEMA,
    STREAM,
    TYPES,
    A,
    B,
    C,
    Feed,
    State,
    assert_each_offset_once,
    current,
    quarantined,
    table,
    take,
    things,
    value,
    write,
    write_snapshot,
)


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


@pytest.mark.parametrize(("ids", "left"), [([1, 2], {1: ("a",), 2: ("a",)}), ([None], {})])
def test_a_snapshot_without_a_row_that_fits_deletes_the_keys_it_does_not_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ids: list[int | None], left: State
) -> None:
    write(tmp_path, 1, {1: A, 2: A})
    rows = [(number, kind, "x") for number in ids for kind in "bc"]
    pl.DataFrame(rows, pl.Schema(TYPES), orient="row").write_parquet(tmp_path / "exports/v=2.parquet")
    take(things(tmp_path), tmp_path)
    assert current(tmp_path, "kind") == left
    assert "is empty" not in caplog.text
    assert ("v=2.parquet has no row that fits: all its keys are deleted" in caplog.text) == (not left)


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


def test_refused_rows_are_in_quarantine_though_another_snapshot_comes_after_a_kill(tmp_path: Path) -> None:
    """The run ends between the commits of quarantine and of staging, and what was to be taken in is gone."""
    types = pl.Schema(TYPES)
    (tmp_path / "exports").mkdir()
    for name, kinds in (("v=1", ["a", "b"]), ("v=2", ["c", "b", "d"])):
        rows = [(None, kind, "x") for kind in kinds]
        pl.DataFrame(rows, types, orient="row").write_parquet(tmp_path / f"exports/{name}.parquet")
        feed = Feed(things(tmp_path), tmp_path)
        with suppress(TransientError), fault("lost" if name == "v=1" else None, tmp_path / "lake/staging/things"):
            feed.take()
        (tmp_path / f"exports/{name}.parquet").unlink()
    refused = table(tmp_path, "quarantine/things").sort("_offset", "headers").select("_offset", "headers", "value")
    values = [(offset, json.loads(headers)[0][1], json.loads(raw)["kind"]) for offset, headers, raw in refused.rows()]
    assert values == [
        (0, "v=1.parquet", "a"),
        (0, "v=2.parquet", "c"),
        (1, "v=1.parquet", "b"),
        (1, "v=2.parquet", "b"),
        (2, "v=2.parquet", "d"),
    ]
    staged = table(tmp_path, "staging/things").sort("_offset").select("_offset", "_op", "_sequence").rows()
    assert staged == [(0, "quarantined", 2), (1, "quarantined", 2), (2, "quarantined", 2), (3, "dropped", 2)]


def test_a_snapshot_with_other_columns_is_refused_as_a_whole_and_the_next_one_taken(tmp_path: Path) -> None:
    write(tmp_path, 1, {1: A, 2: A})
    pl.DataFrame({"id": [1], "nite": ["x"], "kind": [5]}).write_parquet(tmp_path / "exports/v=2.parquet")
    write(tmp_path, 3, {2: B})
    take(things(tmp_path, history="scd2"), tmp_path)
    staged = table(tmp_path, "staging/things")
    assert staged.filter(_sequence=2)["_op"].to_list() == ["quarantined"]
    problems = "column 'kind' is int64, expected string; column 'note' is missing; found id, nite, kind"
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


@pytest.mark.parametrize("stream_first", [True, False])
def test_at_one_sequence_the_stream_wins_whichever_came_first(tmp_path: Path, stream_first: bool) -> None:  # noqa: FBT001
    """Both events have sequence 0 and offset 0."""
    initial = Snapshots(str(tmp_path / "exports"), versions="v={integer}.parquet")
    silver = Silver("things", source=STREAM, initial=initial, schema=SCHEMA, keys=["id"])
    write(tmp_path, 0, {1: A})
    for is_stream in (stream_first, not stream_first):
        feed = Feed(silver, tmp_path)
        if is_stream:
            feed.stream([value(Event("upsert", 0, 0, B), 1)])
        else:
            feed.take()
    assert current(tmp_path, "kind", "note") == {1: B}


def test_a_snapshot_is_compared_when_the_one_before_it_is_merged(tmp_path: Path) -> None:
    """Earlier, it would be compared with a part of it."""
    write(tmp_path, 1, {1: A, 2: A})
    write(tmp_path, 2, {2: A})
    feed = Feed(things(tmp_path), tmp_path, rows=100)
    first = feed.batches(2)
    assert [batch.range.end for batch in first] == [2, 3]
    assert feed.batches(1, wait=0.5) == []
    feed.merge(first)
    (deletes,) = feed.batches(1)
    assert deletes.events["_op"].to_list() == ["delete"]


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


def test_a_key_that_comes_back_at_the_sequence_it_was_deleted_at_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At one sequence a delete wins."""
    types = {"id": pl.Int64(), "kind": pl.String(), "note": pl.String(), "lsn": pl.Int64()}
    initial = Snapshots(str(tmp_path / "exports"), versions="v={integer}.parquet")
    schema = {**SCHEMA, "lsn": "int64"}
    silver = Silver("things", source=STREAM, initial=initial, schema=schema, keys=["id"], sequence_by="lsn")
    states: list[State] = [
        {1: (*A, 5), 2: (*A, 5), 3: (*A, 5), 4: (*A, 5)},
        {1: (*A, 5)},
        {1: (*B, 6), 2: (*A, 5), 3: (*A, 6), 4: (*A, 4)},
    ]
    for version, state in enumerate(states):
        write_snapshot(tmp_path / f"exports/v={version}.parquet", state, types)
    take(silver, tmp_path)
    assert current(tmp_path, "lsn") == {1: (6,), 3: (6,)}
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == (
        f"{tmp_path}/exports: snapshot v=2.parquet: 2 rows do not come back, the first of id=2: their sequence is not "
        "above the one at which an earlier snapshot lost them, and at one sequence a delete wins. Give rows that come "
        "back a greater one"
    )


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
