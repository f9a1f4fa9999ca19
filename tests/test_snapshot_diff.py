"""Full snapshots as rows, and what makes one into the next."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.events import Columns
from operators.schema import parse_schema
from operators.silver.snapshot_diff import diff
from operators.silver.snapshot_rows import MisfitError, snapshot_rows

ROOMS = pl.Schema({"floor": pl.Int64(), "no": pl.String(), "guest": pl.String(), "price": pl.Float64()})
KEYS = ["floor", "no"]

_keys = st.tuples(st.integers(0, 2), st.sampled_from("ab"))
_guests = st.tuples(st.sampled_from(["Ada", "Bob", None]), st.sampled_from([0.0, -0.0, 1.5, None]))
_states = st.dictionaries(_keys, _guests)


def rooms(state: dict[tuple[int, str], tuple[str | None, float | None]]) -> pl.DataFrame:
    return pl.DataFrame([(*key, *guest) for key, guest in state.items()], ROOMS, orient="row")


@given(_states, _states, st.lists(_keys))
def test_a_diff_is_what_makes_one_state_into_the_next(
    before: dict[tuple[int, str], tuple[str | None, float | None]],
    after: dict[tuple[int, str], tuple[str | None, float | None]],
    unknown: list[tuple[int, str]],
) -> None:
    spared = pl.DataFrame(unknown, {key: ROOMS[key] for key in KEYS}, orient="row")
    made = diff(rooms(after), rooms(before), spared, KEYS)
    assert sorted(made.upserts.rows(), key=repr) == sorted(
        ((*key, *guest) for key, guest in after.items() if before.get(key, "none") != guest), key=repr
    )
    assert sorted(made.deletes.rows(), key=repr) == sorted(
        ((*key, *guest) for key, guest in before.items() if key not in after and key not in unknown), key=repr
    )
    assert made.unchanged == sum(before.get(key, "none") == guest for key, guest in after.items())


def columns(sequence_by: str | None = None, **declared: str) -> Columns:
    return Columns(parse_schema({"id": "int64", **declared}), ("id",), sequence_by)


def test_a_row_that_cannot_be_is_refused_and_costs_no_other() -> None:
    first = pl.DataFrame({"id": [1, None, 3, 4], "size": [1, 2, 300, -128]})
    then = pl.DataFrame({"size": [5, 6, 6, 7], "id": [5, 6, 6, 5]}, {"size": pl.UInt64, "id": pl.Int8})
    read = snapshot_rows([first, then], columns(size="int8"))
    assert read.rows.schema == pl.Schema({"id": pl.Int64(), "size": pl.Int8()})
    assert read.rows.rows() == [(1, 1), (4, -128), (6, 6)], "a copy of a row is the same row"
    differ = "its key has different rows in this snapshot, expected one"
    assert read.refused.rows() == [
        (None, '{"id": null, "size": 2}', "column 'id': received NULL, expected a value"),
        (3, '{"id": 3, "size": 300}', "column 'size': received a value that is no int8"),
        (5, '{"id": 5, "size": 5}', differ),
        (5, '{"id": 5, "size": 7}', differ),
    ]


@pytest.mark.parametrize(
    ("declared", "found", "rows"),
    [
        ("decimal(6, 2)", pl.Series([Decimal("1.5"), Decimal("99999.9")], dtype=pl.Decimal(9, 1)), [Decimal("1.50")]),
        ("decimal(3, 1)", pl.Series([7, 100]), [Decimal("7.0")]),
        ("float64", pl.Series([1.5, float("nan")]), [1.5]),
        ("float64", pl.Series([0.5, float("inf")], dtype=pl.Float32), [0.5]),
        ("int16", pl.Series([7, 2**40]), [7]),
        ("timestamp", pl.Series([datetime(2026, 3, 1)]), [datetime(2026, 3, 1, tzinfo=UTC)]),  # noqa: DTZ001
        ("timestamp", pl.Series([0]).cast(pl.Datetime("ns", "Asia/Tokyo")), [datetime(1970, 1, 1, tzinfo=UTC)]),
        ("string", pl.Series(["a"], dtype=pl.Categorical), ["a"]),
        ("bool", pl.Series([None], dtype=pl.Null), [None]),
    ],
)
def test_types_in_which_a_value_means_the_same_are_taken(declared: str, found: pl.Series, rows: list[object]) -> None:
    read = snapshot_rows([pl.DataFrame({"id": range(len(found)), "x": found})], columns(x=declared))
    assert read.rows["x"].to_list() == rows
    assert read.refused.height == len(found) - len(rows)
    assert all("received a value that is no" in reason for reason in read.refused["reason"])


@pytest.mark.parametrize(
    ("declared", "found", "message"),
    [
        ({"x": "string"}, {"id": [1]}, "column 'x' is missing; found id"),
        ({"x": "int64"}, {"id": [1], "x": ["1"]}, "column 'x' is string, expected int64"),
        ({"x": "float32"}, {"id": [1], "x": [0.1]}, "column 'x' is float64, expected float32"),
        ({"x": "decimal(9, 1)"}, {"id": [1], "x": [Decimal("0.15")]}, r"column 'x' is decimal\(\d+, 2\), expected"),
    ],
)
def test_other_columns_are_refused_as_a_whole(
    declared: dict[str, str], found: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(MisfitError, match=message):
        snapshot_rows([pl.DataFrame(found)], columns(**declared))


def test_a_row_without_its_own_sequence_is_refused() -> None:
    read = snapshot_rows([pl.DataFrame({"id": [1, 2], "at": [5, None]})], columns("at", at="int64"))
    assert (read.rows["id"].to_list(), read.refused["id"].to_list()) == ([1], [2])


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_an_instant_beyond_the_calendar_is_refused_wherever_it_stands(unit: Any, zone: str | None) -> None:
    far = [400_000_000_000_000_000, -400_000_000_000_000_000, 2**63 - 1, -(2**63)]  # in ns, all are of the calendar
    found = pl.DataFrame({"id": [*range(5), None], "at": [0, *far, far[0]]})
    found = found.with_columns(pl.col("at").cast(pl.Datetime(unit)).dt.replace_time_zone("UTC"))
    if zone is None:
        found = found.with_columns(pl.col("at").dt.replace_time_zone(None))
    elif zone != "UTC":
        found = found.with_columns(pl.col("at").dt.convert_time_zone(zone))
    read = snapshot_rows([found], columns(at="timestamp"))
    assert read.rows["id"].to_list() == ([0, 1, 2, 3, 4] if unit == "ns" else [0])
    assert read.refused["id"].to_list() == ([None] if unit == "ns" else [1, 2, 3, 4, None])


def test_a_refused_row_is_told_whatever_its_dates_are() -> None:
    dates = pl.Series([0, -719_163, 2_932_897, 2**31 - 1, -(2**31)], dtype=pl.Int32).cast(pl.Date)
    read = snapshot_rows([pl.DataFrame({"id": [1, 2, 3, 4, 5], "on": dates})], columns(on="date"))
    assert read.rows["id"].to_list() == [1]
    reason = "column 'on': received a value that is not in years 1 to 9999"
    assert read.refused.rows() == [
        (key, f'{{"id": {key}, "on": "{days}"}}', reason)
        for key, days in ((2, -719_163), (3, 2_932_897), (4, 2**31 - 1), (5, -(2**31)))
    ]
