"""Values of every type come back as they were, in every engine, and no statistics hide a row that holds them."""

import json
import math
import shutil
import struct
import tempfile
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from tests.keyed_table import KeyedTable, Row
from tests.readers import IN_PROCESS, ON_OBJECT_STORES, Reader, Where, assert_all_read

SCHEMA = pl.Schema(
    {
        "id": pl.Int64(),
        "i8": pl.Int8(),
        "i16": pl.Int16(),
        "i32": pl.Int32(),
        "i64": pl.Int64(),
        "f32": pl.Float32(),
        "f64": pl.Float64(),
        "dec": pl.Decimal(38, 10),
        "txt": pl.String(),
        "yes": pl.Boolean(),
        "day": pl.Date(),
        "moment": pl.Datetime("us", "UTC"),
        "tags": pl.List(pl.String()),
        "raw": pl.Binary(),
    }
)
FILTERED = ("i8", "i16", "i32", "i64", "f32", "f64", "dec", "txt", "day", "moment")
_SQL_YEARS = range(1700, 2200)  # of instants in a query of DataFusion
OPERATORS: tuple[Literal["=", "<", ">"], ...] = ("=", "<", ">")
NAN = math.nan
HIGHEST = "\U0010ffff"
LARGE = Decimal("1234567890123456789012345678.0123456789")
NINES = Decimal("9999999999999999999999999999.9999999999")


def single(number: float) -> float:
    """Return the nearest number of 32 bits."""
    found: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return found


def integers(bits: int) -> st.SearchStrategy[int]:
    edges = [-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1]
    return st.sampled_from(edges) | st.integers(edges[0], edges[-1])


