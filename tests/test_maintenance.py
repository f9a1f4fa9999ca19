"""Checkpoints, clean-up and sweeps: what is needed stays and can be read, what is not goes, failures are survived."""

from concurrent.futures import wait
from datetime import timedelta
from pathlib import Path

import obstore
import polars as pl
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from storage.delta import maintenance as storage_maintenance
from storage.delta.delta_log import DeltaLog
from storage.delta.maintenance import Maintained, Maintenance
from storage.delta.snapshot import Snapshot
from storage.errors import TransientError
from tests.clocks import Clock, age, movable_clock
from tests.faults import fault_of_reads
from tests.keyed_table import KeyedTable, Row
from tests.readers import IN_PROCESS, DataFusion, assert_all_read
from tests.written_tables import store_at

SCHEMA = pl.Schema({"id": pl.Int64(), "n": pl.Int64()})
BOTH = pytest.mark.parametrize("vectors", [True, False])
HOUR = timedelta(hours=1)
KEYS = 600


def opened(path: Path, *, vectors: bool = True) -> KeyedTable:
    return KeyedTable(str(path), SCHEMA, ["id"], vectors=vectors)


def merges(owner: KeyedTable, first: int, last: int) -> dict[int, list[Row]]:
    """Merge versions `first` to `last` and return the rows of each: half of the keys change, half stay."""
    states, model = {}, {row[0]: row for row in pl.read_delta(owner.table.uri).rows()}
    for version in range(first, last + 1):
        rows = {key: (key, version) for key in range(version % 2, KEYS, 2)}
        gone = version + KEYS // 2
        rows.pop(gone, None)
        owner.merge(rows.values(), [(gone,)], {"desk/0": version})
        model = {key: row for key, row in (model | rows).items() if key != gone}
        states[version] = [*model.values()]
    assert owner.table.version == last
    return states


def frame(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, SCHEMA, orient="row")


def snapshot(path: Path) -> Snapshot:
    found = DeltaLog(store_at(str(path)), str(path)).read()
    assert found is not None
    return found


