"""How to reach a Kafka cluster: one frozen value, whose secrets never show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from storage.errors import SourceError

# What a read from a position of our own rests on; goldwax sets these itself.
RESERVED_OPTIONS = frozenset(
    {
        "allow.auto.create.topics",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "isolation.level",
        "metadata.broker.list",
    }
)
# Options whose values may be shown; every other value is taken for a secret.
_PUBLIC_PREFIXES = ("security.", "client.", "group.id", "fetch.", "queued.", "max.", "receive.", "socket.", "check.")
_PUBLIC_OPTIONS = frozenset(
    {
        "sasl.kerberos.service.name",
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.username",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.cipher.suites",
        "ssl.crl.location",
        "ssl.endpoint.identification.algorithm",
        "ssl.key.location",
    }
)
_HIDDEN = "***"


@dataclass(frozen=True, slots=True, repr=False)
class KafkaSettings:
    """A Kafka cluster and the client to read it with.

    ``bootstrap_servers`` is `host:port`, several joined by commas. ``client`` names the library; `auto` takes
    confluent-kafka where it is installed, as it reads about seven times faster, else kafka-python. ``options`` are
    named as librdkafka names them (`security.protocol`, `sasl.password`, `ssl.ca.location`, ...) for both clients.

    ``connect_seconds`` bounds each wait for an answer when opening and asking. ``retry_seconds`` bounds how long a
    reader keeps trying while no broker answers.

    Raises SourceError for an option that goldwax sets itself.
    """

    bootstrap_servers: str
    client: Literal["auto", "confluent", "kafka-python"] = "auto"
    options: Mapping[str, str] = field(default_factory=dict)
    connect_seconds: float = 10.0
    retry_seconds: float = 60.0

    def __post_init__(self) -> None:
        taken = sorted(RESERVED_OPTIONS & self.options.keys())
        if taken:
            raise SourceError(f"Kafka option {taken[0]!r} cannot be set: goldwax sets it itself. Remove it.")

    def __repr__(self) -> str:
        options = {name: value if _is_public(name) else _HIDDEN for name, value in self.options.items()}
        return f"KafkaSettings({self.bootstrap_servers!r}, client={self.client!r}, options={options!r})"

    @property
    def place(self) -> str:
        """The cluster as error messages name it."""
        return f"Kafka at {self.bootstrap_servers}"

    def redact(self, text: str) -> str:
        """Return `text` without the secrets of these settings."""
        for name, value in self.options.items():
            if value and not _is_public(name):
                text = text.replace(value, _HIDDEN)
        return text

    def failed(self, doing: str, reason: object) -> SourceError:
        """Build the error for an answer that forbids going on."""
        return SourceError(
            f"{self.place} failed while {doing}: {self.redact(str(reason))}."
            " Check the topic's access rights and the Kafka options, then start again."
        )

    def unreachable(self, doing: str, seconds: float, reason: object) -> SourceError:
        """Build the error for a cluster that did not answer within `seconds`."""
        return SourceError(
            f"{self.place} did not answer within {seconds:g} s while {doing}"
            f" (last reported: {self.redact(str(reason))})."
            " Check that the brokers run, that this address is reachable from here,"
            " and that security.protocol, sasl.* and ssl.* fit the listener."
        )


def _is_public(option: str) -> bool:
    return option in _PUBLIC_OPTIONS or option.startswith(_PUBLIC_PREFIXES)
