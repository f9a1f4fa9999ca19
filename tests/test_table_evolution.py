"""Columns come and widen while the table stays the same one, with its past and its change feed."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from polars.testing import assert_frame_equal

from storage.delta.owned_table import OwnedTable
from storage.delta.table_declaration import check_table
from storage.errors import TableMismatchError
from tests.faults import before_the_next_entry
from tests.keyed_table import KeyedTable, Row, arrow
from tests.readers import IN_PROCESS, DataFusion, Reader, assert_all_read, comparable
from tests.rooms import declared, in_order

NARROW = pl.Schema({"id": pl.Int16(), "price": pl.Decimal(9, 2), "weight": pl.Float32()})
ADDED = pl.Schema({**NARROW, "note": pl.String(), "tags": pl.List(pl.String())})
WIDE = pl.Schema({**ADDED, "id": pl.Int64(), "price": pl.Decimal(30, 4), "weight": pl.Float64()})
_AN_HOUR = timedelta(hours=1)
BOTH = pytest.mark.parametrize("vectors", [True, False])


def opened(path: Path, schema: pl.Schema, *, vectors: bool) -> KeyedTable:
    return KeyedTable(str(path), schema, ["id"], vectors=vectors)


def rows_of(schema: pl.Schema, *rows: Row) -> pl.DataFrame:
    return pl.DataFrame([*rows], schema, orient="row")


@BOTH
def test_rows_from_before_have_null_in_an_added_column_and_their_values_in_a_widened_one(
    tmp_path: Path,
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "goods"
    one, two, three = (1, Decimal("1.25"), 0.5), (2, Decimal("-2.00"), None), (-3, None, -0.125)
    narrow = opened(path, NARROW, vectors=vectors)
    narrow.merge([one, two, three], [], {"desk/0": 1})
    narrow.merge([], [(2,)], {"desk/0": 2})
    made = str(DeltaTable(path).metadata().id)

    added = opened(path, ADDED, vectors=vectors)
    assert_all_read(IN_PROCESS, str(path), rows_of(ADDED, (*one, None, None), (*three, None, None)))
    new = (4, Decimal("4.00"), 4.0, "new", ["a", None])
    done = added.merge([(*one, "noted", []), new], [], {"desk/0": 3})
    assert (done.inserted, done.updated) == (1, 1)

    wide = opened(path, WIDE, vectors=vectors)
    expected = [(*one, "noted", []), (*three, None, None), new]
    assert_all_read(IN_PROCESS, str(path), rows_of(WIDE, *expected))
    large = (2**40, Decimal("12345678901234567890123456.7891"), 1e300, None, None)
    changed = (-3, Decimal("0.0001"), 1e-300, "widened", None)
    done = wide.merge([large, changed], [(1,)], {"desk/0": 4})  # a key is the same key, whatever its width was
    assert (done.inserted, done.updated, done.deleted) == (1, 1, 1)
    assert_all_read(IN_PROCESS, str(path), rows_of(WIDE, large, changed, new))
    assert opened(path, WIDE, vectors=vectors).table.positions(["desk/0"]) == {"desk/0": 4}
    assert str(DeltaTable(path).metadata().id) == made


@BOTH
def test_the_past_and_the_changes_can_be_read_across_an_evolution(
    tmp_path: Path,
    reader: Reader,
    vectors: bool,  # noqa: FBT001
) -> None:
    path = tmp_path / "goods"
    one = (1, Decimal("1.25"), 0.5)
    opened(path, NARROW, vectors=vectors).merge([one], [], {"desk/0": 1})  # version 1
    added = opened(path, ADDED, vectors=vectors)  # version 2
    added.merge([(2, None, None, "b", None)], [], {"desk/0": 2})  # version 3
    wide = opened(path, WIDE, vectors=vectors)  # version 4
    wide.merge([(1, None, None, "a", None)], [(2,)], {"desk/0": 3})  # version 5
    wide.maintain(_AN_HOUR)
    states: dict[int, tuple[pl.Schema, list[Row]]] = {
        1: (NARROW, [one]),
        2: (ADDED, [(*one, None, None)]),
        3: (ADDED, [(*one, None, None), (2, None, None, "b", None)]),
        4: (WIDE, [(*one, None, None), (2, None, None, "b", None)]),
        5: (WIDE, [(1, None, None, "a", None)]),
    }
    for version, (schema, rows) in states.items():
        assert_all_read((reader,), str(path), rows_of(schema, *rows), version)
    told: list[Row] = [
        (*one, None, None, "insert", 1),
        (2, None, None, "b", None, "insert", 3),
        (*one, None, None, "update_preimage", 5),
        (1, None, None, "a", None, "update_postimage", 5),
        (2, None, None, "b", None, "delete", 5),
    ]
    feed = DataFusion().changes(str(path), 1, 5)
    schema = pl.Schema({**WIDE, "_change_type": pl.String(), "_commit_version": pl.Int64()})
    assert_frame_equal(feed, comparable(rows_of(schema, *told)))


INTEGERS = {pl.Int8(): 3, pl.Int16(): 5, pl.Int32(): 10, pl.Int64(): 19}


@BOTH
@pytest.mark.parametrize("scale", [0, 2])
def test_integers_of_any_size_become_decimals_with_as_many_digits(
    tmp_path: Path,
    reader: Reader,
    scale: int,
    vectors: bool,  # noqa: FBT001
) -> None:
    path, names = tmp_path / "goods", [f"n{digits}" for digits in INTEGERS.values()]
    narrow = pl.Schema({"id": pl.Int64(), **dict(zip(names, INTEGERS, strict=True))})
    wide = pl.Schema(
        {"id": pl.Decimal(19 + scale, scale)}
        | {name: pl.Decimal(digits + scale, scale) for name, digits in zip(names, INTEGERS.values(), strict=True)}
    )
    limits = [(2 ** (bits - 1) - 1, -(2 ** (bits - 1))) for bits in (8, 16, 32, 64)]
    most, least = zip(*limits, strict=True)
    before: list[Row] = [(2**63 - 1, *most), (-(2**63), *least), (0, None, 0, None, 0)]
    opened(path, narrow, vectors=vectors).merge(before, [], {"desk/0": 1})
    owner = opened(path, wide, vectors=vectors)
    assert_all_read((reader,), str(path), rows_of(narrow, *before), 1)
    assert_all_read((reader,), str(path), rows_of(wide, *before))
    new: Row = (0, *(10**digits - 1 for digits in INTEGERS.values()))
    done = owner.merge([new], [(-(2**63),)], {"desk/0": 2})
    assert (done.inserted, done.updated, done.deleted) == (0, 1, 1)
    assert_all_read((reader,), str(path), rows_of(wide, before[0], new))
    kinds = DataFusion().changes(str(path), 1, 3).sort("_commit_version", "id", "_change_type")
    assert kinds.select("n19", "_change_type", "_commit_version").rows() == [
        (-(2**63), "insert", 1),
        (0, "insert", 1),
        (2**63 - 1, "insert", 1),
        (-(2**63), "delete", 3),
        (10**19 - 1, "update_postimage", 3),
        (0, "update_preimage", 3),
    ]


def test_widening_writes_no_row_as_changed_and_keeps_vectors_applied(tmp_path: Path) -> None:
    path = tmp_path / "goods"
    rows: list[Row] = [(number, None, None) for number in range(3000)]
    narrow = opened(path, NARROW, vectors=True)
    narrow.merge(rows, [], {"desk/0": 1})
    narrow.merge([], [(number,) for number in range(0, 3000, 7)], {"desk/0": 2})  # a vector in a file
    opened(path, WIDE, vectors=True)
    left = [(*row, None, None) for row in rows if row[0] % 7]
    assert_all_read(IN_PROCESS, str(path), rows_of(WIDE, *left))
    assert DataFusion().changes(str(path), 3, 3).is_empty()


@pytest.mark.parametrize(
    ("column", "found", "declared_type", "message"),
    [
        ("n", pl.Int32(), pl.Int16(), "n: found int32, declared int16"),
        ("n", pl.Int64(), pl.Float64(), "n: found int64, declared float64"),
        ("n", pl.Float64(), pl.Float32(), "n: found float64, declared float32"),
        ("n", pl.Int64(), pl.Decimal(18, 0), r"n: found int64, declared decimal\(18, 0\)"),
        ("n", pl.Int32(), pl.Decimal(11, 2), r"n: found int32, declared decimal\(11, 2\)"),
        ("n", pl.Decimal(19, 0), pl.Int64(), r"n: found decimal\(19, 0\), declared int64"),
        ("n", pl.Decimal(9, 2), pl.Decimal(9, 3), r"n: found decimal\(9, 2\), declared decimal\(9, 3\)"),
        ("n", pl.Decimal(9, 2), pl.Decimal(12, 1), r"n: found decimal\(9, 2\), declared decimal\(12, 1\)"),
        ("n", pl.String(), pl.Int64(), "n: found string, declared int64"),
        ("n", pl.List(pl.String()), pl.Boolean(), "n: found list<string>, declared bool"),
        ("m", pl.Int64(), pl.Int64(), "n: found int64, declared nothing"),
    ],
)
def test_what_is_no_widening_is_refused_and_changes_nothing(
    tmp_path: Path, column: str, found: Any, declared_type: Any, message: str
) -> None:
    path = tmp_path / "goods"
    opened(path, pl.Schema({"id": pl.Int64(), "n": found}), vectors=True).merge([(1, None)], [], {})
    before = files(path)
    other = declared(pl.Schema({"id": pl.Int64(), column: declared_type}), change_feed=True, vectors=True)
    for check in (check_table, OwnedTable):
        with pytest.raises(TableMismatchError, match=message):
            check(str(path), other)
    assert files(path) == before


def test_an_old_table_without_vectors_gets_them_when_they_are_declared(tmp_path: Path) -> None:
    """Readers and writers of version 1 and 4, as deltalake makes them; the owner's claim is in its commits."""
    path = tmp_path / "goods"
    theirs = DeltaTable.create(path, arrow(NARROW), configuration={"delta.enableChangeDataFeed": "true"})
    claims = [Transaction("hotel/owner", 3), Transaction("hotel/definition", declared(NARROW).digest)]
    rows = rows_of(NARROW, (1, None, None), (2, None, None), (3, None, None))
    write_deltalake(theirs, rows, mode="append", commit_properties=CommitProperties(app_transactions=claims))
    protocol = theirs.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 4)
    made = str(theirs.metadata().id)

    owner = opened(path, NARROW, vectors=True)
    owner.merge([(1, Decimal("9.00"), None)], [(3,)], {"desk/0": 1})
    assert_all_read(IN_PROCESS, str(path), rows_of(NARROW, (1, Decimal("9.00"), None), (2, None, None)))
    assert_all_read(IN_PROCESS, str(path), rows, 1)
    protocol = DeltaTable(path).protocol()
    assert (protocol.min_reader_version, protocol.reader_features) == (3, ["deletionVectors"])
    assert [file for file in DeltaTable(path).file_uris() if "part-" not in file] == []
    assert str(DeltaTable(path).metadata().id) == made


