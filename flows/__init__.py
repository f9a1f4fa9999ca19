"""What a user declares and runs: `from flows import Kafka, Kpi, Pipeline, Silver, …`."""

from flows.kpi import Kpi, OnCommit
from flows.pipeline import Pipeline
from flows.silver import Silver
from flows.snapshots import Snapshots
from flows.sources import EventLog, Kafka
from operators.formats import Debezium, Json
from operators.measures import Count, Mean, Sum
from operators.schema import DeclarationError
from operators.windows import tumbling

__all__ = [
    "Count",
    "Debezium",
    "DeclarationError",
    "EventLog",
    "Json",
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
