"""What only Kafka does: transactions, compaction, logins, and brokers that go away; through both clients."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Literal

import pytest

from storage.errors import OffsetLostError, SourceError
from storage.logs.event_log_writer import NewRecord
from storage.logs.kafka import KafkaSettings, kafka_topic
from storage.logs.records import Topic
from tests.kafka_broker import PASSWORD, USER, Broker
from tests.record_histories import MORNING, numbered, read_all, read_to, rows, values

Client = Literal["confluent", "kafka-python"]
LOGIN = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "PLAIN",
    "sasl.username": USER,
    "sasl.password": PASSWORD,
}


@pytest.fixture(params=["confluent", "kafka-python"])
def client(request: pytest.FixtureRequest) -> Client:
    chosen: Client = request.param
    return chosen


@pytest.fixture
def name() -> str:
    """Return a topic name that no other test uses."""
    return f"payments-{time.time_ns()}"


@pytest.fixture
def topic(kafka_broker: Broker, client: Client, name: str) -> Topic:
    kafka_broker.create_topic(name)
    return kafka_topic(KafkaSettings(kafka_broker.bootstrap_servers, client), name)


def test_aborted_records_are_invisible_and_a_reader_still_reaches_the_end(kafka_broker: Broker, topic: Topic) -> None:
    kafka_broker.produce(topic.name, numbered(range(2)))  # offsets 0 and 1
    kafka_broker.produce_transaction(topic.name, numbered(range(100, 103)), abort=True)  # 2 to 4, its marker 5
    kafka_broker.produce_transaction(topic.name, numbered(range(6, 8)))  # 6 and 7, its marker 8
    kafka_broker.produce_transaction(topic.name, numbered(range(100, 103)), abort=True)  # 9 to 11, its marker 12
    assert topic.bounds(0) == (0, 13)

    visible = [(n, MORNING + 1000 * n, b"%d" % n, b"value %d" % n, None) for n in (0, 1, 6, 7)]
    batches = read_all(topic)
    assert rows(*batches) == visible
    assert batches[-1].end == 13
    # From a position with nothing visible behind it, only the end moves.
    tail = read_all(topic, position=8)
    assert [len(batch) for batch in tail] == [0] * len(tail)
    assert (tail[0].start, tail[-1].end) == (8, 13)


def test_a_batch_of_many_records_has_its_gaps_and_headers_where_they_belong(kafka_broker: Broker, topic: Topic) -> None:
    """The fast client takes thousands at a time: a gap within one take, headers in the first and in a later one."""
    kafka_broker.produce(topic.name, [NewRecord(b"first", b"", MORNING, (("trace", b"1"),))])
    kafka_broker.produce(topic.name, numbered(range(1, 3000)))
    kafka_broker.produce_transaction(topic.name, numbered(range(3000, 3002)))
    while topic.bounds(0)[1] < 3003:  # the marker is written after the commit returned
        time.sleep(0.05)
    kafka_broker.produce(topic.name, numbered(range(3003, 5999)))
    kafka_broker.produce(topic.name, [NewRecord(b"last", b"", MORNING, (("trace", b"2"),))])

    plain = [(n, MORNING + 1000 * n, b"%d" % n, b"value %d" % n, None) for n in [*range(1, 3002), *range(3003, 5999)]]
    first = (0, MORNING, b"first", b"", (("trace", b"1"),))
    with closing(topic.reader(0, 0)) as reader:
        batches = [reader.read(1, timeout=10)]
        time.sleep(0.5)  # all others are fetched meanwhile, and taken as if there were no gap in sight
        batches += read_to(reader, 6000)
    assert rows(*batches) == [first, *plain, (5999, MORNING, b"last", b"", (("trace", b"2"),))]


def test_an_open_transaction_holds_back_what_follows_it(kafka_broker: Broker, topic: Topic) -> None:
    kafka_broker.produce(topic.name, numbered([0]))
    with kafka_broker.open_transaction(topic.name, numbered([1])) as transaction:
        kafka_broker.produce(topic.name, numbered([2]))
        assert topic.bounds(0) == (0, 1)
        with closing(topic.reader(0, 0)) as reader:
            assert values(*read_to(reader, 1)) == [b"value 0"]
            assert len(reader.read(10, timeout=0.3)) == 0
            transaction.commit_transaction()
            assert values(*read_to(reader, 4)) == [b"value 1", b"value 2"]
    assert topic.bounds(0) == (0, 4)


def test_a_compacted_log_is_read_over_its_gaps(kafka_broker: Broker, client: Client, name: str) -> None:
    config = {"cleanup.policy": "compact", "segment.bytes": "1048576", "min.cleanable.dirty.ratio": "0.001"}
    kafka_broker.create_topic(name, config=config | {"max.compaction.lag.ms": "1"})
    versions = [NewRecord(b"%d" % (n % 3), b"%d " % n * 50_000, MORNING + n) for n in range(30)]
    kafka_broker.produce(name, versions)
    topic = kafka_topic(KafkaSettings(kafka_broker.bootstrap_servers, client), name)
    deadline = time.monotonic() + 20
    while len(rows(*(batches := read_all(topic)))) == len(versions):
        assert time.monotonic() < deadline, "the broker did not compact"
        time.sleep(0.3)
    table = rows(*batches)
    assert all(key == b"%d" % (offset % 3) for offset, _, key, _, _ in table)
    assert {key: value for _, _, key, value, _ in table} == {record.key: record.value for record in versions}
    assert (batches[0].start, batches[-1].end) == (0, 30)


def test_a_reader_that_falls_behind_retention_stops(kafka_broker: Broker, client: Client, name: str) -> None:
    kafka_broker.create_topic(name)
    for number in range(20):
        kafka_broker.produce(name, [NewRecord(None, b"%d" % number * 100_000)])
    # Little is fetched ahead, so that most of the log goes while the reader stands at its start.
    fetching = {"max.partition.fetch.bytes": "1000", "fetch.max.bytes": "1000"}
    if client == "confluent":
        fetching = {"max.partition.fetch.bytes": "1000", "queued.min.messages": "1"}
    topic = kafka_topic(KafkaSettings(kafka_broker.bootstrap_servers, client, fetching), name)
    with closing(topic.reader(0, 0)) as reader:
        assert len(reader.read(1, timeout=10)) == 1
        kafka_broker.delete_records_before(name, 0, 19)
        with pytest.raises(OffsetLostError, match=r"it holds offsets 19 up to 20 .* were deleted"):
            read_to(reader, 20)


def test_servers_that_nobody_answers_at_are_named_within_the_bound(client: Client) -> None:
    topic = kafka_topic(KafkaSettings("127.0.0.1:1,127.0.0.1:2", client, connect_seconds=1), "orders")
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"127.0.0.1:1,127.0.0.1:2 did not answer within 1 s .*REFUSED|refused"):
        topic.partitions()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_logins_pass_through(own_kafka_broker: Broker, client: Client, name: str, mechanism: str) -> None:
    own_kafka_broker.create_topic(name)
    own_kafka_broker.produce(name, numbered([0]))
    settings = KafkaSettings(own_kafka_broker.sasl_servers, client, LOGIN | {"sasl.mechanism": mechanism})
    assert values(*read_all(kafka_topic(settings, name))) == [b"value 0"]


def test_a_wrong_password_is_refused_and_shown_nowhere(
    own_kafka_broker: Broker, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    wrong = LOGIN | {"sasl.password": "wrong-secret-7"}
    topic = kafka_topic(KafkaSettings(own_kafka_broker.sasl_servers, client, wrong, connect_seconds=3), "orders")
    # The broker may hang up before kafka-python has read its answer.
    refused = r"(Authentication failed|socket disconnected).*Check"
    with pytest.raises(SourceError, match=refused) as raised:
        topic.reader(0, 0)
    shown = "".join([repr(topic), repr(raised.value), repr(raised.value.__cause__)])
    assert USER in shown
    assert not {record.name for record in caplog.records if "wrong-secret" in record.getMessage()}
    assert "wrong-secret" not in shown


def test_certificates_pass_through(own_kafka_broker: Broker, client: Client, name: str) -> None:
    own_kafka_broker.create_topic(name)
    trusting = {"security.protocol": "SSL", "ssl.ca.location": str(own_kafka_broker.certificate)}
    settings = KafkaSettings(own_kafka_broker.ssl_servers, client, trusting)
    assert kafka_topic(settings, name).bounds(0) == (0, 0)

    doubting = KafkaSettings(own_kafka_broker.ssl_servers, client, {"security.protocol": "SSL"}, connect_seconds=2)
    with pytest.raises(SourceError, match="certificate"):
        kafka_topic(doubting, name).bounds(0)


@pytest.fixture
def crashing_broker(own_kafka_broker: Broker) -> Iterator[Broker]:
    """Give a broker that the test may leave dead."""
    assert own_kafka_broker.process
    yield own_kafka_broker
    if not own_kafka_broker.process.running:
        own_kafka_broker.process.start()


def test_a_reader_outlives_a_broker_that_crashes_and_returns(
    crashing_broker: Broker, client: Client, name: str
) -> None:
    crashing_broker.create_topic(name)
    crashing_broker.produce(name, numbered(range(3)))
    assert crashing_broker.process
    topic = kafka_topic(KafkaSettings(crashing_broker.bootstrap_servers, client), name)
    with closing(topic.reader(0, 0)) as reader:
        assert values(*read_to(reader, 3)) == [b"value 0", b"value 1", b"value 2"]
        crashing_broker.process.kill()
        assert len(reader.read(10, timeout=0.5)) == 0
        crashing_broker.process.start()
        crashing_broker.produce(name, numbered([3]))
        assert values(*read_to(reader, 4)) == [b"value 3"]


def test_a_reader_gives_up_on_a_broker_that_stays_away(crashing_broker: Broker, client: Client, name: str) -> None:
    crashing_broker.create_topic(name)
    assert crashing_broker.process
    topic = kafka_topic(KafkaSettings(crashing_broker.bootstrap_servers, client, retry_seconds=2), name)
    with closing(topic.reader(0, 0)) as reader:
        for _ in range(6):  # a quiet topic is no reason to give up
            assert len(reader.read(10, timeout=0.5)) == 0
        crashing_broker.process.kill()
        began = time.monotonic()
        with pytest.raises(SourceError, match=r"did not answer within 2 s while reading"):
            read_to(reader, 1)
        assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"isolation.level": "read_uncommitted"}, "'isolation.level' cannot be set"),
        ({"queued.min.messages": "1"}, "kafka-python has no option 'queued.min.messages'; it has client.id"),
        ({"fetch.max.bytes": "many"}, "'fetch.max.bytes' is not a whole number"),
    ],
)
def test_an_option_that_cannot_be_kept_is_refused_before_connecting(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        kafka_topic(KafkaSettings("127.0.0.1:1", "kafka-python", options), "orders")
