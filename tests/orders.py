"""A small pipeline of orders for tests that run the real engine, and the events it reads.

Environment: `TEST_SOURCE` is "log" (default) or "kafka", `TEST_TOPIC` the topic, `TEST_FORMAT` is "json" (default) or
"avro", `TEST_MAX_ROWS` how many rows a commit waits for; `TEST_START`, `TEST_KEYS`, `TEST_HISTORY`, `TEST_NEW_FIELDS`,
`TEST_COUNTED`, `TEST_EXPECT` and `TEST_PIPELINE` change the declaration.
The lake, the event log and the brokers come from goldwax's own settings.
"""

import json
import os
import random
from datetime import UTC, datetime, timedelta  # noqa: F401 - TEST_START uses them

import polars as pl  # noqa: F401 - TEST_EXPECT uses them
from bytewax.dataflow import Dataflow

from flows import Avro, Count, EventLog, Expect, Json, Kafka, Kpi, Mean, Pipeline, Silver, Sum, tumbling  # noqa: F401
from storage.logs.event_log_writer import NewRecord

PARTITIONS = 3
FORMAT = Json(operation="op")
AVRO = Avro(registry="http://127.0.0.1:1", operation="op")  # where none is: GOLDWAX_REGISTRY_URL says where
SCHEMA = {
    "order_id": "int64",
    "country": "string",
    "amount": "decimal(12, 2)",
    "weight": "float64",
    "placed_at": "timestamp",
}
KPIS = ("revenue_by_country_hour", "orders_by_country")


def pipeline() -> Pipeline:
    topic = os.environ.get("TEST_TOPIC", "orders")
    start = eval(os.environ.get("TEST_START", "'earliest'"))  # noqa: S307 - our own tests
    kind = Kafka if os.environ.get("TEST_SOURCE") == "kafka" else EventLog
    source = kind(topic, format=AVRO if os.environ.get("TEST_FORMAT") == "avro" else FORMAT, start=start)
    keys, history = [os.environ.get("TEST_KEYS", "order_id")], os.environ.get("TEST_HISTORY", "scd1")
    expectations = eval(os.environ.get("TEST_EXPECT", "[]"))  # noqa: S307 - our own tests
    policies = {"history": history, "new_fields": os.environ.get("TEST_NEW_FIELDS", "ignore")}
    orders = Silver(
        "orders",
        source=source,
        schema=SCHEMA,
        keys=keys,
        expectations=expectations,
        **policies,  # type: ignore[arg-type]
    )
    hourly = Kpi(
        KPIS[0],
        source=orders,
        window=tumbling("1h", on="placed_at"),
        group_by=["country"],
        measures={"revenue": Sum("amount"), "orders": Count(), "mean_weight": Mean("weight")},
    )
    counted = Count(os.environ.get("TEST_COUNTED"))
    total = Kpi(KPIS[1], source=orders, group_by=["country"], measures={"orders": counted, "weight": Sum("weight")})
    max_rows = int(os.environ.get("TEST_MAX_ROWS", "100000"))
    name = os.environ.get("TEST_PIPELINE", "shop")
    return Pipeline(name, tables=[orders, hourly, total], max_rows=max_rows, max_delay=timedelta(milliseconds=20))


def flow(tail: bool = False) -> Dataflow:  # noqa: FBT001, FBT002 - passed by the engine's command line
    return pipeline().dataflow(tail=tail)


def events(count: int, seed: int = 1, keys: int = 2_000) -> dict[int, list[NewRecord]]:
    """Return upserts, deletes by operation, tombstones and broken records, by partition; a key stays in one."""
    chance = random.Random(seed)
    records: dict[int, list[NewRecord]] = {partition: [] for partition in range(PARTITIONS)}
    for number in range(count):
        order_id = chance.randrange(keys)
        records[order_id % PARTITIONS].append(_record(chance, order_id, 1_700_000_000_000 + number))
    return records


def events_with_new_fields(count: int) -> dict[int, list[NewRecord]]:
    """Return such events of which the second half has fields that are not declared; some of them no column can hold."""
    return {
        partition: [_with_new_fields(record, n) if 2 * n > len(records) else record for n, record in enumerate(records)]
        for partition, records in events(count).items()
    }


def _with_new_fields(record: NewRecord, number: int) -> NewRecord:
    if not (record.value or b"").endswith(b'Z"}'):
        return record
    new = {"loyalty": number, "note": f"é {number}", "tags": [None, "a"], **({"odd": [1]} if number % 50 == 0 else {})}
    return record._replace(value=json.dumps({**json.loads(record.value or b""), **new}).encode())


def _record(chance: random.Random, order_id: int, timestamp: int) -> NewRecord:
    kind = chance.random()
    key = json.dumps({"order_id": order_id}).encode()
    if kind < 0.005:
        return NewRecord(key, b'{"order_id": "not a number"}' if kind < 0.002 else b"\xff{", timestamp)
    if kind < 0.03:
        return NewRecord(key, None, timestamp)
    row = {
        "op": "delete" if kind < 0.1 else "upsert",
        "order_id": order_id,
        "country": chance.choice(["DE", "FR", "JP", None]),
        "amount": f"{chance.randrange(10**6) / 100:.2f}",
        "weight": chance.choice([None, chance.uniform(0, 50)]),
        "placed_at": f"2026-03-01T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z",
    }
    return NewRecord(key, json.dumps(row).encode(), timestamp)
