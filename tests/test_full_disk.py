"""A disk full or read-only in the middle of a commit: the table stays as it was, and the next attempt succeeds."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
from deltalake import DeltaTable

from storage.errors import TransientError, UnwritableError
from tests.clocks import age
from tests.faults import no_space_for
from tests.keyed_table import KeyedTable, Row
from tests.readers import IN_PROCESS, DataFusion, assert_all_read
from tests.test_bad_tables import SCHEMA, frame
from tests.test_maintenance import HOUR

ROWS: list[Row] = [(key, 0) for key in range(9000)]
UPSERTS: list[Row] = [(key * key % 8999, 1) for key in range(1, 1500)]
UPSERTS = [*{row[0]: row for row in UPSERTS}.values()]
AFTER = [*{row[0]: row for row in [*ROWS, *UPSERTS] if row[0] != 8999}.values()]
FILES = {
    True: ["part-", "_dv/", "_change_data/", "_delta_log/"],
    False: ["part-", "_change_data/", "_delta_log/"],
}
CASES = [(part, vectors) for vectors, parts in FILES.items() for part in parts]


def opened(path: Path, *, vectors: bool) -> KeyedTable:
    owner = KeyedTable(str(path), SCHEMA, ["id"], vectors=vectors)
    if owner.table.version == 0:
        owner.merge(ROWS, [], {"desk/0": 1})
    return owner


def merge(owner: KeyedTable) -> None:
    owner.merge(UPSERTS, [(8999,)], {"desk/0": 2})


def assert_unchanged(path: Path) -> None:
    assert_all_read(IN_PROCESS, str(path), frame(ROWS))
    assert (DeltaTable(path).version(), DeltaTable(path).transaction_version("hotel/desk/0")) == (1, 1)


def assert_merged(path: Path) -> None:
    assert_all_read(IN_PROCESS, str(path), frame(AFTER))
    assert (DeltaTable(path).version(), DeltaTable(path).transaction_version("hotel/desk/0")) == (2, 2)
    told = dict(DataFusion().changes(str(path), 2, 2)["_change_type"].value_counts().rows())
    changed = len(UPSERTS)
    assert told == {"update_preimage": changed, "update_postimage": changed, "delete": 1}


@pytest.mark.parametrize("again", ["the same owner", "a new owner"])
@pytest.mark.parametrize(("part", "vectors"), CASES)
def test_a_disk_full_for_one_of_the_files_changes_nothing(
    tmp_path: Path,
    part: str,
    vectors: bool,  # noqa: FBT001
    again: str,
) -> None:
    path = tmp_path / "rooms"
    owner = opened(path, vectors=vectors)
    for _ in range(2):
        with no_space_for(part), pytest.raises(TransientError, match=r"rooms: .*No space left on device"):
            merge(owner)
        assert_unchanged(path)
    owner = owner if again == "the same owner" else opened(path, vectors=vectors)
    merge(owner)
    assert_merged(path)
    age(path, 26 * HOUR)
    needed = {Path(uri).name for uri in DeltaTable(path).file_uris()}
    owner.maintain(HOUR)
    data = {file.name for file in path.glob("part-*")}
    before = {Path(uri).name for uri in DeltaTable(path, version=1).file_uris()}
    assert data <= needed | before, "what the failed attempts left is gone"
    assert_all_read(IN_PROCESS, str(path), frame(AFTER))


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let the operating system refuse files of more than so many bytes, which stops a write halfway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("vectors", [True, False])
def test_a_write_that_the_system_stops_halfway_changes_nothing(tmp_path: Path, vectors: bool) -> None:  # noqa: FBT001
    path = tmp_path / "rooms"
    owner, refused = opened(path, vectors=vectors), 0
    size = 64
    while DeltaTable(path).version() == 1:
        try:
            with no_file_above(size):
                merge(owner)
        except TransientError as error:
            assert "File too large" in str(error)  # noqa: PT017 - which size is the first to do is not ours to say
            refused += 1
            assert_unchanged(path)
            owner = opened(path, vectors=vectors)
        size *= 2
    assert refused >= 4
    assert_merged(path)
    assert not [file.name for file in path.rglob("*#*")], "no half of a file is left"


def test_storage_that_has_become_read_only_refuses_commits_and_keeps_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rooms"
    owner = opened(path, vectors=True)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", refuse)
        with pytest.raises(TransientError, match=r"rooms: .* could not be written: .*Read-only file system"):
            merge(owner)
    assert_unchanged(path)
    merge(owner)
    assert_merged(path)
    with pytest.raises(UnwritableError, match=r"cannot write here .* expected a directory this user may write to"):
        opened(Path("/proc/nowhere"), vectors=True)
