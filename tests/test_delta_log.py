"""The Delta log written by hand: what we write others read, what others write we read, and races have one winner."""

import threading
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import LocalStore
from pyroaring import BitMap64

from storage.delta.deletion_vectors import Descriptor, decode, encode
from storage.delta.delta_actions import transaction
from storage.delta.delta_log import DeltaLog
from storage.errors import CommitRaceError, CorruptVectorError, UnreadableTableError, UnsupportedTableError
from tests.readers import IN_PROCESS, assert_all_read
from tests.written_tables import APPLICATION, PROTOCOL, WrittenTable, orders


def test_other_engines_read_the_rows_that_are_left(tmp_path: Path) -> None:
    table = WrittenTable(str(tmp_path / "orders"))
    one, two = table.append("one.parquet", orders(range(1000))), table.append("two.parquet", orders(range(1000, 3000)))
    assert_all_read(IN_PROCESS, table.uri, orders(range(3000)))
    scattered = BitMap64(range(0, 2000, 7))
    one, two = table.delete((one, BitMap64([3, 999])), (two, scattered))
    assert [file.vector and file.vector.storage for file in (one, two)] == ["i", "u"]
    gone = {3, 999, *(1000 + row for row in scattered)}
    assert_all_read(IN_PROCESS, table.uri, orders({*range(3000)} - gone))
    (one,) = table.delete((one, BitMap64([3, 4, 999])))
    table.commit(two.remove(0))
    assert_all_read(IN_PROCESS, table.uri, orders({*range(1000)} - {3, 4, 999}))
    assert_all_read(IN_PROCESS, table.uri, orders(range(3000)), version=2)
    snapshot = table.log.read()
    assert snapshot is not None
    assert (snapshot.version, snapshot.files) == (5, {"one.parquet": one})
    assert snapshot.transactions == {APPLICATION: 2}


def test_what_deltalake_wrote_and_checkpointed_is_read_the_same(tmp_path: Path) -> None:
    table = WrittenTable(str(tmp_path / "orders"))
    one = table.append("one.parquet", orders(range(100)))
    (one,) = table.delete((one, BitMap64(range(0, 100, 3))))
    DeltaTable(table.uri).create_checkpoint()
    for entry in sorted(Path(table.uri, "_delta_log").glob("*.json"))[:-1]:
        entry.unlink()
    write_deltalake(table.uri, orders([500]), mode="append")
    snapshot = table.log.read()
    assert snapshot is not None
    assert snapshot.version == table.version + 1
    assert snapshot.files["one.parquet"].vector == one.vector
    assert sorted(file.rows for file in snapshot.files.values()) == [1, 100]
    assert snapshot.transactions == {APPLICATION: 1}
    assert_all_read(IN_PROCESS, table.uri, orders([*(each for each in range(100) if each % 3), 500]))


def test_of_racing_writers_exactly_one_has_a_version(tmp_path: Path) -> None:
    table = WrittenTable(str(tmp_path / "orders"))
    won: list[int] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        log = DeltaLog(LocalStore(table.uri), "orders")
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
    table = WrittenTable(str(tmp_path / "orders"))
    table.append("one.parquet", orders(range(3)))
    table.append("two.parquet", orders(range(3)))
    entries = sorted(Path(table.uri, "_delta_log").glob("*.json"))
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
    table = WrittenTable(str(tmp_path / "orders"))
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
