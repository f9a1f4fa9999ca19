"""Merging changed rows into a Delta table: a merge costs what changed, not what is there.

1. *Where.* The place of every key's row is known (`places`), so nothing is searched for.
2. *New rows*, inserted and updated ones, go to a new data file; the rows as they were and as they are to a
   change-data file, where the table has a change feed and not only inserts.
3. *Old rows.* Strategy `deletion_vectors` marks them in the vectors of their files. Strategy `rewrite`, for readers
   without vectors, writes what is left of these files anew. A file with nothing left is removed in both.
4. *Commit*, files, positions and ledger in one. When others moved rows meanwhile, 3 is worked out again.
5. *Settle.* Only now do the keys have their new places.

Sources: Delta protocol, "Add File and Remove File", "Add CDC File", "Deletion Vectors".
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from pyroaring import BitMap64

from storage.delta.delta_actions import Action, DataFile
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.places import HeldFile, Slots
from storage.delta.row_locator import RowLocator
from storage.delta.table import Edit
from storage.errors import CommitRaceError

_CHANGE_TYPES = pl.Series("_change_type", ["update_preimage", "update_postimage", "insert", "delete"])
_TOGETHER = 1_000_000  # rows of several files that are written anew as one


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Whole rows of a table that come, change and go, each with its slot; no slot is in two of them.

    `updated_from` and `updated_to` have the same slots in the same order; `updated_from` and `deleted` are the rows
    exactly as the table holds them. These two are read only where the table has a change feed.
    """

    inserted: pl.DataFrame
    inserted_slots: Slots
    updated_from: pl.DataFrame
    updated_to: pl.DataFrame
    updated_slots: Slots
    deleted: pl.DataFrame
    deleted_slots: Slots


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What one merge did: rows by kind, and how long it took.

    `version` is the table's after the merge; `from_version` that of the commit before it that changed rows.
    """

    inserted: int
    updated: int
    deleted: int
    from_version: int
    version: int
    seconds: float


@dataclass(slots=True)
class _Retired:
    """What becomes of the files that held rows which are replaced or deleted."""

    emptied: list[HeldFile] = field(default_factory=list)
    marked: list[tuple[HeldFile, DataFile, BitMap64]] = field(default_factory=list)
    moved: list[tuple[list[DataFile], Slots]] = field(default_factory=list)

    @property
    def removed(self) -> list[DataFile]:
        return [held.file for held in self.emptied] + [held.file for held, _, _ in self.marked]

    @property
    def added(self) -> list[DataFile]:
        return [file for _, file, _ in self.marked] + [file for files, _ in self.moved for file in files]


class MergeWriter:
    """Writes changes of keyed rows to one table. Not for use by several threads at a time."""

    def __init__(self, table: OwnedTable, locator: RowLocator) -> None:
        self._table, self._locator = table, locator
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="changes")

    def merge(self, changes: RowChanges, commit: Commit) -> MergeResult:
        """Commit `changes`; with none at all, the positions alone.

        Raises FencedError, CommitRaceError and TransientError (open the table again, read its positions, decide).
        """
        began, before = time.perf_counter(), 0
        replaced = np.concatenate([changes.updated_slots, changes.deleted_slots])
        new_rows = pl.concat([changes.inserted, changes.updated_to])
        change_files = self._beside.submit(self._write_changes, changes)
        files = self._table.write(new_rows)
        retired = _Retired()

        def edit() -> Edit:
            nonlocal before, retired
            if self._locator.present(changes.inserted_slots).any():
                raise CommitRaceError(f"{self._table.uri}: another writer added rows that are to be inserted")
            before, retired = self._table.data_version, self._retire(replaced)
            return Edit("MERGE", [*files, *retired.added], retired.removed, change_files.result())

        self._table.commit(edit, commit)
        self._locator.replace(replaced, retired.emptied, retired.marked)
        for moved, slots in retired.moved:
            self._locator.add(moved, slots)
        self._locator.add(files, np.concatenate([changes.inserted_slots, changes.updated_slots]), new_rows)
        return MergeResult(
            len(changes.inserted_slots),
            len(changes.updated_slots),
            len(changes.deleted_slots),
            before,
            self._table.version,
            time.perf_counter() - began,
        )

    def _write_changes(self, changes: RowChanges) -> list[Action]:
        """Write the change-data file that a commit with more than inserts needs where there is a change feed."""
        if not self._table.change_feed or not len(changes.updated_slots) + len(changes.deleted_slots):
            return []
        told = [changes.updated_from, changes.updated_to, changes.inserted, changes.deleted]
        kinds = _CHANGE_TYPES.gather(np.repeat(range(len(told)), [rows.height for rows in told]))
        return [self._table.files.write_changes(pl.concat(told).hstack([kinds]))]

    def _retire(self, slots: Slots) -> _Retired:
        """Take the rows of these slots out of their files, by vectors or by writing what is left anew."""
        if not self._locator.present(slots).all():
            raise CommitRaceError(f"{self._table.uri}: another writer removed rows that are to be replaced")
        retired = _Retired()
        left: list[tuple[HeldFile, BitMap64]] = []
        for touched in self._locator.rows_of(slots):
            gone = touched.held.gone | BitMap64(touched.rows.astype(np.uint64))
            if len(gone) == len(touched.held.slots):
                retired.emptied.append(touched.held)
            else:
                left.append((touched.held, gone))
        if self._table.vectors:
            retired.marked += self._marked(left)
        else:
            retired.emptied += [held for held, _ in left]
            retired.moved += self._moved(left)
        return retired

    def _marked(self, left: Sequence[tuple[HeldFile, BitMap64]]) -> Iterator[tuple[HeldFile, DataFile, BitMap64]]:
        descriptors = self._table.files.write_vectors({held.file.path: gone for held, gone in left})
        for held, gone in left:
            yield held, held.file.with_vector(descriptors[held.file.path]), gone

    def _moved(self, left: Sequence[tuple[HeldFile, BitMap64]]) -> Iterator[tuple[list[DataFile], Slots]]:
        for group in _together(left):
            alive = [held.alive(gone) for held, gone in group]
            rows = [self._table.files.read(held.file, self._table.schema) for held, _ in group]
            slots = [held.slots[own].astype(np.int64) for (held, _), own in zip(group, alive, strict=True)]
            kept = pl.concat([each.filter(own) for each, own in zip(rows, alive, strict=True)])
            yield self._table.files.write(kept), np.concatenate(slots)


def _together(left: Sequence[tuple[HeldFile, BitMap64]]) -> Iterator[list[tuple[HeldFile, BitMap64]]]:
    """Group files that are written anew so that small ones become one.

    A compaction beside us comes too late for files that every merge writes anew.
    """
    group: list[tuple[HeldFile, BitMap64]] = []
    rows = 0
    for held, gone in left:
        more = len(held.slots) - len(gone)
        if group and rows + more > _TOGETHER:
            yield group
            group, rows = [], 0
        group.append((held, gone))
        rows += more
    if group:
        yield group
