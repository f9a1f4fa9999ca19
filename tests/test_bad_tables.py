"""Damaged tables are refused before anything is written, with what is wrong and what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.exceptions import GenericError

from storage.errors import CorruptVectorError, StorageError, TransientError, UnreadableTableError, UnsupportedTableError
from tests.keyed_table import KeyedTable, Row
from tests.readers import IN_PROCESS, assert_all_read

SCHEMA = pl.Schema({"id": pl.Int64(), "n": pl.Int64()})
ROWS: list[Row] = [(key, 0) for key in range(5000)]
GONE = [(key * key % 5003,) for key in range(1, 900)]
LEFT = [row for row in ROWS if row[:1] not in GONE]


def opened(path: Path) -> KeyedTable:
    return KeyedTable(str(path), SCHEMA, ["id"], vectors=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a table at version 3: many rows, of which some are gone by a vector in a file, and one in another file."""
    owner = opened(tmp_path / "rooms")
    owner.merge(ROWS, [], {"desk/0": 1})
    owner.merge([], GONE, {"desk/0": 2})
    owner.merge([(9000, 1)], [], {"desk/0": 3})
    return tmp_path / "rooms"


def checkpointed(path: Path) -> Path:
    """Leave version 3 as a checkpoint alone and return its file."""
    owner = opened(path).table
    owner.log.write_checkpoint(owner.snapshot())
    for entry in (path / "_delta_log").glob("*.json"):
        if entry.stem != f"{3:020}":
            entry.unlink()
    return path / f"_delta_log/{3:020}.checkpoint.parquet"


def entry(path: Path, version: int) -> Path:
    return path / f"_delta_log/{version:020}.json"


def vector_file(path: Path) -> Path:
    (found,) = (path / "_dv").iterdir()
    return found


def largest(path: Path) -> Path:
    return max(path.glob("part-*.parquet"), key=lambda file: file.stat().st_size)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def newer_protocol(path: Path) -> None:
    """Let the checkpoint ask for more than we know."""
    found = pq.read_table(checkpointed(path))
    protocol = [
        {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["timeTravelBack"], "writerFeatures": []}
        if each
        else None
        for each in found["protocol"].to_pylist()
    ]
    number = found.schema.get_field_index("protocol")
    table = found.set_column(number, "protocol", pa.array(protocol, found.schema.field("protocol").type))
    pq.write_table(table, path / f"_delta_log/{3:020}.checkpoint.parquet")


