"""The demo's flights over a real Kafka topic: filled once, merged the same."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl

from flows.flight_events import PARTITIONS, flight_events
from flows.flights_kafka import fill_topic
from flows.settings import Settings
from tests.kafka_broker import Broker

ROOT = Path(__file__).parents[1]


def test_the_flights_go_through_kafka(kafka_broker: Broker, tmp_path: Path) -> None:
    kafka_broker.create_topic("flights", PARTITIONS)
    settings = Settings(bootstrap_servers=kafka_broker.bootstrap_servers)
    events = flight_events().head(20_000)
    assert fill_topic(events.head(8_000), settings) == 8_000  # as if it had been interrupted there
    assert fill_topic(events, settings) == 12_000
    assert fill_topic(events, settings) == 0

    environment = {"KAFKA_BOOTSTRAP_SERVERS": kafka_broker.bootstrap_servers, "GOLDWAX_LAKE": str(tmp_path)}
    command = [sys.executable, "-m", "bytewax.run", "flows.flights_kafka:flow(False)"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, timeout=60)
    keys = events["key"].str.json_decode(pl.Struct({"flight_id": pl.Int64})).struct.field("flight_id").unique()
    silver = pl.read_delta(str(tmp_path / "silver/flights"))
    assert sorted(silver["flight_id"]) == sorted(keys)
    gold = pl.read_delta(str(tmp_path / "gold/delays_by_origin_and_day"))
    assert gold["departures"].sum() == silver["dep_time"].count()
