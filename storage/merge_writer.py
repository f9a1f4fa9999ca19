"""Merging changed rows into a Delta table: one interface, one strategy a file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from storage.table import HOOKS, Commit, OwnedTable


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Whole rows of a table that come, change and go; no key is in two of them.

    `updated_from` and `updated_to` have the same keys in the same order; `updated_from` and `deleted` are the rows
    exactly as the table holds them.
    """

    inserted: pl.DataFrame
    updated_from: pl.DataFrame
    updated_to: pl.DataFrame
    deleted: pl.DataFrame


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What one merge did: rows by kind, the table version before and after it, and how long it took."""

    inserted: int
    updated: int
    deleted: int
    from_version: int
    version: int
    seconds: float


class MergeWriter(Protocol):
    """Writes changes of keyed rows to one table, each call one Delta commit, positions and ledger included."""

    def merge(self, changes: RowChanges, commit: Commit) -> MergeResult:
        """Commit `changes`; with none at all, the positions alone.

        Raises CommitRaceError, TransientError (open the table again, read its positions, decide), FencedError.
        """
        ...


class RewriteMergeWriter:
    """Strategy `rewrite`: copy-on-write through deltalake's MERGE, for readers without deletion vectors.

    Every data file that holds a changed row is rewritten, so a merge costs what is there rather than what changed.
    Inserts alone are appended.
    """

    def __init__(self, table: OwnedTable, keys: Sequence[str]) -> None:
        self._table = table
        self._on = " AND ".join(f"(t.{_quoted(key)} IS NOT DISTINCT FROM s.{_quoted(key)})" for key in keys)

    def merge(self, changes: RowChanges, commit: Commit) -> MergeResult:
        """Commit `changes`; see `MergeWriter`."""
        began, before = time.perf_counter(), self._table.version
        if changes.updated_to.height or changes.deleted.height:
            self._table.committing(lambda: self._execute(changes, commit))
        else:
            self._table.append(changes.inserted, commit)
        return MergeResult(
            changes.inserted.height,
            changes.updated_to.height,
            changes.deleted.height,
            before,
            self._table.version,
            time.perf_counter() - began,
        )

    def _execute(self, changes: RowChanges, commit: Commit) -> None:
        upserts = pl.concat([changes.inserted, changes.updated_to])
        source = pl.concat([_flagged(upserts, deleted=False), _flagged(changes.deleted, deleted=True)])
        assignments = {_quoted(name): f"s.{_quoted(name)}" for name in upserts.columns}
        (
            self._table.handle.merge(
                source,
                self._on,
                source_alias="s",
                target_alias="t",
                commit_properties=self._table.properties(commit),
                post_commithook_properties=HOOKS,
            )
            .when_matched_delete('s."__deleted"')
            .when_matched_update(assignments)
            .when_not_matched_insert(assignments, predicate='NOT s."__deleted"')
            .execute()
        )


def _flagged(rows: pl.DataFrame, *, deleted: bool) -> pl.DataFrame:
    return rows.with_columns(pl.lit(deleted).alias("__deleted"))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
