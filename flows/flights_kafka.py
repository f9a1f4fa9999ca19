"""The flights of `flows.flights` over a Kafka topic.

    python -m flows.flights_kafka              # fills the topic `flights`; again: what is missing of it
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
from flows.sources import LOCAL_BROKER
from storage.errors import StorageError
from storage.logs.kafka_python_options import kafka_python_options
from storage.logs.kafka_settings import KafkaSettings

pipeline = flights_from(Kafka(TOPIC, format=FORMAT))


def flow(tail: bool = True) -> Dataflow:  # noqa: FBT001, FBT002 - the engine's command line passes it: flow(False)
    """Return the dataflow that keeps these tables; without `tail` it ends where the topic ends now."""
    return pipeline.dataflow(tail=tail)


def fill_topic(events: pl.DataFrame, settings: Settings) -> int:
    """Send those of `events`, of the columns of `flight_events`, that the topic does not hold yet; return how many.

    A partition's records are its events in order, so what is missing begins at its end offset. Raises SourceError,
    KafkaError.
    """
    topic = pipeline.silvers[0].open_topic(settings)
    missing = [events.filter(partition=partition).slice(topic.bounds(partition)[1]) for partition in topic.partitions()]
    producer = _producer(settings)
    try:
        sent = [
            producer.send(TOPIC, value.encode(), key.encode(), partition=partition, timestamp_ms=timestamp)
            for rows in missing
            for partition, timestamp, key, value in rows.iter_rows()
        ]
        producer.flush()
        for answer in sent:
            answer.get(timeout=0)  # raises what became of it
    finally:
        producer.close()
    return len(sent)


def _producer(settings: Settings) -> KafkaProducer:
    servers = settings.bootstrap_servers or LOCAL_BROKER
    options = kafka_python_options(KafkaSettings(servers, "kafka-python", settings.kafka_options))
    return KafkaProducer(bootstrap_servers=servers, linger_ms=50, **options)


def main() -> None:
    """Fill the topic and say how many events it took."""
    try:
        print(f"flights: {fill_topic(flight_events(), Settings.from_environment()):,} events sent")  # noqa: T201
    except (StorageError, KafkaError, ModuleNotFoundError) as error:
        sys.exit(f"flights: {error}")


if __name__ == "__main__":
    main()
