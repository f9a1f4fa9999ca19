"""Every record log keeps the same contract: one suite over the event log and Kafka through both of its clients."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import pytest

from storage.errors import OffsetLostError, UnknownTopicError
from storage.logs.event_log import EventLogTopic
from storage.logs.event_log_writer import EventLogWriter, NewRecord
from storage.logs.kafka import KafkaSettings, kafka_topic
from storage.logs.records import Topic
from tests.kafka_broker import Broker
from tests.record_histories import MORNING, numbered, read_all, read_to, rows, values

_numbers = itertools.count()


class RecordLog(Protocol):
    """What a history needs to do to a log while others read it."""

    def topic(self, name: str) -> Topic: ...
    def create(self, name: str) -> None: ...
    def append(self, name: str, records: Iterable[NewRecord]) -> None: ...
    def delete_everything_so_far(self, name: str) -> None: ...


@dataclass
class EventLog:
    directory: Path
    writers: dict[str, EventLogWriter] = field(default_factory=dict)

    def topic(self, name: str) -> Topic:
        return EventLogTopic(self.directory, name)

    def create(self, name: str) -> None:
        self.writers[name] = EventLogWriter(self.directory, name)

    def append(self, name: str, records: Iterable[NewRecord]) -> None:
        self.writers[name].append(records)

    def delete_everything_so_far(self, name: str) -> None:
        self.writers[name].roll().unlink()


@dataclass
class KafkaLog:
    broker: Broker
    client: Literal["confluent", "kafka-python"]

    def topic(self, name: str) -> Topic:
        return kafka_topic(KafkaSettings(self.broker.bootstrap_servers, self.client), name)

    def create(self, name: str) -> None:
        self.broker.create_topic(name)

    def append(self, name: str, records: Iterable[NewRecord]) -> None:
        self.broker.produce(name, records)

    def delete_everything_so_far(self, name: str) -> None:
        self.broker.delete_records_before(name, 0, self.topic(name).bounds(0)[1])


@pytest.fixture(params=["event_log", "confluent", "kafka-python"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RecordLog]:
    if request.param == "event_log":
        event_log = EventLog(tmp_path / "log")
        yield event_log
        for writer in event_log.writers.values():
            writer.close()
    else:
        yield KafkaLog(request.getfixturevalue("kafka_broker"), request.param)


@pytest.fixture
def name() -> str:
    """Return a topic name that no other test uses."""
    return f"orders-{time.time_ns()}-{next(_numbers)}"


def test_every_kind_of_record_reads_back_as_it_was_written(log: RecordLog, name: str) -> None:
    log.create(name)
    written = [
        NewRecord(b'{"id":1}', b'{"op":"c"}', MORNING),
        NewRecord(b'{"id":1}', None, MORNING + 1),
        NewRecord(None, b"no key", MORNING + 2),
        NewRecord(b"", b"", MORNING + 3),
        NewRecord(b"\xff\xfe", b"\x00\xc3\x28", MORNING + 4),
        NewRecord(b"quotes", 'Zo\u00eb said "}null{"\n\\ \U0001f41d'.encode(), MORNING + 5),
        NewRecord(b"h", b"v", MORNING + 6, (("trace", b"7f"), ("empty", b""), ("null", None), ("trace", b"80"))),
        NewRecord(b"h", b"v", MORNING + 7, (("text", b"t"), ("bytes", b"\xff"), ("null", None))),
    ]
    log.append(name, written)
    expected = [(offset, r.timestamp, r.key, r.value, r.headers or None) for offset, r in enumerate(written)]
    assert rows(*read_all(log.topic(name))) == expected


def test_reading_starts_at_any_position(log: RecordLog, name: str) -> None:
    log.create(name)
    topic = log.topic(name)
    assert (topic.name, list(topic.partitions()), topic.bounds(0)) == (name, [0], (0, 0))
    log.append(name, numbered(range(10)))
    assert topic.bounds(0) == (0, 10)

    at = {when: topic.offset_at(0, MORNING + when) for when in (-1, 0, 4000, 4001, 9000, 9001)}
    assert at == {-1: 0, 0: 0, 4000: 4, 4001: 5, 9000: 9, 9001: 10}
    for position in (0, 4, 9, 10):
        expected = [record.value for record in numbered(range(position, 10))]
        assert values(*read_all(topic, position)) == expected


def test_batches_follow_without_gap_and_are_no_larger_than_asked(log: RecordLog, name: str) -> None:
    log.create(name)
    log.append(name, numbered(range(1000)))
    with closing(log.topic(name).reader(0, 3)) as reader:
        batches = read_to(reader, 500, max_records=7)
        batches += read_to(reader, 1000, max_records=400)
    assert batches[0].start == 3
    assert all(before.end == after.start for before, after in itertools.pairwise(batches))
    assert max(map(len, batches[:50])) == 7
    assert values(*batches) == [record.value for record in numbered(range(3, 1000))]
    assert rows(*batches)[-1] == (999, MORNING + 999_000, b"999", b"value 999", None)


def test_a_reader_at_the_end_waits_and_then_sees_what_is_appended(log: RecordLog, name: str) -> None:
    log.create(name)
    log.append(name, numbered(range(3)))
    with closing(log.topic(name).reader(0, 3)) as reader:
        began = time.monotonic()
        nothing = reader.read(100, timeout=0.3)
        assert (nothing.start, nothing.end, len(nothing)) == (3, 3, 0)
        assert 0.25 < time.monotonic() - began < 2
        for number in (3, 4):
            log.append(name, numbered([number]))
            assert values(*read_to(reader, number + 1)) == [b"value %d" % number]
        reader.close()  # twice is fine


def test_records_of_ten_megabytes_pass(log: RecordLog, name: str) -> None:
    if isinstance(log, KafkaLog):
        log.broker.create_topic(name, config={"max.message.bytes": str(16 * 2**20)})
    else:
        log.create(name)
    large = [NewRecord(b"%d" % size, b"x" * size, MORNING) for size in (10 * 2**20, 1, 11 * 2**20)]
    log.append(name, large)
    assert values(*read_all(log.topic(name))) == [record.value for record in large]


def test_a_position_outside_the_log_is_an_error_that_says_what_to_do(log: RecordLog, name: str) -> None:
    log.create(name)
    log.append(name, numbered(range(5)))
    log.delete_everything_so_far(name)
    log.append(name, numbered(range(5, 8)))
    topic = log.topic(name)
    assert topic.bounds(0) == (5, 8)
    assert values(*read_all(topic)) == [b"value 5", b"value 6", b"value 7"]

    with pytest.raises(OffsetLostError, match=f"{name}.*offset 4: it holds offsets 5 up to 8.*4 to 4 were deleted"):
        topic.reader(0, 4)
    with pytest.raises(OffsetLostError, match=r"offset 9: it holds offsets 5 up to 8.*shorter.*move all tables"):
        topic.reader(0, 9)


@pytest.mark.parametrize(
    "ask",
    [
        lambda topic: topic.partitions(),
        lambda topic: topic.bounds(0),
        lambda topic: topic.offset_at(0, MORNING),
        lambda topic: topic.reader(0, 0),
    ],
    ids=["partitions", "bounds", "offset_at", "reader"],
)
def test_an_unknown_topic_is_an_error_that_names_the_nearest(
    log: RecordLog, name: str, ask: Callable[[Topic], object]
) -> None:
    log.create(name)
    with pytest.raises(UnknownTopicError, match=rf"'{name}s' does not exist.*Did you mean '{name}'\?"):
        ask(log.topic(f"{name}s"))
    if isinstance(log, KafkaLog):
        assert f"{name}s" not in log.broker.topics()


def test_an_unknown_partition_is_an_error_that_lists_those_there_are(log: RecordLog, name: str) -> None:
    log.create(name)
    with pytest.raises(UnknownTopicError, match="has no partition 3; it has 0"):
        log.topic(name).reader(3, 0)
