"""Where full snapshots are found: which are complete, which can be read."""

import os
from pathlib import Path

import obstore
import polars as pl
import pytest
from deltalake import DeltaTable

from operators.silver.version_names import VersionNames
from storage.errors import SourceError, UnreadableSnapshotError
from storage.object_store import open_store
from storage.snapshots.delta_snapshots import DeltaSnapshots
from storage.snapshots.full_snapshots import FullSnapshots
from storage.snapshots.parquet_snapshots import Modified, ParquetSnapshots
from tests.object_stores import Bucket

GUESTS = pl.DataFrame({"no": ["1a", "1b"], "guest": ["Ada", "Bob"], "age": [36, 7]})


def by_name(place: Path | str, marker: str | None = "_SUCCESS") -> ParquetSnapshots:
    names = VersionNames("v={integer}*")
    return ParquetSnapshots(str(place), lambda name, _: names.version(name), marker)


def by_arrival(_: str, modified: Modified) -> int | None:
    return modified()


def found(place: FullSnapshots, *done: int) -> dict[int, str]:
    return {snapshot.version: snapshot.name for snapshot in place.complete(done)}


def read(place: FullSnapshots, version: int, *columns: str, after: int | None = None) -> pl.DataFrame:
    (snapshot,) = (each for each in place.complete(() if after is None else {after}) if each.version == version)
    return pl.concat(place.parts(snapshot, columns or GUESTS.columns))


def spark_directory(path: Path, *parts: pl.DataFrame, marker: bool = True) -> Path:
    path.mkdir()
    for number, part in enumerate(parts):
        part.write_parquet(path / f"part-{number:05}.parquet")
    (path / "_temporary.parquet").write_bytes(b"someone's scratch")
    if marker:
        (path / "_SUCCESS").touch()
    return path


def test_files_and_directories_are_snapshots_when_they_are_complete(tmp_path: Path) -> None:
    GUESTS.write_parquet(tmp_path / "v=3.parquet")
    GUESTS.write_parquet(tmp_path / ".v=4.parquet")
    GUESTS.write_parquet(tmp_path / "_v=5.parquet")
    GUESTS.write_csv(tmp_path / "v=6.csv")
    GUESTS.write_parquet(tmp_path / "customers.parquet")
    spark_directory(tmp_path / "v=17", GUESTS[:1], GUESTS[1:])
    spark_directory(tmp_path / "v=1", GUESTS[:1], marker=False)
    GUESTS.write_delta(tmp_path / "v=18")
    place = by_name(tmp_path)
    assert found(place) == {3: "v=3.parquet", 17: "v=17", 18: "v=18"}
    assert found(place, 17, 18) == {3: "v=3.parquet"}
    for version in (3, 17, 18):
        assert read(place, version).equals(GUESTS)
        assert read(place, version, "age", "guest").equals(GUESTS[["guest", "age"]])
        named = GUESTS[:1].with_columns(no=None, age=None)
        assert read(place, version, "guest", "other")[:1].equals(named), "what is found instead"
    (tmp_path / "v=1/_SUCCESS").touch()
    assert found(place) == {1: "v=1", 3: "v=3.parquet", 17: "v=17", 18: "v=18"}


def test_a_directory_without_markers_is_complete_as_soon_as_it_is_there(tmp_path: Path) -> None:
    spark_directory(tmp_path / "v=1", GUESTS, marker=False)
    (tmp_path / "v=2").mkdir()
    assert found(by_name(tmp_path, marker=None)) == {1: "v=1"}
    assert found(by_name(tmp_path, marker="DONE")) == {}


def test_by_arrival_the_version_is_when_a_file_or_a_marker_was_written(tmp_path: Path) -> None:
    GUESTS.write_parquet(tmp_path / "a.parquet")
    spark_directory(tmp_path / "b", GUESTS)
    spark_directory(tmp_path / "c", GUESTS, marker=False)
    for name, seconds in (("a.parquet", 1_700_000_002.25), ("b/_SUCCESS", 1_700_000_001)):
        os.utime(tmp_path / name, (seconds, seconds))
    place = ParquetSnapshots(str(tmp_path), by_arrival, "_SUCCESS")
    assert found(place) == {1_700_000_001_000_000: "b", 1_700_000_002_250_000: "a.parquet"}
    assert [each.written_at for each in place.complete(())] == [1_700_000_001_000, 1_700_000_002_250]


