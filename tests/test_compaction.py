"""Compaction beside an owner that merges on: rows keep their keys, replaced ones stay gone, files stay few."""

from concurrent.futures import wait
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from storage.delta.compaction import compact
from storage.delta.delta_actions import DataFile
from storage.delta.maintenance import Maintained, Maintenance
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.table import Table
from tests.keyed_table import KeyedTable, Row
from tests.readers import IN_PROCESS, DataFusion, assert_all_read
from tests.rooms import declared, operations

SCHEMA = pl.Schema({"id": pl.Int64(), "n": pl.Int64()})
BOTH = pytest.mark.parametrize("vectors", [True, False])
HOUR = timedelta(hours=1)


class Kept:
    """A keyed table and its maintenance, against a dictionary."""

    def __init__(self, path: Path, *, vectors: bool) -> None:
        self.path, self.uri = path, str(path)
        self.owner = KeyedTable(self.uri, SCHEMA, ["id"], vectors=vectors)
        self.maintenance = Maintenance(self.owner.table, self.owner.locator, HOUR)
        self.model: dict[int, int] = {}

    def merge(self, upserts: dict[int, int], deletes: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.owner.merge(upserts.items(), [(each,) for each in deletes], {"desk/0": len(upserts)})
        self.model = {key: n for key, n in self.model.items() if key not in deletes} | upserts

    def begin(self) -> None:
        """Let maintenance begin what is due, and wait until only the owner's part of it is left."""
        self.maintenance.tick()
        assert self.maintenance._job is not None
        wait([self.maintenance._job])

    def finish(self) -> None:
        self.maintenance.tick()
        if self.maintenance._job:
            wait([self.maintenance._job])

    def check(self) -> None:
        assert_all_read(IN_PROCESS, self.uri, pl.DataFrame([*self.model.items()], SCHEMA, orient="row"))

    @property
    def files(self) -> int:
        return len(DeltaTable(self.path).file_uris())


@pytest.fixture(autouse=True)
def _tireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compactions of a few rows do not rest, but where a test says so."""
    monkeypatch.setattr("storage.delta.maintenance._REST", 0.0)


@pytest.fixture(params=[True, False], ids=["vectors", "rewrite"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    return Kept(tmp_path / "orders", vectors=request.param)


def test_compacted_rows_keep_their_keys(kept: Kept) -> None:
    for start in range(0, 40, 10):
        kept.merge(dict.fromkeys(range(start, start + 10), 0))
    kept.begin()
    kept.finish()
    assert (kept.files, operations(kept.path)[-1]) == (1, "OPTIMIZE")
    assert DataFusion().changes(kept.uri, 5, 5).is_empty(), "moved rows are no changes"
    kept.check()
    done = kept.owner.merge([(key, 1) for key in range(5, 25)], [(3,), (33,), (99,)], {})
    assert (done.inserted, done.updated, done.deleted, done.from_version, done.version) == (0, 20, 2, 4, 6)
    kept.model |= dict.fromkeys(range(5, 25), 1)
    del kept.model[3], kept.model[33]
    kept.check()


def test_rows_that_are_replaced_while_a_compaction_runs_do_not_come_back(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "orders", vectors=True)
    for start in range(0, 4000, 1000):
        kept.merge(dict.fromkeys(range(start, start + 1000), 0), {start + 7} if start else set())
    kept.begin()
    kept.merge(dict.fromkeys(range(0, 3000, 3), 1) | {9000: 1}, {1, 2500})  # of several sources
    kept.merge(dict.fromkeys(range(0, 3000, 600), 2), {9000})
    kept.check()
    kept.finish()
    assert operations(kept.path)[-1] == "OPTIMIZE"
    kept.check()
    kept.merge(dict.fromkeys(range(0, 4000, 2), 3), {5, 3999})
    kept.check()
    again = KeyedTable(kept.uri, SCHEMA, ["id"], vectors=True)
    assert again.merge([(key, 4) for key in kept.model], [], {}).updated == len(kept.model)


def test_a_compacted_file_of_which_nothing_is_left_does_not_become_part_of_the_table(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "orders", vectors=True)
    for key in range(8):
        kept.merge({2 * key: 0, 2 * key + 1: 0})
    kept.begin()
    kept.merge({}, {*range(0, 16, 2)})
    kept.merge({100: 1})
    kept.merge({2 * key + 1: 1 for key in range(8)})  # every source is emptied: nothing of it may move
    kept.check()
    kept.finish()
    kept.check()
    assert parquet_files(kept.path) >= {Path(uri).name for uri in DeltaTable(kept.path).file_uris()}


@BOTH
def test_a_stale_compaction_is_abandoned_and_its_file_removed(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    kept = Kept(tmp_path / "orders", vectors=vectors)
    for key in range(4):
        kept.merge({key: 0, key + 10: 0})
    before = parquet_files(kept.path)
    kept.begin()
    (written,) = parquet_files(kept.path) - before
    kept.merge({}, {2, 12})  # all of one source
    kept.maintenance.tick()
    assert written not in parquet_files(kept.path)
    assert "OPTIMIZE" not in operations(kept.path)
    kept.check()
    kept.merge(dict.fromkeys(range(4), 1))
    kept.check()


def test_a_compaction_that_others_did_meanwhile_is_abandoned(kept: Kept) -> None:
    for key in range(4):
        kept.merge({key: 0})
    kept.begin()
    DeltaTable(kept.path).optimize.compact()
    kept.maintenance.tick()
    assert operations(kept.path).count("OPTIMIZE") == 1
    kept.check()
    kept.merge(dict.fromkeys(range(3), 1), {3})
    kept.check()


@pytest.mark.parametrize(("vectors", "merges", "few"), [(True, 300, 12), (False, 100, 40)])
def test_files_stay_few_over_hundreds_of_merges(
    tmp_path: Path,
    vectors: bool,  # noqa: FBT001
    merges: int,
    few: int,
) -> None:
    """Merges touch old rows all over the table; where they write what is left anew, they make few files of many."""
    kept, most = Kept(tmp_path / "orders", vectors=vectors), 0
    for step in range(merges):
        upserts = dict.fromkeys(range(10 * step, 10 * step + 10), step)
        changed = dict.fromkeys(range(step % 50, 10 * step, 97), -step)
        kept.merge(upserts | changed, {10 * step - 5} if step % 7 == 1 else set())
        kept.finish()
        most = max(most, len(kept.owner.table.data_files))
    assert most <= few
    kept.check()


def test_a_file_is_written_anew_when_a_fifth_of_its_rows_is_gone(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "orders", vectors=True)
    kept.merge(dict.fromkeys(range(1000), 0))
    kept.merge({}, {*range(200)})
    kept.maintenance.tick()
    assert kept.maintenance._job is None, "a fifth is not more than a fifth"
    kept.merge({}, {200})
    kept.begin()
    kept.finish()
    (file,) = kept.owner.table.data_files
    assert (file.rows, file.vector) == (799, None)
    kept.check()
    kept.merge(dict.fromkeys(range(201, 1000), 1), set())
    kept.check()


def test_an_append_only_table_is_compacted_without_keys(tmp_path: Path) -> None:
    uri = str(tmp_path / "log")
    table = OwnedTable(uri, declared(SCHEMA))
    rows: list[Row] = []
    maintained = Maintenance(table, table, HOUR)
    for number in range(40):
        rows.append((number, None))
        table.append(pl.DataFrame(rows[-1:], SCHEMA, orient="row"), Commit({"desk/0": number}))
        maintained.tick()
        if maintained._job:
            wait([maintained._job])
    assert len(table.data_files) <= 6
    assert_all_read(IN_PROCESS, uri, pl.DataFrame(rows, SCHEMA, orient="row"))
    again = Table(uri)
    files = len(again.data_files)
    assert Maintenance(again, again, HOUR).run() == Maintained(files, len(again.data_files), 0)
    table.append(pl.DataFrame([(99, None)], SCHEMA, orient="row"), Commit({"desk/0": 99}))
    assert_all_read(IN_PROCESS, uri, pl.DataFrame([*rows, (99, None)], SCHEMA, orient="row"))


@pytest.mark.parametrize(("rest", "compactions"), [(0.0, 2), (1e9, 1)])
def test_a_compaction_is_followed_by_a_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: float, compactions: int
) -> None:
    monkeypatch.setattr("storage.delta.maintenance._REST", rest)
    table = OwnedTable(str(tmp_path), declared(SCHEMA))
    maintained = Maintenance(table, table, HOUR)
    for number in range(8):
        table.append(pl.DataFrame([(number, None)], SCHEMA, orient="row"), Commit({"desk/0": number}))
        maintained.tick()
        wait([maintained._job] if maintained._job else [])
    maintained.tick()
    assert operations(tmp_path).count("OPTIMIZE") == compactions


def parquet_files(path: Path) -> set[str]:
    return {file.name for file in path.glob("*.parquet")}


def test_a_table_may_get_a_column_while_a_compaction_reads_its_files(tmp_path: Path) -> None:
    wide = pl.Schema({**SCHEMA, "note": pl.String()})
    table = OwnedTable(str(tmp_path), declared(SCHEMA))
    rows = pl.DataFrame([(1, 1), (2, 2)], SCHEMA, orient="row")
    for row in rows.iter_slices(1):
        table.append(row, Commit({}))

    def read(file: DataFile) -> pl.DataFrame:
        found = table.read(file)
        table.evolve(declared(wide))
        return found

    table.move(compact(table.files, table.data_files, read))
    assert len(DeltaTable(tmp_path).file_uris()) == 1
    assert_all_read(IN_PROCESS, str(tmp_path), rows.with_columns(note=pl.lit(None, pl.String())))
