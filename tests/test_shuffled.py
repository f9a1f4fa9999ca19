"""A million events in an order that is not theirs: every table is as if they had come in order."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer

from flows.flight_events import PARTITIONS, flight_events
from tests.flight_tables import pipeline
from tests.kafka_broker import Broker

_WINDOW = 10 * 60 * 1000  # milliseconds
_COPIES = 0.1


def _shuffled(events: pl.DataFrame) -> pl.DataFrame:
    """Return the events of every ten minutes in random order, each in any partition, and one in ten a second time."""
    copies = events.sample(fraction=_COPIES, seed=1)
    placed = pl.concat([events, copies]).sample(fraction=1, shuffle=True, seed=2)
    chance = pl.int_range(pl.len()).shuffle(seed=3)
    return placed.with_columns(partition=(chance % PARTITIONS).cast(pl.Int32)).sort(
        pl.col("timestamp") // _WINDOW, maintain_order=True
    )


def _fill(broker: Broker, topic: str, events: pl.DataFrame) -> None:
    broker.create_topic(topic, PARTITIONS, {"retention.ms": "-1"})
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 20})
    for partition, timestamp, key, value in events.iter_rows():
        while True:
            try:
                producer.produce(topic, value, key, partition, timestamp=timestamp)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush() == 0


def _run(broker: Broker, topic: str, lake: Path) -> dict[str, pl.DataFrame]:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "GOLDWAX_LAKE": str(lake),
        "FLIGHTS_TOPIC": topic,
    }
    command = [sys.executable, "-m", "bytewax.run", "tests.flight_tables:flow()", "-w", "2"]
    subprocess.run(command, env={**os.environ, **environment}, check=True, timeout=600)
    tables = pipeline(topic)
    return {
        **{silver.name: _rows(lake / "silver" / silver.name) for silver in tables.silvers},
        **{kpi.name: _rows(lake / "gold" / kpi.name) for kpi in tables.kpis},
    }


def _rows(table: Path) -> pl.DataFrame:
    """Return the rows of a table, without the columns that say which of several events a row comes from."""
    rows = pl.read_delta(str(table))
    rows = rows.select(pl.exclude("^_.*$"))
    return rows.sort(rows.columns)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_events_shuffled_within_ten_minutes_make_the_tables_of_the_sorted_run(
    kafka_broker: Broker, tmp_path: Path
) -> None:
    events = flight_events()
    _fill(kafka_broker, "flights_in_order", events)
    _fill(kafka_broker, "flights_shuffled", _shuffled(events))
    in_order = _run(kafka_broker, "flights_in_order", tmp_path / "in_order")
    shuffled = _run(kafka_broker, "flights_shuffled", tmp_path / "shuffled")
    assert events.height == 1_000_898
    assert in_order["flight_history"].height > in_order["flights"].height == 336_776
    for name, rows in in_order.items():
        assert shuffled[name].equals(rows), name
