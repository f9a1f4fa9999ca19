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

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
from pyroaring import BitMap64

from storage.delta_actions import Action, DataFile
from storage.errors import CommitRaceError, TableMismatchError
from storage.places import HeldFile, Places, Slots
from storage.row_images import RowImages
from storage.table import Commit, Edit, ForeignEdit, OwnedTable

_log = logging.getLogger("goldwax")

CHANGE_TYPE = "_change_type"
_PROGRESS = 5.0  # seconds between two lines about a long load
_READ_AHEAD = 2  # data files


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Whole rows of a table that come, change and go, each with the slot of its key; no key is in two of them.

    `updated_from` and `updated_to` have the same keys in the same order; `updated_from` and `deleted` are the rows
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
    moved: list[tuple[DataFile, Slots, pl.DataFrame]] = field(default_factory=list)

    @property
    def removed(self) -> list[DataFile]:
        return [held.file for held in self.emptied] + [held.file for held, _, _ in self.marked]

    @property
    def added(self) -> list[DataFile]:
        return [file for _, file, _ in self.marked] + [file for file, _, _ in self.moved]


class MergeWriter:
    """Writes changes of keyed rows to one table, and tells what row each key has.

    `load` comes first, once. Not for use by several threads at a time.
    """

    def __init__(self, table: OwnedTable) -> None:
        self._table = table
        self._places = Places()
        self._images = RowImages(table.files, table.schema)

    def load(self, admit: Callable[[pl.DataFrame], Slots], columns: Sequence[str]) -> None:
        """Find out where the row of every key is.

        `admit` gets rows of the table, of which it sees `columns`, and returns the slots of their keys; later it is
        called again for rows that another writer adds. Raises TableMismatchError when two rows have one key.
        """
        self._admit = admit
        self._columns = pl.Schema({name: self._table.schema[name] for name in columns})
        self._take_in(self._table.data_files)
        self._table.followed_by(self)

    def present(self, slots: Slots) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Tell for each slot whether its key has a row."""
        return self._places.present(slots)

    def rows(self, slots: Slots) -> pl.DataFrame:
        """Return the rows of these slots, each of which must have one, as the table holds them."""
        if not len(slots):
            return pl.DataFrame(schema=self._table.schema)
        parts = [self._images.take(each.held.file, each.rows) for each in self._places.rows_of(slots)]
        back = np.empty(len(slots), np.int64)
        back[self._places.order(slots)] = np.arange(len(slots))
        rows = pl.from_arrow(pa.concat_tables(parts).combine_chunks().take(pa.array(back)))
        assert isinstance(rows, pl.DataFrame)  # noqa: S101 - narrows the union that from_arrow declares
        return rows

    def merge(self, changes: RowChanges, commit: Commit) -> MergeResult:
        """Commit `changes`; with none at all, the positions alone.

        Raises FencedError, CommitRaceError and TransientError (open the table again, read its positions, decide).
        """
        began, before = time.perf_counter(), self._table.data_version
        with ThreadPoolExecutor(1) as beside:
            writing = beside.submit(self._write_changes, changes)
            new_rows = pl.concat([changes.inserted, changes.updated_to])
            files = self._table.files.write(new_rows)
            replaced = np.concatenate([changes.updated_slots, changes.deleted_slots])
            retired = _Retired()

            def edit() -> Edit:
                nonlocal retired
                retired = self._retire(replaced)
                return Edit("MERGE", [*files, *retired.added], retired.removed, writing.result())

            self._table.commit(edit, commit)
        self._settle(changes, retired, files, new_rows)
        return MergeResult(
            len(changes.inserted_slots),
            len(changes.updated_slots),
            len(changes.deleted_slots),
            before,
            self._table.version,
            time.perf_counter() - began,
        )

    def follow(self, edit: ForeignEdit) -> None:
        """Take in what another writer did to the files; see `Follower`."""
        if edit.removed and edit.data_change:
            raise CommitRaceError(f"{self._table.uri}: another writer changed rows in version {edit.version}")
        for path in edit.removed:
            if held := self._places.file(path):
                self._places.drop(held)
                self._images.drop(path)
        self._take_in(edit.added)

    def _take_in(self, files: Sequence[DataFile]) -> None:
        """Find out whose rows are in these files."""
        began = told = time.monotonic()
        rows = 0
        for number, (file, gone, keys) in enumerate(self._loaded(files), start=1):
            slots = np.full(keys.height, -1, np.int64)
            alive = np.ones(keys.height, bool)
            alive[_numbers(gone)] = False
            slots[alive] = self._admit(keys.filter(alive))
            self._check_new(file, slots[alive], keys.filter(alive))
            self._places.add(file, slots, gone)
            rows += keys.height
            if time.monotonic() - told > _PROGRESS:
                told = time.monotonic()
                _log.info("%s: %d rows in %d of %d files indexed", self._table.uri, rows, number, len(files))
        if told > began:
            _log.info("%s: indexed in %.1f s", self._table.uri, time.monotonic() - began)

    def _loaded(self, files: Sequence[DataFile]) -> Iterator[tuple[DataFile, BitMap64, pl.DataFrame]]:
        """Yield each file with its vector and the columns that identify its rows, a few files ahead."""

        def load(file: DataFile) -> tuple[DataFile, BitMap64, pl.DataFrame]:
            return file, self._table.files.vector(file), self._table.files.read(file, self._columns)

        if len(files) == 1:
            yield load(files[0])
            return
        with ThreadPoolExecutor(_READ_AHEAD) as readers:
            waiting = [readers.submit(load, file) for file in files[:_READ_AHEAD]]
            for ahead in [*files[_READ_AHEAD:], *[None] * len(waiting)]:
                yield waiting.pop(0).result()
                if ahead:
                    waiting.append(readers.submit(load, ahead))

    def _check_new(self, file: DataFile, slots: Slots, keys: pl.DataFrame) -> None:
        twice = self._places.present(slots)
        if not twice.any() and len(np.unique(slots)) == len(slots):
            return
        repeated = np.ones(len(slots), bool)
        repeated[np.unique(slots, return_index=True)[1]] = False
        example = keys.filter(twice | repeated).row(0, named=True)
        raise TableMismatchError(
            f"{self._table.uri}: {int((twice | repeated).sum())} rows of data file {file.path} have the key of another "
            f"row, as {example}; expected one row a key. Another writer has added them: delete those that are wrong"
        )

    def _write_changes(self, changes: RowChanges) -> list[Action]:
        """Write the change-data file that a commit with more than inserts needs where there is a change feed."""
        if not self._table.change_feed or not len(changes.updated_slots) + len(changes.deleted_slots):
            return []
        kinds = {
            "update_preimage": changes.updated_from,
            "update_postimage": changes.updated_to,
            "insert": changes.inserted,
            "delete": changes.deleted,
        }
        told = [rows.with_columns(pl.lit(kind).alias(CHANGE_TYPE)) for kind, rows in kinds.items()]
        return [self._table.files.write_changes(pl.concat(told))]

    def _retire(self, slots: Slots) -> _Retired:
        """Take the rows of these slots out of their files, by vectors or by writing what is left anew."""
        if not self._places.present(slots).all():
            raise CommitRaceError(f"{self._table.uri}: another writer removed rows that are to be replaced")
        retired = _Retired()
        left: list[tuple[HeldFile, BitMap64]] = []
        for touched in self._places.rows_of(slots) if len(slots) else ():
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

    def _moved(self, left: Sequence[tuple[HeldFile, BitMap64]]) -> Iterator[tuple[DataFile, Slots, pl.DataFrame]]:
        for held, gone in left:
            alive = np.ones(len(held.slots), bool)
            alive[_numbers(gone)] = False
            rows = self._table.files.read(held.file, self._table.schema).filter(alive)
            for file, slots in _split(self._table.files.write(rows), held.slots[alive].astype(np.int64)):
                yield file, slots, rows

    def _settle(
        self, changes: RowChanges, retired: _Retired, files: Sequence[DataFile], new_rows: pl.DataFrame
    ) -> None:
        """Make our state what the table is after the commit."""
        self._places.forget(np.concatenate([changes.updated_slots, changes.deleted_slots]))
        for held, file, gone in retired.marked:
            self._places.mark(held, file, gone)
        for held in retired.emptied:
            self._places.drop(held)
            self._images.drop(held.file.path)
        for file, slots, _ in retired.moved:
            self._places.add(file, slots)
        new_slots = np.concatenate([changes.inserted_slots, changes.updated_slots])
        for file, slots in _split(files, new_slots):
            self._places.add(file, slots)
        if len(files) == 1:
            self._images.keep(files[0].path, new_rows)


def _split(files: Iterable[DataFile], slots: Slots) -> Iterator[tuple[DataFile, Slots]]:
    """Pair files with the slots of their rows; the rows were written in the order of the slots."""
    start = 0
    for file in files:
        yield file, slots[start : start + file.rows]
        start += file.rows


def _numbers(rows: BitMap64) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.frombuffer(rows.to_array(), np.uint64).astype(np.int64)
