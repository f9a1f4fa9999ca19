"""Spark writes to tables that we wrote: its appends, deletion vectors, OPTIMIZE and checkpoints are read by our log."""

from pathlib import Path

import obstore
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pyroaring import BitMap64

from storage.delta.deletion_vectors import decode
from storage.delta.delta_log import DeltaLog
from storage.delta.snapshot import Snapshot
from storage.errors import UnsupportedTableError
from tests.readers import IN_PROCESS, DataFusion, assert_all_read, comparable
from tests.spark_process import Spark
from tests.written_tables import APPLICATION, WrittenTable, orders, store_at

pytestmark = pytest.mark.slow


@pytest.fixture
def table(tmp_path: Path) -> WrittenTable:
    """Give a table of 2,000 orders, of which every fifth is deleted by a vector of ours: at version 2."""
    table = WrittenTable(str(tmp_path / "orders"))
    one = table.append("one.parquet", orders(range(2000)))
    table.delete((one, BitMap64(range(0, 2000, 5))))
    return table


LEFT = [each for each in range(2000) if each % 5]


def read(table: WrittenTable) -> Snapshot:
    snapshot = DeltaLog(store_at(table.uri), table.uri).read()
    assert snapshot is not None
    return snapshot


def gone(table: WrittenTable, path: str) -> BitMap64:
    """Return the positions of a data file that our code finds marked."""
    vector = read(table).files[path].vector
    assert vector is not None
    assert vector.path is not None
    return decode(vector, bytes(obstore.get(table.store, vector.path).bytes()))


def test_a_delete_by_spark_is_added_to_our_vector(spark: Spark, table: WrittenTable) -> None:
    (deleted,) = spark.sql(f"delete from delta.`{table.uri}` where id % 7 = 3").rows()
    left = [each for each in LEFT if each % 7 != 3]
    assert deleted == (len(LEFT) - len(left),)

    vector = read(table).files["one.parquet"].vector
    assert vector is not None
    assert vector.path is not None
    assert "/" not in vector.path  # Spark's vectors stand in the root of the table, ours in _dv
    assert gone(table, "one.parquet") == BitMap64(set(range(2000)) - set(left))
    assert_all_read((*IN_PROCESS, spark), table.uri, orders(left))

    table.version = 3
    table.delete((read(table).files["one.parquet"], BitMap64(range(1000))))  # ours again, on top of Spark's
    assert_all_read((*IN_PROCESS, spark), table.uri, orders(range(1000, 2000)))
    assert_all_read((*IN_PROCESS, spark), table.uri, orders(left), version=3)


def test_the_changes_of_spark_and_ours_are_one_feed(spark: Spark, table: WrittenTable) -> None:
    spark.sql(f"insert into delta.`{table.uri}` values (9000, 'Basel')")  # version 3
    spark.sql(f"update delta.`{table.uri}` set city = 'Thun' where id = 9000")  # version 4
    spark.sql(f"delete from delta.`{table.uri}` where id in (1, 9000)")  # version 5
    expected = pl.DataFrame(
        [
            (9000, "Basel", "insert", 3),
            (9000, "Basel", "update_preimage", 4),
            (9000, "Thun", "update_postimage", 4),
            (1, "city 1", "delete", 5),
            (9000, "Thun", "delete", 5),
        ],
        schema=["id", "city", "_change_type", "_commit_version"],
        orient="row",
    )
    assert_frame_equal(spark.changes(table.uri, 3, 5), comparable(expected))
    assert spark.changes(table.uri, 1, 2)["_change_type"].value_counts(sort=True).rows() == [
        ("insert", 2000),
        ("delete", 400),
    ]
    assert_frame_equal(DataFusion().changes(table.uri, 1, 5), spark.changes(table.uri, 1, 5))


def test_optimize_by_spark_leaves_one_file_without_vectors(spark: Spark, table: WrittenTable) -> None:
    table.append("two.parquet", orders([9000]))  # version 3
    spark.sql(f"optimize delta.`{table.uri}`")  # version 4
    snapshot = read(table)
    assert snapshot.version == 4
    assert [(file.rows, file.vector) for file in snapshot.files.values()] == [(len(LEFT) + 1, None)]
    assert snapshot.transactions == {APPLICATION: 3}
    assert_all_read((*IN_PROCESS, spark), table.uri, orders([*LEFT, 9000]))
    assert spark.changes(table.uri, 4, 4).is_empty()


def test_a_checkpoint_by_spark_says_what_the_entries_said(spark: Spark, table: WrittenTable) -> None:
    spark.sql(f"delete from delta.`{table.uri}` where id = 1")  # version 3
    for number in range(7):  # versions 4 to 10; Spark writes a checkpoint every 10
        spark.sql(f"insert into delta.`{table.uri}` values ({9000 + number}, 'Basel')")
    before = read(table)
    entries = Path(table.uri, "_delta_log")
    assert [path.name for path in entries.glob("*.parquet")] == [f"{10:020}.checkpoint.parquet"]
    for entry in entries.glob("*.json"):
        entry.unlink()
    after = read(table)
    assert (after.version, after.files, after.transactions) == (10, before.files, before.transactions)
    assert gone(table, "one.parquet") == BitMap64({1, *range(0, 2000, 5)})


def test_a_checkpoint_of_the_second_kind_is_refused(spark: Spark, table: WrittenTable) -> None:
    spark.sql(f"alter table delta.`{table.uri}` set tblproperties ('delta.checkpointPolicy' = 'v2')")
    with pytest.raises(UnsupportedTableError, match="reader feature 'v2Checkpoint'"):
        read(table)


def test_vacuum_by_spark_keeps_our_vectors(spark: Spark, table: WrittenTable) -> None:
    (vector,) = Path(table.uri, "_dv").iterdir()
    spark.sql("set spark.databricks.delta.retentionDurationCheck.enabled = false")
    spark.sql(f"vacuum delta.`{table.uri}` retain 0 hours")
    assert vector.exists()
    assert_all_read((*IN_PROCESS, spark), table.uri, orders(LEFT))
