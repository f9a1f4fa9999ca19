"""What a table is declared to be, and whether the one at its path is that table.

1. A table has the declared columns and types, or can come to have them (`table_evolution`).
2. It was made by this pipeline: every commit of an owner leaves the pipeline's name in a `txn` action.
3. Its rows were made by this declaration: so does a digest of everything else that they depend on. What that was, in
   words, is a property of the table (`definition`).

A table that is derived from the layer below needs to meet the second point alone: where it does not meet the others, it
is made anew.

Source: Delta protocol, "Change Metadata", "Protocol Evolution".
"""

import hashlib
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import Schema

from storage.delta.definition import Terms, differences, made_by, property_of
from storage.delta.delta_actions import Action
from storage.delta.delta_log import DeltaLog
from storage.delta.snapshot import Snapshot
from storage.delta.table_evolution import evolution
from storage.errors import TableMismatchError, UnwritableError
from storage.object_store import is_local, open_store

_MOVE_AWAY = "Declare it as it was, or move this table and those made from it away; they are made anew"
_READABLE = re.compile(r"[A-Za-z0-9/._~+@=,-]*")
"""Paths whose percent-encoded form, which is what readers look for, is the path itself."""

_FEATURES = ("deletionVectors", "changeDataFeed", "appendOnly", "invariants")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A table as its owner wants it.

    `definition` is a text of everything the rows depend on besides the columns, `terms` are its parts by name, and
    `remedy` tells a user what to do about a table that was made by the terms it is given. A `derived` table can be made
    anew from the layer below, so another definition and other columns are no error; its owner asks
    `OwnedTable.is_current`. Without `vectors` the table asks nothing of its readers that the first Delta readers did
    not have.
    """

    schema: pa.Schema
    pipeline: str
    definition: str
    change_feed: bool = False
    derived: bool = False
    vectors: bool = False
    terms: Terms = field(default_factory=dict)
    remedy: Callable[[Terms], str] = field(default=lambda _: _MOVE_AWAY, compare=False)

    @property
    def digest(self) -> int:
        """The definition as a number of 63 bits, as a `txn` action can hold it."""
        return int.from_bytes(hashlib.sha256(self.definition.encode()).digest()[:8]) >> 1

    @property
    def schema_text(self) -> str:
        """The columns as Delta's JSON."""
        return str(Schema.from_arrow(self.schema).to_json())

    def transaction_id(self, name: str) -> str:
        """Return the `appId` under which this pipeline keeps `name`."""
        return f"{self.pipeline}/{name}"

    def protocol(self) -> Action:
        """Return what the table asks of those who read and write it."""
        if not self.vectors:
            return {"protocol": {"minReaderVersion": 1, "minWriterVersion": 4 if self.change_feed else 2}}
        features = {"readerFeatures": ["deletionVectors"], "writerFeatures": [*_FEATURES]}
        return {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}

    def is_met_by(self, snapshot: Snapshot) -> bool:
        """Tell whether a table has the declared columns and properties and allows what we do to it."""
        columns = evolution(snapshot.metadata["schemaString"], self.schema_text)
        return (
            (snapshot.has_vectors or not self.vectors)
            and not (columns.added + columns.widened + columns.problems or columns.reordered)
            and self.configuration().items() <= snapshot.properties.items()
        )

    def configuration(self) -> dict[str, str]:
        """Return the properties of the table."""
        feed = {"delta.enableChangeDataFeed": "true"} if self.change_feed else {}
        vectors = {"delta.enableDeletionVectors": "true"} if self.vectors else {}
        return feed | vectors | property_of(self.terms)

    def metadata(self, found: Mapping[str, Any] | None = None) -> Action:
        """Return the metadata of the table: `found` with what is declared, or of a new table with an id of its own."""
        content = found or {
            "id": str(uuid.uuid4()),
            "format": {"provider": "parquet", "options": {}},
            "partitionColumns": [],
            "createdTime": int(time.time() * 1000),
        }
        configuration = {**content.get("configuration", {}), **self.configuration()}
        return {"metaData": {**content, "schemaString": self.schema_text, "configuration": configuration}}

    def changes(self, snapshot: Snapshot) -> list[Action]:
        """Return what a table must come to say of itself; it never asks less of its readers than before."""
        protocol = self.protocol()
        more = protocol["protocol"]["minWriterVersion"] > snapshot.protocol["minWriterVersion"]
        metadata = self.metadata(snapshot.metadata)
        return [metadata, protocol] if more or self.vectors else [metadata]


