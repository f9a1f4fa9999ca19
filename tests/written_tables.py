"""Delta tables made of hand-written log entries, as goldwax makes them, in any object store."""

import io
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import obstore
import polars as pl
from obstore.store import LocalStore, ObjectStore, from_url
from pyroaring import BitMap64

from storage.delta.deletion_vectors import encode
from storage.delta.delta_actions import Action, DataFile, change_file, transaction
from storage.delta.delta_log import DeltaLog

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
        marked, new = self.mark(*gone), self.put(*rows)
        removed, added = [file.remove(0) for file, _ in gone], [file.add() for file in (*marked, new)]
        self.commit(*removed, *added, self.put_changes(changes))
        return new

    def put_changes(self, changes: pl.DataFrame) -> Action:
        """Write a file of changes, which have `_change_type`, and return the action that names it."""
        path = f"_change_data/cdc-{uuid.uuid4()}.parquet"
        return change_file(path, self._put(path, changes))

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
    """Return the statistics of a data file ("Per-file Statistics").

    Decimals stand in them as exact numbers: engines skip a file by bounds that a float has rounded.
    """
    counted = {"numRecords": len(rows), "nullCount": rows.null_count().row(0, named=True)}
    bounds = {"minValues": rows.min(), "maxValues": rows.max()}
    texts = {kind: _object(frame.row(0, named=True)) for kind, frame in bounds.items()}
    return _joined({**{name: json.dumps(value) for name, value in counted.items()}, **texts})


def _object(values: Mapping[str, Any]) -> str:
    return _joined({name: _bound(value) for name, value in values.items() if value is not None})


def _bound(value: Any) -> str:
    match value:
        case Decimal():
            return f"{value:f}"
        case datetime():
            return json.dumps(value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))
        case date():
            return json.dumps(value.isoformat())
        case _:
            return json.dumps(value, allow_nan=False)  # polars cannot read a table with a bare NaN in its log


def _joined(texts: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in texts.items()) + "}"


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
