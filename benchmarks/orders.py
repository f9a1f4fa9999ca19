"""The load of the benchmarks: Debezium JSON of about 250 bytes for one table of orders, and the flows that read it.

Environment of the flows: `BENCH_TOPIC`, `BENCH_HISTORY`, and goldwax's own settings.
"""

import os
from collections.abc import Iterator

import bytewax.operators as op
import numpy as np
import polars as pl
from bytewax.dataflow import Dataflow

from flows import Count, Debezium, Kafka, Kpi, Pipeline, Silver, Sum, tumbling
from flows.dataflow import Discard, collect_seldom
from flows.reading.in_flight import Limits, Progress
from flows.reading.record_source import Reading, RecordSource
from flows.settings import Settings
from flows.stages.decoding import Decoding
from flows.stopping import Stopping

PARTITIONS = 4
_CHUNK = 200_000
_FARTHEST = 1_000_000  # events that a late one is behind
_DAY_MS = 86_400_000


def pipeline() -> Pipeline:
    """Return the pipeline measured: SCD1, or with `BENCH_HISTORY` SCD2, and one KPI on commit."""
    orders = Silver(
        "orders",
        source=Kafka(os.environ["BENCH_TOPIC"], format=Debezium(decimals="string", timestamps="ms")),
        schema={
            "order_id": "int64",
            "customer": "int64",
            "country": "string",
            "status": "string",
            "amount": "decimal(12, 2)",
            "placed_at": "timestamp",
        },
        keys=["order_id"],
        sequence_by="source.lsn",
        history="scd2" if os.environ.get("BENCH_HISTORY") else "scd1",
    )
    revenue = Kpi(
        "revenue_by_country_hour",
        source=orders,
        window=tumbling("1h", on="placed_at"),
        group_by=["country"],
        measures={"revenue": Sum("amount"), "orders": Count()},
    )
    return Pipeline("bench", tables=[orders, revenue])


def flow() -> Dataflow:
    """Kafka to Gold, to the end of the topic."""
    return pipeline().dataflow(tail=False)


def tailing() -> Dataflow:
    """Kafka to Gold, following the topic until SIGTERM."""
    return pipeline().dataflow()


def decode_only() -> Dataflow:
    """Consume and decode, and nothing else: what a pipeline could reach at the most."""
    collect_seldom()
    silver = pipeline().silvers[0]
    topic = silver.open_topic(Settings.from_environment())
    unlimited = Limits(2**62, 2**62)
    reading = Reading(topic, topic.partitions(), lambda _: 0, tail=False, batch_records=20_000, limits=unlimited)
    flow = Dataflow("decode_only")
    decode = Decoding(silver.decoder, silver.schema)
    events = op.input("read", flow, RecordSource([reading], decode, Progress(dict), Stopping()))  # EventBatch
    op.output("events", events, Discard())
    return flow


def change_events(count: int, keys: int, late: float = 0.0) -> Iterator[pl.DataFrame]:
    """Yield frames of `partition`, `key` and `value` (bytes): every key once, then updates of random keys.

    A share of `late` of the updates has a sequence from up to a million events before.
    """
    chance = np.random.default_rng(1)
    for start in range(0, count, _CHUNK):
        at = np.arange(start, min(start + _CHUNK, count))
        order_id = np.where(at < keys, at, chance.integers(0, keys, len(at)))
        behind = (at >= keys) & (chance.random(len(at)) < late)
        lsn = np.where(behind, at - chance.integers(1, _FARTHEST, len(at)), at)
        yield _frame(lsn, order_id, chance)


def _frame(
    lsn: "np.ndarray[tuple[int], np.dtype[np.int64]]", order_id: object, chance: np.random.Generator
) -> pl.DataFrame:
    size = len(lsn)
    columns = pl.DataFrame(
        {
            "lsn": lsn,
            "order_id": order_id,
            "customer": chance.integers(0, 50_000, size),
            "country": pl.Series(["DE", "FR", "JP", "BR", "US"]).gather(chance.integers(0, 5, size)),
            "status": pl.Series(["new", "paid", "shipped", "returned"]).gather(chance.integers(0, 4, size)),
            "cents": chance.integers(100, 100_000, size),
            "placed_at": 1_767_225_600_000 + chance.integers(0, 7 * _DAY_MS, size),
        }
    )
    return columns.select(
        partition=(pl.col("order_id") % PARTITIONS).cast(pl.Int32),
        key=pl.format('{{"order_id":{}}}', "order_id").cast(pl.Binary),
        value=pl.format(
            '{{"before":null,"after":{{"order_id":{},"customer":{},"country":"{}","status":"{}","amount":"{}.{}",'
            '"placed_at":{}}},"source":{{"connector":"postgresql","table":"orders","lsn":{},"ts_ms":1767225600000}},'
            '"op":"u","ts_ms":1767225600000}}',
            *("order_id", "customer", "country", "status"),
            pl.col("cents") // 100,
            (pl.col("cents") % 100).cast(pl.String).str.zfill(2),
            *("placed_at", "lsn"),
        ).cast(pl.Binary),
    )
