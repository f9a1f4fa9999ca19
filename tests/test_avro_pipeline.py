"""Avro through whole pipelines, with a schema registry that answers, refuses, or is away."""

import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows import Avro, Kafka, Silver
from flows.lake import Lake
from flows.settings import Settings
from flows.sources import schemas_of
from flows.stages.decoding import Decoding
from flows.stages.staging_stage import StagingStage
from storage.errors import RegistryError
from storage.logs.event_log_writer import EventLogWriter, NewRecord
from storage.logs.records import Records
from storage.logs.registry import RegistrySettings, SchemaRegistry
from tests import orders
from tests.avro_records import datum, framed, record
from tests.engine import Engine, assert_every_record_once, event_log_ends, free_port, tables
from tests.kafka_broker import Broker
from tests.registry_double import Registry, running_registry

AMOUNT = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
ORDER = record(
    "Order",
    op="string",
    order_id="long",
    country=["null", "string"],
    amount=AMOUNT,
    weight=["null", "double"],
    placed_at={"type": "long", "logicalType": "timestamp-millis"},
)
KEY = record("Key", order_id="long")


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running_registry() as running:
        yield running


def in_avro(each: NewRecord, value_id: int, key_id: int) -> NewRecord:
    """Return an event of `tests.orders` as a producer of Avro sends it; a broken one stays what it is."""
    assert each.key
    key = framed(key_id, datum(KEY, json.loads(each.key)))
    try:
        row = json.loads(each.value) if each.value else None
        if row:
            row |= {"amount": Decimal(row["amount"]), "placed_at": datetime.fromisoformat(row["placed_at"])}
    except (ValueError, KeyError):
        return each._replace(key=key)
    return each._replace(key=key, value=framed(value_id, datum(ORDER, row)) if row else None)


def write(directory: Path, events: dict[int, list[NewRecord]]) -> None:
    with EventLogWriter(directory, "orders", orders.PARTITIONS) as writer:
        for partition, records in events.items():
            writer.append(records, partition)


def rows(lake: Path) -> dict[str, pl.DataFrame]:
    found = tables(lake)
    return {name: found[name] for name in ("silver/orders", *(f"gold/{kpi}" for kpi in orders.KPIS))}


def avro_events(registry: Registry, count: int) -> dict[int, list[NewRecord]]:
    ids = registry.register("orders-value", ORDER), registry.register("orders-key", KEY)
    plain = orders.events(count, keys=200)
    return {partition: [in_avro(each, *ids) for each in records] for partition, records in plain.items()}


def test_events_in_avro_make_the_tables_that_they_make_in_json(
    registry: Registry, kafka_broker: Broker, tmp_path: Path
) -> None:
    write(tmp_path / "json", orders.events(3000, keys=200))
    events = avro_events(registry, 3000)
    write(tmp_path / "avro", events)
    kafka_broker.create_topic("avro-orders", orders.PARTITIONS)
    for partition, records in events.items():
        kafka_broker.produce("avro-orders", records, partition)
    registry.login = ("ada", "s3cret")
    login = {"GOLDWAX_REGISTRY_USERNAME": "ada", "GOLDWAX_REGISTRY_PASSWORD": "s3cret"}
    avro = {"TEST_FORMAT": "avro", "GOLDWAX_REGISTRY_URL": registry.url, **login}
    Engine(tmp_path / "from-json", {"GOLDWAX_EVENTS": str(tmp_path / "json")}).run()
    Engine(tmp_path / "from-log", avro | {"GOLDWAX_EVENTS": str(tmp_path / "avro")}).run()
    kafka = {"TEST_SOURCE": "kafka", "TEST_TOPIC": "avro-orders"}
    Engine(tmp_path / "from-kafka", avro | kafka | {"KAFKA_BOOTSTRAP_SERVERS": kafka_broker.bootstrap_servers}).run()

    expected = rows(tmp_path / "from-json")
    assert expected["silver/orders"].height > 100
    for source in ("from-log", "from-kafka"):
        for name, found in rows(tmp_path / source).items():
            same = found.with_columns(_topic=pl.lit("orders")) if "_topic" in found.columns else found
            assert same.equals(expected[name]), f"{source} {name}"
    assert_every_record_once(tmp_path / "from-log", event_log_ends(tmp_path / "avro/orders"))
    refused = [tables(tmp_path / lake)["quarantine/orders"].height for lake in ("from-json", "from-log", "from-kafka")]
    assert refused[0] > 0
    assert refused == [refused[0]] * 3
    assert len(registry.asked) <= 2 + 2 * 2 * 3  # each run asks for each schema, each of its decoders at most


