"""What a user declares and runs: `from flows import Kafka, Kpi, Pipeline, Silver, …`."""

from flows.kpi import Kpi, OnCommit
from flows.pipeline import Pipeline
from flows.silver import Silver
from flows.snapshots import Snapshots
from flows.sources import EventLog, Kafka
from operators.decoding.expect import Expect
from operators.decoding.formats import Avro, Custom, Debezium, Json, JsonSchema
from operators.gold.measures import Count, Mean, Sum
from operators.gold.windows import tumbling
from operators.schema import DeclarationError

__all__ = [
    "Avro",
    "Count",
    "Custom",
    "Debezium",
    "DeclarationError",
    "EventLog",
    "Expect",
    "Json",
    "JsonSchema",
    "Kafka",
    "Kpi",
    "Mean",
    "OnCommit",
    "Pipeline",
    "Silver",
    "Snapshots",
    "Sum",
    "tumbling",
]
