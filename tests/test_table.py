"""Owned tables, merges, the change feed and staging on real Delta tables."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import staging
from storage.change_feed import read_changes
from storage.errors import (
    CommitRaceError,
    FencedError,
    HoleError,
    TableMismatchError,
    TransientError,
    UnreadableTableError,
    UnwritableError,
)
from storage.merge_writer import MergeResult, RewriteMergeWriter, RowChanges
from storage.owned_table import LEDGER, Commit, OwnedTable, read_positions
from storage.positions import Range
from storage.staging import read_deletes, read_range
from storage.table_declaration import Declaration, check_table

if TYPE_CHECKING:
    from collections.abc import Callable

Row = tuple[Any, ...]
ROOMS = pl.Schema({'Room "No"': pl.String(), "the floor's": pl.Int64(), "GUEST": pl.String()})
KEYS = ROOMS.names()[:2]


def arrow(schema: pl.Schema) -> pa.Schema:
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema


def declared(schema: pl.Schema, pipeline: str = "hotel", definition: str = "", **more: bool) -> Declaration:
    return Declaration(arrow(schema), pipeline, definition, **more)


def rooms(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(rows, ROOMS, orient="row")


def open_rooms(path: Path) -> OwnedTable:
    return OwnedTable(str(path), declared(ROOMS, change_feed=True))


def held(path: Path) -> list[Row]:
    """Return the rows as any reader sees them."""
    return sorted(pl.read_delta(str(path)).rows(), key=repr)


def changes(
    inserted: list[Row] | None = None, updated: list[tuple[Row, Row]] | None = None, deleted: list[Row] | None = None
) -> RowChanges:
    pairs = updated or []
    return RowChanges(
        rooms(*inserted or []),
        rooms(*(old for old, _ in pairs)),
        rooms(*(new for _, new in pairs)),
        rooms(*deleted or []),
    )


def test_rows_positions_and_ledger_are_one_commit_and_reopening_finds_the_positions(tmp_path: Path) -> None:
    table = open_rooms(tmp_path / "rooms")
    assert table.positions(["desk/0", "desk/1"]) == {}
    table.append(rooms(("1a", 1, "Ada")), Commit({"desk/0": 5}, {"read": 1}))
    table.append(rooms(), Commit({"desk/1": 7}, {"read": 0}))
    table.append(rooms(("1b", 1, None)), Commit({"desk/0": 6, "desk/1": 9}, {"read": 3}))

    told = []
    for commit in reversed(DeltaTable(tmp_path / "rooms").history()):
        then = DeltaTable(tmp_path / "rooms", version=commit["version"])
        positions = [then.transaction_version(f"hotel/desk/{partition}") for partition in (0, 1)]
        told.append((pl.read_delta(then).height, positions, commit.get(LEDGER)))
    assert told == [
        (0, [None, None], None),
        (1, [5, None], '{"read":1}'),
        (1, [5, 7], '{"read":0}'),
        (2, [6, 9], '{"read":3}'),
    ]
    assert open_rooms(tmp_path / "rooms").positions(["desk/0", "desk/1", "bar/0"]) == {"desk/0": 6, "desk/1": 9}
    assert read_positions(str(tmp_path / "rooms"), "hotel", ["desk/0", "bar/0"]) == {"desk/0": 6}
    assert read_positions(str(tmp_path / "rooms"), "motel", ["desk/0"]) == {}, "positions are a pipeline's own"
    assert read_positions(str(tmp_path / "nothing"), "hotel", ["desk/0"]) == {}


@pytest.mark.parametrize("what", ["append", "positions only", "merge"])
def test_an_older_owner_stops_once_a_newer_one_has_committed(tmp_path: Path, what: str) -> None:
    older = open_rooms(tmp_path / "rooms")
    older.append(rooms(("1a", 1, "Ada")), Commit({"desk/0": 1}))
    newer = open_rooms(tmp_path / "rooms")
    older.append(rooms(("1b", 1, "Bob")), Commit({"desk/0": 2}))
    with pytest.raises(CommitRaceError):  # it is the newer one, but did not see what the older one wrote since
        newer.append(rooms(("1b", 1, "Bob")), Commit({"desk/0": 2}))
    newer = open_rooms(tmp_path / "rooms")
    newer.append(rooms(("2a", 2, "Cyd")), Commit({"desk/0": 3}))
    late = changes(updated=[(("1a", 1, "Ada"), ("1a", 1, "Zoe"))])
    act: dict[str, Callable[[], object]] = {
        "append": lambda: older.append(rooms(("9z", 9, "Zoe")), Commit({"desk/0": 4})),
        "positions only": lambda: older.append(rooms(), Commit({"desk/0": 4})),
        "merge": lambda: RewriteMergeWriter(older, KEYS).merge(late, Commit({"desk/0": 4})),
    }
    for _ in range(2):
        with pytest.raises(FencedError, match=r"owner epoch \d+ is newer than ours, \d+: another process of .*'hotel'"):
            act[what]()
    assert held(tmp_path / "rooms") == [("1a", 1, "Ada"), ("1b", 1, "Bob"), ("2a", 2, "Cyd")]
    assert newer.positions(["desk/0"]) == {"desk/0": 3}


@pytest.mark.parametrize("foreign", ["append", "optimize"])
@pytest.mark.parametrize("ours", ["append", "merge"])
def test_a_race_with_a_foreign_commit_is_an_error_that_loses_nothing(tmp_path: Path, foreign: str, ours: str) -> None:
    table = open_rooms(tmp_path / "rooms")
    table.append(rooms(("1a", 1, "Ada")), Commit({"desk/0": 1}))
    table.append(rooms(("1b", 1, "Bob")), Commit({"desk/0": 2}))
    expected = {("1a", 1, "Ada"), ("1b", 1, "Bob")}
    if foreign == "append":
        write_deltalake(tmp_path / "rooms", rooms(("7x", 7, "foreign")), mode="append")
        expected.add(("7x", 7, "foreign"))
    else:
        assert DeltaTable(tmp_path / "rooms").optimize.compact()["numFilesRemoved"] == 2
    change = {
        "append": changes(inserted=[("2a", 2, "Cyd")]),
        "merge": changes(updated=[(("1a", 1, "Ada"), ("1a", 1, "Zoe"))]),
    }[ours]
    with pytest.raises(CommitRaceError):
        RewriteMergeWriter(table, KEYS).merge(change, Commit({"desk/0": 3}))
    assert set(held(tmp_path / "rooms")) == expected

    again = open_rooms(tmp_path / "rooms")
    assert again.positions(["desk/0"]) == {"desk/0": 2}, "so ours did not happen"
    RewriteMergeWriter(again, KEYS).merge(change, Commit({"desk/0": 3}))
    expected -= set(change.updated_from.rows())
    assert set(held(tmp_path / "rooms")) == expected | set(change.inserted.rows()) | set(change.updated_to.rows())


def test_a_commit_that_is_followed_too_quickly_to_be_sure_is_found_by_its_positions(tmp_path: Path) -> None:
    table = open_rooms(tmp_path / "rooms")

    def ours_then_foreign() -> None:
        row, properties = rooms(("1a", 1, "Ada")), table.properties(Commit({"desk/0": 1}))
        write_deltalake(table.handle, row, mode="append", commit_properties=properties)
        write_deltalake(tmp_path / "rooms", rooms(("7x", 7, "foreign")), mode="append")

    with pytest.raises(CommitRaceError, match="expected version 1 after our commit, found 2"):
        table.committing(ours_then_foreign)
    assert open_rooms(tmp_path / "rooms").positions(["desk/0"]) == {"desk/0": 1}


def test_a_write_that_fails_is_transient_because_its_outcome_is_unknown(tmp_path: Path) -> None:
    table = open_rooms(tmp_path / "rooms")
    table.append(rooms(), Commit({}))

    def broken() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(TransientError, match=r"rooms: the outcome of a commit is unknown.*No space left"):
        table.committing(broken)
    open_rooms(tmp_path / "rooms").append(rooms(), Commit({}))
    with pytest.raises(FencedError):  # it must not come back as the newest owner
        table.committing(broken)


def test_a_table_with_other_columns_is_refused_and_they_are_named(tmp_path: Path) -> None:
    open_rooms(tmp_path / "rooms")
    other = pl.Schema({'Room "No"': pl.String(), "the floor's": pl.Int32(), "price": pl.Decimal(9, 2)})
    columns = (
        "the floor's: found long, declared integer; price: found nothing, declared decimal.9,2.; GUEST: found string"
    )
    with pytest.raises(TableMismatchError, match=columns):
        OwnedTable(str(tmp_path / "rooms"), declared(other))
    with pytest.raises(TableMismatchError, match=columns):
        check_table(str(tmp_path / "rooms"), declared(other))
    check_table(str(tmp_path / "rooms"), declared(ROOMS))


def test_a_table_that_another_pipeline_or_declaration_made_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "rooms")
    OwnedTable(uri, declared(ROOMS, definition="keys GUEST")).append(rooms(("1a", 1, "Ada")), Commit({"desk/0": 1}))
    with pytest.raises(TableMismatchError, match="pipeline 'motel' has not written"):
        OwnedTable(uri, declared(ROOMS, pipeline="motel", definition="keys GUEST"))
    with pytest.raises(TableMismatchError, match=r"made by another declaration than \(keys Room\)"):
        check_table(uri, declared(ROOMS, definition="keys Room"))
    assert OwnedTable(uri, declared(ROOMS, definition="keys GUEST")).is_current
    assert not OwnedTable(uri, declared(ROOMS, definition="keys Room", derived=True)).is_current


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    open_rooms(tmp_path / "rooms")
    (tmp_path / "rooms/_delta_log/00000000000000000000.json").write_text("{")
    with pytest.raises(UnreadableTableError, match="rooms: the Delta log cannot be read"):
        open_rooms(tmp_path / "rooms")


@pytest.mark.parametrize("where", ["a file", "/proc/nowhere"])
def test_a_lake_that_cannot_be_written_says_so_before_anything_starts(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").touch()
    lake = str(tmp_path / where / "rooms")
    with pytest.raises(UnwritableError, match=r"cannot write here .*Set GOLDWAX_LAKE"):
        OwnedTable(lake, declared(ROOMS))
    with pytest.raises(UnwritableError, match=r"cannot write here .*Set GOLDWAX_LAKE"):
        check_table(lake, declared(ROOMS))


def test_the_processes_of_a_cluster_may_look_at_the_same_time(tmp_path: Path) -> None:
    def look(_: int) -> None:
        check_table(str(tmp_path / "rooms"), declared(ROOMS))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(400)))


def test_checking_a_table_that_is_not_there_leaves_no_table_behind(tmp_path: Path) -> None:
    check_table(str(tmp_path / "lake" / "rooms"), declared(ROOMS))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_merges_write_what_they_say_and_the_change_feed_gives_it_back(tmp_path: Path) -> None:
    """NULL and composite keys, and column names with spaces, quotes and capitals."""
    path = tmp_path / "rooms"
    writer = RewriteMergeWriter(open_rooms(path), KEYS)
    ada: Row = ("1a", 1, "Ada")
    bob: Row = ("1a", None, "Bob")
    cyd: Row = (None, 1, "Cyd")
    dan: Row = (None, None, None)
    history = [
        changes(inserted=[ada, bob, cyd, dan]),
        changes(updated=[(bob, ("1a", None, None)), (dan, (None, None, "Dan"))]),
        changes(),
        changes(
            inserted=[("", 0, "Eve")],
            updated=[(("1a", None, None), ("1a", None, "bob"))],
            deleted=[ada, (None, None, "Dan")],
        ),
        changes(deleted=[cyd]),
        changes(inserted=[ada]),
    ]
    told = []
    for position, change in enumerate(history, start=1):
        done = writer.merge(change, Commit({"desk/0": position}, {"read": position}))
        told.append((*_counts(done), held(path)))
        assert read_positions(str(path), "hotel", ["desk/0"]) == {"desk/0": position}
    bob, dan, eve = ("1a", None, "bob"), (None, None, "Dan"), ("", 0, "Eve")
    assert told == [
        # inserted, updated, deleted, version
        (4, 0, 0, 1, [ada, ("1a", None, "Bob"), cyd, (None, None, None)]),
        (0, 2, 0, 2, [ada, ("1a", None, None), cyd, dan]),
        (0, 0, 0, 3, [ada, ("1a", None, None), cyd, dan]),
        (1, 1, 2, 4, [eve, bob, cyd]),
        (0, 0, 1, 5, [eve, bob]),
        (1, 0, 0, 6, [eve, ada, bob]),
    ]
    for start in range(len(history)):
        for end in range(start + 1, len(history) + 1):
            images = read_changes(str(path), start, end, ROOMS)
            gone = [
                row for change in history[start:end] for row in (*change.updated_from.rows(), *change.deleted.rows())
            ]
            came = [
                row for change in history[start:end] for row in (*change.updated_to.rows(), *change.inserted.rows())
            ]
            assert sorted(images.before.rows(), key=repr) == sorted(gone, key=repr)
            assert sorted(images.after.rows(), key=repr) == sorted(came, key=repr)
    with pytest.raises(HoleError, match="the changes of versions 7 to 9 cannot be read"):
        read_changes(str(path), 6, 9, ROOMS)


def _counts(done: MergeResult) -> Row:
    assert (done.from_version, done.seconds > 0) == (done.version - 1, True)
    return done.inserted, done.updated, done.deleted, done.version


def test_a_table_stays_right_over_many_commits_of_one_owner(tmp_path: Path) -> None:
    """More than twice as many as one handle is used for; reopened tables read checkpoints."""
    path = tmp_path / "rooms"
    table = open_rooms(path)
    writer = RewriteMergeWriter(table, KEYS)
    guest = ("1a", 1, "0")
    writer.merge(changes(inserted=[guest]), Commit({"desk/0": 0}))
    handles = {id(table.handle): table.handle}
    for number in range(1, 25):
        after = ("1a", 1, str(number))
        change = changes() if number % 5 == 0 else changes([(str(number), 2, None)], [(guest, after)])
        writer.merge(change, Commit({"desk/0": number}))
        guest = guest if number % 5 == 0 else after
        handles[id(table.handle)] = table.handle
    expected = sorted([guest, *((str(number), 2, None) for number in range(1, 25) if number % 5)], key=repr)
    assert held(path) == sorted(table.read().rows(), key=repr) == expected
    assert (table.version, len(handles)) == (25, 3)
    assert len([*(path / "_delta_log").glob("*.checkpoint.parquet")]) == 2
    assert open_rooms(path).positions(["desk/0"]) == {"desk/0": 24}
    assert read_changes(str(path), 0, 25, ROOMS).after.height == 1 + 2 * 20


STAGED = pl.Schema(
    {
        "_topic": pl.String(),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "_op": pl.String(),
        "_sequence": pl.Int64(),
    }
)


def stage(path: Path, *batches: list[Row]) -> str:
    table = OwnedTable(str(path), declared(STAGED))
    for batch in batches:
        table.append(pl.DataFrame(batch, STAGED, orient="row"), Commit({}))
    return str(path)


def test_a_range_is_read_back_without_gaps_in_order_and_in_bounded_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_STEP", 4)
    uri = stage(
        tmp_path / "staging",
        [("desk", 0, offset, "upsert", 0) for offset in (7, 3, 6)],
        [("desk", 1, 5, "upsert", 0), ("desk", 0, 16, "upsert", 0), ("desk", 0, 8, "upsert", 0)],
        [("porch", 0, 4, "upsert", 0)],
    )

    def read(partition: int, start: int, end: int) -> list[tuple[int, int, list[int]]]:
        pieces = read_range(uri, Range(f"desk/{partition}", start, end), 3)
        return [(low, high, rows["_offset"].to_list()) for low, high, rows in pieces]

    assert read(0, 3, 17) == [(3, 7, [3, 6]), (7, 11, [7, 8]), (11, 15, []), (15, 17, [16])]
    assert read(0, 4, 8) == [(4, 8, [6, 7])]
    assert read(1, 5, 6) == [(5, 6, [5])]
    assert read(0, 8, 8) == []
    with pytest.raises(HoleError, match="offsets 1 to 2 of desk/0 are missing here"):
        read(0, 1, 8)


_STAGED_ROW = st.tuples(st.sampled_from(["upsert", "delete", "truncate", "quarantined"]), st.integers(-5, 5))


@settings(deadline=None, max_examples=25)
@given(st.lists(_STAGED_ROW, min_size=1, max_size=20), st.dictionaries(st.integers(0, 2), st.integers(0, 20)))
def test_deletes_and_truncates_at_or_beyond_the_positions_are_left_for_later(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int]], positions: dict[int, int]
) -> None:
    rows = [("desk", offset % 3, offset // 3, op, sequence) for offset, (op, sequence) in enumerate(drawn)]
    held_positions = {f"desk/{partition}": position for partition, position in positions.items()}
    deletes, floor = read_deletes(stage(tmp_path_factory.mktemp("lake") / "staging", rows), held_positions)
    merged = [row for row in rows if row[2] < positions.get(row[1], 0)]
    assert sorted(deletes.rows()) == sorted(row for row in merged if row[3] == "delete")
    assert floor == max((row[4] for row in merged if row[3] == "truncate"), default=None)