def test_a_registry_that_turns_us_away_stops_the_run_and_loses_nothing(registry: Registry, tmp_path: Path) -> None:
    write(tmp_path / "events", avro_events(registry, 300))
    settings = {"GOLDWAX_EVENTS": str(tmp_path / "events"), "TEST_FORMAT": "avro", "GOLDWAX_REGISTRY_URL": registry.url}
    registry.login = ("ada", "s3cret")
    wrong, right = (
        {"GOLDWAX_REGISTRY_USERNAME": "ada", "GOLDWAX_REGISTRY_PASSWORD": each} for each in ("wr0ng", "s3cret")
    )
    process = Engine(tmp_path / "lake", settings | wrong).start()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"goldwax: stopped: schema registry {registry.url}: asked for schemas/ids/" in output
    assert "HTTP status 401; set GOLDWAX_REGISTRY_USERNAME" in output
    assert "wr0ng" not in output
    assert tables_before_any_commit(tmp_path / "lake")
    Engine(tmp_path / "lake", settings | right).run()
    assert_every_record_once(tmp_path / "lake", event_log_ends(tmp_path / "events/orders"))


def tables_before_any_commit(lake: Path) -> bool:
    return all(pl.read_delta(str(lake / name / "orders")).is_empty() for name in ("staging", "quarantine"))


ORDERS = Silver(
    "orders",
    source=Kafka("orders", format=Avro(registry="http://127.0.0.1:1", operation="op")),
    schema=orders.SCHEMA,
    keys=["order_id"],
)


def test_records_wait_for_a_registry_that_is_away_and_only_those_it_does_not_know_are_refused(tmp_path: Path) -> None:
    row = {"op": "u", "order_id": 1, "country": None, "amount": Decimal(1), "weight": None}
    value = datum(ORDER, row | {"placed_at": datetime.fromisoformat("2026-03-01T00:00:00Z")})
    values = [framed(1, value), framed(2, value), framed(1, value)]
    offsets = np.arange(3)
    records = Records("orders", 0, 0, 3, offsets, offsets, [None] * 3, values)
    port = free_port()
    client = SchemaRegistry(RegistrySettings(f"http://127.0.0.1:{port}", retry_seconds=0.3))

    decoding = Decoding(lambda: ORDERS.decoder(client.texts), ORDERS.schema)
    stage = StagingStage(ORDERS, Lake(str(tmp_path)), "shop", ["orders/0"], decoding)
    with pytest.raises(RegistryError, match="did not answer"):
        stage.advance([records])
    assert tables_before_any_commit(tmp_path)
    with running_registry(port) as registry:
        registry.register("orders-value", ORDER)
        (batch,) = stage.advance([records])
    assert batch.events["_op"].to_list() == ["upsert", "quarantined", "upsert"]
    assert batch.rejects["reason"].to_list() == ["schema id 2: the registry does not know it"]
    assert pl.read_delta(str(tmp_path / "quarantine/orders"))["value"].to_list() == [values[1]]
    (again,) = stage.advance([Records("orders", 0, 3, 4, offsets[:1] + 3, offsets[:1], [None], values[:1])])
    assert again.events["order_id"].to_list() == [1]  # what is known needs no registry


def test_the_environment_says_where_the_registry_is_and_its_login_shows_nowhere() -> None:
    found = {"GOLDWAX_REGISTRY_URL": "https://registry:8081/", "GOLDWAX_REGISTRY_USERNAME": "ada"}
    settings = Settings.from_environment(found | {"GOLDWAX_REGISTRY_PASSWORD": "s3cret"})
    assert "s3cret" not in repr(settings)
    bound = schemas_of(ORDERS.stream.format, settings).__self__  # type: ignore[attr-defined, union-attr]
    assert repr(bound._settings) == "RegistrySettings('https://registry:8081', username='ada', password='***')"