@pytest.fixture(autouse=True)
def _tireless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compactions of a few rows do not rest."""
    monkeypatch.setattr("storage.delta.maintenance._REST", 0.0)


def ticks(maintenance: Maintenance, times: int = 2) -> None:
    for _ in range(times):
        maintenance.tick()
        if maintenance._job:
            wait([maintenance._job])


@BOTH
def test_a_checkpoint_after_fifty_commits_says_all_that_the_entries_said(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    owner = opened(path, vectors=vectors)
    maintenance = Maintenance(owner.table, owner.locator, HOUR)
    states: dict[int, list[Row]] = {}
    for version in range(1, 51):
        states |= merges(owner, version, version)
    before = snapshot(path)
    maintenance.tick()
    wait([maintenance._job] if maintenance._job else [])
    entries = path / "_delta_log"
    assert [file.name for file in entries.glob("*.parquet")] == [f"{50:020}.checkpoint.parquet"]
    for entry in sorted(entries.glob("*.json"))[:-1]:
        entry.unlink()
    assert_all_read(IN_PROCESS, str(path), frame(states[50]))
    assert DeltaTable(path).transaction_version("hotel/desk/0") == 50
    after = snapshot(path)
    assert (after.files, after.transactions, after.protocol) == (before.files, before.transactions, before.protocol)
    assert after.metadata == before.metadata
    again = opened(path, vectors=vectors)
    assert again.table.positions(["desk/0"]) == {"desk/0": 50}
    states |= merges(again, 51, 52)
    assert_all_read(IN_PROCESS, str(path), frame(states[52]))
    assert_all_read(IN_PROCESS, str(path), frame(states[51]), 51)


class Aged:
    """A table of 20 versions: those up to 10 are two hours old, with a checkpoint at 6; the others are new."""

    def __init__(self, path: Path, clock: Clock, *, vectors: bool) -> None:
        self.path, self.uri = path, str(path)
        clock.offset = -2 * HOUR
        self.owner = opened(path, vectors=vectors)
        self.states = merges(self.owner, 1, 6)
        self.owner.table.log.write_checkpoint(self.owner.table.snapshot())
        self.states |= merges(self.owner, 7, 10)
        age(path, 2 * HOUR)
        clock.offset = timedelta(0)
        self.states |= merges(self.owner, 11, 20)


@pytest.fixture(params=[True, False], ids=["vectors", "rewrite"])
def aged(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Aged:
    return Aged(tmp_path / "rooms", movable_clock(monkeypatch), vectors=request.param)


def test_every_version_within_retention_can_be_read_after_a_sweep(aged: Aged) -> None:
    done = aged.owner.maintain(HOUR)
    assert done.removed > 0
    newest = aged.owner.table.version
    for version, rows in aged.states.items():
        if version >= 10:  # the one that the retention began with
            assert_all_read(IN_PROCESS, aged.uri, frame(rows), version)
    assert_all_read(IN_PROCESS, aged.uri, frame(aged.states[20]), newest)
    kinds = DataFusion().changes(aged.uri, 11, newest)["_change_type"].value_counts()
    assert dict(kinds.rows()).keys() >= {"insert", "update_preimage", "update_postimage"}
    for forgotten in (2, 5):
        with pytest.raises((DeltaError, OSError)):
            DeltaTable(aged.uri, version=forgotten)
    assert opened(aged.path).table.positions(["desk/0"]) == {"desk/0": 20}


def test_files_that_no_version_within_retention_needs_go_and_no_others(aged: Aged) -> None:
    begun = {file for file in files(aged.path) if is_old(aged.path / file)}
    needed = {Path(uri).name for uri in DeltaTable(aged.uri, version=10).file_uris()}
    foreign = ["README.txt", "notes/plan.md", "_delta_log/README.txt", "part.csv"]
    orphans = ["part-orphan.parquet", "_dv/deletion_vector_orphan.bin", "_change_data/cdc-orphan.parquet"]
    in_flight = [*(name.replace("orphan", "new") for name in orphans), "part-long-in-writing.parquet"]
    for name in [*foreign, *orphans, *in_flight]:
        (aged.path / name).parent.mkdir(exist_ok=True)
        (aged.path / name).write_text("?")
    for name in [*foreign, *orphans, "part-long-in-writing.parquet"]:
        age(aged.path / name, 2 * HOUR)
    age(aged.path / "part-orphan.parquet", 24 * HOUR)  # what others write may take them hours to commit
    aged.owner.maintain(HOUR)
    left = files(aged.path)
    assert left >= {*foreign, *in_flight}
    assert not left & {*orphans}
    assert {name for name in left & begun if name.startswith("part-")} == needed & begun
    assert not {name for name in left & begun if name.startswith("_change_data/")}
    assert {name for name in left if name.endswith(".json")} >= {entry(version) for version in range(6, 21)}
    assert not {name for name in left if name.endswith(".json")} & {entry(version) for version in range(6)}
    assert aged.owner.maintain(HOUR).removed == 0


def test_a_live_vector_file_stays_however_old_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = movable_clock(monkeypatch)
    clock.offset = -50 * HOUR
    owner = opened(tmp_path / "rooms")
    owner.merge([(key, 0) for key in range(9000)], [], {})
    gone = [(key * key % 9001,) for key in range(1, 1500)]  # so scattered that the vector needs a file
    owner.merge([], gone, {})
    (live,) = (tmp_path / "rooms/_dv").iterdir()
    age(tmp_path / "rooms", 50 * HOUR)
    clock.offset = timedelta(0)
    owner.merge([(-1, 0)], [], {})
    assert owner.maintain(HOUR) == Maintained(2, 2, 1), "the change data of old"
    assert live.exists()
    owner.merge([], [(8500,)], {})
    (new,) = set((tmp_path / "rooms/_dv").iterdir()) - {live}
    assert owner.maintain(HOUR).removed == 0, "replaced a moment ago"
    clock.offset = 2 * HOUR
    assert owner.maintain(HOUR).removed >= 1
    assert [*(tmp_path / "rooms/_dv").iterdir()] == [new]
    left = {(key, 0) for key in range(9000) if (key,) not in {*gone, (8500,)}} | {(-1, 0)}
    assert_all_read(IN_PROCESS, str(tmp_path / "rooms"), frame([*left]))


def test_sweeps_of_the_owner_run_beside_it(aged: Aged) -> None:
    maintenance = Maintenance(aged.owner.table, aged.owner.locator, HOUR)
    before = len(files(aged.path))
    maintenance._swept -= 20 * 60  # seconds: more than a quarter of the retention ago
    ticks(maintenance)
    assert len(files(aged.path)) < before
    states = merges(aged.owner, 21, 22) if aged.owner.table.version == 20 else {}
    for version, rows in states.items():
        assert_all_read(IN_PROCESS, aged.uri, frame(rows), version)


def test_a_compaction_of_an_unreadable_file_is_logged_and_the_table_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rooms"
    owner = opened(path)
    for key in range(4):
        owner.merge([(key, 0)], [], {})
    owner = opened(path)  # which has no rows in memory
    maintenance = Maintenance(owner.table, owner.locator, HOUR)
    (damaged, *_) = path.glob("*.parquet")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100])
    ticks(maintenance)
    assert "rooms: a compaction failed and is tried again" in caplog.text
    assert f"data file {damaged.name} cannot be read" in caplog.text
    owner.merge([(9, 0)], [], {})
    ticks(maintenance)
    assert len(owner.table.data_files) == 5, "not before a pause"

    damaged.write_bytes(content)
    monkeypatch.setattr(maintenance, "_resume_at", {})
    ticks(maintenance)
    assert len(owner.table.data_files) == 1
    assert_all_read(IN_PROCESS, str(path), frame([(0, 0), (1, 0), (2, 0), (3, 0), (9, 0)]))


@pytest.mark.parametrize("failing", ["put", "list", "delete"])
def test_a_store_that_refuses_maintenance_does_not_stop_merges(
    aged: Aged, failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint or a compaction cannot be written; files cannot be listed or removed."""
    maintenance = Maintenance(aged.owner.table, aged.owner.locator, HOUR)
    if failing != "put":
        maintenance._swept -= 20 * 60

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_maintenance, "_CHECKPOINT_EVERY", 0 if failing == "put" else 99)
        patch.setattr(obstore, failing, refuse)
        ticks(maintenance)
    assert "failed and is tried again" in caplog.text
    assert "Read-only file system" in caplog.text
    version = aged.owner.table.version
    states = merges(aged.owner, version + 1, version + 2)
    monkeypatch.setattr(maintenance, "_resume_at", {})
    ticks(maintenance, 6)
    assert_all_read(IN_PROCESS, aged.uri, frame(states[version + 2]))
    assert len(caplog.records) == 1


