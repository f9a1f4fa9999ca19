"""A keyed table driven by rows of Python: what a stage does with a merge writer, in small."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from operators.keys.key_index import KeyIndex
from storage.delta.maintenance import Maintained, Maintenance
from storage.delta.merge_writer import MergeResult, MergeWriter, RowChanges
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.row_locator import RowLocator
from storage.delta.table_declaration import Declaration

Row = tuple[Any, ...]


def arrow(schema: pl.Schema) -> pa.Schema:
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema


class KeyedTable:
    """The table at `uri` with an owner of its own; the first columns of `schema` are the key."""

    def __init__(
        self, uri: str, schema: pl.Schema, keys: Sequence[str], *, vectors: bool, change_feed: bool = True
    ) -> None:
        declaration = Declaration(arrow(schema), "hotel", "", change_feed=change_feed, vectors=vectors)
        self.table = OwnedTable(uri, declaration)
        self.schema, self.keys = schema, [*keys]
        self._index = KeyIndex(self.keys)
        self.locator = RowLocator(self.table)
        self.locator.load(self._index.admit, self.keys)
        self._writer = MergeWriter(self.table, self.locator)

    def merge(self, upserts: Iterable[Row], deletes: Iterable[Row], positions: Mapping[str, int]) -> MergeResult:
        """Make `upserts` the rows of their keys and take the keys `deletes` away, where they have rows."""
        return self._writer.merge(self.changes(upserts, deletes), Commit(positions))

    def changes(self, upserts: Iterable[Row], deletes: Iterable[Row]) -> RowChanges:
        rows = self.frame(upserts)
        slots = self._index.admit(rows)
        known = self.locator.present(slots)
        gone = self._index.admit(pl.DataFrame([*deletes], self._key_schema, orient="row"))
        gone = gone[self.locator.present(gone)]
        return RowChanges(
            rows.filter(~known),
            slots[~known],
            self.locator.rows(slots[known]),
            rows.filter(known),
            slots[known],
            self.locator.rows(gone),
            gone,
        )

    def maintain(self, retention: timedelta) -> Maintained:
        return Maintenance(self.table, self.locator, retention).run()

    def frame(self, rows: Iterable[Row]) -> pl.DataFrame:
        return pl.DataFrame([*rows], self.schema, orient="row")

    @property
    def _key_schema(self) -> pl.Schema:
        return pl.Schema({key: self.schema[key] for key in self.keys})
