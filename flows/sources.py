"""Declaring where change events come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from flows.settings import Settings
from operators.declared import SECRET, check_fields
from operators.decoding.avro_reader import Schemas
from operators.decoding.formats import Format, Json
from operators.decoding.readers import unknown
from operators.schema import DeclarationError
from storage.errors import SourceError
from storage.logs.event_log import EventLogTopic
from storage.logs.kafka import kafka_topic
from storage.logs.kafka_settings import KafkaSettings
from storage.logs.records import Topic
from storage.logs.registry import RegistrySettings, SchemaRegistry

Start = Literal["earliest", "latest"] | datetime | int
"""Where a table without a position begins: the first or the end offset, the first record at or after an instant
with a zone, or an offset of every partition. A table that has a position goes on there."""

LOCAL_BROKER = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True)
class Kafka:
    """A Kafka topic.

    `bootstrap_servers` defaults to the environment's `KAFKA_BOOTSTRAP_SERVERS`, then to a broker on this machine.
    `options` are client options by their librdkafka names; put secrets into the environment (`flows.settings`),
    which wins. `client` names the library to read with; "auto" takes confluent-kafka where it is installed.
    """

    topic: str
    format: Format = Json()
    bootstrap_servers: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False, metadata=SECRET)
    client: Literal["auto", "confluent", "kafka-python"] = "auto"
    start: Start = "earliest"

    def __post_init__(self) -> None:
        check_fields(self)
        _check_start(self.start)

    def open(self, settings: Settings) -> Topic:
        """Return the topic to read. Connects to nothing yet."""
        servers = self.bootstrap_servers or settings.bootstrap_servers or LOCAL_BROKER
        options = {**self.options, **settings.kafka_options}
        return kafka_topic(KafkaSettings(servers, self.client, options), self.topic)


@dataclass(frozen=True, slots=True)
class EventLog:
    """A topic of the embedded event log in `directory`, for which no broker is needed (`storage.logs.event_log`).

    The environment's `GOLDWAX_EVENTS` wins over `directory`.
    """

    topic: str
    format: Format = Json()
    directory: str | Path = "events"
    start: Start = "earliest"

    def __post_init__(self) -> None:
        check_fields(self)
        _check_start(self.start)

    def open(self, settings: Settings) -> Topic:
        """Return the topic to read."""
        return EventLogTopic(Path(settings.events or self.directory), self.topic)


def schemas_of(fmt: Format, settings: Settings) -> Schemas:
    """Return what knows the schemas of a format: its registry, if it has one. Asks nothing yet."""
    declared = getattr(fmt, "registry", None)
    if declared is None:
        return unknown
    url = (settings.registry_url or declared).rstrip("/")
    return SchemaRegistry(RegistrySettings(url, *settings.registry_login)).texts


def start_position(topic: Topic, partition: int, start: Start) -> int:
    """Return the position that `start` means in a partition. Raises SourceError."""
    first, end = topic.bounds(partition)
    match start:
        case "earliest":
            return first
        case "latest":
            return end
        case datetime():
            return topic.offset_at(partition, int(start.timestamp() * 1000))
        case _ if first <= start <= end:
            return int(start)
        case _:
            raise SourceError(
                f"start={start}: partition {partition} of topic {topic.name!r} holds offsets {first} up to {end} "
                "(exclusive), expected one of these, or the end. Declare another, or 'earliest' or 'latest'"
            )


def _check_start(start: Start) -> None:
    if isinstance(start, datetime) and start.tzinfo is None:
        raise DeclarationError(
            f"start: received {start!r}, expected an instant with a zone, as datetime(…, tzinfo=UTC)"
        )
    if isinstance(start, int) and start < 0:
        raise DeclarationError(f"start: received {start}, expected an offset, which is 0 or more")