def test_a_log_that_cannot_be_read_puts_a_sweep_off_and_does_not_reach_the_merge(
    aged: Aged, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sweep first takes in what others committed; a compaction that fails to commit is left as well."""
    maintenance = Maintenance(aged.owner.table, aged.owner.locator, HOUR)
    maintenance._swept -= 20 * 60

    def failing(*_: object) -> None:
        raise TransientError("the store is away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aged.owner.table, "refresh", failing)
        ticks(maintenance)
    assert "a sweep failed and is tried again: the store is away" in caplog.text
    for key in range(4):
        aged.owner.merge([(KEYS * 10 + key, 0)], [], {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aged.owner.locator, "move", failing)
        monkeypatch.setattr(maintenance, "_resume_at", {})
        ticks(maintenance, 6)
    assert len(caplog.records) == 2
    version = aged.owner.table.version
    states = merges(aged.owner, version + 1, version + 2)
    assert_all_read(IN_PROCESS, aged.uri, frame(states[version + 2]))


@pytest.mark.parametrize("theirs", ["OPTIMIZE", "appends"])
def test_what_others_did_is_taken_in_whole_or_not_at_all(
    tmp_path: Path, theirs: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of theirs cannot be read while a sweep looks for what others committed; merges go on as if it had not."""
    path = tmp_path / "rooms"
    owner = opened(path)
    for key in range(3):
        owner.merge([(key, 0)], [], {"desk/0": key})
    maintenance = Maintenance(owner.table, owner.locator, HOUR)
    maintenance._swept -= 20 * 60
    if theirs == "OPTIMIZE":
        DeltaTable(path).optimize.compact()
    else:
        for key in (7, 8):
            pl.DataFrame([(key, 0)], SCHEMA, orient="row").write_delta(str(path), mode="append")
    with fault_of_reads(owner.table.files, 1 if theirs == "OPTIMIZE" else 2):
        ticks(maintenance, 1)
    assert "a sweep failed and is tried again: the store is away" in caplog.text
    owner.merge([(9, 0)], [(1,)], {"desk/0": 9})
    expected = [(0, 0), (2, 0), (9, 0), *([] if theirs == "OPTIMIZE" else [(7, 0), (8, 0)])]
    assert_all_read(IN_PROCESS, str(path), frame(expected))


def test_a_kind_of_maintenance_that_fails_does_not_keep_the_others_from_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransientError("no checkpoint today")

    owner = opened(tmp_path / "rooms")
    maintenance = Maintenance(owner.table, owner.locator, HOUR)
    monkeypatch.setattr(storage_maintenance, "_CHECKPOINT_EVERY", 1)
    monkeypatch.setattr(owner.table.log, "write_checkpoint", refuse)
    for key in range(30):
        owner.merge([(key, 0)], [], {})
        ticks(maintenance)
    assert len(owner.table.data_files) < 8


def test_maintenance_by_hand_says_why_it_cannot(aged: Aged, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    for call in ("put", "list", "delete"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(obstore, call, refuse)
            with pytest.raises(TransientError, match=r"rooms: .*Read-only file system"):
                aged.owner.maintain(HOUR)
    monkeypatch.undo()
    assert_all_read(IN_PROCESS, aged.uri, frame(aged.states[20]))


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def is_old(file: Path) -> bool:
    return file.stat().st_mtime < Clock().time() - HOUR.total_seconds()


def entry(version: int) -> str:
    return f"_delta_log/{version:020}.json"
