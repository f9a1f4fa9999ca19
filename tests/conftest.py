"""Fixtures that more than one test module uses."""

import os
from collections.abc import Iterator

import pytest

from tests.kafka_broker import Broker
from tests.kafka_process import KafkaProcess, KafkaUnavailableError


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Give the Kafka broker at KAFKA_BOOTSTRAP_SERVERS, else start one of our own.

    Skips when none can be started; fails instead when GOLDWAX_REQUIRE_KAFKA is 1.
    """
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield Broker(servers)
        return
    process = KafkaProcess(tmp_path_factory.mktemp("kafka"))
    try:
        process.create()
        process.start()
    except KafkaUnavailableError as error:
        if os.environ.get("GOLDWAX_REQUIRE_KAFKA") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
    yield Broker(f"127.0.0.1:{process.ports.plain}", process)
    process.kill()  # nobody needs this data again


@pytest.fixture
def own_kafka_broker(kafka_broker: Broker) -> Broker:
    """Like `kafka_broker`, but only one that we may stop, and whose SASL and TLS listeners we know."""
    if kafka_broker.process is None:
        pytest.skip("needs a broker of our own, and KAFKA_BOOTSTRAP_SERVERS names another")
    return kafka_broker
