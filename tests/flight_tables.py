"""The demo's flights as current rows and as histories, over topics named in the environment, for tests to run.

`FLIGHTS_TOPIC` names the topic.
"""

import os
from dataclasses import replace

from bytewax.dataflow import Dataflow

from flows import Kafka, Kpi, Pipeline, Silver
from flows.flight_events import FLIGHTS_SCHEMA
from flows.flights import FORMAT, flights_from


def pipeline(topic: str) -> Pipeline:
    source = Kafka(topic, format=FORMAT)
    demo = flights_from(source)
    history = Silver(
        "flight_history",
        source=source,
        schema=FLIGHTS_SCHEMA,
        keys=["flight_id"],
        sequence_by="source.lsn",
        history="scd2",
    )
    of_history = [replace(kpi, name=f"{kpi.name}_of_history", source=history) for kpi in demo.kpis]
    tables: list[Silver | Kpi] = [*demo.tables, history, *of_history]
    return Pipeline("flights", tables=tables)


def flow() -> Dataflow:
    return pipeline(os.environ["FLIGHTS_TOPIC"]).dataflow(tail=False)
