"""The Delta log on real object stores: commits, races and reads, with nothing but the environment to open them by."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import obstore
import polars as pl
import pytest
from deltalake import write_deltalake
from obstore.exceptions import AlreadyExistsError
from pyroaring import BitMap64

from storage.delta.delta_actions import transaction
from storage.delta.delta_log import DeltaLog
from storage.errors import CommitRaceError
from storage.logs.retry_requests import REQUEST, RetryRequests
from tests.child_server import listens
from tests.object_stores import Bucket
from tests.readers import ON_OBJECT_STORES, assert_all_read
from tests.written_tables import WrittenTable, orders, store_at


def test_what_is_there_is_never_put_again(bucket: Bucket) -> None:
    store = store_at(f"{bucket.uri}/orders")
    obstore.put(store, "entry", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "entry", b"second", mode="create")
    assert bytes(obstore.get(store, "entry").bytes()) == b"first"
    assert [item["path"] for batch in obstore.list(store) for item in batch] == ["entry"]


def test_other_engines_read_the_rows_that_are_left(bucket: Bucket) -> None:
    table = WrittenTable(f"{bucket.uri}/orders")
    one = table.append("one.parquet", orders(range(3000)))  # version 1
    (one,) = table.delete((one, BitMap64(range(0, 3000, 7))))  # version 2, vectors in a file
    assert one.vector is not None
    assert one.vector.storage == "u"
    left = orders(each for each in range(3000) if each % 7)
    assert_all_read(ON_OBJECT_STORES, table.uri, left)
    assert_all_read(ON_OBJECT_STORES, table.uri, orders(range(3000)), version=1)

    write_deltalake(table.uri, orders([9000]), mode="append")  # version 3, by deltalake
    assert_all_read(ON_OBJECT_STORES, table.uri, pl.concat([left, orders([9000])]))
    snapshot = table.log.read()
    assert snapshot is not None
    assert snapshot.version == 3
    assert snapshot.files["one.parquet"] == one
    assert sorted(file.rows for file in snapshot.files.values()) == [1, 3000]


def test_of_racing_writers_exactly_one_has_a_version(bucket: Bucket) -> None:
    table = WrittenTable(f"{bucket.uri}/orders")  # version 0
    won: list[int] = []
    start = threading.Barrier(16)

    def race(number: int) -> None:
        log = DeltaLog(store_at(table.uri), table.uri)
        for version in range(1, 9):
            start.wait()
            try:
                log.commit(version, [transaction(f"writer {number}", version)], {"operation": "RACE"})
                won.append(version)
            except CommitRaceError:
                continue

    racers = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(won) == [*range(1, 9)]
    snapshot = table.log.read()
    assert snapshot is not None
    assert snapshot.version == 8
    assert max(snapshot.transactions.values()) == 8


_PARENT = """
import pathlib, sys
from tests.object_stores import running_azure, running_s3
with {running}(pathlib.Path(sys.argv[1])) as server:
    print(server.endpoint, flush=True)
    sys.stdin.read()
"""


def test_a_server_ends_with_its_parent(bucket: Bucket, tmp_path: Path) -> None:
    running = "running_s3" if bucket.uri.startswith("s3:") else "running_azure"
    command = [sys.executable, "-c", _PARENT.format(running=running), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout
        endpoint = parent.stdout.readline().decode()
        port = int(re.findall(r":(\d+)", endpoint)[0])
        assert listens(port)
        parent.kill()
    deadline = time.monotonic() + 10
    while listens(port):
        assert time.monotonic() < deadline, f"the server of {endpoint} still listens"
        time.sleep(0.05)


def test_racing_requests_to_read_records_again_get_a_number_each(bucket: Bucket) -> None:
    start, numbers = threading.Barrier(8), []
    uri = f"{bucket.uri}/quarantine/orders__retry"
    assert RetryRequests(uri, "retry/orders").bounds(0) == (0, 0)

    def ask(offset: int) -> None:
        requests = RetryRequests(uri, "retry/orders")
        row = pl.DataFrame([("orders", 0, offset, None, b"\xff", None, None)], REQUEST, orient="row")
        start.wait()
        numbers.append((requests.put(row, 0), offset))

    threads = [threading.Thread(target=ask, args=(offset,)) for offset in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    requests = RetryRequests(uri, "retry/orders")
    assert sorted(number for number, _ in numbers) == requests.numbers() == [*range(8)]
    reader = requests.reader(0, 0)
    for number, offset in sorted(numbers):
        records = reader.read(1, 0)
        assert records.origin is not None
        assert (records.start, records.keys, records.origin.offsets.tolist()) == (number, [b"\xff"], [offset])
    assert len(reader.read(1, 0)) == 0
