"""Delta tables made of hand-written log entries, as goldwax makes them, in any object store."""

import io
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import obstore
import polars as pl
from obstore.store import LocalStore, ObjectStore, from_url
from pyroaring import BitMap64

from storage.deletion_vectors import encode
from storage.delta_actions import Action, DataFile, change_file, transaction
from storage.delta_log import DeltaLog

PROTOCOL = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"],
    "writerFeatures": ["deletionVectors", "changeDataFeed", "appendOnly", "invariants"],
}
ORDERS = pl.Schema({"id": pl.Int64(), "city": pl.String()})
APPLICATION = "shop/orders/0"


class WrittenTable:
    """A table at `uri`, a path or a URL, from its first version on; `version` is its newest."""

    def __init__(self, uri: str, schema: pl.Schema = ORDERS) -> None:
        self.uri = uri
        self.schema = schema
        self.store = store_at(uri)
        self.log = DeltaLog(self.store, uri)
        self.version = -1
        metadata = {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps(_delta_schema(schema)),
            "partitionColumns": [],
            "configuration": {"delta.enableDeletionVectors": "true", "delta.enableChangeDataFeed": "true"},
            "createdTime": 0,
        }
        self.commit({"protocol": PROTOCOL}, {"metaData": metadata})

    def commit(self, *actions: Action) -> None:
        """Write the next version."""
        self.log.commit(self.version + 1, actions, {"operation": "WRITE"})
        self.version += 1

    def put(self, name: str, rows: pl.DataFrame) -> DataFile:
        """Write a data file that no version has yet."""
        size = self._put(name, rows)
        return DataFile(name, size, 0, len(rows), statistics(rows))

    def append(self, name: str, rows: pl.DataFrame) -> DataFile:
        """Add rows in a file of their own."""
        file = self.put(name, rows)
        self.commit(file.add(), transaction(APPLICATION, self.version + 1))
        return file

    def mark(self, *gone: tuple[DataFile, BitMap64]) -> list[DataFile]:
        """Give files new vectors, all in one file of vectors unless they are small, in no version yet."""
        descriptors, stored = encode({file.path: vector for file, vector in gone})
        if stored:
            obstore.put(self.store, stored.path, stored.content)
        return [file.with_vector(descriptors[file.path]) for file, _ in gone]

    def delete(self, *gone: tuple[DataFile, BitMap64]) -> list[DataFile]:
        """Commit new vectors for files."""
        marked = self.mark(*gone)
        self.commit(*(file.remove(0) for file, _ in gone), *(file.add() for file in marked))
        return marked

    def merge(
        self, changes: pl.DataFrame, rows: tuple[str, pl.DataFrame], *gone: tuple[DataFile, BitMap64]
    ) -> DataFile:
        """Commit vectors, a file of new rows and the changes, which have `_change_type`, as one version."""
        path = f"_change_data/cdc-{uuid.uuid4()}.parquet"
        changed = change_file(path, self._put(path, changes))
        marked, new = self.mark(*gone), self.put(*rows)
        self.commit(*(file.remove(0) for file, _ in gone), *(file.add() for file in (*marked, new)), changed)
        return new

    def _put(self, path: str, rows: pl.DataFrame) -> int:
        content = io.BytesIO()
        rows.write_parquet(content)
        obstore.put(self.store, path, content.getvalue())
        return len(content.getvalue())


def store_at(uri: str) -> ObjectStore:
    """Open the object store that is rooted at a path or a URL."""
    return from_url(uri) if "://" in uri else LocalStore(uri, mkdir=True)


def orders(ids: Iterable[int]) -> pl.DataFrame:
    """Return rows of ORDERS with these ids."""
    return pl.DataFrame([(each, f"city {each}") for each in ids], schema=ORDERS, orient="row")


def statistics(rows: pl.DataFrame) -> str:
    """Return the statistics of a data file ("Per-file Statistics")."""
    return json.dumps({"numRecords": len(rows)})


def _delta_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    fields: Sequence[dict[str, Any]] = [
        {"name": name, "type": _delta_type(dtype), "nullable": True, "metadata": {}} for name, dtype in schema.items()
    ]
    return {"type": "struct", "fields": fields}


def _delta_type(dtype: pl.DataType) -> str:
    match dtype:
        case pl.Int64():
            return "long"
        case pl.String():
            return "string"
        case pl.Date():
            return "date"
        case pl.Datetime(time_zone="UTC"):
            return "timestamp"
        case pl.Decimal(precision=precision, scale=scale):
            return f"decimal({precision},{scale})"
        case pl.Float64():
            return "double"
        case _:
            raise TypeError(f"received {dtype}, expected a type that the tests write")