def test_two_snapshots_of_one_version_stop(tmp_path: Path) -> None:
    GUESTS.write_parquet(tmp_path / "v=3.parquet")
    spark_directory(tmp_path / "v=3", GUESTS)
    with pytest.raises(SourceError, match=r"v=3.parquet and v=3 are snapshots of the same version, 3. Move one"):
        by_name(tmp_path).complete(())
    with pytest.raises(SourceError, match="nowhere: no such directory; expected one with snapshots"):
        by_name(tmp_path / "nowhere").complete(())


def test_what_is_cut_off_empty_or_still_being_written_cannot_be_read(tmp_path: Path) -> None:
    GUESTS.write_parquet(tmp_path / "v=1.parquet")
    whole = (tmp_path / "v=1.parquet").read_bytes()
    (tmp_path / "v=2.parquet").write_bytes(whole[:-20])
    (tmp_path / "v=3.parquet").touch()
    spark_directory(tmp_path / "v=4")
    place = by_name(tmp_path)
    for version, message in ((2, "cannot be read"), (3, "cannot be read"), (4, "it holds no Parquet file")):
        with pytest.raises(UnreadableSnapshotError, match=f"v={version}.*{message}"):
            read(place, version)
    for act in (lambda: (tmp_path / "v=1.parquet").write_bytes(whole), (tmp_path / "v=1.parquet").unlink):
        (snapshot,) = place.complete({2, 3, 4})
        parts = place.parts(snapshot, GUESTS.columns)
        next(parts)
        act()
        with pytest.raises(UnreadableSnapshotError, match="it was changed while it was read"):
            next(parts)


def test_the_versions_of_a_delta_table_from_the_newest_on(tmp_path: Path) -> None:
    table = tmp_path / "customers"
    place = DeltaSnapshots(str(table))
    with pytest.raises(SourceError, match="customers: no Delta table is here"):
        place.complete(())
    for rows in (GUESTS[:1], GUESTS):
        rows.write_delta(table, mode="overwrite")
    assert found(place) == {1: "version 1"}
    for _ in range(2):
        GUESTS[:1].write_delta(table, mode="append")
    DeltaTable(table).optimize.compact()
    DeltaTable(table).delete("age = 36")
    DeltaTable(table).alter.set_table_properties({"delta.appendOnly": "false"})
    versions = {each.version: each for each in place.complete({1})}
    ages = {version: read(place, version, "age", after=1)["age"].to_list() for version in versions}
    assert {version: sorted(rows) for version, rows in ages.items()} == {2: [7, 36, 36], 3: [7, 36, 36, 36], 5: [7]}
    assert versions[5].written_at > 1_700_000_000_000
    assert found(place, 1, 2, 3, 5, 6) == {}


def test_versions_that_the_log_lost_are_passed_over_and_a_table_made_anew_stops(tmp_path: Path) -> None:
    table = tmp_path / "customers"
    for _ in range(4):
        GUESTS.write_delta(table, mode="overwrite")
    DeltaTable(table).create_checkpoint()
    for version in range(3):
        (table / f"_delta_log/{version:020}.json").unlink()
    place = DeltaSnapshots(str(table))
    assert found(place, 1) == {3: "version 3"}
    (table / f"_delta_log/{3:020}.json").unlink()
    assert found(place, 3) == {}
    with pytest.raises(SourceError, match="the table is at version 3, expected at least 9, which was taken in before"):
        place.complete({9})


def test_a_version_whose_files_are_gone_cannot_be_read(tmp_path: Path) -> None:
    table = tmp_path / "customers"
    GUESTS.write_delta(table)
    for path in table.glob("*.parquet"):
        path.unlink()
    with pytest.raises(UnreadableSnapshotError, match="version 0 cannot be read"):
        read(DeltaSnapshots(str(table)), 0)


def test_snapshots_in_an_object_store(s3_bucket: Bucket, tmp_path: Path) -> None:
    GUESTS.write_parquet(tmp_path / "guests.parquet")
    store = open_store(f"{s3_bucket.uri}/exports")
    for path in ("v=1.parquet", "v=2/part-0.parquet", "v=2/part-1.parquet", "v=3/part-0.parquet"):
        obstore.put(store, path, tmp_path / "guests.parquet")
    obstore.put(store, "v=2/_SUCCESS", b"")
    GUESTS.write_delta(f"{s3_bucket.uri}/exports/v=4")
    place = by_name(f"{s3_bucket.uri}/exports")
    assert found(place) == {1: "v=1.parquet", 2: "v=2", 4: "v=4"}
    assert [read(place, version).height for version in (1, 2, 4)] == [2, 4, 2]
    obstore.delete(store, "v=1.parquet")
    assert found(place) == {2: "v=2", 4: "v=4"}
