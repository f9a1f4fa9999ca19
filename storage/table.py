"""A Delta table with one owner: commits that carry positions, a ledger and the owner's epoch.

1. *Open.* Create the table, or check that the one there is ours (`table_declaration`). Read the owner epoch it
   holds; ours is the next one.
2. *Commit.* Rows, positions (`txn` actions) and ledger (`commitInfo`) are one Delta commit, made only if nobody
   committed since this handle was opened: a strict compare-and-set on the table version.
3. *Unknown outcome.* Any exception means that the commit may or may not have happened. The caller opens the table
   again, reads its positions and decides.
4. *Fence.* Every commit carries the epoch. Whoever loses a race and finds a newer epoch stops.

Sources: Delta protocol, "Transaction Identifiers" and "Commit Provenance Information".
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from deltalake import (
    CommitProperties,
    DeltaTable,
    PostCommitHookProperties,
    Transaction,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError

from storage.errors import CommitRaceError, FencedError, TransientError, UnwritableError
from storage.positions import Positions
from storage.table_declaration import Declaration, check_handle, check_writable, is_current, open_handle

LEDGER = "goldwax.ledger"
"""Key of `commitInfo` that holds the ledger of a commit, as JSON."""

_REOPEN_EVERY = 10  # handles slow down with every commit made through them; also the checkpoint interval
HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit says besides its rows.

    `positions` are the positions after it. `ledger` says what was read and what became of it, for `commitInfo`.
    """

    positions: Positions
    ledger: Mapping[str, Any] = field(default_factory=dict)


class OwnedTable:
    """One Delta table as its owner sees it. Used by one thread at a time.

    `version` is the version our state describes: the one that was opened, or our last commit.
    """

    def __init__(self, uri: str, declaration: Declaration) -> None:
        self.uri = uri
        self._declaration = declaration
        self._handle = _open_or_create(uri, declaration)
        self.version: int = self._handle.version()
        self._epoch = (self._transaction("owner") or 0) + 1
        self._commits = 0

    @property
    def is_current(self) -> bool:
        """Tell whether the rows were made by our definition; a table nobody has written to has none."""
        return is_current(self._handle, self._declaration)

    @property
    def handle(self) -> DeltaTable:
        """The deltalake handle at `version`, for strategies that write through it."""
        return self._handle

    def positions(self, names: Iterable[str]) -> dict[str, int]:
        """Return the positions the table holds of these inputs; an input never read is left out."""
        held = {name: self._transaction(name) for name in names}
        return {name: position for name, position in held.items() if position is not None}

    def read(self) -> pl.DataFrame:
        """Return all rows at `version`."""
        return pl.scan_delta(self._handle).collect()

    def append(self, rows: pl.DataFrame, commit: Commit) -> None:
        """Commit new rows (or none, to advance positions only). Raises as `committing` does."""
        if rows.height:
            self.committing(
                lambda: write_deltalake(
                    self._handle,
                    rows,
                    mode="append",
                    commit_properties=self.properties(commit),
                    post_commithook_properties=HOOKS,
                )
            )
        else:
            self.committing(
                lambda: self._handle.create_write_transaction(
                    [],
                    mode="append",
                    schema=self._handle.schema(),
                    commit_properties=self.properties(commit),
                    post_commithook_properties=HOOKS,
                )
            )

    def properties(self, commit: Commit) -> CommitProperties:
        """Return what makes a deltalake write ours: positions, epoch, ledger, and no silent retry over others."""
        transactions = [Transaction(self._app_id(name), position) for name, position in commit.positions.items()]
        return CommitProperties(
            app_transactions=[
                *transactions,
                Transaction(self._app_id("owner"), self._epoch),
                Transaction(self._app_id("definition"), self._declaration.digest),
            ],
            custom_metadata={LEDGER: json.dumps(commit.ledger, separators=(",", ":"))},
            max_commit_retries=0,
        )

    def committing(self, write: Callable[[], object]) -> None:
        """Run a write that makes exactly one commit, and follow it.

        Raises CommitRaceError when someone else committed first, FencedError when that was a newer owner, and
        TransientError when the outcome is unknown. Open the table again before going on.
        """
        try:
            write()
            self._handle.update_incremental()
        except CommitFailedError as error:
            self._check_owner()
            raise CommitRaceError(
                f"{self.uri}: another commit came before ours at version {self.version + 1}"
            ) from error
        except (DeltaError, OSError) as error:
            self._check_owner()
            raise TransientError(f"{self.uri}: the outcome of a commit is unknown: {error}") from error
        if self._handle.version() != self.version + 1:
            self._check_owner()
            raise CommitRaceError(
                f"{self.uri}: expected version {self.version + 1} after our commit, found {self._handle.version()}"
            )
        self.version += 1
        self._commits += 1
        if self._commits % _REOPEN_EVERY == 0:
            self._handle = DeltaTable(self.uri, version=self.version)

    def _check_owner(self) -> None:
        epoch = DeltaTable(self.uri).transaction_version(self._app_id("owner")) or 0
        if epoch > self._epoch:
            raise FencedError(
                f"{self.uri}: owner epoch {epoch} is newer than ours, {self._epoch}: another process of pipeline "
                f"{self._declaration.pipeline!r} has taken this table over. Keep one of them running; this one stops"
            )

    def _app_id(self, name: str) -> str:
        return self._declaration.transaction_id(name)

    def _transaction(self, name: str) -> int | None:
        version: int | None = self._handle.transaction_version(self._app_id(name))
        return version


def read_positions(uri: str, pipeline: str, names: Iterable[str]) -> dict[str, int]:
    """Return the positions that a table holds without opening it for writing; none when there is no table."""
    handle = open_handle(uri)
    if handle is None:
        return {}
    held = {name: handle.transaction_version(f"{pipeline}/{name}") for name in names}
    return {name: position for name, position in held.items() if position is not None}


def table_id(uri: str) -> str:
    """Return the id that a table got when it was made; a table made anew at the same path has another."""
    return str(DeltaTable(uri).metadata().id)


def _open_or_create(uri: str, declaration: Declaration) -> DeltaTable:
    handle = open_handle(uri)
    if handle is None:
        check_writable(uri)
        handle = _create(uri, declaration)
    check_handle(uri, handle, declaration)
    return handle


def _create(uri: str, declaration: Declaration) -> DeltaTable:
    configuration = {
        "delta.checkpointInterval": str(_REOPEN_EVERY),
        "delta.enableChangeDataFeed": str(declaration.change_feed).lower(),
    }
    try:
        return DeltaTable.create(uri, declaration.schema, mode="ignore", configuration=configuration)
    except (DeltaError, OSError) as error:
        raise UnwritableError(f"{uri}: the table cannot be created: {error}") from error
