"""The flights of `flows.flights` over a Kafka topic.

    python -m flows.flights_kafka              # fills the topic `flights`, once
    python -m bytewax.run flows.flights_kafka

The brokers come from `KAFKA_BOOTSTRAP_SERVERS`. The topic must exist, with four partitions, and keep old records
(`retention.ms=-1`): the events are of 2013.
"""

import sys

import polars as pl
from bytewax.dataflow import Dataflow
from kafka import KafkaProducer
from kafka.errors import KafkaError

from flows import Kafka
from flows.flight_events import flight_events
from flows.flights import FORMAT, TOPIC, flights_from
from flows.settings import Settings
from storage.errors import StorageError

pipeline = flights_from(Kafka(TOPIC, format=FORMAT))


def flow(tail: bool = True) -> Dataflow:  # noqa: FBT001, FBT002 - the engine's command line passes it: flow(False)
    """Return the dataflow that keeps these tables; without `tail` it ends where the topic ends now."""
    return pipeline.dataflow(tail=tail)


def fill_topic(events: pl.DataFrame, settings: Settings) -> int:
    """Send `events`, of the columns of `flight_events`, and return how many; none when the topic has records.

    Raises SourceError, KafkaError.
    """
    topic = pipeline.silvers[0].source.open(settings)
    if any(topic.bounds(partition)[1] for partition in topic.partitions()):
        return 0
    producer = KafkaProducer(bootstrap_servers=settings.bootstrap_servers or "127.0.0.1:9092", linger_ms=50)
    for partition, timestamp, key, value in events.iter_rows():
        producer.send(TOPIC, value.encode(), key.encode(), partition=partition, timestamp_ms=timestamp)
    producer.flush()
    producer.close()
    return events.height


def main() -> None:
    """Fill the topic and say how many events it took."""
    try:
        print(f"flights: {fill_topic(flight_events(), Settings.from_environment()):,} events sent")  # noqa: T201
    except (StorageError, KafkaError, ModuleNotFoundError) as error:
        sys.exit(f"flights: {error}")


if __name__ == "__main__":
    main()
