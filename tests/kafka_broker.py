"""A Kafka broker as tests use it: create topics, produce, run transactions, delete records."""

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from storage.logs.event_log_writer import NewRecord
from tests.kafka_process import PASSWORD, USER, KafkaProcess

_TIMEOUT = 30.0
_numbers = itertools.count()


@dataclass
class Broker:
    """A running broker; `process` is None when it is somebody else's (KAFKA_BOOTSTRAP_SERVERS)."""

    bootstrap_servers: str
    process: KafkaProcess | None = None
    _producer: Producer | None = field(default=None, repr=False)

    @property
    def sasl_servers(self) -> str:
        """The listener that asks for USER and PASSWORD, by PLAIN or SCRAM-SHA-256."""
        return f"127.0.0.1:{self._own.ports.sasl}"

    @property
    def ssl_servers(self) -> str:
        """The TLS listener; `certificate` vouches for it."""
        return f"127.0.0.1:{self._own.ports.ssl}"

    @property
    def certificate(self) -> Path:
        return self._own.certificate

    def create_topic(self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None) -> None:
        """Create a topic and wait until it has its leaders; it keeps records however old they are."""
        topic = NewTopic(name, partitions, replication_factor=1, config={"retention.ms": "-1"} | dict(config or {}))
        admin = self._admin()  # named, as the answer is lost with the client
        admin.create_topics([topic], operation_timeout=_TIMEOUT)[name].result(_TIMEOUT)

    def produce(self, topic: str, records: Iterable[NewRecord], partition: int = 0) -> None:
        """Append records in this order and wait until the broker has them."""
        if self._producer is None:
            self._producer = Producer(self._config())
        _send(self._producer, topic, records, partition)
        if self._producer.flush(_TIMEOUT):
            raise TimeoutError(f"{self.bootstrap_servers} did not take all records within {_TIMEOUT:g} s")

    def produce_transaction(
        self, topic: str, records: Iterable[NewRecord], *, abort: bool = False, partition: int = 0
    ) -> None:
        """Append records in one transaction, then commit or abort it."""
        with self.open_transaction(topic, records, partition) as producer:
            if abort:
                producer.abort_transaction(_TIMEOUT)
            else:
                producer.commit_transaction(_TIMEOUT)

    @contextlib.contextmanager
    def open_transaction(self, topic: str, records: Iterable[NewRecord], partition: int = 0) -> Iterator[Producer]:
        """Append records in a transaction that stays open in the block, which is to end it."""
        producer = Producer(self._config() | {"transactional.id": f"tests-{os.getpid()}-{next(_numbers)}"})
        producer.init_transactions(_TIMEOUT)
        producer.begin_transaction()
        _send(producer, topic, records, partition)
        producer.flush(_TIMEOUT)
        yield producer

    def delete_records_before(self, topic: str, partition: int, offset: int) -> None:
        """Move the partition's first offset up to `offset`."""
        place = TopicPartition(topic, partition, offset)
        admin = self._admin()
        next(iter(admin.delete_records([place]).values())).result(_TIMEOUT)

    def topics(self) -> set[str]:
        """Return the names of all topics."""
        return set(self._admin().list_topics(timeout=_TIMEOUT).topics)

    @property
    def _own(self) -> KafkaProcess:
        if self.process is None:
            raise LookupError("only the broker that the tests start themselves has this listener")
        return self.process

    def _admin(self) -> AdminClient:
        return AdminClient(self._config())

    def _config(self) -> dict[str, str | int | float | bool]:
        return {"bootstrap.servers": self.bootstrap_servers, "message.max.bytes": 32 * 2**20}


def _send(producer: Producer, topic: str, records: Iterable[NewRecord], partition: int) -> None:
    for record in records:
        while True:
            try:
                producer.produce(
                    topic,
                    record.value,
                    record.key,
                    partition,
                    timestamp=record.timestamp or 0,
                    headers=list(record.headers),
                )
                break
            except BufferError:
                producer.poll(0.1)


__all__ = ["PASSWORD", "USER", "Broker"]
