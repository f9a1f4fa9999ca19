"""Kafka topics through confluent-kafka (librdkafka): the fast client.

librdkafka's `position()` stands still at transaction markers and aborted records. Its end-of-partition event does
not: it carries the offset that the next fetch asks for, which is the last stable offset. So the events are switched
on, and a reader moves its position by them.
"""

# ruff: noqa: SLF001 - librdkafka's own error codes are public, and begin with an underscore

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from storage.errors import SourceError, StorageError
from storage.logs.kafka_contact import Contact
from storage.logs.kafka_messages import CHUNK, Columns, offset_of
from storage.logs.kafka_settings import KafkaSettings
from storage.logs.record_log_errors import offset_lost, unknown_partition, unknown_topic
from storage.logs.records import Records

_log = logging.getLogger(__name__)

_DEFAULTS = {
    # Required by the library and otherwise unused: partitions are assigned and nothing is committed.
    "group.id": "goldwax",
    "client.id": "goldwax",
    # Memory of a reader: what is queued, and one answer more. Larger records still pass, one an answer.
    "queued.max.messages.kbytes": "32768",
    "max.partition.fetch.bytes": str(8 * 2**20),
    "fetch.wait.max.ms": "100",
    # After its queue was full, the library asks for no more for this long: by default a second, which outlasts a queue.
    "fetch.queue.backoff.ms": "10",
}
_FIXED = {
    "isolation.level": "read_committed",
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "auto.offset.reset": "error",
    "enable.partition.eof": "true",
    "allow.auto.create.topics": "false",
}
_REFUSALS = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED})
_LOST = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})
_UNKNOWN = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART})
# Without a group these say nothing; librdkafka asks for a coordinator all the same.
_OF_THE_GROUP = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.COORDINATOR_NOT_AVAILABLE})
_ATTEMPT_SECONDS = 1.0
_AGAIN_SECONDS = 0.1
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ConfluentTopic:
    """The topic `name` as confluent-kafka reads it; implements `storage.logs.records.Topic`."""

    settings: KafkaSettings
    name: str

    def partitions(self) -> Sequence[int]:
        """Return the partition numbers, ascending. Raises UnknownTopicError, SourceError."""
        with contextlib.closing(_Client(self.settings, self.name)) as client:
            return client.partitions

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset and the last stable offset. Raises UnknownTopicError, SourceError."""
        with contextlib.closing(_Client(self.settings, self.name)) as client:
            return client.bounds(partition)

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset with a timestamp at or after `timestamp_ms`, the end offset if there is none."""
        with contextlib.closing(_Client(self.settings, self.name)) as client:
            return client.offset_at(partition, timestamp_ms)

    def reader(self, partition: int, position: int) -> "ConfluentReader":
        """Open a reader that starts at `position`. Raises OffsetLostError, UnknownTopicError, SourceError."""
        client = _Client(self.settings, self.name)
        try:
            return ConfluentReader(client, partition, position)
        except StorageError:
            client.close()
            raise


class ConfluentReader:
    """Reads one partition; implements `storage.logs.records.Reader`. Made by `ConfluentTopic.reader`."""

    def __init__(self, client: "_Client", partition: int, position: int) -> None:
        bounds = client.bounds(partition)
        if not bounds[0] <= position <= bounds[1]:
            raise offset_lost(client.topic, partition, position, bounds, client.settings.place)
        self._client = client
        self._partition = partition
        self._position = position
        self._failure: KafkaError | None = None
        self._contact = Contact(client.settings.retry_seconds, time.monotonic())
        client.consumer.assign([TopicPartition(client.topic, partition, position)])

    def read(self, max_records: int, timeout: float) -> Records:
        """Return the next records; see `storage.logs.records.Reader`.

        Waits a second longer than `timeout` when the brokers have been silent for long.
        """
        deadline = time.monotonic() + timeout
        start = self._position
        columns = Columns()
        while not self._receive(columns, max_records, deadline) and self._position == start:
            if self._failure:
                raise self._explain(self._failure)
            if time.monotonic() >= deadline:
                self._doubt()
                break
        return columns.records(self._client.topic, self._partition, start, self._position)

    def close(self) -> None:
        """Leave the cluster; safe to call twice."""
        self._client.close()

    def _receive(self, columns: Columns, max_records: int, deadline: float) -> bool:
        """Take the records that came, and move the position behind them and behind what is skipped; tell if any did."""
        wait, wanted = max(0.0, deadline - time.monotonic()), 1
        # The library waits for as many as asked for, and we for the first: so one, then what else is there.
        while wanted and not self._failure and (messages := self._client.consumer.consume(wanted, wait)):
            self._take(columns, messages)
            wait, wanted = 0, min(max_records - len(columns), CHUNK)
        return len(columns) > 0

    def _take(self, columns: Columns, messages: list[Message]) -> None:
        events = [message for message in messages if message.error() is not None]
        if events:
            messages = [message for message in messages if message.error() is None]
        if messages:
            columns.take(messages)
            self._position = offset_of(messages[-1]) + 1
            self._contact.heard(time.monotonic())
        for event in events:
            self._take_event(event)

    def _take_event(self, event: Message) -> None:
        error = event.error()
        if error is None or error.code() in _OF_THE_GROUP:
            return
        if error.code() == KafkaError._PARTITION_EOF:
            self._position = max(self._position, offset_of(event))
            self._contact.heard(time.monotonic())
        elif error.retriable() or error.code() in {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}:
            _log.warning("%s: %s", self._client.settings.place, error)
        else:
            self._failure = error  # raised by the next call, after the records before it

    def _explain(self, error: KafkaError) -> SourceError:
        client = self._client
        if error.code() in _LOST:
            bounds = client.bounds(self._partition)
            return offset_lost(client.topic, self._partition, self._position, bounds, client.settings.place)
        if error.code() in _UNKNOWN:
            return client.unknown_topic()
        doing = f"reading topic {client.topic!r} partition {self._partition} at offset {self._position}"
        return client.settings.failed(doing, error)

    def _doubt(self) -> None:
        if not self._contact.in_doubt(time.monotonic()):
            return
        if self._client.answers():
            self._contact.heard(time.monotonic())
        elif self._contact.lost(time.monotonic()):
            doing = f"reading topic {self._client.topic!r} partition {self._partition}"
            raise self._client.unreachable(doing, self._contact.retry_seconds)


