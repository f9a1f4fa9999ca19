"""Putting other rows, and what they were made by, in the place of all that a table has, in one commit.

1. *Write* the new data files beside those of the table; nobody sees them yet.
2. *Swap.* One commit takes out every file the table has, adds the new ones, and says the new columns, definition and
   positions. It carries an owner epoch above all others, so whoever owned the table before is fenced. Earlier versions
   stay readable as they were.
3. *Unknown outcome.* A table whose rows were swapped has a new id, chosen before the commit: it tells whether the
   commit happened. Who derives a table from this one sees by the id that it must be derived anew.

Source: Delta protocol, "Change Metadata", "Add File and Remove File", "Transaction Identifiers".
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from storage.delta.delta_actions import Action, DataFile
from storage.delta.owned_table import LEDGER, Commit
from storage.delta.places import alive_rows
from storage.delta.snapshot import Snapshot
from storage.delta.table import Edit, Table
from storage.delta.table_declaration import Declaration

_TOGETHER = 1_000_000  # rows of several files that are written as one


@dataclass(frozen=True, slots=True)
class Swap:
    """What a table is to become: what is declared of it, and what a commit says besides its rows.

    `edit` says which files come and go; it is asked again when others committed first. `properties` are further ones
    than those declared.
    """

    declaration: Declaration
    edit: Callable[[Table], Edit]
    commit: Commit
    properties: Mapping[str, str] = field(default_factory=dict)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


def swap(uri: str, new: Swap) -> int:
    """Commit `new` unless that happened already, and return the version that the table has.

    Raises TransientError when nothing was committed or the outcome is unknown: call it again.
    """
    table, application = Table(uri), new.declaration.transaction_id
    if table.snapshot().metadata["id"] == new.id:
        return table.version
    owner = table.snapshot().transactions.get(application("owner"), 0) + 1
    ours = {**new.commit.positions, "owner": owner, "definition": new.declaration.digest}
    transactions = {application(name): version for name, version in ours.items()}

    def edit() -> Edit:
        return replace(new.edit(table), others=_declared(table.snapshot(), new))

    table.commit_edit(edit, transactions, {LEDGER: json.dumps(new.commit.ledger, separators=(",", ":"))})
    return table.version


def _declared(snapshot: Snapshot, new: Swap) -> list[Action]:
    """Return what the table comes to say of itself."""
    metadata, *protocol = new.declaration.changes(snapshot)
    content = metadata["metaData"]
    configuration = {**content["configuration"], **new.properties}
    return [{"metaData": {**content, "id": new.id, "configuration": configuration}}, *protocol]


def live_parts(table: Table) -> Iterator[pl.DataFrame]:
    """Yield the rows of a table, those of small files together."""
    waiting: list[pl.DataFrame] = []
    for file in table.data_files:
        waiting.append(read_live(table, file))
        if sum(part.height for part in waiting) >= _TOGETHER:
            yield pl.concat(waiting)
            waiting = []
    if waiting:
        yield pl.concat(waiting)


def read_live(table: Table, file: DataFile, schema: pl.Schema | None = None) -> pl.DataFrame:
    """Return the rows of a data file that are part of the table, in its columns or those of `schema`.

    Raises UnreadableTableError, TransientError.
    """
    rows = table.files.read(file, schema or table.schema)
    return rows.filter(alive_rows(rows.height, table.files.vector(file)))
