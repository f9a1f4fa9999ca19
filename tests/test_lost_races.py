"""Other engines commit while we do: what they did is taken in, nothing of theirs or ours is lost, or we stop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from storage.delta import table as storage_table
from storage.delta.owned_table import Commit, read_positions
from storage.errors import CommitRaceError, TableMismatchError
from tests.faults import before_the_next_entry
from tests.rooms import (
    ADA,
    BOB,
    CYD,
    append_foreign,
    held,
    keyed_rooms,
    open_rooms,
    operations,
    rooms,
)

EVE = ("7x", 7, "Eve")
ZOE = ("9z", 9, "Zoe")
BOTH = pytest.mark.parametrize("vectors", [True, False])
WHEN = pytest.mark.parametrize("during", [True, False])


def foreign(kind: str, path: Path) -> None:
    if kind == "append":
        append_foreign(path, EVE)
    else:
        assert DeltaTable(path).optimize.compact()["numFilesRemoved"] >= 2


def ours_after(theirs: Callable[[], object], ours: Callable[[], object], *, during: bool) -> None:
    """Let them commit before ours, of which we then know nothing, or in the last moment."""
    if during:
        with before_the_next_entry(theirs):
            ours()
    else:
        theirs()
        ours()


@BOTH
@WHEN
@pytest.mark.parametrize("kind", ["append", "optimize"])
def test_an_append_of_ours_lands_after_a_foreign_commit(tmp_path: Path, kind: str, during: bool, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    table = open_rooms(path, vectors=vectors)
    table.append(rooms(ADA), Commit({"desk/0": 1}))
    table.append(rooms(BOB), Commit({"desk/0": 2}))
    ours_after(lambda: foreign(kind, path), lambda: table.append(rooms(CYD), Commit({"desk/0": 3})), during=during)
    table.append(rooms(ZOE), Commit({"desk/0": 4}))
    assert held(path) == [ADA, BOB, CYD, *([EVE] if kind == "append" else []), ZOE]
    assert operations(path)[3:] == ["WRITE" if kind == "append" else "OPTIMIZE", "WRITE", "WRITE"]
    assert read_positions(str(path), "hotel", ["desk/0"]) == {"desk/0": 4}


@BOTH
@WHEN
@pytest.mark.parametrize("kind", ["append", "optimize"])
def test_a_merge_of_ours_lands_after_a_foreign_commit_and_finds_moved_rows(
    tmp_path: Path,
    kind: str,
    during: bool,  # noqa: FBT001
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA, BOB], [], {"desk/0": 1})
    owner.merge([CYD, ("3a", 3, None)], [], {"desk/0": 2})
    change = ([("1a", 1, "ada"), ZOE], [CYD[:2]], {"desk/0": 3})
    ours_after(lambda: foreign(kind, path), lambda: owner.merge(*change), during=during)
    left = [("1a", 1, "ada"), BOB, ("3a", 3, None), *([EVE] if kind == "append" else []), ZOE]
    assert held(path) == left

    done = owner.merge([(*row[:2], "again") for row in left], [], {"desk/0": 4})  # every key was found where it now is
    assert (done.inserted, done.updated, done.version) == (0, len(left), 5)
    assert held(path) == [(*row[:2], "again") for row in left]
    assert operations(path)[3:] == ["WRITE" if kind == "append" else "OPTIMIZE", "MERGE", "MERGE"]


@BOTH
@WHEN
def test_after_a_foreign_delete_a_merge_stops_and_a_reopened_table_is_right(
    tmp_path: Path,
    during: bool,  # noqa: FBT001
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=False)
    owner.merge([ADA, BOB, CYD], [], {"desk/0": 1})
    if vectors:
        owner = keyed_rooms(path, vectors=True)
    change: tuple[list[Any], list[Any], dict[str, int]] = ([("1a", 1, "ada"), ("2a", 2, "cyd")], [], {"desk/0": 2})

    def ours() -> None:
        with pytest.raises(CommitRaceError, match="another writer removed rows up to version"):
            owner.merge(*change)

    ours_after(lambda: DeltaTable(path).delete("\"GUEST\" = 'Cyd'"), ours, during=during)
    assert held(path) == [ADA, BOB]
    again = keyed_rooms(path, vectors=vectors)
    assert again.table.positions(["desk/0"]) == {"desk/0": 1}, "so ours did not happen"
    done = again.merge(*change)
    assert (done.inserted, done.updated) == (1, 1)
    assert held(path) == [("1a", 1, "ada"), BOB, ("2a", 2, "cyd")]


@BOTH
def test_a_foreign_row_with_the_key_of_another_is_refused_with_an_example(
    tmp_path: Path,
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA, BOB], [], {"desk/0": 1})
    append_foreign(path, ("1b", 1, "an impostor"), EVE)
    message = r"1 rows of data file .* have the key of another row, as \{'Room \"No\"': '1b', \"the floor's\": 1\}"
    for _ in range(2):
        with pytest.raises(TableMismatchError, match=message):
            owner.merge([CYD], [], {"desk/0": 2})
    with pytest.raises(TableMismatchError, match="have the key of another row"):
        keyed_rooms(path, vectors=vectors)
    assert held(path) == [ADA, BOB, ("1b", 1, "an impostor"), EVE], "nothing of ours was written"

    DeltaTable(path).restore(1)
    again = keyed_rooms(path, vectors=vectors)
    again.merge([CYD], [], {"desk/0": 2})
    assert held(path) == [ADA, BOB, CYD]


def test_a_foreign_change_of_the_columns_stops_us(tmp_path: Path) -> None:
    path = tmp_path / "rooms"
    owner = keyed_rooms(path)
    owner.merge([ADA], [], {"desk/0": 1})
    wider = rooms(EVE).with_columns(stars=pl.lit(5))
    write_deltalake(path, wider, mode="append", schema_mode="merge")
    with pytest.raises(TableMismatchError, match="stars: found int32, declared nothing"):
        owner.merge([BOB], [], {"desk/0": 2})


def test_whoever_loses_every_race_gives_up_and_has_written_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rooms"
    table = open_rooms(path)
    monkeypatch.setattr(storage_table, "_ATTEMPTS", 3)
    with (
        before_the_next_entry(lambda: append_foreign(path, EVE), times=3),
        pytest.raises(CommitRaceError, match="3 other commits came before ours"),
    ):
        table.append(rooms(ADA), Commit({"desk/0": 1}))
    assert held(path) == [EVE, EVE, EVE]
    table.append(rooms(ADA), Commit({"desk/0": 1}))
    assert held(path) == [ADA, EVE, EVE, EVE]


@BOTH
@WHEN
def test_a_row_that_another_writer_has_just_added_is_not_inserted_beside_it(
    tmp_path: Path,
    during: bool,  # noqa: FBT001
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA], [], {"desk/0": 1})
    eve_moves = ("7x", 7, "Eve's guest")
    with pytest.raises(CommitRaceError, match="another writer added rows that are to be inserted"):
        ours_after(
            lambda: append_foreign(path, EVE), lambda: owner.merge([eve_moves], [], {"desk/0": 2}), during=during
        )
    assert read_positions(str(path), "hotel", ["desk/0"]) == {"desk/0": 1}
    keyed_rooms(path, vectors=vectors).merge([eve_moves], [], {"desk/0": 2})
    assert held(path) == [ADA, eve_moves]


@BOTH
def test_a_merge_says_after_which_rows_of_others_it_came(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    """A Gold table that stands before them must read them from the change feed first."""
    path = tmp_path / "rooms"
    owner = keyed_rooms(path, vectors=vectors)
    owner.merge([ADA], [], {})
    append_foreign(path, EVE)
    done = owner.merge([BOB], [], {})
    assert (done.from_version, done.version) == (2, 3)
    DeltaTable(path).optimize.compact()
    done = owner.merge([CYD], [], {})
    assert (done.from_version, done.version) == (3, 5), "an OPTIMIZE changes no row"
