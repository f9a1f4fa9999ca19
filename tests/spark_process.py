"""Apache Spark with delta-spark, from Maven artifacts, in a JVM of its own that answers SQL: the reference of Delta.

1. jars: Maven, on tests/spark/pom.xml, kept in ~/.cache/goldwax/spark-<version>-delta-<version>
2. start: py4j's gateway, on a port of the loopback that asks for a token; then a session of one thread, without UI
3. ask: SQL; an answer comes back as a Parquet file, with Spark's own types
4. end: at the end of its standard input, so with pytest, however that ends

Java 17 or newer is needed. The first answer takes ten seconds, any other one below one.
"""

import contextlib
import itertools
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from py4j.java_gateway import GatewayParameters, JavaGateway

from tests.child_server import end
from tests.downloads import maven_jars, version_in
from tests.readers import Where, comparable, comparable_changes, where_clause

POM = Path(__file__).parent / "spark" / "pom.xml"
START_SECONDS = 60.0

_OUTPUT = "gateway.out"

_OPEN_TO_SPARK = (
    *("java.io", "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.nio", "java.util"),
    *("java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch", "sun.nio.cs", "sun.security.action"),
    "sun.util.calendar",
)
_JAVA_OPTIONS = (
    *("-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPEN_TO_SPARK),
)
_SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
}


@dataclass(frozen=True)
class Spark:
    """A running Spark, which is a reader of tests.readers; the local disk only."""

    session: Any
    answers: Path
    name: str = "spark"
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def sql(self, statement: str) -> pl.DataFrame:
        """Run a statement and return its answer, empty when it has none. Raises Py4JJavaError with Spark's message."""
        found = self.session.sql(statement)
        if not found.columns():
            return pl.DataFrame()
        answer = self.answers / str(next(self._numbers))
        found.coalesce(1).write().parquet(str(answer))
        return pl.read_parquet(answer / "*.parquet")

    def rows(self, uri: str, version: int | None = None, where: Where | None = None) -> pl.DataFrame:
        at = "" if version is None else f" version as of {version:d}"
        return comparable(self.sql(f"select * from delta.`{uri}`{at}{where_clause(where)}"))

    def changes(self, uri: str, first: int, last: int) -> pl.DataFrame:
        feed = f"table_changes_by_path('{uri}', {first:d}, {last:d})"
        return comparable_changes(self.sql(f"select * from {feed}"))


@contextlib.contextmanager
def running_spark(directory: Path) -> Iterator[Spark]:
    """Run Spark with its log and its answers in `directory`. Raises UnavailableError."""
    with _jvm(directory) as process:
        port, token = _port_and_token(process, directory / _OUTPUT)
        # The JVM keeps what we once named until it ends; finalizers of ours would ask it when it has ended.
        parameters = GatewayParameters(port=port, auth_token=token, enable_memory_management=False)
        gateway = JavaGateway(gateway_parameters=parameters)
        try:
            builder = gateway.jvm.org.apache.spark.sql.SparkSession.builder().master("local[1]")
            for name, value in _SETTINGS.items():
                builder = builder.config(name, value)
            yield Spark(builder.getOrCreate(), directory / "answers")
        finally:
            gateway.close()


@contextlib.contextmanager
def _jvm(directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    gateway = ["py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0"]
    with (directory / _OUTPUT).open("wb") as output, (directory / "spark.log").open("wb") as log:
        process = subprocess.Popen(
            ["java", *_JAVA_OPTIONS, "-cp", _classpath(), *gateway],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=log,
            cwd=directory,
            start_new_session=True,  # Ctrl-C reaches pytest, which stops Spark last
        )
    try:
        yield process
    finally:
        end(process)


def _port_and_token(process: "subprocess.Popen[bytes]", output: Path) -> tuple[int, str]:
    """Return the first two lines that the gateway prints."""
    deadline = time.monotonic() + START_SECONDS
    while len(lines := output.read_text().splitlines(keepends=True)) < 2 or not lines[1].endswith("\n"):
        if process.poll() is not None or time.monotonic() > deadline:
            log = output.with_name("spark.log").read_text()
            raise TimeoutError(f"the JVM of Spark did not start within {START_SECONDS:g} s. Its log:\n{log}")
        time.sleep(0.05)
    return int(lines[0]), lines[1].strip()


def _classpath() -> str:
    spark = version_in(POM, r"spark-sql_2\.13</artifactId>\s*<version>([^<]+)<")
    delta = version_in(POM, r"delta-spark_2\.13</artifactId>\s*<version>([^<]+)<")
    return maven_jars(f"spark-{spark}-delta-{delta}", POM)
