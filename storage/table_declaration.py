"""What a table is declared to be, and whether the one at its path is that table.

1. A table has the declared columns and types, or can come to have them (`table_evolution`).
2. It was made by this pipeline: every commit of an owner leaves the pipeline's name in a `txn` action.
3. Its rows were made by this declaration: so does a digest of everything else that they depend on.

Source: Delta protocol, "Change Metadata", "Protocol Evolution".
"""

import hashlib
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import Schema

from storage.delta_actions import Action
from storage.delta_log import DeltaLog
from storage.errors import TableMismatchError, UnwritableError
from storage.object_store import is_local, open_store
from storage.snapshot import Snapshot
from storage.table_evolution import evolution

_FEATURES = ("deletionVectors", "changeDataFeed", "appendOnly", "invariants")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A table as its owner wants it.

    `definition` is a text of everything the rows depend on besides the columns. A `derived` table can be made anew
    from the layer below, so another definition is no error; its owner asks `OwnedTable.is_current`. Without `vectors`
    the table asks nothing of its readers that the first Delta readers did not have.
    """

    schema: pa.Schema
    pipeline: str
    definition: str
    change_feed: bool = False
    derived: bool = False
    vectors: bool = False

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
        found = snapshot.metadata.get("configuration", {})
        columns = evolution(snapshot.metadata["schemaString"], self.schema_text)
        return (
            (snapshot.has_vectors or not self.vectors)
            and not (columns.added + columns.widened or columns.reordered)
            and self.configuration().items() <= found.items()
        )

    def configuration(self) -> dict[str, str]:
        """Return the properties of the table."""
        feed = {"delta.enableChangeDataFeed": "true"} if self.change_feed else {}
        return feed | ({"delta.enableDeletionVectors": "true"} if self.vectors else {})

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


def read_snapshot(uri: str) -> Snapshot | None:
    """Return the table at `uri` as it is, None when there is none.

    Raises UnreadableTableError, UnsupportedTableError.
    """
    if is_local(uri) and not Path(uri).is_dir():
        return None
    return DeltaLog(open_store(uri), uri).read()


def check_table(uri: str, declaration: Declaration) -> None:
    """Check that a table can be, or already is, what is declared, without making it.

    Raises TableMismatchError, UnwritableError, UnreadableTableError, UnsupportedTableError.
    """
    check_writable(uri)
    snapshot = read_snapshot(uri)
    if snapshot is not None:
        check_snapshot(uri, snapshot, declaration)


def check_snapshot(uri: str, snapshot: Snapshot, declaration: Declaration) -> None:
    """Check the three points above. Raises TableMismatchError."""
    _check_columns(uri, snapshot.metadata, declaration.schema_text)
    if not snapshot.transactions and not snapshot.files:
        return  # made, and never written
    if declaration.transaction_id("owner") not in snapshot.transactions:
        raise TableMismatchError(
            f"{uri}: a table is already here that pipeline {declaration.pipeline!r} has not written. Point the "
            "pipeline at another lake, or move that table away"
        )
    if not declaration.derived and not is_current(snapshot, declaration):
        raise TableMismatchError(
            f"{uri}: the rows of this table were made by another declaration than ({declaration.definition}). "
            "Declare it as it was, or move this table and those made from it away; they are made anew"
        )


def is_current(snapshot: Snapshot, declaration: Declaration) -> bool:
    """Tell whether the newest commit of an owner was made with this definition."""
    return snapshot.transactions.get(declaration.transaction_id("definition")) == declaration.digest


def check_writable(uri: str) -> None:
    """Make a local directory and write to it once. Raises UnwritableError."""
    if not is_local(uri):
        return  # an object store says so at the first write
    try:
        Path(uri).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=uri):  # a name of its own: the processes of a cluster look at the same time
            pass
    except OSError as error:
        raise UnwritableError(
            f"{uri}: cannot write here ({error.strerror}); expected a directory this user may write to. "
            "Set GOLDWAX_LAKE, or the pipeline's `lake`, to one"
        ) from error


def _check_columns(uri: str, metadata: Mapping[str, Any], declared: str) -> None:
    problems = evolution(metadata["schemaString"], declared).problems
    if problems:
        raise TableMismatchError(
            f"{uri}: a table with other columns is already here ({'; '.join(problems)}). Columns may be added and "
            "types widened, no more. Declare every column it has, point the pipeline at another lake or name, or move "
            "that table away"
        )
