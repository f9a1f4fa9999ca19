"""What is at a table's path is checked against what is declared before anything is written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.table_declaration import check_table, check_writable
from storage.errors import TableMismatchError, UnwritableError
from tests.rooms import ADA, ROOMS, declared, held, open_rooms, rooms


def test_a_table_with_other_columns_is_refused_and_they_are_named(tmp_path: Path) -> None:
    open_rooms(tmp_path / "rooms")
    other = pl.Schema({'Room "No"': pl.String(), "the floor's": pl.Int32(), "price": pl.Decimal(9, 2)})
    columns = r"\(the floor's: found int64, declared int32; GUEST: found string, declared nothing\)"
    with pytest.raises(TableMismatchError, match=columns):
        OwnedTable(str(tmp_path / "rooms"), declared(other))
    with pytest.raises(TableMismatchError, match=columns):
        check_table(str(tmp_path / "rooms"), declared(other))
    check_table(str(tmp_path / "rooms"), declared(ROOMS))


def test_a_table_that_another_pipeline_or_declaration_made_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "rooms")
    OwnedTable(uri, declared(ROOMS, definition="keys GUEST")).append(rooms(ADA), Commit({"desk/0": 1}))
    with pytest.raises(TableMismatchError, match="pipeline 'motel' has not written"):
        OwnedTable(uri, declared(ROOMS, pipeline="motel", definition="keys GUEST"))
    with pytest.raises(TableMismatchError, match=r"made by another declaration than \(keys Room\)"):
        check_table(uri, declared(ROOMS, definition="keys Room"))
    assert OwnedTable(uri, declared(ROOMS, definition="keys GUEST")).is_current
    assert not OwnedTable(uri, declared(ROOMS, definition="keys Room", derived=True)).is_current


def test_a_refusal_names_what_differs_where_the_table_says_what_it_was_made_by(tmp_path: Path) -> None:
    """A table from before it said so is refused without, and says it from its next owner on."""
    uri = str(tmp_path / "rooms")
    OwnedTable(uri, declared(ROOMS, definition="keys GUEST")).append(rooms(ADA), Commit({"desk/0": 1}))
    made = {"keys": ["GUEST"], "desk": None, "floor": "1st"}
    other = declared(
        ROOMS, definition="keys Room", terms={**made, "keys": ["Room"], "desk": "2"}, remedy=lambda _: "Ask Ada"
    )
    with pytest.raises(
        TableMismatchError, match=r"made by another declaration than \(keys Room\)\. Declare it as it w"
    ):
        check_table(uri, other)
    OwnedTable(uri, declared(ROOMS, definition="keys GUEST", terms=made))
    named = r"\(keys: made with \['GUEST'\], declared \['Room'\]; desk: made with None, declared 2\)\. Ask Ada"
    with pytest.raises(TableMismatchError, match=named):
        check_table(uri, other)
    assert held(tmp_path / "rooms") == [ADA]
    assert OwnedTable(uri, declared(ROOMS, definition="keys GUEST", terms=made)).version == 2, "said once"


def test_what_differs_is_said_before_the_columns_that_come_of_it(tmp_path: Path) -> None:
    uri = str(tmp_path / "rooms")
    OwnedTable(uri, declared(ROOMS, definition="scd2", terms={"history": "scd2"}))
    fewer = declared(pl.Schema([*ROOMS.items()][:2]), definition="scd1", terms={"history": "scd1"})
    with pytest.raises(TableMismatchError, match=r"\(history: made with scd2, declared scd1\)"):
        check_table(uri, fewer)


@pytest.mark.parametrize("where", ["a_file", "/proc/nowhere"])
def test_a_lake_that_cannot_be_written_says_so_before_anything_starts(tmp_path: Path, where: str) -> None:
    (tmp_path / "a_file").touch()
    lake = str(tmp_path / where / "rooms")
    with pytest.raises(UnwritableError, match=r"cannot write here .*Set GOLDWAX_LAKE"):
        OwnedTable(lake, declared(ROOMS))
    with pytest.raises(UnwritableError, match=r"cannot write here .*Set GOLDWAX_LAKE"):
        check_table(lake, declared(ROOMS))


@pytest.mark.parametrize("name", ["my lake", "Zürich", "50%"])
def test_a_path_that_readers_cannot_find_again_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnwritableError, match=f"{name}: polars and deltalake cannot read tables at such a path"):
        check_writable(str(tmp_path / name))
    assert not (tmp_path / name).exists()


def test_the_processes_of_a_cluster_may_look_at_the_same_time(tmp_path: Path) -> None:
    def look(_: int) -> None:
        check_table(str(tmp_path / "rooms"), declared(ROOMS))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(400)))


def test_checking_a_table_that_is_not_there_leaves_no_table_behind(tmp_path: Path) -> None:
    check_table(str(tmp_path / "lake" / "rooms"), declared(ROOMS))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
