"""Kafka topics through kafka-python: pure Python, always installed."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from kafka.net.compat import KafkaNetClient

from storage.errors import SourceError, StorageError
from storage.logs.kafka_contact import Contact
from storage.logs.kafka_python_options import kafka_python_options
from storage.logs.kafka_settings import KafkaSettings
from storage.logs.record_log_errors import offset_lost, unknown_partition, unknown_topic
from storage.logs.records import Records

_LOST = (OffsetOutOfRangeError, NoOffsetForPartitionError, LogTruncationError)
_SLICE_SECONDS = 0.1  # between two looks at the position, which moves without records at transaction markers
_PROBE_MS = 1000.0

_CONFIG: dict[str, Any] = {
    "client_id": "goldwax",
    "group_id": None,
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    # Memory of a reader: one answer queued and one being unpacked. Larger records still pass, one an answer.
    "fetch_max_bytes": 16 * 2**20,
    "max_partition_fetch_bytes": 8 * 2**20,
    "fetch_max_wait_ms": 100,
    "metrics_enabled": False,
}


# At DEBUG these print every request as bytes, and with it the password of a PLAIN login.
_WIRE_LOGS = ("kafka.net.connection", "kafka.net.transport", "kafka.protocol.parser")


class KafkaPythonTopic:
    """The topic `name` as kafka-python reads it; implements `storage.logs.records.Topic`.

    Raises SourceError for an option that kafka-python has no counterpart of.
    """

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self._settings = settings
        self._config = _CONFIG | kafka_python_options(settings)
        self.name = name

    def __repr__(self) -> str:
        return f"KafkaPythonTopic({self._settings!r}, {self.name!r})"

    def partitions(self) -> Sequence[int]:
        """Return the partition numbers, ascending. Raises UnknownTopicError, SourceError."""
        with contextlib.closing(self._connect()) as client:
            return client.partitions

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset and the last stable offset. Raises UnknownTopicError, SourceError."""
        with contextlib.closing(self._connect()) as client:
            return client.bounds(partition)

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset with a timestamp at or after `timestamp_ms`, the end offset if there is none."""
        with contextlib.closing(self._connect()) as client:
            return client.offset_at(partition, timestamp_ms)

    def reader(self, partition: int, position: int) -> "KafkaPythonReader":
        """Open a reader that starts at `position`. Raises OffsetLostError, UnknownTopicError, SourceError."""
        client = self._connect()
        try:
            return KafkaPythonReader(client, partition, position)
        except StorageError:
            client.close()
            raise

    def _connect(self) -> "_Client":
        return _Client(self._settings, self._config, self.name)


class KafkaPythonReader:
    """Reads one partition; implements `storage.logs.records.Reader`. Made by `KafkaPythonTopic.reader`."""

    def __init__(self, client: "_Client", partition: int, position: int) -> None:
        bounds = client.bounds(partition)
        if not bounds[0] <= position <= bounds[1]:
            raise offset_lost(client.topic, partition, position, bounds, client.settings.place)
        self._client = client
        self._place = TopicPartition(client.topic, partition)
        self._position = position
        self._contact = Contact(client.settings.retry_seconds, time.monotonic())
        client.consumer.assign([self._place])
        client.consumer.seek(self._place, position)

    def read(self, max_records: int, timeout: float) -> Records:
        """Return the next records; see `storage.logs.records.Reader`.

        Waits a second longer than `timeout` when the brokers have been silent for long.
        """
        deadline = time.monotonic() + timeout
        start = self._position
        while not (found := self._poll(max_records, deadline)) and self._position == start:
            if time.monotonic() >= deadline:
                self._doubt()
                break
        return self._records(found, start)

    def close(self) -> None:
        """Leave the cluster; safe to call twice."""
        self._client.close()

    def _poll(self, max_records: int, deadline: float) -> list[Any]:
        """Return the records that came, after moving the position behind them and behind what is skipped."""
        consumer = self._client.consumer
        seconds = min(_SLICE_SECONDS, max(0.0, deadline - time.monotonic()))
        try:
            found: list[Any] = consumer.poll(seconds * 1000, max_records).get(self._place, [])
            position = consumer.position(self._place, _PROBE_MS)
        except _LOST:
            raise self._client.lost(self._place.partition, self._position) from None
        except KafkaError as error:
            raise self._client.settings.failed(self._doing(), error) from None
        if position is not None and position > self._position:
            self._position = position
            self._contact.heard(time.monotonic())
        return found

    def _doubt(self) -> None:
        if not self._contact.in_doubt(time.monotonic()):
            return
        try:
            self._client.consumer.end_offsets([self._place], _PROBE_MS)
        except KafkaError as error:
            if self._contact.lost(time.monotonic()):
                settings = self._client.settings
                raise settings.unreachable(self._doing(), settings.retry_seconds, error) from None
        else:
            self._contact.heard(time.monotonic())

    def _doing(self) -> str:
        return f"reading topic {self._place.topic!r} partition {self._place.partition} at offset {self._position}"

    def _records(self, found: list[Any], start: int) -> Records:
        headers = [tuple(record.headers) if record.headers else None for record in found]
        return Records(
            topic=self._place.topic,
            partition=self._place.partition,
            start=start,
            end=self._position,
            offsets=np.fromiter((record.offset for record in found), np.int64, len(found)),
            timestamps=np.fromiter((record.timestamp for record in found), np.int64, len(found)),
            keys=[record.key for record in found],
            values=[record.value for record in found],
            headers=headers if any(headers) else None,
        )


class _Client:
    """A consumer that has reached the cluster and found the topic there. Raises UnknownTopicError, SourceError."""

    def __init__(self, settings: KafkaSettings, config: dict[str, Any], topic: str) -> None:
        self.settings = settings
        self.topic = topic
        self._timeout_ms = settings.connect_seconds * 1000
        self.consumer = _open(settings, config, topic)
        try:
            self.partitions = self._find_partitions()
        except StorageError:
            self.close()
            raise

    def close(self) -> None:
        self.consumer.close(autocommit=False)

    def bounds(self, partition: int) -> tuple[int, int]:
        place = self._place(partition)
        with self._asking("asking for offsets"):
            first = self.consumer.beginning_offsets([place], self._timeout_ms)[place]
            end = self.consumer.end_offsets([place], self._timeout_ms)[place]
        return first, end

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        place = self._place(partition)
        with self._asking("looking up a timestamp"):
            found = self.consumer.offsets_for_times({place: timestamp_ms}, self._timeout_ms)[place]
        return self.bounds(partition)[1] if found is None else found.offset

    def lost(self, partition: int, position: int) -> SourceError:
        return offset_lost(self.topic, partition, position, self.bounds(partition), self.settings.place)

    def _place(self, partition: int) -> TopicPartition:
        if partition not in self.partitions:
            raise unknown_partition(self.topic, partition, self.partitions)
        return TopicPartition(self.topic, partition)

    def _find_partitions(self) -> list[int]:
        with self._asking("listing topics"):
            partitions = self.consumer.partitions_for_topic(self.topic)
            if partitions:
                return sorted(partitions)
            existing = self.consumer.topics()
        raise unknown_topic(self.topic, self.settings.place, existing)

    @contextlib.contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        doing = f"{doing} of topic {self.topic!r}"
        try:
            yield
        except KafkaTimeoutError as error:
            raise self.settings.unreachable(doing, self.settings.connect_seconds, error) from None
        except KafkaError as error:
            raise self.settings.failed(doing, error) from None


def _open(settings: KafkaSettings, config: dict[str, Any], topic: str) -> KafkaConsumer:
    opened: list[KafkaNetClient] = []

    def open_client(**kwargs: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**kwargs))
        return opened[0]

    for name in _WIRE_LOGS:
        logging.getLogger(name).addFilter(_without_bytes)
    doing = f"looking for topic {topic!r}"
    timing = {"bootstrap_timeout_ms": settings.connect_seconds * 1000, "kafka_client": open_client}
    with _connecting() as told:
        try:
            return KafkaConsumer(bootstrap_servers=settings.bootstrap_servers.split(","), **config, **timing)
        except (KafkaError, OSError, ValueError) as error:
            for client in opened:
                client.close()  # the consumer leaves its connection and its thread behind
            if isinstance(error, KafkaTimeoutError):
                raise settings.unreachable(doing, settings.connect_seconds, told.reason or error) from None
            raise settings.failed(doing, error) from None


def _without_bytes(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


class _Reason(logging.Handler):
    """Keeps the most telling reason: kafka-python logs why it cannot connect, and raises only that it could not."""

    reason: KafkaError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        # A broker that refuses a login may also just hang up, and the last attempt runs out of time: these tell less.
        for argument in record.args or ():
            if isinstance(argument, KafkaError) and (self.reason is None or not argument.retriable):
                self.reason = argument


@contextlib.contextmanager
def _connecting() -> Iterator[_Reason]:
    log = logging.getLogger("kafka.net.manager")
    handler = _Reason(logging.WARNING)
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
