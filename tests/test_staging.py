"""Reading a staging table back: ranges without gaps."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from storage import staging
from storage.delta.maintenance import Maintained, Maintenance
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.positions import Range
from storage.delta.table import Table
from storage.errors import HoleError
from storage.staging import read_range, retry_partition
from tests.keyed_table import Row
from tests.rooms import declared

STAGED = pl.Schema(
    {
        "_topic": pl.String(),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "_op": pl.String(),
        "_sequence": pl.Int64(),
        "_retried": pl.Int64(),
    }
)


def stage(path: Path, *batches: list[Row]) -> str:
    table = OwnedTable(str(path), declared(STAGED))
    for batch in batches:
        rows = [row if len(row) == len(STAGED) else (*row, None) for row in batch]
        table.append(pl.DataFrame(rows, STAGED, orient="row"), Commit({}))
    return str(path)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_range_is_read_back_without_gaps_in_order_and_in_bounded_steps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compacted: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(staging, "_STEP", 4)
    uri = stage(
        tmp_path / "staging",
        [("desk", 0, offset, "upsert", 0) for offset in (7, 3, 6)],
        [("desk", 1, 5, "upsert", 0), ("desk", 0, 16, "upsert", 0), ("desk", 0, 8, "upsert", 0)],
        [("porch", 0, 4, "upsert", 0)],
        [("porch", 0, 5, "upsert", 0)],
    )
    if compacted:
        table = Table(uri)
        assert Maintenance(table, table, timedelta(0)).run() == Maintained(4, 1, 4)

    def read(partition: int, start: int, end: int) -> list[tuple[int, int, list[int]]]:
        pieces = read_range(uri, Range(f"desk/{partition}", start, end), 3)
        return [(low, high, rows["_offset"].to_list()) for low, high, rows in pieces]

    assert read(0, 3, 17) == [(3, 7, [3, 6]), (7, 11, [7, 8]), (11, 15, []), (15, 17, [16])]
    assert read(0, 4, 8) == [(4, 8, [6, 7])]
    assert read(1, 5, 6) == [(5, 6, [5])]
    assert read(0, 8, 8) == []
    with pytest.raises(HoleError, match="offsets 1 to 2 of desk/0 are missing here"):
        read(0, 1, 8)


def test_records_sent_in_again_are_a_range_of_requests_and_not_of_their_topic(tmp_path: Path) -> None:
    uri = stage(
        tmp_path / "staging",
        [("desk", 0, 0, "quarantined", 0), ("desk", 0, 1, "upsert", 1), ("porch", 3, 7, "quarantined", 0)],
        [("porch", 3, 7, "delete", 7, 1), ("desk", 0, 0, "delete", 0, 0), ("porch", 3, 7, "quarantined", 7, 0)],
    )

    def read(name: str, start: int, end: int) -> list[Row]:
        ((_, _, rows),) = read_range(uri, Range(name, start, end), 0)
        return rows.select("_topic", "_offset", "_op", "_retried").rows()

    again = retry_partition("things")
    assert again == "retry/things/0"
    assert read("desk/0", 0, 2) == [("desk", 0, "quarantined", None), ("desk", 1, "upsert", None)]
    assert read(again, 0, 1) == [("desk", 0, "delete", 0), ("porch", 7, "quarantined", 0)]
    assert read(again, 1, 2) == [("porch", 7, "delete", 1)]