_TEXTS = st.sampled_from(
    ["", " ", "'", '"', "\\", "\n", "é", "🙂" * 33, "x" * 31 + "🙂🙂", "x" * 40 + HIGHEST, HIGHEST]
)
_FLOATS = st.sampled_from([NAN, math.inf, -math.inf, 0.0, -0.0, 1e-300, -1e300])
_SINGLES = st.sampled_from([NAN, math.inf, -math.inf, 0.0, -0.0, single(0.1), single(3e38)])
_EDGE_DAYS = st.sampled_from([date(1, 1, 1), date(1582, 10, 4), date(1969, 12, 31), date(9999, 12, 31)])
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)
_EDGE_INSTANTS = st.sampled_from(
    [datetime(1, 1, 1, tzinfo=UTC), _LAST, datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)]
)
_INSTANTS = _EDGE_INSTANTS | st.datetimes(timezones=st.just(UTC))
_COLUMNS: list[st.SearchStrategy[Any]] = [
    *(integers(bits) for bits in (8, 16, 32, 64)),
    _SINGLES | st.floats(width=32),
    _FLOATS | st.floats(),
    st.sampled_from([NINES, NINES.copy_negate(), LARGE])
    | st.integers(1 - 10**38, 10**38 - 1).map(lambda n: Decimal(f"{n}E-10")),
    _TEXTS | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.booleans(),
    _EDGE_DAYS | st.dates(),
    _INSTANTS,
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.none(), max_size=3),
    st.binary(max_size=9),
]
_SETTINGS = settings(
    deadline=None,
    max_examples=20,
    derandomize=True,  # some draws take a minute; shrinking takes many
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
_ROWS = st.lists(st.tuples(*(column | st.none() for column in _COLUMNS)), min_size=1, max_size=6)

_PLAIN: Row = (1, 1, 1, 1, 1.0, 1.0, Decimal("1.0000000000"), "one", True, date(2024, 2, 29), None, ["a"], b"\0")


@pytest.mark.parametrize("vectors", [True, False])
def test_rows_of_all_kinds_come_back_as_they_were(vectors: bool) -> None:  # noqa: FBT001
    latest: Row = (0, 0, 0, 0, NAN, NAN, LARGE, "x" * 5_000_000, False, None, _LAST, [], b"")
    assert_come_back([_PLAIN, (None,) * 13, latest], IN_PROCESS, vectors=vectors)


@pytest.mark.parametrize("vectors", [True, False])
@_SETTINGS
@given(_ROWS)
def test_random_rows_come_back_as_they_were(vectors: bool, rows: list[Row]) -> None:  # noqa: FBT001
    assert_come_back(rows, ON_OBJECT_STORES, vectors=vectors)


def assert_come_back(rows: list[Row], readers: tuple[Reader, ...], *, vectors: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        numbered = [(number, *row) for number, row in enumerate(rows)]
        table = written(f"{directory}/types", numbered, vectors=vectors)
        assert_all_read(readers, f"{directory}/types", table.frame(numbered))
        again = KeyedTable(f"{directory}/types", SCHEMA, ["id"], vectors=vectors)
        assert again.merge(numbered, [], {}).updated == len(rows)
        assert_all_read(readers, f"{directory}/types", table.frame(numbered))


@_SETTINGS
@given(_ROWS, st.data())
def test_no_statistics_hide_a_row(rows: list[Row], data: st.DataObject) -> None:
    """Every engine gives what it gives without the bounds, with and without a vector.

    What the engines make of NaN and of -0.0 differs; what they are told about them must not matter.
    """
    column = data.draw(st.sampled_from(FILTERED))
    drawn = _COLUMNS[SCHEMA.names().index(column) - 1]
    value = data.draw(drawn.filter(lambda value: value.year in _SQL_YEARS) if column == "moment" else drawn)
    wheres = [Where(column, operator, value) for operator in OPERATORS]
    numbered = [(number, *row) for number, row in enumerate(rows)]
    assert_nothing_hidden(numbered, wheres, vector=data.draw(st.booleans()))


@pytest.mark.parametrize(
    ("column", "values", "value"),
    [
        ("f64", [1.0, NAN], 2.0),
        ("f32", [NAN, -1.0, None], 2.0),
        ("f64", [0.0], -0.0),
        ("f64", [-0.0], 0.0),
        ("f64", [-math.inf, math.inf, 1.0], 5.0),
        ("f32", [single(0.1)], single(0.1)),
        ("dec", [LARGE, NINES], LARGE),
        ("txt", ["x" * 32 + HIGHEST * 2], "x" * 32 + HIGHEST * 2),
        ("txt", ["x" * 40, "y"], "x" * 40),
        ("day", [date(1, 1, 1), date(9999, 12, 31)], date(9999, 12, 31)),
        ("moment", [_LAST, datetime(1, 1, 1, tzinfo=UTC)], datetime(2024, 1, 1, tzinfo=UTC)),
        ("moment", [datetime(2024, 1, 1, 0, 0, 0, 999, UTC)], datetime(2024, 1, 1, 0, 0, 0, 999, UTC)),
    ],
)
def test_no_statistics_hide_a_row_at_the_edge(column: str, values: list[Any], value: Any) -> None:
    rows = [
        (number, *(each if name == column else None for name in SCHEMA.names()[1:]))
        for number, each in enumerate(values)
    ]
    wheres = [Where(column, operator, value) for operator in OPERATORS]
    assert_nothing_hidden(rows, wheres, vector=True)


def assert_nothing_hidden(rows: list[Row], wheres: list[Where], *, vector: bool) -> None:
    gone = (len(rows), *rows[0][1:])
    with tempfile.TemporaryDirectory() as directory:
        uri, bare = f"{directory}/types", f"{directory}/bare"
        table = written(uri, [*rows, gone], vectors=True)
        if vector:
            table.merge([], [(len(rows),)], {})
        shutil.copytree(uri, bare)
        forget_bounds(Path(bare))
        for reader in IN_PROCESS:
            for where in wheres:
                told = f"{reader.name} where {where.column} {where.operator} {where.value!r}"
                assert_same(reader.rows(uri, where=where), reader.rows(bare, where=where), told)


def assert_same(found: pl.DataFrame, expected: pl.DataFrame, told: str) -> None:
    try:
        assert_frame_equal(found, expected)
    except AssertionError as error:
        error.add_note(told)
        raise


def written(uri: str, rows: list[Row], *, vectors: bool) -> KeyedTable:
    table = KeyedTable(uri, SCHEMA, ["id"], vectors=vectors)
    table.merge(rows, [], {})
    return table


def forget_bounds(table: Path) -> None:
    """Take all statistics but the row counts out of a log."""
    for entry in (table / "_delta_log").glob("*.json"):
        lines = [json.loads(line) for line in entry.read_text().splitlines()]
        for add in (line["add"] for line in lines if "add" in line):
            stats = json.loads(add["stats"])
            add["stats"] = json.dumps({name: stats[name] for name in ("numRecords", "tightBounds") if name in stats})
        entry.write_text("\n".join(json.dumps(line) for line in lines))
