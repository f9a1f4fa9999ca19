"""The Delta log written by hand: what we write others read, what others write we read, and races have one winner."""

import json
import threading
import uuid
from pathlib import Path

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore
from pyroaring import BitMap64

from storage.deletion_vectors import Descriptor, decode, encode
from storage.delta_actions import Action, DataFile, transaction
from storage.delta_log import DeltaLog
from storage.errors import CommitRaceError, CorruptVectorError, UnreadableTableError, UnsupportedTableError

SCHEMA = {
    "type": "struct",
    "fields": [
        {"name": "id", "type": "long", "nullable": True, "metadata": {}},
        {"name": "city", "type": "string", "nullable": True, "metadata": {}},
    ],
}
PROTOCOL = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"],
    "writerFeatures": ["deletionVectors", "changeDataFeed", "appendOnly", "invariants"],
}


class Written:
    """A table made of hand-written log entries, and what it must hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.log = DeltaLog(LocalStore(root), str(root))
        self.version = -1
        metadata = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps(SCHEMA),
            "partitionColumns": [],
            "configuration": {"delta.enableDeletionVectors": "true"},
            "createdTime": 0,
        }
        self.commit({"protocol": PROTOCOL}, {"metaData": metadata})

    def commit(self, *actions: Action) -> None:
        self.log.commit(self.version + 1, actions, {"operation": "WRITE"})
        self.version += 1

    def add(self, name: str, ids: range) -> DataFile:
        path = self.root / name
        pl.DataFrame({"id": ids, "city": [f"city {each}" for each in ids]}).write_parquet(path)
        file = DataFile(name, path.stat().st_size, 0, len(ids), json.dumps({"numRecords": len(ids)}))
        self.commit(file.add(), transaction("shop/orders/0", ids.stop))
        return file

    def delete(self, *rows: tuple[DataFile, BitMap64]) -> list[DataFile]:
        """Commit new vectors for files, all in one entry."""
        descriptors, stored = encode({file.path: vector for file, vector in rows})
        if stored:
            (self.root / stored.path).parent.mkdir(exist_ok=True)
            (self.root / stored.path).write_bytes(stored.content)
        marked = [file.with_vector(descriptors[file.path]) for file, _ in rows]
        self.commit(*(file.remove(0) for file, _ in rows), *(file.add() for file in marked))
        return marked

    def seen(self) -> dict[str, list[int]]:
        """Return the ids as other engines read them."""
        uri = str(self.root)
        with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as duck:
            duck.load_extension(_duckdb_extension())
            ids = [each for (each,) in duck.execute("select id from delta_scan(?)", [uri]).fetchall()]
        asked = QueryBuilder().register("t", DeltaTable(uri)).execute("select id from t").read_all()
        return {
            "polars": sorted(pl.scan_delta(uri).collect()["id"]),
            "datafusion": sorted(pl.DataFrame(asked)["id"]),
            "duckdb": sorted(ids),
        }


def _duckdb_extension() -> str:
    import duckdb_extension_delta  # noqa: PLC0415 - carries a binary; only this test needs it

    (path,) = Path(next(iter(duckdb_extension_delta.__path__))).rglob("*.duckdb_extension")
    return str(path)


def assert_all_see(table: Written, ids: set[int]) -> None:
    assert table.seen() == dict.fromkeys(("polars", "datafusion", "duckdb"), sorted(ids))


def test_other_engines_read_the_rows_that_are_left(tmp_path: Path) -> None:
    table = Written(tmp_path / "orders")
    one, two = table.add("one.parquet", range(1000)), table.add("two.parquet", range(1000, 3000))
    assert_all_see(table, {*range(3000)})
    scattered = BitMap64(range(0, 2000, 7))
    one, two = table.delete((one, BitMap64([3, 999])), (two, scattered))
    assert [file.vector and file.vector.storage for file in (one, two)] == ["i", "u"]
    gone = {3, 999, *(1000 + row for row in scattered)}
    assert_all_see(table, {*range(3000)} - gone)
    (one,) = table.delete((one, BitMap64([3, 4, 999])))
    table.commit(two.remove(0))
    assert_all_see(table, {*range(1000)} - {3, 4, 999})
    snapshot = table.log.read()
    assert snapshot is not None
    assert (snapshot.version, snapshot.files) == (5, {"one.parquet": one})
    assert snapshot.transactions == {"shop/orders/0": 3000}


def test_what_deltalake_wrote_and_checkpointed_is_read_the_same(tmp_path: Path) -> None:
    table = Written(tmp_path / "orders")
    one = table.add("one.parquet", range(100))
    (one,) = table.delete((one, BitMap64(range(0, 100, 3))))
    DeltaTable(table.root).create_checkpoint()
    for entry in sorted((table.root / "_delta_log").glob("*.json"))[:-1]:
        entry.unlink()
    write_deltalake(table.root, pl.DataFrame({"id": [500], "city": ["Bern"]}), mode="append")
    snapshot = table.log.read()
    assert snapshot is not None
    assert snapshot.version == table.version + 1
    assert snapshot.files["one.parquet"].vector == one.vector
    assert sorted(file.rows for file in snapshot.files.values()) == [1, 100]
    assert snapshot.transactions == {"shop/orders/0": 100}
    assert_all_see(table, {each for each in range(100) if each % 3} | {500})


def test_of_racing_writers_exactly_one_has_a_version(tmp_path: Path) -> None:
    table = Written(tmp_path / "orders")
    won: list[int] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        log = DeltaLog(LocalStore(table.root), "orders")
        start.wait()
        for version in range(1, 20):
            try:
                log.commit(version, [transaction("race", number)], {"operation": "RACE"})
                won.append(version)
            except CommitRaceError:
                continue

    racers = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(won) == list(range(1, 20))
    snapshot = table.log.read()
    assert snapshot is not None
    assert [version for version, _ in table.log.follow(type(snapshot)(version=17))] == [18, 19]


def test_a_log_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    table = Written(tmp_path / "orders")
    table.add("one.parquet", range(3))
    table.add("two.parquet", range(3))
    entries = sorted((table.root / "_delta_log").glob("*.json"))
    whole = entries[2].read_bytes()
    entries[2].write_bytes(whole[:-9])
    with pytest.raises(UnreadableTableError, match="version 2 is not whole"):
        table.log.read()
    entries[2].write_bytes(whole)
    entries[1].unlink()
    with pytest.raises(UnreadableTableError, match="version 1 is missing"):
        table.log.read()
    assert DeltaLog(LocalStore(tmp_path), "nowhere").read() is None


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({**PROTOCOL, "minReaderVersion": 4}, "reader version 4"),
        ({**PROTOCOL, "writerFeatures": ["rowTracking"]}, "writer feature 'rowTracking'"),
        ({**PROTOCOL, "readerFeatures": ["columnMapping"]}, "reader feature 'columnMapping'"),
    ],
)
def test_a_table_that_needs_more_than_we_have_is_refused(
    protocol: dict[str, object], message: str, tmp_path: Path
) -> None:
    table = Written(tmp_path / "orders")
    table.commit({"protocol": protocol})
    with pytest.raises(UnsupportedTableError, match=message):
        table.log.read()


@given(st.sets(st.integers(0, 2**33), max_size=300))
def test_a_vector_comes_back_as_it_was(positions: set[int]) -> None:
    vector = BitMap64(positions)
    descriptors, stored = encode({"file": vector})
    assert decode(descriptors["file"], stored.content if stored else None) == vector
    assert Descriptor.from_action(descriptors["file"].action()) == descriptors["file"]


def test_the_name_of_a_vector_file_is_the_protocols() -> None:
    """The example of the Delta protocol, "Deletion Vector Descriptor Schema"."""
    descriptor = Descriptor("u", "ab^-aqEH.-t@S}K{vb[*k^", 40, 6, offset=4)
    assert descriptor.path == "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"


@pytest.mark.parametrize("damage", ["cut", "flipped", "version", "elsewhere", "cardinality"])
def test_a_damaged_vector_is_never_read_as_another(damage: str) -> None:
    vector = BitMap64(range(0, 5000, 3))
    descriptors, stored = encode({"file": vector})
    assert stored is not None
    descriptor, content = descriptors["file"], bytearray(stored.content)
    match damage:
        case "cut":
            content = content[:-2]
        case "flipped":
            content[-10] ^= 1  # a position: still a valid vector, of another row
        case "version":
            content[0] = 2
        case "elsewhere":
            content[3] ^= 1
        case _:
            descriptor = Descriptor("u", descriptor.place, descriptor.size, 7, descriptor.offset)
    with pytest.raises(CorruptVectorError, match="deletion vector _dv/"):
        decode(descriptor, bytes(content))
