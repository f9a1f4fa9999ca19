"""What a table is declared to be, and whether the one at its path is that table.

1. A table has the declared columns and types.
2. It was made by this pipeline: every commit of an owner leaves the pipeline's name in a `txn` action.
3. Its rows were made by this declaration: so does a digest of everything else that they depend on.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError

from storage.errors import TableMismatchError, UnreadableTableError, UnwritableError


@dataclass(frozen=True, slots=True)
class Declaration:
    """A table as its owner wants it.

    `definition` is a text of everything the rows depend on besides the columns. A `derived` table can be made anew
    from the layer below, so another definition is no error; its owner asks `OwnedTable.is_current`.
    """

    schema: pa.Schema
    pipeline: str
    definition: str
    change_feed: bool = False
    derived: bool = False

    @property
    def digest(self) -> int:
        """The definition as a number of 63 bits, as a `txn` action can hold it."""
        return int.from_bytes(hashlib.sha256(self.definition.encode()).digest()[:8]) >> 1

    def transaction_id(self, name: str) -> str:
        """Return the `appId` under which this pipeline keeps `name`."""
        return f"{self.pipeline}/{name}"


def open_handle(uri: str) -> DeltaTable | None:
    """Return the table at `uri`, None when there is none. Raises UnreadableTableError."""
    try:
        return DeltaTable(uri)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise UnreadableTableError(
            f"{uri}: the Delta log cannot be read ({error}). Restore it, or move the table away"
        ) from error


def check_table(uri: str, declaration: Declaration) -> None:
    """Check that a table can be, or already is, what is declared, without making it.

    Raises TableMismatchError, UnwritableError, UnreadableTableError.
    """
    handle = open_handle(uri)
    if handle is None:
        check_writable(uri)
    else:
        check_handle(uri, handle, declaration)


def check_handle(uri: str, handle: DeltaTable, declaration: Declaration) -> None:
    """Check the three points above. Raises TableMismatchError."""
    _check_columns(uri, handle.schema(), declaration.schema)
    if handle.version() == 0:
        return
    if handle.transaction_version(declaration.transaction_id("owner")) is None:
        raise TableMismatchError(
            f"{uri}: a table is already here that pipeline {declaration.pipeline!r} has not written. Point the "
            "pipeline at another lake, or move that table away"
        )
    if not declaration.derived and not is_current(handle, declaration):
        raise TableMismatchError(
            f"{uri}: the rows of this table were made by another declaration than ({declaration.definition}). "
            "Declare it as it was, or move this table and those made from it away; they are made anew"
        )


def is_current(handle: DeltaTable, declaration: Declaration) -> bool:
    """Tell whether the newest commit of an owner was made with this definition."""
    found: int | None = handle.transaction_version(declaration.transaction_id("definition"))
    return found == declaration.digest


def check_writable(uri: str) -> None:
    """Make a local directory and write to it once. Raises UnwritableError."""
    if "://" in uri:
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


def _check_columns(uri: str, found: Schema, declared: pa.Schema) -> None:
    expected = _columns(Schema.from_arrow(declared))
    actual = _columns(found)
    if actual == expected:
        return
    lines = [
        f"{name}: found {actual.get(name, 'nothing')}, declared {expected.get(name, 'nothing')}"
        for name in [*expected, *(name for name in actual if name not in expected)]
        if actual.get(name) != expected.get(name)
    ]
    raise TableMismatchError(
        f"{uri}: a table with other columns is already here ({'; '.join(lines) or 'their order differs'}). "
        "Point the pipeline at another lake or name, or move that table away"
    )


def _columns(schema: Schema) -> dict[str, str]:
    return {each["name"]: json.dumps(each["type"]).strip('"') for each in json.loads(schema.to_json())["fields"]}
