"""The flights of New York in 2013: from change events to departures, cancellations and delays, kept fresh.

    python -m bytewax.run flows.flights

`make demo` writes the events first. `flows.flights_kafka` is the same over a Kafka topic.
"""

import sys

from bytewax.dataflow import Dataflow

from flows import Count, Debezium, EventLog, Kafka, Kpi, Mean, Pipeline, Silver, tumbling
from flows.flight_events import FLIGHTS_SCHEMA
from flows.settings import Settings
from operators.gold.measures import Measure
from storage.errors import UnknownTopicError

TOPIC = "flights"
FORMAT = Debezium()
MEASURES: dict[str, Measure] = {
    "departures": Count("dep_time"),
    "cancellations": Count("cancelled_at"),
    "mean_delay": Mean("dep_delay"),
}


def flights_from(source: Kafka | EventLog) -> Pipeline:
    """Return the pipeline over these change events."""
    flights = Silver("flights", source=source, schema=FLIGHTS_SCHEMA, keys=["flight_id"], sequence_by="source.lsn")
    by_carrier_and_hour = Kpi(
        "delays_by_carrier_and_hour",
        source=flights,
        window=tumbling("1h", on="sched_dep"),
        group_by=["carrier"],
        measures=MEASURES,
    )
    by_origin_and_day = Kpi("delays_by_origin_and_day", source=flights, group_by=["origin", "day"], measures=MEASURES)
    return Pipeline("flights", tables=[flights, by_carrier_and_hour, by_origin_and_day], lake="demo-data/lake")


pipeline = flights_from(EventLog(TOPIC, format=FORMAT, directory="demo-data/events"))


def flow(tail: bool = True) -> Dataflow:  # noqa: FBT001, FBT002 - the engine's command line passes it: flow(False)
    """Return the dataflow that keeps these tables; without `tail` it ends where the events end now."""
    try:
        pipeline.silvers[0].open_topic(Settings.from_environment()).partitions()
    except UnknownTopicError as error:
        sys.exit(f"goldwax: flights: {error} `make demo` writes the events of the demo.")
    return pipeline.dataflow(tail=tail)
