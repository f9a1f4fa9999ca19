"""A real Apache Kafka of one node, from Maven artifacts, on free ports of 127.0.0.1.

1. jars: `mvn dependency:copy-dependencies` on tests/kafka/pom.xml, kept in ~/.cache/goldwax/kafka-<version>
2. certificate: a self-signed one for 127.0.0.1, made by Java's keytool
3. format: Kafka's StorageTool, with one SCRAM user
4. start: kafka.Kafka; ready when every listener accepts connections and metadata is served

Java 17 or newer is needed. The user of both SASL mechanisms is USER with PASSWORD.
"""

import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.downloads import maven_jars, run, version_in

USER = "goldwax"
PASSWORD = "pass-word-of-the-tests"  # noqa: S105 - the broker lives as long as the tests and listens on loopback
POM = Path(__file__).parent / "kafka" / "pom.xml"
STOP_SECONDS = 20.0
LOG_TAIL_LINES = 30

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl},CONTROLLER://127.0.0.1:{controller}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.location={directory}/broker.p12
ssl.keystore.password={password}
ssl.keystore.type=PKCS12
log.dirs={directory}/data
num.partitions=1
message.max.bytes=33554432
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
log.cleaner.backoff.ms=200
log.cleaner.dedupe.buffer.size=4194304
"""  # noqa: E501 - a Java property is one line


@dataclass(frozen=True)
class Ports:
    """The listeners' ports."""

    plain: int
    sasl: int
    ssl: int
    controller: int

    @classmethod
    def free(cls) -> "Ports":
        """Pick ports that nobody listens on now."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
        numbers = [each.getsockname()[1] for each in sockets]
        for each in sockets:
            each.close()
        return cls(*numbers)


@dataclass
class KafkaProcess:
    """One broker with its data in `directory`; after a stop or a kill it starts again on the same data and ports."""

    directory: Path
    ports: Ports = field(default_factory=Ports.free)
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self) -> Path:
        return self.directory / "broker.log"

    @property
    def certificate(self) -> Path:
        """The broker's certificate, PEM, which signs itself."""
        return self.directory / "broker.pem"

    def create(self) -> None:
        """Prepare an empty broker. Raises UnavailableError."""
        classpath = _classpath()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_certificate()
        self._properties.write_text(
            _PROPERTIES.format(**vars(self.ports), user=USER, password=PASSWORD, directory=self.directory)
        )
        scram = f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]"
        tool = ["java", *_HEAP, "-cp", classpath, "kafka.tools.StorageTool"]
        cluster = run([*tool, "random-uuid"]).strip().splitlines()[-1]
        run([*tool, "format", "--standalone", "-t", cluster, "-c", str(self._properties), "--add-scram", scram])

    def start(self, timeout: float = 60.0) -> None:
        """Start the broker and wait until it serves. Raises TimeoutError with the tail of its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["java", *_HEAP, "-cp", _classpath(), "kafka.Kafka", str(self._properties)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches pytest, which stops the broker last
            )
        deadline = time.monotonic() + timeout
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                tail = "\n".join(self.log.read_text().splitlines()[-LOG_TAIL_LINES:])
                raise TimeoutError(f"Kafka did not serve within {timeout:g} s. The end of its log:\n{tail}")
            time.sleep(0.1)

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """Stop in good order; kill when that takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a crash does."""
        self._end(signal.SIGKILL)

    @property
    def _properties(self) -> Path:
        return self.directory / "server.properties"

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _ready(self) -> bool:
        ports = (self.ports.plain, self.ports.sasl, self.ports.ssl)
        return all(map(_accepts, ports)) and _serves(f"127.0.0.1:{self.ports.plain}")

    def _make_certificate(self) -> None:
        store = ["-keystore", str(self.directory / "broker.p12"), "-storepass", PASSWORD, "-alias", "broker"]
        identity = ["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-ext", "bc:c=ca:true", "-validity", "3650"]
        run(["keytool", "-genkeypair", "-keyalg", "RSA", "-storetype", "PKCS12", *identity, *store])
        run(["keytool", "-exportcert", "-rfc", "-file", str(self.certificate), *store])


_HEAP = ("-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def _classpath() -> str:
    version = version_in(POM, r"kafka_2\.13</artifactId>\s*<version>([^<]+)<")
    return maven_jars(f"kafka-{version}", POM)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _serves(servers: str) -> bool:
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=2).brokers)
    except KafkaException:
        return False
