"""Kafka topics as record logs, read through whichever client is there.

Both clients read the same way: assigned partitions and no consumer group, from positions that the caller keeps;
committed records only; no topic is ever created by reading; an offset that is gone is an error and never a jump.
"""

from importlib.util import find_spec

from storage.errors import SourceError
from storage.logs.kafka_settings import KafkaSettings
from storage.logs.records import Topic

__all__ = ["KafkaSettings", "kafka_topic"]


def kafka_topic(settings: KafkaSettings, name: str) -> Topic:
    """Return the topic `name` as the client chosen by `settings` reads it. Connects to nothing yet.

    Raises SourceError when that client is not installed, or does not know one of the options.
    """
    installed = find_spec("confluent_kafka") is not None
    if settings.client == "kafka-python" or (settings.client == "auto" and not installed):
        from storage.logs.kafka_python import KafkaPythonTopic  # noqa: PLC0415 - takes a quarter of a second, for few

        return KafkaPythonTopic(settings, name)
    if not installed:
        raise SourceError(
            "The Kafka client 'confluent' is not installed."
            " Install goldwax[confluent], or choose the client 'auto' or 'kafka-python'."
        )
    from storage.logs.kafka_confluent import ConfluentTopic  # noqa: PLC0415 - confluent-kafka is an optional dependency

    return ConfluentTopic(settings, name)
