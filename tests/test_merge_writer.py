"""Merges of keyed rows in both strategies: what they write, what they say, and what the change feed gives back."""

import json
import shutil
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from storage.delta.change_feed import read_changes
from storage.delta.owned_table import read_positions
from storage.errors import HoleError, TransientError
from tests.keyed_table import KeyedTable, Row
from tests.readers import CHANGES, IN_PROCESS, DataFusion, assert_all_read, comparable
from tests.rooms import KEYS, ROOMS, held, in_order, keyed_rooms, rooms

VECTORS = pytest.mark.parametrize("vectors", [True, False])

ADA: Row = ("1a", 1, "Ada")
BOB: Row = ("1a", None, "Bob")
CYD: Row = (None, 1, "Cyd")
DAN: Row = (None, None, None)
EVE: Row = ("", 0, "Eve")

HISTORY: list[tuple[list[Row], list[Row]]] = [
    ([ADA, BOB, CYD, DAN], []),
    ([("1a", None, None), (None, None, "Dan")], []),
    ([], []),
    ([EVE, ("1a", None, "bob")], [("1a", 1), (None, None), ("never", 0)]),
    ([], [(None, 1)]),
    ([ADA], []),
]
"""Upserts and deleted keys, merge by merge."""

STATES: list[list[Row]] = [
    [ADA, BOB, CYD, DAN],
    [ADA, ("1a", None, None), CYD, (None, None, "Dan")],
    [ADA, ("1a", None, None), CYD, (None, None, "Dan")],
    [EVE, ("1a", None, "bob"), CYD],
    [EVE, ("1a", None, "bob")],
    [ADA, EVE, ("1a", None, "bob")],
]

FEED: list[tuple[str, int, Row]] = [
    *(("insert", 1, row) for row in (ADA, BOB, CYD, DAN)),
    ("update_preimage", 2, BOB),
    ("update_postimage", 2, ("1a", None, None)),
    ("update_preimage", 2, DAN),
    ("update_postimage", 2, (None, None, "Dan")),
    ("insert", 4, EVE),
    ("update_preimage", 4, ("1a", None, None)),
    ("update_postimage", 4, ("1a", None, "bob")),
    ("delete", 4, ADA),
    ("delete", 4, (None, None, "Dan")),
    ("delete", 5, CYD),
    ("insert", 6, ADA),
]


def merged(path: Path, *, vectors: bool) -> list[Row]:
    """Merge HISTORY; return inserted, updated, deleted, version and the version it follows of each merge."""
    owner, told = keyed_rooms(path, vectors=vectors), []
    for position, (upserts, deletes) in enumerate(HISTORY, start=1):
        done = owner.merge(upserts, deletes, {"desk/0": position})
        assert done.seconds > 0
        told.append((done.inserted, done.updated, done.deleted, done.version, done.from_version))
        assert read_positions(str(path), "hotel", ["desk/0"]) == {"desk/0": position}
        assert held(path) == in_order(STATES[position - 1])
    return told


