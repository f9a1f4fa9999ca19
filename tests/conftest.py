"""Fixtures that more than one test module uses."""

import contextlib
import os
from collections.abc import Iterator

import hypothesis
import pytest

from tests.downloads import UnavailableError
from tests.kafka_broker import Broker
from tests.kafka_process import KafkaProcess
from tests.object_stores import (
    AzureServer,
    Bucket,
    ObjectStoreServer,
    S3Server,
    foreign_settings,
    running_azure,
    running_s3,
)
from tests.readers import IN_PROCESS, ChangeReader, DataFusion, Reader
from tests.spark_process import Spark, running_spark

hypothesis.settings.register_profile("unhurried", deadline=None)  # what is slow is not wrong
hypothesis.settings.load_profile("unhurried")


@contextlib.contextmanager
def required_by(variable: str) -> Iterator[None]:
    """Skip what a machine cannot run; fail instead where the environment variable is 1."""
    try:
        yield
    except UnavailableError as error:
        if os.environ.get(variable) == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Give the Kafka broker at KAFKA_BOOTSTRAP_SERVERS, else start one of our own.

    Skips when none can be started; fails instead when GOLDWAX_REQUIRE_KAFKA is 1.
    """
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield Broker(servers)
        return
    process = KafkaProcess(tmp_path_factory.mktemp("kafka"))
    with required_by("GOLDWAX_REQUIRE_KAFKA"):
        process.create()
        process.start()
    yield Broker(f"127.0.0.1:{process.ports.plain}", process)
    process.kill()  # nobody needs this data again


@pytest.fixture
def own_kafka_broker(kafka_broker: Broker) -> Broker:
    """Like `kafka_broker`, but only one that we may stop, and whose SASL and TLS listeners we know."""
    if kafka_broker.process is None:
        pytest.skip("needs a broker of our own, and KAFKA_BOOTSTRAP_SERVERS names another")
    return kafka_broker


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Give an S3 of our own; all it needs are development dependencies."""
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Give an Azure Blob Storage of our own.

    Skips when none can be started; fails instead when GOLDWAX_REQUIRE_AZURE is 1.
    """
    with contextlib.ExitStack() as stack:
        with required_by("GOLDWAX_REQUIRE_AZURE"):
            server = stack.enter_context(running_azure(tmp_path_factory.mktemp("azure")))
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Give an empty bucket of S3, and the environment to open it."""
    return _opened(s3_server, monkeypatch)


@pytest.fixture
def azure_container(azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Give an empty container of Azure Blob Storage, and the environment to open it."""
    return _opened(azure_server, monkeypatch)


@pytest.fixture(params=["s3_bucket", "azure_container"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """Give an empty bucket of each object store in turn."""
    given: Bucket = request.getfixturevalue(request.param)
    return given


def _opened(server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    bucket = server.create_bucket()
    for name in foreign_settings():
        monkeypatch.delenv(name)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return bucket


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    """Give a Spark with Delta, which is a reader and runs SQL; slow tests only, as its first answer takes 15 s.

    Skips when none can be started; fails instead when GOLDWAX_REQUIRE_SPARK is 1.
    """
    with contextlib.ExitStack() as stack:
        with required_by("GOLDWAX_REQUIRE_SPARK"):
            running = stack.enter_context(running_spark(tmp_path_factory.mktemp("spark")))
        yield running


_SLOW_SPARK = pytest.param("spark", marks=pytest.mark.slow)


@pytest.fixture(params=["polars", "datafusion", "duckdb", _SLOW_SPARK])
def reader(request: pytest.FixtureRequest) -> Reader:
    """Give each engine that is not ours in turn; Spark in slow tests."""
    if request.param == "spark":
        spark: Spark = request.getfixturevalue("spark")
        return spark
    (given,) = (each for each in IN_PROCESS if each.name == request.param)
    return given


@pytest.fixture(params=["datafusion", _SLOW_SPARK])
def change_reader(request: pytest.FixtureRequest) -> ChangeReader:
    """Give each engine that reads change data feeds in turn; Spark in slow tests."""
    if request.param == "spark":
        spark: Spark = request.getfixturevalue("spark")
        return spark
    return DataFusion()
