"""A small pipeline of customers from full snapshots, for tests that run the real engine.

Environment: `TEST_EXPORTS` is where the snapshots are, `TEST_KIND` "alone" (default), "delta", "initial" (beside
the stream `customers` of the event log) or "stream" (that alone), `TEST_MAX_ROWS` how many rows a commit waits for.
"""

import os
from datetime import timedelta

import polars as pl
from bytewax.dataflow import Dataflow

from flows import Count, EventLog, Json, Kpi, Pipeline, Silver, Snapshots

SCHEMA = {"id": "int64", "country": "string", "credit": "decimal(12, 2)"}
ROWS: dict[str, pl.DataType] = {"id": pl.Int64(), "country": pl.String(), "credit": pl.Decimal(12, 2)}


def declared() -> Pipeline:
    kind, exports = os.environ.get("TEST_KIND", "alone"), os.environ.get("TEST_EXPORTS", "exports/customers")
    stream = EventLog("customers", format=Json(operation="op"))
    alone = Snapshots(exports, versions="delta" if kind == "delta" else "v={integer}*")
    customers = Silver(
        "customers",
        source=stream if kind in ("initial", "stream") else alone,
        initial=Snapshots(exports, versions="v={integer}*") if kind == "initial" else None,
        schema=SCHEMA,
        keys=["id"],
    )
    by_country = Kpi("customers_by_country", source=customers, group_by=["country"], measures={"customers": Count()})
    max_rows = int(os.environ.get("TEST_MAX_ROWS", "100000"))
    return Pipeline("crm", tables=[customers, by_country], max_rows=max_rows, max_delay=timedelta(milliseconds=20))


pipeline = declared()


def flow(tail: bool = False) -> Dataflow:  # noqa: FBT001, FBT002 - passed by the engine's command line
    return pipeline.dataflow(tail=tail)
