"""Checkpoints: the state of a table in one Parquet file, so that nobody reads the whole log.

Written from the state in memory, because deltalake's are made by reading the log and keep every deletion vector that
was ever replaced: at ten commits a second they grow by thousands of rows a minute. A tombstone is kept for files that
are gone; a vector that was replaced while its data file lives on has none.

Source: Delta protocol, "Checkpoints", "Checkpoint Schema", "Last Checkpoint File".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.delta.delta_actions import Action

_MAPS = ("partitionValues", "tags", "options", "configuration")
_TEXTS = pa.map_(pa.string(), pa.string())
_VECTOR = pa.struct(
    [
        ("storageType", pa.string()),
        ("pathOrInlineDv", pa.string()),
        ("offset", pa.int32()),
        ("sizeInBytes", pa.int32()),
        ("cardinality", pa.int64()),
    ]
)
_KINDS = {
    "txn": pa.struct([("appId", pa.string()), ("version", pa.int64()), ("lastUpdated", pa.int64())]),
    "add": pa.struct(
        [
            ("path", pa.string()),
            ("partitionValues", _TEXTS),
            ("size", pa.int64()),
            ("modificationTime", pa.int64()),
            ("dataChange", pa.bool_()),
            ("stats", pa.string()),
            ("tags", _TEXTS),
            ("deletionVector", _VECTOR),
        ]
    ),
    "remove": pa.struct(
        [
            ("path", pa.string()),
            ("deletionTimestamp", pa.int64()),
            ("dataChange", pa.bool_()),
            ("extendedFileMetadata", pa.bool_()),
            ("partitionValues", _TEXTS),
            ("size", pa.int64()),
            ("deletionVector", _VECTOR),
        ]
    ),
    "metaData": pa.struct(
        [
            ("id", pa.string()),
            ("name", pa.string()),
            ("description", pa.string()),
            ("format", pa.struct([("provider", pa.string()), ("options", _TEXTS)])),
            ("schemaString", pa.string()),
            ("partitionColumns", pa.list_(pa.string())),
            ("configuration", _TEXTS),
            ("createdTime", pa.int64()),
        ]
    ),
    "protocol": pa.struct(
        [
            ("minReaderVersion", pa.int32()),
            ("minWriterVersion", pa.int32()),
            ("readerFeatures", pa.list_(pa.string())),
            ("writerFeatures", pa.list_(pa.string())),
        ]
    ),
}


def checkpoint(actions: Sequence[Action]) -> bytes:
    """Return the content of a checkpoint with these actions."""
    kinds = [next(iter(action)) for action in actions]
    columns = {}
    for kind, dtype in _KINDS.items():
        values = zip(kinds, actions, strict=True)
        columns[kind] = pa.array([_with_maps(each[kind]) if found == kind else None for found, each in values], dtype)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_checkpoint(content: bytes) -> Iterator[Action]:
    """Yield the actions of a checkpoint as a log entry would have them. Raises pyarrow.ArrowException."""
    table = pq.read_table(pa.BufferReader(content))
    for kind in _KINDS:
        if kind in table.column_names:
            yield from ({kind: _without_nulls(found)} for found in table[kind].drop_null().to_pylist())


def tombstone(path: str, removed_at: int) -> Action:
    """Return the action that says since when, in milliseconds, a file is no longer part of the table."""
    return {"remove": {"path": path, "deletionTimestamp": removed_at, "dataChange": False}}


def _with_maps(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an action as Arrow takes it: a map as its pairs."""
    found = {name: [*value.items()] if name in _MAPS else value for name, value in content.items()}
    if "format" in found:
        found["format"] = _with_maps(content["format"])
    return found


def _without_nulls(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an action as a log entry has it: absent instead of NULL, a map as an object."""
    found = {name: dict(value) if name in _MAPS else value for name, value in content.items() if value is not None}
    if "format" in found:
        found["format"] = _without_nulls(content["format"])
    return found
