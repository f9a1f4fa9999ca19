"""The options of a Kafka cluster as kafka-python names them."""

from collections.abc import Callable
from typing import Any

from storage.errors import SourceError
from storage.logs.kafka_settings import KafkaSettings


def _is_checked(algorithm: str) -> bool:
    return algorithm.lower() not in {"", "none"}


# librdkafka's name of an option: kafka-python's name, and how to read the value.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "client.id": ("client_id", str),
    "client.rack": ("client_rack", str),
    "fetch.max.bytes": ("fetch_max_bytes", int),
    "fetch.min.bytes": ("fetch_min_bytes", int),
    "fetch.wait.max.ms": ("fetch_max_wait_ms", int),
    "max.partition.fetch.bytes": ("max_partition_fetch_bytes", int),
    "receive.message.max.bytes": ("receive_message_max_bytes", int),
    "sasl.kerberos.service.name": ("sasl_kerberos_service_name", str),
    "sasl.mechanism": ("sasl_mechanism", str),
    "sasl.mechanisms": ("sasl_mechanism", str),
    "sasl.password": ("sasl_plain_password", str),
    "sasl.username": ("sasl_plain_username", str),
    "security.protocol": ("security_protocol", str.upper),
    "ssl.ca.location": ("ssl_cafile", str),
    "ssl.certificate.location": ("ssl_certfile", str),
    "ssl.cipher.suites": ("ssl_ciphers", str),
    "ssl.crl.location": ("ssl_crlfile", str),
    "ssl.endpoint.identification.algorithm": ("ssl_check_hostname", _is_checked),
    "ssl.key.location": ("ssl_keyfile", str),
    "ssl.key.password": ("ssl_password", str),
}
_UNUSED_OPTIONS = frozenset({"group.id"})  # librdkafka needs one; nobody joins a group


def kafka_python_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return the options of `settings` as keyword arguments of kafka-python's consumer.

    Raises SourceError for one that it has no counterpart of, or that is not a number where it takes one.
    """
    unknown = sorted(settings.options.keys() - _OPTIONS.keys() - _UNUSED_OPTIONS)
    if unknown:
        raise SourceError(
            f"The Kafka client kafka-python has no option {unknown[0]!r}; it has {', '.join(sorted(_OPTIONS))}."
            " Remove it, or install goldwax[confluent] to read with librdkafka."
        )
    options = {name: value for name, value in settings.options.items() if name in _OPTIONS}
    return {_OPTIONS[name][0]: _read(name, value) for name, value in options.items()}


def _read(name: str, value: str) -> Any:
    try:
        return _OPTIONS[name][1](value)
    except ValueError:
        raise SourceError(f"Kafka option {name!r} is not a whole number. Correct it.") from None