@VECTORS
def test_merges_with_null_and_composite_keys_do_what_they_say(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    assert merged(path, vectors=vectors) == [
        # inserted, updated, deleted, version, the version it follows
        (4, 0, 0, 1, 0),
        (0, 2, 0, 2, 1),
        (0, 0, 0, 3, 2),
        (1, 1, 2, 4, 3),
        (0, 0, 1, 5, 4),
        (1, 0, 0, 6, 5),
    ]
    for version, rows in enumerate(STATES, start=1):
        assert_all_read(IN_PROCESS, str(path), rooms(*rows), version)
    assert_all_read(IN_PROCESS, str(path), rooms(*STATES[-1]))


@VECTORS
def test_the_change_feed_gives_every_merge_back(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    merged(path, vectors=vectors)
    schema = pl.Schema({**ROOMS, **dict(zip(CHANGES, (pl.String(), pl.Int64()), strict=True))})
    expected = pl.DataFrame([(*row, kind, version) for kind, version, row in FEED], schema, orient="row")
    assert_frame_equal(DataFusion().changes(str(path), 1, 6), comparable(expected))
    for start in range(6):
        for end in range(start + 1, 7):
            images = read_changes(str(path), start, end, ROOMS)
            told = [(kind, row) for kind, version, row in FEED if start < version <= end]
            gone = [row for kind, row in told if kind in ("update_preimage", "delete")]
            came = [row for kind, row in told if kind in ("update_postimage", "insert")]
            assert in_order(images.before.rows()) == in_order(gone)
            assert in_order(images.after.rows()) == in_order(came)
    with pytest.raises(HoleError, match="the changes of versions 7 to 9 cannot be read"):
        read_changes(str(path), 6, 9, ROOMS)
    change_data = path / "_change_data"
    with pytest.MonkeyPatch.context() as patch:

        def failing(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(obstore, "head", failing)
        patch.setattr(DeltaTable, "load_cdf", failing)
        with pytest.raises(TransientError, match=r"version 6 could not be looked up: .*Input/output error"):
            read_changes(str(path), 0, 6, ROOMS)
    shutil.rmtree(change_data)
    with pytest.raises(HoleError, match="the changes of versions 1 to 6 cannot be read"):
        read_changes(str(path), 0, 6, ROOMS)


@VECTORS
def test_only_merges_that_take_rows_away_write_change_files_and_vectors(
    tmp_path: Path,
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA, BOB, CYD], [], {})
    owner.merge([DAN], [], {})
    owner.merge([], [], {"desk/0": 1})
    assert [*kinds(path, 1), *kinds(path, 2)] == ["add", "add"]
    assert kinds(path, 3) == []
    owner.merge([EVE, ("1a", 1, "ada")], [], {})
    assert kinds(path, 4) == ["add", "add", "cdc", "remove"]
    files = {entry["path"]: entry for entry in actions(path, 4, "add")}
    assert len([file for file in files.values() if "deletionVector" in file]) == int(vectors)
    assert DeltaTable(path).protocol().min_reader_version == (3 if vectors else 1)


@VECTORS
def test_a_file_with_nothing_left_is_removed(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA, BOB], [], {})
    owner.merge([CYD], [], {})
    owner.merge([], [ADA[:2]], {})
    assert len(DeltaTable(path).file_uris()) == 2
    owner.merge([("1a", None, "bob")], [CYD[:2]], {})  # the rest of one file, and all of the other
    assert kinds(path, 4) == ["add", "cdc", "remove", "remove"]
    assert held(path) == [("1a", None, "bob")]
    assert len(DeltaTable(path).file_uris()) == 1
    owner.merge([], [BOB[:2]], {})
    assert (held(path), DeltaTable(path).file_uris()) == ([], [])
    owner.merge([ADA], [], {})
    assert_all_read(IN_PROCESS, str(path), rooms(ADA))


def test_a_table_without_a_change_feed_has_no_change_files(tmp_path: Path) -> None:
    owner = KeyedTable(str(tmp_path / "rooms"), ROOMS, KEYS, vectors=True, change_feed=False)
    owner.merge([ADA, BOB], [], {})
    owner.merge([("1a", 1, "ada")], [BOB[:2]], {})
    assert held(tmp_path / "rooms") == [("1a", 1, "ada")]
    assert actions(tmp_path / "rooms", 2, "cdc") == []


@VECTORS
def test_strategies_may_change_from_one_owner_to_the_next(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    keyed_rooms(path, vectors=vectors).merge([ADA, BOB, CYD, DAN], [], {})
    keyed_rooms(path, vectors=vectors).merge([], [ADA[:2]], {})
    other = keyed_rooms(path, vectors=not vectors)
    other.merge([("1a", None, "bob")], [], {})
    other.merge([EVE], [CYD[:2]], {})
    assert_all_read(IN_PROCESS, str(path), rooms(("1a", None, "bob"), DAN, EVE))
    again = keyed_rooms(path, vectors=vectors)
    again.merge([ADA], [DAN[:2]], {})
    assert_all_read(IN_PROCESS, str(path), rooms(("1a", None, "bob"), EVE, ADA))


@VECTORS
def test_many_merges_of_one_owner_and_of_those_after_it_stay_right(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    model: dict[Row, Row] = {}
    for step in range(60):
        upserts = {(str(number), None): (str(number), None, f"{step}") for number in range(step, step + 40, 3)}
        deletes = [(str(number), None) for number in range(step - 20, step, 5) if (str(number), None) not in upserts]
        owner.merge(upserts.values(), deletes, {"desk/0": step})
        model = {key: row for key, row in model.items() if key not in deletes} | upserts
        if step % 20 == 19:
            assert_all_read(IN_PROCESS, str(path), rooms(*model.values()))
            owner = keyed_rooms(path, vectors=vectors)


@VECTORS
def test_a_file_of_another_engine_without_statistics_is_merged_into(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA, BOB, CYD], [], {})
    entry = path / "_delta_log" / f"{1:020}.json"
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for line in lines:
        line.get("add", {}).pop("stats", None)
    entry.write_text("\n".join(json.dumps(line) for line in lines))
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([("1a", 1, "ada")], [BOB[:2]], {})
    assert_all_read(IN_PROCESS, str(path), rooms(("1a", 1, "ada"), CYD))
    counts = [json.loads(add["stats"])["numRecords"] for add in actions(path, 2, "add")]
    assert sorted(counts) == ([1, 3] if vectors else [1, 1])


def actions(path: Path, version: int, kind: str) -> list[Any]:
    """Return the actions of a kind in one log entry."""
    entry = (path / "_delta_log" / f"{version:020}.json").read_text()
    return [found[kind] for line in entry.splitlines() if kind in (found := json.loads(line))]


def kinds(path: Path, version: int) -> list[str]:
    return [kind for kind in ("add", "cdc", "remove") for _ in actions(path, version, kind)]
