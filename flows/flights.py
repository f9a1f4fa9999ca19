"""The flights of New York in 2013: from change events to departures, cancellations and delays, kept fresh.

    python -m bytewax.run flows.flights

`make demo` writes the events first and runs it to their end.
"""

from bytewax.dataflow import Dataflow

from flows import Count, Debezium, EventLog, Kpi, Mean, Pipeline, Silver, tumbling
from flows.flight_events import FLIGHTS_SCHEMA
from operators.measures import Measure

MEASURES: dict[str, Measure] = {
    "departures": Count("dep_time"),
    "cancellations": Count("cancelled_at"),
    "mean_delay": Mean("dep_delay"),
}

flights = Silver(
    "flights",
    source=EventLog("flights", format=Debezium(), directory="demo-data/events"),
    schema=FLIGHTS_SCHEMA,
    keys=["flight_id"],
    sequence_by="source.lsn",
)
by_carrier_and_hour = Kpi(
    "delays_by_carrier_and_hour",
    source=flights,
    window=tumbling("1h", on="sched_dep"),
    group_by=["carrier"],
    measures=MEASURES,
)
by_origin_and_day = Kpi("delays_by_origin_and_day", source=flights, group_by=["origin", "day"], measures=MEASURES)

pipeline = Pipeline("flights", tables=[flights, by_carrier_and_hour, by_origin_and_day], lake="demo-data/lake")


def flow(tail: bool = True) -> Dataflow:  # noqa: FBT001, FBT002 - the engine's command line passes it: flow(False)
    """Return the dataflow that keeps these tables; without `tail` it ends where the events end now."""
    return pipeline.dataflow(tail=tail)