class _Client:
    """A consumer that has reached the cluster and found the topic there. Raises UnknownTopicError, SourceError."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self.settings = settings
        self.topic = topic
        self._reported: KafkaError | None = None  # the latest trouble, for messages
        config = _DEFAULTS | dict(settings.options) | _FIXED | {"bootstrap.servers": settings.bootstrap_servers}
        try:
            self.consumer = Consumer(dict(config), logger=_LibraryLog(), error_cb=self._note)
        except KafkaException as error:
            raise settings.failed("reading its options", error.args[0]) from None
        try:
            self.partitions = self._find_partitions()
        except StorageError:
            self.close()
            raise

    def close(self) -> None:
        self.consumer.close()

    def bounds(self, partition: int) -> tuple[int, int]:
        place = self._place(partition)
        wait = self.settings.connect_seconds
        first, end = self._asked(
            "asking for offsets", lambda: self.consumer.get_watermark_offsets(place, wait, cached=False)
        )
        return first, end

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        place = self._place(partition, timestamp_ms)

        def look_up() -> int:
            found = self.consumer.offsets_for_times([place], self.settings.connect_seconds)[0]
            if found.error:
                raise KafkaException(found.error)
            return int(found.offset)

        offset = self._asked("looking up a timestamp", look_up)
        return offset if offset >= 0 else self.bounds(partition)[1]

    def answers(self) -> bool:
        """Ask for a sign of life."""
        try:
            self.consumer.list_topics(self.topic, _ATTEMPT_SECONDS)
        except KafkaException:
            return False
        return True

    def unknown_topic(self) -> SourceError:
        wait = self.settings.connect_seconds
        existing = self._asked("listing topics", lambda: self.consumer.list_topics(timeout=wait).topics)
        return unknown_topic(self.topic, self.settings.place, existing)

    def unreachable(self, doing: str, seconds: float) -> SourceError:
        return self.settings.unreachable(doing, seconds, self._reported or "nothing")

    def _place(self, partition: int, offset: int = 0) -> TopicPartition:
        if partition not in self.partitions:
            raise unknown_partition(self.topic, partition, self.partitions)
        return TopicPartition(self.topic, partition, offset)

    def _find_partitions(self) -> list[int]:
        metadata = self._connect().topics[self.topic]
        if metadata.error is None:
            return sorted(metadata.partitions)
        if metadata.error.code() in _UNKNOWN:
            raise self.unknown_topic()
        raise self.settings.failed(f"looking for topic {self.topic!r}", metadata.error)

    def _connect(self) -> Any:
        deadline = time.monotonic() + self.settings.connect_seconds
        doing = f"looking for topic {self.topic!r}"
        while (remaining := deadline - time.monotonic()) > 0:
            try:
                found = self.consumer.list_topics(self.topic, min(_ATTEMPT_SECONDS, remaining))
            except KafkaException as error:
                self._reported = self._reported or error.args[0]
            else:
                return found
            self.consumer.poll(0)  # lets the library call _note
            if self._reported and self._reported.code() in _REFUSALS:
                raise self.settings.failed(doing, self._reported)
        raise self.unreachable(doing, self.settings.connect_seconds)

    def _asked(self, doing: str, ask: Callable[[], _Answer]) -> _Answer:
        """Return the answer; a busy broker may not know the partitions of a topic yet, and is asked again."""
        deadline = time.monotonic() + self.settings.connect_seconds
        while True:
            try:
                return ask()
            except KafkaException as error:
                if error.args[0].code() != KafkaError._UNKNOWN_PARTITION or time.monotonic() > deadline:
                    raise self.settings.failed(f"{doing} of topic {self.topic!r}", error.args[0]) from None
            time.sleep(_AGAIN_SECONDS)

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            return  # follows the reason, and is none
        if self._reported is None or self._reported.code() != error.code():
            _log.warning("%s: %s", self.settings.place, self.settings.redact(error.str()))
        self._reported = error


class _LibraryLog:
    """Takes what librdkafka else prints to stderr, a line for every attempt to connect; `_note` warns once instead."""

    def log(self, _level: int, message: str, *args: object) -> None:
        _log.debug(message, *args)
