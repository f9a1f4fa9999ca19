"""What we write to a Delta log reads the same in every engine: now, at older versions, as changes."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal
from pyroaring import BitMap64

from tests.readers import CHANGES, ChangeReader, DataFusion, Reader, Where, comparable
from tests.written_tables import WrittenTable

PAYMENTS = pl.Schema(
    {
        "id": pl.Int64(),
        "payer": pl.String(),
        "amount": pl.Decimal(20, 2),
        "share": pl.Float64(),
        "paid_at": pl.Datetime("us", "UTC"),
        "due": pl.Date(),
    }
)
LARGE = Decimal("123456789012345678.91")  # no float has these digits
NOON = datetime(2024, 3, 31, 12, 0, 0, 123456, UTC)  # microseconds that milliseconds cut off

ANNA = (1, "Anna", LARGE, 0.5, NOON, date(2024, 4, 30))
BEAT = (2, "Béat", Decimal("-0.01"), None, NOON.replace(microsecond=123999), date(2024, 4, 30))
CARL = (3, None, None, 1.5, None, None)
CARL_NAMED = (3, "Carl", Decimal("7.00"), 1.5, NOON, date(1582, 10, 4))
DORA = (4, "Dora", Decimal("0.00"), 0.0, NOON, date(9999, 12, 31))
MANY = [(each, f"payer {each}", Decimal(each), 0.25, NOON, date(2024, 5, 1)) for each in range(100, 2100)]
"""So many that their vector is too large to stand in the log."""


def payments(*rows: tuple[object, ...]) -> pl.DataFrame:
    return pl.DataFrame([*rows], schema=PAYMENTS, orient="row")


def changes(*rows: tuple[object, ...]) -> pl.DataFrame:
    """Return rows of PAYMENTS with `_change_type` and `_commit_version` behind."""
    schema = {**PAYMENTS, **dict(zip(CHANGES, (pl.String(), pl.Int64()), strict=True))}
    return pl.DataFrame([*rows], schema=schema, orient="row")


VERSIONS = {
    0: payments(),
    1: payments(ANNA, BEAT, CARL),
    2: payments(ANNA, CARL),
    3: payments(ANNA, CARL_NAMED, DORA),
    4: payments(ANNA, CARL_NAMED, DORA, *MANY),
    5: payments(ANNA, CARL_NAMED, DORA, *MANY[1::2]),
    6: payments(CARL_NAMED, DORA, *MANY[1::2]),
}


def written(directory: Path) -> WrittenTable:
    """Write the history of VERSIONS: appends, deletes by vectors inline and in a file, a merge, a removed file."""
    table = WrittenTable(str(directory / "payments"), PAYMENTS)
    one = table.append("one.parquet", payments(ANNA, BEAT, CARL))
    (one,) = table.delete((one, BitMap64([1])))
    merged = changes((*CARL, "update_preimage", 3), (*CARL_NAMED, "update_postimage", 3), (*DORA, "insert", 3))
    table.merge(merged.drop("_commit_version"), ("two.parquet", payments(CARL_NAMED, DORA)), (one, BitMap64([1, 2])))
    many = table.append("many.parquet", payments(*MANY))
    (many,) = table.delete((many, BitMap64(range(0, 2000, 2))))
    assert many.vector is not None
    assert many.vector.storage == "u"
    snapshot = table.log.read()
    assert snapshot is not None
    gone = changes((*ANNA, "delete", 6)).drop("_commit_version")
    table.commit(snapshot.files["one.parquet"].remove(0), table.put_changes(gone))
    return table


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_has_its_rows(reader: Reader, version: int, tmp_path: Path) -> None:
    table = written(tmp_path)
    assert_frame_equal(reader.rows(table.uri, version), comparable(VERSIONS[version]))


def test_the_newest_rows_are_read_from_a_checkpoint_too(reader: Reader, tmp_path: Path) -> None:
    table = written(tmp_path)
    assert_frame_equal(reader.rows(table.uri), comparable(VERSIONS[6]))
    DeltaTable(table.uri).create_checkpoint()
    for entry in Path(table.uri, "_delta_log").glob("*.json"):
        if entry.stem != f"{table.version:020}":
            entry.unlink()
    assert_frame_equal(reader.rows(table.uri), comparable(VERSIONS[6]))


def test_changes_are_those_of_the_change_files_and_of_the_vectors(change_reader: ChangeReader, tmp_path: Path) -> None:
    table = written(tmp_path)
    small = [
        *((*row, "insert", 1) for row in (ANNA, BEAT, CARL)),
        (*BEAT, "delete", 2),  # of a vector: this version has no change file
        (*CARL, "update_preimage", 3),
        (*CARL_NAMED, "update_postimage", 3),
        (*DORA, "insert", 3),
    ]
    assert_frame_equal(change_reader.changes(table.uri, 0, 3), comparable(changes(*small)))
    large = [*((*row, "insert", 4) for row in MANY), *((*row, "delete", 5) for row in MANY[::2])]
    last = (*ANNA, "delete", 6)  # the one row that the removed file still had
    assert_frame_equal(change_reader.changes(table.uri, 4, 6), comparable(changes(*large, last)))


@pytest.mark.xfail(reason="deltalake 1.6.6 gives the rows that were gone before, not those that go now")
def test_the_changes_of_a_removed_file_with_a_vector_need_a_change_file(tmp_path: Path) -> None:
    table = written(tmp_path)
    snapshot = table.log.read()
    assert snapshot is not None
    table.commit(snapshot.files["many.parquet"].remove(0))
    going = [(*row, "delete", 7) for row in MANY[1::2]]
    assert_frame_equal(DataFusion().changes(table.uri, 7, 7), comparable(changes(*going)))


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (Where("amount", "=", LARGE), [ANNA]),
        (Where("amount", ">=", LARGE), [ANNA]),
        (Where("amount", "<", Decimal("0.00")), [BEAT]),
        (Where("paid_at", ">", NOON.replace(microsecond=123998)), [BEAT]),
        (Where("paid_at", "<", NOON.replace(microsecond=123457)), [ANNA]),
        (Where("due", "=", date(2024, 4, 30)), [ANNA, BEAT]),
        (Where("payer", ">", "B"), [BEAT]),
    ],
)
def test_no_row_is_skipped_by_statistics(
    reader: Reader, where: Where, rows: list[tuple[object, ...]], tmp_path: Path
) -> None:
    table = written(tmp_path)
    assert_frame_equal(reader.rows(table.uri, 1, where), comparable(payments(*rows)))
