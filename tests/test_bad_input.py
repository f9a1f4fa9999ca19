"""Bad input, one case a test: a clear error or a quarantined record, nothing lost, and the rest goes on."""

import json
import subprocess
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from storage.logs.event_log_writer import EventLogWriter, NewRecord
from tests import orders
from tests.engine import Engine, assert_every_record_once, event_log_ends, free_port
from tests.kafka_broker import Broker


def _order(order_id: object, **fields: object) -> bytes:
    return json.dumps({"op": "upsert", "order_id": order_id, "country": "DE", "amount": "1.00", **fields}).encode()


KEY = b'{"order_id": 1}'
GOOD = NewRecord(KEY, _order(1), 1_700_000_000_000)
BAD = {
    "invalid JSON": (NewRecord(KEY, b'{"order_id": 7,'), "JSON"),
    "wrong type": (NewRecord(KEY, _order("seven")), "order_id"),
    "missing key": (NewRecord(KEY, b'{"op": "upsert", "country": "DE"}'), "order_id"),
    "NULL key": (NewRecord(KEY, _order(None)), "order_id"),
    "unknown operation": (NewRecord(KEY, _order(7, op="merge")), "merge"),
    "empty value": (NewRecord(KEY, b""), "empty"),
    "invalid UTF-8": (NewRecord(KEY, _order(7).replace(b"DE", b"\xff\xfe")), "UTF-8"),
    "tombstone without key": (NewRecord(None, None), "key"),
}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(tmp_path / "events")})


def _append(tmp_path: Path, *records: NewRecord) -> None:
    with EventLogWriter(tmp_path / "events", "orders", orders.PARTITIONS) as writer:
        writer.append(records)


def _refused(process: subprocess.Popen[str]) -> str:
    """Return the message of a run that refuses to start: one line, no stack trace."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    assert output.startswith("goldwax: "), output
    assert "Traceback" not in output, output
    return output


def test_a_bad_record_goes_to_quarantine_and_the_rest_goes_on(engine: Engine, tmp_path: Path) -> None:
    good = [NewRecord(None, _order(number), 1_700_000_000_000) for number in range(100, 200)]
    bad = [record for record, _ in BAD.values()]
    _append(tmp_path, *good[:50], *bad, *good[50:])
    engine.run()
    silver = pl.scan_delta(str(engine.lake / "silver/orders")).collect()
    assert sorted(silver["order_id"]) == list(range(100, 200))
    quarantine = pl.scan_delta(str(engine.lake / "quarantine/orders")).collect().sort("_offset")
    assert quarantine["_offset"].to_list() == list(range(50, 50 + len(BAD)))
    assert quarantine["key"].to_list() == [record.key for record in bad]
    assert quarantine["value"].to_list() == [record.value for record in bad]
    assert quarantine["stage"].unique().to_list() == ["decode"]
    for (case, (_, word)), reason in zip(BAD.items(), quarantine["reason"], strict=True):
        assert word in reason, f"{case}: {reason}"
    assert_every_record_once(engine.lake, event_log_ends(tmp_path / "events/orders"))


def test_headers_of_a_quarantined_record_are_kept(engine: Engine, tmp_path: Path) -> None:
    _append(tmp_path, NewRecord(KEY, b"?", 1_700_000_000_000, (("trace", b"abc"), ("none", None))))
    engine.run()
    row = pl.scan_delta(str(engine.lake / "quarantine/orders")).collect().row(0, named=True)
    assert (row["_topic"], row["_partition"], row["_offset"]) == ("orders", 0, 0)
    assert json.loads(row["headers"]) == [["trace", "abc"], ["none", None]]


def test_a_record_of_10_megabytes_is_merged(engine: Engine, tmp_path: Path) -> None:
    country = "x" * 10 * 2**20
    _append(tmp_path, GOOD, NewRecord(KEY, _order(2, country=country)), GOOD)
    engine.run()
    silver = pl.scan_delta(str(engine.lake / "silver/orders")).collect().sort("order_id")
    assert silver["country"].to_list() == ["DE", country]


def test_a_record_of_10_megabytes_comes_through_kafka(kafka_broker: Broker, tmp_path: Path) -> None:
    kafka_broker.create_topic("large-orders", 1, {"max.message.bytes": str(20 * 2**20)})
    country = "x" * 10 * 2**20
    kafka_broker.produce("large-orders", [NewRecord(KEY, _order(2, country=country))])
    engine = Engine(tmp_path / "lake", _kafka(kafka_broker, "large-orders"))
    engine.run()
    assert pl.scan_delta(str(engine.lake / "silver/orders")).collect()["country"].to_list() == [country]


def test_an_unknown_topic_is_named_with_those_that_exist(engine: Engine, tmp_path: Path) -> None:
    _append(tmp_path, GOOD)
    message = _refused(engine.start(TEST_TOPIC="order"))
    assert "'order'" in message
    assert "Did you mean 'orders'?" in message


def test_an_unknown_kafka_topic_is_named_with_those_that_exist(kafka_broker: Broker, tmp_path: Path) -> None:
    kafka_broker.create_topic("parcels", 1)
    message = _refused(Engine(tmp_path / "lake", _kafka(kafka_broker, "parcel")).start())
    assert "Did you mean 'parcels'?" in message


def test_a_topic_that_lost_records_not_yet_read_stops_loudly(kafka_broker: Broker, tmp_path: Path) -> None:
    kafka_broker.create_topic("lost-orders", 1)
    kafka_broker.produce("lost-orders", [GOOD] * 10)
    engine = Engine(tmp_path / "lake", _kafka(kafka_broker, "lost-orders"))
    engine.run()
    kafka_broker.produce("lost-orders", [GOOD] * 10)
    kafka_broker.delete_records_before("lost-orders", 0, 15)
    message = _refused(engine.start())
    assert "cannot be read from offset 10" in message
    assert "offsets 10 to 14 were deleted" in message


def test_an_unreachable_broker_is_named(tmp_path: Path) -> None:
    server = f"127.0.0.1:{free_port()}"
    settings = {"TEST_SOURCE": "kafka", "KAFKA_BOOTSTRAP_SERVERS": server}
    message = _refused(Engine(tmp_path / "lake", settings).start())
    assert server in message
    assert "did not answer within 10 s" in message


def test_a_lake_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    _append(tmp_path, GOOD)
    (tmp_path / "file").touch()  # a lake below a file cannot be made, not even by root
    message = _refused(Engine(tmp_path / "file/lake", {"GOLDWAX_EVENTS": str(tmp_path / "events")}).start())
    assert str(tmp_path / "file/lake") in message
    assert "GOLDWAX_LAKE" in message


def test_a_silver_table_of_someone_else_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    _append(tmp_path, GOOD)
    theirs = DeltaTable.create(
        str(engine.lake / "silver/orders"), pa.schema([("order_id", pa.string()), ("total", pa.float64())])
    )
    message = _refused(engine.start())
    assert "order_id: found string, declared int64" in message
    assert "total: found float64, declared nothing" in message
    assert DeltaTable(theirs.table_uri).version() == 0


def _kafka(broker: Broker, topic: str) -> dict[str, str]:
    return {"TEST_SOURCE": "kafka", "TEST_TOPIC": topic, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
