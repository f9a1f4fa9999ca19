"""The table of a small hotel, with column names as only users think of them, for tests of tables and merges."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from deltalake import DeltaTable
from deltalake.writer import write_deltalake

from storage.delta.owned_table import OwnedTable
from storage.delta.table_declaration import Declaration
from tests.keyed_table import KeyedTable, Row, arrow

ROOMS = pl.Schema({'Room "No"': pl.String(), "the floor's": pl.Int64(), "GUEST": pl.String()})
KEYS = ROOMS.names()[:2]

ADA: Row = ("1a", 1, "Ada")
BOB: Row = ("1b", 1, "Bob")
CYD: Row = ("2a", 2, "Cyd")


def declared(schema: pl.Schema, pipeline: str = "hotel", definition: str = "", **more: Any) -> Declaration:
    return Declaration(arrow(schema), pipeline, definition, **more)


def rooms(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(rows, ROOMS, orient="row")


def open_rooms(path: Path, *, vectors: bool = True) -> OwnedTable:
    return OwnedTable(str(path), declared(ROOMS, change_feed=True, vectors=vectors))


def keyed_rooms(path: Path, *, vectors: bool = True) -> KeyedTable:
    return KeyedTable(str(path), ROOMS, KEYS, vectors=vectors)


def held(path: Path) -> list[Row]:
    """Return the rows as any reader sees them."""
    return in_order(pl.read_delta(str(path)).rows())


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=repr)


def operations(path: Path) -> list[Any]:
    """Return what the commits of a table did, oldest first."""
    return [commit["operation"] for commit in reversed(DeltaTable(path).history())]


def append_foreign(path: Path, *rows: Row) -> None:
    """Append as another engine does that knows nothing of us."""
    write_deltalake(path, rooms(*rows), mode="append")
