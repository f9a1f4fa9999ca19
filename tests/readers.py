"""Readers of Delta tables that are not ours, behind one interface, so that a test can compare what they see.

Every reader gives a table in one form, whatever its engine makes of it: columns in the table's order, integers,
decimals and dates as declared, timestamps in microseconds and UTC, rows sorted by all columns. Frames of the same rows
are equal.

Spark is the reader of tests.spark: it needs a process.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, Protocol

import duckdb
import polars as pl
from deltalake import DeltaTable, QueryBuilder
from polars.testing import assert_frame_equal

CHANGES = ("_change_type", "_commit_version")
"""The columns that a change data feed adds; its `_commit_timestamp` is left out, as engines differ in what it is."""


@dataclass(frozen=True)
class Where:
    """A condition on one column, for which an engine may skip files by their statistics."""

    column: str
    operator: Literal["=", "<", "<=", ">", ">="]
    value: str | int | float | Decimal | date | datetime

    @property
    def sql(self) -> str:
        """The condition in the SQL that DataFusion, DuckDB and Spark share."""
        value = f"{self.value:f}" if isinstance(self.value, Decimal) else str(self.value).replace("'", "''")
        return f"{self.column} {self.operator} cast('{value}' as {self._type})"

    @property
    def expression(self) -> pl.Expr:
        """The condition in polars."""
        column = pl.col(self.column)
        compare = {"=": column.eq, "<": column.lt, "<=": column.le, ">": column.gt, ">=": column.ge}
        return compare[self.operator](pl.lit(self.value))

    @property
    def _type(self) -> str:
        match self.value:
            case Decimal():
                return f"decimal(38, {-int(self.value.as_tuple().exponent)})"
            case int():
                return "bigint"
            case float():
                return "double"
            case datetime():
                return "timestamp"
            case date():
                return "date"
            case str():
                return "varchar(99)"


class Reader(Protocol):
    """Reads a table at a path or a URL; object stores are opened by the environment variables."""

    @property
    def name(self) -> str:
        """The engine's name."""
        ...

    def rows(self, uri: str, version: int | None = None, where: Where | None = None) -> pl.DataFrame:
        """Return the rows of the table now, or at a version, that satisfy a condition."""
        ...


class ChangeReader(Reader, Protocol):
    """Reads the change data feed too."""

    def changes(self, uri: str, first: int, last: int) -> pl.DataFrame:
        """Return the row changes of the versions from `first` to `last`, both included, with CHANGES behind."""
        ...


class Polars:
    """polars' own Parquet reader, on what deltalake says of the log."""

    name = "polars"

    def rows(self, uri: str, version: int | None = None, where: Where | None = None) -> pl.DataFrame:
        return comparable(pl.scan_delta(uri, version=version).filter(where.expression if where else True).collect())


class DataFusion:
    """deltalake: its query engine, and its change data feed."""

    name = "datafusion"

    def rows(self, uri: str, version: int | None = None, where: Where | None = None) -> pl.DataFrame:
        table = QueryBuilder().register("t", DeltaTable(uri, version=version))
        query = f"select * from t{where_clause(where)}"
        return comparable(pl.DataFrame(table.execute(query).read_all()))

    def changes(self, uri: str, first: int, last: int) -> pl.DataFrame:
        feed = DeltaTable(uri).load_cdf(starting_version=first, ending_version=last)
        return comparable_changes(pl.DataFrame(feed.read_all()))


class DuckDB:
    """DuckDB with its delta extension, which comes as a wheel; the local disk only."""

    name = "duckdb"

    def rows(self, uri: str, version: int | None = None, where: Where | None = None) -> pl.DataFrame:
        at = "" if version is None else f", version := {version:d}"
        query = f"select * from delta_scan(?{at}){where_clause(where)}"
        with self.connect() as duck:
            return comparable(duck.execute(query, [uri]).pl())

    @staticmethod
    def connect() -> duckdb.DuckDBPyConnection:
        """Return a database that can read Delta tables."""
        duck = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        duck.load_extension(_duckdb_extension())
        duck.execute("set timezone = 'UTC'")
        return duck


def where_clause(where: Where | None) -> str:
    """Return the end of a query of all columns."""
    return f" where {where.sql}" if where else ""


def _duckdb_extension() -> str:
    import duckdb_extension_delta  # noqa: PLC0415 - carries a binary; only this reader needs it

    (path,) = Path(next(iter(duckdb_extension_delta.__path__))).rglob("*.duckdb_extension")
    return str(path)


IN_PROCESS: tuple[Reader, ...] = (Polars(), DataFusion(), DuckDB())
"""The readers that need no process of their own."""

ON_OBJECT_STORES: tuple[Reader, ...] = (Polars(), DataFusion())
"""Those of them that open object stores by the environment."""


def comparable(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame in the one form that all readers give."""
    return frame.with_columns(pl.col(pl.Datetime("us", "*")).dt.convert_time_zone("UTC")).sort(pl.all())


def comparable_changes(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a change data feed in the one form that all readers give."""
    rows = frame.with_columns(pl.col("_commit_version").cast(pl.Int64)).drop("_commit_timestamp")
    return comparable(rows.select(pl.exclude(CHANGES), *CHANGES))


def assert_all_read(readers: tuple[Reader, ...], uri: str, rows: pl.DataFrame, version: int | None = None) -> None:
    """Check that every reader reads these rows, whose order does not matter."""
    for reader in readers:
        _assert_same(reader, reader.rows(uri, version), comparable(rows))


def assert_all_feed(
    readers: tuple[ChangeReader, ...], uri: str, changes: pl.DataFrame, versions: tuple[int, int]
) -> None:
    """Check that every reader reads these changes of the versions, first and last, whose order does not matter."""
    for reader in readers:
        _assert_same(reader, reader.changes(uri, *versions), comparable(changes))


def _assert_same(reader: Reader, seen: pl.DataFrame, expected: pl.DataFrame) -> None:
    try:
        assert_frame_equal(seen, expected)
    except AssertionError as error:
        error.add_note(f"{reader.name} read:\n{seen}\nexpected:\n{expected}")
        raise
