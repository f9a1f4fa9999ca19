"""Actions of the Delta log that we read and write, as JSON objects and as values.

Source: Delta protocol, "Actions".
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from storage.delta.deletion_vectors import Descriptor

_LOOSE = '{"tightBounds":false,'

Action = dict[str, Any]
"""One line of a log entry: an object with a single field, the kind of the action."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file that is part of the table ("Add File and Remove File").

    `path` is relative to the table, percent-encoded as in the log; `rows` counts all its rows, those that `vector`
    marks as gone included. `stats` is the text of its column statistics, None when there is none.
    """

    path: str
    size: int
    modified: int
    rows: int
    stats: str | None = None
    vector: Descriptor | None = None

    @classmethod
    def from_add(cls, add: Mapping[str, Any]) -> "DataFile":
        """Read the content of an `add` action; a file without a row count has `rows` -1."""
        vector = add.get("deletionVector")
        stats = add.get("stats")
        return cls(
            path=add["path"],
            size=add["size"],
            modified=add["modificationTime"],
            rows=json.loads(stats).get("numRecords", -1) if stats else -1,
            stats=stats,
            vector=Descriptor.from_action(vector) if vector else None,
        )

    def with_vector(self, vector: Descriptor) -> "DataFile":
        """Return this file with these rows gone; its statistics then are bounds that need not be tight."""
        return replace(self, vector=vector, stats=_loose(self.stats or "{}", self.rows))

    def add(self, *, data_change: bool = True) -> Action:
        """Return the action that makes this file part of the table."""
        content = {
            "path": self.path,
            "partitionValues": {},
            "size": self.size,
            "modificationTime": self.modified,
            "dataChange": data_change,
        }
        return {"add": content | self._optional(("stats", self.stats))}

    def remove(self, now: int, *, data_change: bool = True) -> Action:
        """Return the action that takes this file, with the vector it has, out of the table; `now` in milliseconds."""
        content = {
            "path": self.path,
            "deletionTimestamp": now,
            "dataChange": data_change,
            "extendedFileMetadata": True,
            "partitionValues": {},
            "size": self.size,
        }
        return {"remove": content | self._optional()}

    def _optional(self, *more: tuple[str, Any]) -> dict[str, Any]:
        vector = self.vector.action() if self.vector else None
        return {name: value for name, value in (*more, ("deletionVector", vector)) if value is not None}


def _loose(stats: str, rows: int) -> str:
    """Return statistics that do not claim tight bounds; as a text, as numbers in them have more digits than floats."""
    if stats.startswith(_LOOSE):
        return stats
    found = json.loads(stats)
    if found.get("numRecords") is None:
        return f'{_LOOSE}"numRecords":{rows}}}'
    if "tightBounds" in found:
        return re.sub(r'"tightBounds"\s*:\s*true', '"tightBounds":false', stats)
    return _LOOSE + stats.lstrip()[1:]


def transaction(application: str, version: int) -> Action:
    """Return the action that records how far an application is ("Transaction Identifiers")."""
    return {"txn": {"appId": application, "version": version}}


def change_file(path: str, size: int) -> Action:
    """Return the action that names a file of row changes ("Add CDC File")."""
    return {"cdc": {"path": path, "partitionValues": {}, "size": size, "dataChange": False}}