def read_snapshot(uri: str) -> Snapshot | None:
    """Return the table at `uri` as it is, None when there is none.

    Raises UnreadableTableError, UnsupportedTableError.
    """
    if is_local(uri) and not Path(uri).is_dir():
        return None
    return DeltaLog(open_store(uri), uri).read()


def read_property(uri: str, name: str) -> str | None:
    """Return a property of the table at `uri`, None where it has none. Raises as `read_snapshot` does."""
    snapshot = read_snapshot(uri)
    return snapshot.properties.get(name) if snapshot else None


def check_table(uri: str, declaration: Declaration) -> None:
    """Check that a table can be, or already is, what is declared, without making it.

    Raises TableMismatchError, UnwritableError, UnreadableTableError, UnsupportedTableError.
    """
    check_writable(uri)
    snapshot = read_snapshot(uri)
    if snapshot is not None:
        check_snapshot(uri, snapshot, declaration)


def check_snapshot(uri: str, snapshot: Snapshot, declaration: Declaration) -> None:
    """Check the three points above, the third first: another definition may ask for other columns.

    Raises TableMismatchError.
    """
    ours = declaration.transaction_id("owner") in snapshot.transactions
    if ours and declaration.derived:
        return
    if ours and not is_current(snapshot, declaration):
        raise TableMismatchError(f"{uri}: the rows of this table were made by {_otherwise(snapshot, declaration)}")
    check_columns(uri, snapshot, declaration)
    check_pipeline(uri, snapshot, declaration)


def check_columns(uri: str, snapshot: Snapshot, declaration: Declaration) -> None:
    """Check the first of the three points. Raises TableMismatchError."""
    problems = evolution(snapshot.metadata["schemaString"], declaration.schema_text).problems
    if problems:
        raise TableMismatchError(
            f"{uri}: a table with other columns is already here ({'; '.join(problems)}). Columns may be added and "
            'types widened, no more. Declare every column it has, or new_fields="add" where it learned them; or point '
            "the pipeline at another lake or name, or move that table away"
        )


def check_pipeline(uri: str, snapshot: Snapshot, declaration: Declaration) -> None:
    """Check the second of the three points. Raises TableMismatchError."""
    if not snapshot.transactions and not snapshot.files:
        return  # made, and never written
    if declaration.transaction_id("owner") not in snapshot.transactions:
        raise TableMismatchError(
            f"{uri}: a table is already here that pipeline {declaration.pipeline!r} has not written. Point the "
            "pipeline at another lake, or move that table away"
        )


def is_current(snapshot: Snapshot, declaration: Declaration) -> bool:
    """Tell whether the newest commit of an owner was made with this definition, and derived columns can stay."""
    if declaration.derived and evolution(snapshot.metadata["schemaString"], declaration.schema_text).problems:
        return False
    return snapshot.transactions.get(declaration.transaction_id("definition")) == declaration.digest


def check_writable(uri: str) -> None:
    """Make a local directory and write to it once. Raises UnwritableError."""
    if not is_local(uri):
        return  # an object store says so at the first write
    if not _READABLE.fullmatch(str(Path(uri).resolve())):
        raise UnwritableError(
            f"{Path(uri).resolve()}: polars and deltalake cannot read tables at such a path; expected one of ASCII "
            "letters, digits and /._-~+@=, alone. Set GOLDWAX_LAKE, or the pipeline's `lake`, to another"
        )
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=uri):  # a name of its own: the processes of a cluster look at the same time
            pass
    except OSError as error:
        raise UnwritableError(
            f"{uri}: cannot write here ({error.strerror}); expected a directory this user may write to. "
            "Set GOLDWAX_LAKE, or the pipeline's `lake`, to one"
        ) from error


def _otherwise(snapshot: Snapshot, declaration: Declaration) -> str:
    """Say what a table was made by instead, and what to do."""
    made = made_by(snapshot)
    told = differences(made, declaration.terms) if made else {}
    if not made or not told:
        return f"another declaration than ({declaration.definition}). {_MOVE_AWAY}"
    return f"another declaration ({'; '.join(told.values())}). {declaration.remedy(made)}"