DAMAGES: dict[str, tuple[Callable[[Path], object], type[StorageError], str]] = {
    "a corrupt vector file": (
        lambda path: flip(vector_file(path)),
        CorruptVectorError,
        r"deletion vector _dv/.*: its checksum is wrong.*restore the file, or restore the table to an earlier version",
    ),
    "a vector file cut short": (
        lambda path: cut(vector_file(path)),
        CorruptVectorError,
        r"deletion vector _dv/.*: received \d+ bytes, expected at least \d+.*restore the file",
    ),
    "a missing vector file": (
        lambda path: vector_file(path).unlink(),
        CorruptVectorError,
        r"rooms: deletion vector file _dv/.* is missing. The rows of part-.* are not known without it; restore the",
    ),
    "a missing data file": (
        lambda path: largest(path).unlink(),
        UnreadableTableError,
        r"rooms: data file part-.*\.parquet cannot be read \(.*\). Restore it, or restore the table to a version",
    ),
    "a data file cut short": (
        lambda path: cut(largest(path)),
        UnreadableTableError,
        r"rooms: data file part-.*\.parquet cannot be read",
    ),
    "a truncated log entry": (
        lambda path: cut(entry(path, 2)),
        UnreadableTableError,
        r"rooms: the Delta log cannot be read: version 2 is not whole: .*Restore it, or move the table away",
    ),
    "an empty log entry": (
        lambda path: entry(path, 2).write_bytes(b""),
        UnreadableTableError,
        r"rooms: the Delta log cannot be read: version 2 is not whole",
    ),
    "a hole in the log": (
        lambda path: entry(path, 2).unlink(),
        UnreadableTableError,
        r"rooms: the Delta log cannot be read: version 2 is missing. Restore it, or move the table away",
    ),
    "a log without its beginning": (
        lambda path: entry(path, 0).unlink(),
        UnreadableTableError,
        r"rooms: the Delta log cannot be read: version 0 is missing",
    ),
    "a torn checkpoint": (
        lambda path: cut(checkpointed(path)),
        UnreadableTableError,
        r"rooms: the Delta log cannot be read: _delta_log/.*checkpoint.parquet is not whole: .*Restore it",
    ),
    "a checkpoint of a newer protocol": (
        newer_protocol,
        UnsupportedTableError,
        r"rooms: the table needs reader feature 'timeTravelBack', which goldwax cannot write. Use the table's own",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_refused_and_left_as_it_is(path: Path, damage: str) -> None:
    spoil, error, message = DAMAGES[damage]
    spoil(path)
    before = contents(path)
    for _ in range(2):
        with pytest.raises(error, match=message):
            opened(path)
    assert contents(path) == before


@pytest.mark.parametrize("damage", ["a corrupt vector file", "a missing vector file", "a missing data file"])
def test_damage_done_while_the_owner_works_stops_only_what_needs_the_file(path: Path, damage: str) -> None:
    """Rows elsewhere are merged; a merge that asks for the rows of the file changes nothing."""
    owner, whole = opened(path), path.with_name("whole")
    shutil.copytree(path, whole)
    DAMAGES["a missing data file" if "data" in damage else damage][0](path)
    owner.merge([(9001, 1)], [], {"desk/0": 4})
    if "data" in damage:
        with pytest.raises(UnreadableTableError, match="cannot be read"):
            owner.merge([(key, 2) for key, _ in LEFT], [], {"desk/0": 5})
    for file in whole.rglob("*.*"):
        if not (path / file.relative_to(whole)).exists() or file.parent.name == "_dv":
            shutil.copy(file, path / file.relative_to(whole))
    assert_all_read(IN_PROCESS, str(path), frame([*LEFT, (9000, 1), (9001, 1)]))
    owner.merge([(key, 2) for key, _ in LEFT], [], {"desk/0": 5})
    assert_all_read(IN_PROCESS, str(path), frame([*((key, 2) for key, _ in LEFT), (9000, 1), (9001, 1)]))


def test_a_checkpoint_of_which_a_part_is_missing_is_passed_over(path: Path) -> None:
    """Another engine died between the parts: the entries say the same, and nothing is lost."""
    owner = opened(path).table
    owner.log.write_checkpoint(owner.snapshot())
    whole = path / f"_delta_log/{3:020}.checkpoint.parquet"
    actions = pq.read_table(whole)
    pq.write_table(actions.slice(0, 4), path / f"_delta_log/{3:020}.checkpoint.{1:010}.{2:010}.parquet")
    whole.unlink()
    (path / "_delta_log/_last_checkpoint").unlink()
    again = opened(path)
    assert again.merge([(9000, 2)], [], {"desk/0": 4}).updated == 1
    assert again.merge([(key, 2) for key, _ in LEFT], [], {"desk/0": 5}).updated == len(LEFT)

    pq.write_table(actions.slice(4), path / f"_delta_log/{3:020}.checkpoint.{2:010}.{2:010}.parquet")
    for version in range(3):
        entry(path, version).unlink()
    assert opened(path).table.positions(["desk/0"]) == {"desk/0": 5}, "both parts together are read"


def test_an_entry_that_is_cleaned_up_while_the_log_is_read_is_no_empty_entry(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = obstore.list

    def then_removed(*store: Any, **prefix: Any) -> Any:
        found = [*listed(*store, **prefix)]
        entry(path, 2).unlink()
        return found

    monkeypatch.setattr(obstore, "list", then_removed)
    with pytest.raises(UnreadableTableError, match="version 2 is missing"):
        opened(path)


@pytest.mark.parametrize("call", ["list", "get"])
def test_a_store_that_does_not_answer_is_no_damaged_table(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise GenericError("the connection was reset")

    before = contents(path)
    with monkeypatch.context() as patch:
        patch.setattr(obstore, call, silent)
        with pytest.raises(TransientError, match=r"rooms: .*the connection was reset"):
            opened(path)
    assert contents(path) == before
    opened(path).merge([(9000, 2)], [], {"desk/0": 4})


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, SCHEMA, orient="row")


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