def test_a_change_feed_that_is_declared_later_starts_then(tmp_path: Path) -> None:
    path = tmp_path / "goods"
    uri = str(path)
    KeyedTable(uri, NARROW, ["id"], vectors=False, change_feed=False).merge([(1, None, None)], [], {})  # version 1
    fed = opened(path, NARROW, vectors=False)  # version 2
    fed.merge([(1, None, 1.0)], [], {})  # version 3
    kinds = DataFusion().changes(uri, 3, 3)["_change_type"].to_list()
    assert sorted(kinds) == ["update_postimage", "update_preimage"]
    protocol = DeltaTable(path).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 4), "others must write changes too"


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "goods"
    for vectors in (False, True):
        opened(path, NARROW, vectors=vectors)
        before = files(path)
        opened(path, NARROW, vectors=vectors)
        assert files(path) == before


@pytest.mark.parametrize("kind", ["append", "optimize"])
def test_an_evolution_that_loses_a_race_is_worked_out_again(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "goods"
    narrow = opened(path, NARROW, vectors=True)
    narrow.merge([(1, None, None)], [], {})
    narrow.merge([(2, None, None)], [], {})

    def others() -> None:
        if kind == "append":
            write_deltalake(path, rows_of(NARROW, (3, None, None)), mode="append")
        else:
            assert DeltaTable(path).optimize.compact()["numFilesRemoved"] == 2

    with before_the_next_entry(others):
        wide = opened(path, WIDE, vectors=True)
    wide.merge([(2, None, 2.0, "b", None)], [], {})
    more: list[Row] = [(3, None, None, None, None)] if kind == "append" else []
    expected = rows_of(WIDE, (1, None, None, None, None), (2, None, 2.0, "b", None), *more)
    assert_all_read(IN_PROCESS, str(path), expected)


def files(path: Path) -> list[Row]:
    found = [(str(file.relative_to(path)), file.stat().st_size) for file in path.rglob("*") if file.is_file()]
    return in_order(found)


def test_columns_in_another_order_are_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "rooms"
    one = pl.Schema({"id": pl.Int64(), "city": pl.String(), "n": pl.Int64()})
    other = pl.Schema({"n": pl.Int64(), "id": pl.Int64(), "city": pl.String()})
    KeyedTable(str(path), one, ["id"], vectors=True).merge([(1, "Bern", 5), (2, "Genf", 6)], [], {})
    owner = KeyedTable(str(path), other, ["id"], vectors=True)
    owner.merge([(7, 2, "Genève"), (8, 3, "Chur")], [], {})
    owner.merge([(9, 1, "Berne")], [(2,)], {})
    expected = rows_of(other, (9, 1, "Berne"), (8, 3, "Chur"))
    assert_all_read(IN_PROCESS, str(path), comparable(expected))
