"""Which row of which data file each key has, and the rows themselves, kept in step with every commit.

1. *Load.* When a table is opened, the columns that identify its rows are read, a few files ahead; the caller says whose
   they are.
2. *Follow.* What another writer adds is read likewise; rows that it moves (an OPTIMIZE) take their keys along.
3. *Move.* A compaction of our own needs no reading: every file knows the slots of its rows.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from pyroaring import BitMap64

from storage.delta.compaction import Compacted, StaleCompactionError
from storage.delta.delta_actions import DataFile
from storage.delta.owned_table import OwnedTable
from storage.delta.places import HeldFile, Places, RowsOf, Slots, alive_rows
from storage.delta.row_images import RowImages
from storage.delta.table import Edit, ForeignEdit
from storage.errors import CommitRaceError, TableMismatchError

_log = logging.getLogger("goldwax")

_GONE = -1  # instead of a slot
_PROGRESS = 5.0  # seconds between two lines about a long load
_READ_AHEAD = 2  # data files
_ADMITTED = 500_000  # rows whose keys are looked up at a time while loading

_Loaded = tuple[DataFile, BitMap64, pl.DataFrame]
"""A data file, its rows that are gone, and the columns that identify its rows."""


@dataclass(frozen=True, slots=True)
class _Moved:
    """A compaction as it is committed: its sources, and each new file with the slots of its rows and those gone."""

    sources: list[HeldFile]
    files: list[tuple[DataFile, Slots, BitMap64]]


class RowLocator:
    """Where the row of every key of one table is. `load` comes first, once; used by one thread at a time."""

    enough_rows = 1_000_000

    def __init__(self, table: OwnedTable) -> None:
        self._table = table
        self._places = Places()
        self._images = RowImages(table.files, table.schema)

    def load(self, admit: Callable[[pl.DataFrame], Slots], columns: Sequence[str], *, takes_more: bool = True) -> None:
        """Find out where the row of every key is.

        `admit` gets rows of the table, of which it sees `columns`, and returns the slots of their keys; later it is
        called again for rows that another writer adds, unless the caller wants to begin anew then (`takes_more`).
        Raises TableMismatchError when two rows have one key.
        """
        self._admit, self._takes_more = admit, takes_more
        self._columns = pl.Schema({name: self._table.schema[name] for name in columns})
        files = self._table.data_files
        self._take_in(self._loaded(files), len(files))
        self._table.followed_by(self)

    def present(self, slots: Slots) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Tell for each slot whether its key has a row."""
        return self._places.present(slots)

    def rows(self, slots: Slots) -> pl.DataFrame:
        """Return the rows of these slots, each of which must have one, as the table holds them.

        Raises UnreadableTableError, and CommitRaceError when another writer removed them.
        """
        return self._table.current(lambda: self._rows(slots))

    def _rows(self, slots: Slots) -> pl.DataFrame:
        if not len(slots):
            return pl.DataFrame(schema=self._table.schema)
        if not self._places.present(slots).all():
            raise CommitRaceError(f"{self._table.uri}: another writer moved rows that are asked for")
        held, numbers = self._places.of(slots)
        return self._images.rows([each.file for each in held])[numbers]

    def rows_of(self, slots: Slots) -> Iterator[RowsOf]:
        """Yield where the rows of these slots are, file by file; each of them must have one."""
        return self._places.rows_of(slots) if len(slots) else iter(())

    def replace(
        self, removed: Slots, emptied: Iterable[HeldFile], marked: Iterable[tuple[HeldFile, DataFile, BitMap64]]
    ) -> None:
        """Take the rows of these slots away, whose files are then empty, or marked with a vector."""
        self._places.forget(removed)
        for held, file, gone in marked:
            self._places.mark(held, file, gone)
        for held in emptied:
            self._drop(held)

    def add(self, files: Sequence[DataFile], slots: Slots, rows: pl.DataFrame | None = None) -> None:
        """Take in new files with the rows of these slots, in their order."""
        for file, own in _split(files, slots):
            self._places.add(file, own)
        if len(files) == 1 and rows is not None:
            self._keep(files[0], rows)

    def read(self, file: DataFile) -> pl.DataFrame:
        """Return all rows of a data file, those gone included; on any thread.

        Raises UnreadableTableError, TransientError.
        """
        at_hand = self._images.at_hand(file.path)
        return self._table.read(file) if at_hand is None else at_hand

    def move(self, compacted: Compacted) -> None:
        """Put compacted files in the place of their sources; their rows keep their keys.

        Raises StaleCompactionError when a source is gone, and what `Table.commit_edit` raises.
        """
        moved = _Moved([], [])

        def edit() -> Edit:
            nonlocal moved
            moved = self._moved_now(compacted)
            removed = [held.file for held in moved.sources]
            return Edit("OPTIMIZE", [file for file, _, _ in moved.files], removed, data_change=False)

        self._table.commit_edit(edit)
        for held in moved.sources:
            self._drop(held)
        for file, slots, gone in moved.files:
            self._places.add(file, slots, gone)
        if len(compacted.written) == len(moved.files) == 1:
            self._keep(compacted.written[0], compacted.rows)

    def _moved_now(self, compacted: Compacted) -> _Moved:
        """Work out where rows go that were copied a while ago: those replaced since are gone from the new file."""
        sources = [held for file in compacted.sources if (held := self._places.file(file.path))]
        if len(sources) < len(compacted.sources):
            raise StaleCompactionError
        pairs = list(zip(sources, compacted.alive, strict=True))
        slots = np.concatenate([held.slots[rows].astype(np.int64) for held, rows in pairs])
        slots[~np.concatenate([self._places.current(held, rows) for held, rows in pairs])] = _GONE
        parts = [(file, own) for file, own in _split(compacted.written, slots) if (own != _GONE).any()]
        gone = {file.path: BitMap64(np.flatnonzero(own == _GONE).astype(np.uint64)) for file, own in parts}
        vectors = {path: rows for path, rows in gone.items() if rows}
        if vectors and not self._table.vectors:
            raise StaleCompactionError
        descriptors = self._table.files.write_vectors(vectors)
        marked = [
            (file.with_vector(descriptors[file.path]) if file.path in vectors else file, own) for file, own in parts
        ]
        return _Moved(sources, [(file, own, gone[file.path]) for file, own in marked])

    def follow(self, edit: ForeignEdit) -> None:
        """Take in what another writer did to the files; see `Follower`."""
        if edit.rows_removed:
            raise CommitRaceError(f"{self._table.uri}: another writer removed rows up to version {edit.version}")
        if edit.added and not self._takes_more:
            raise CommitRaceError(f"{self._table.uri}: another writer added or moved rows up to version {edit.version}")
        added = [*self._loaded(edit.added)]  # all that can fail comes before anything is changed
        for file in edit.removed:
            if held := self._places.file(file.path):
                self._drop(held)
        self._take_in(added, len(added))

    def _take_in(self, loaded: Iterable[_Loaded], count: int) -> None:
        """Take in so many files with the columns that say whose rows they have."""
        began = told = time.monotonic()
        rows = 0
        for number, (file, gone, keys) in enumerate(loaded, start=1):
            alive = alive_rows(keys.height, gone)
            slots = np.full(keys.height, _GONE, np.int64)
            slots[alive] = self._admit_in_steps(keys.filter(alive))
            known = self._places.present(slots[alive]).any()
            held = self._places.add(_counted(file, keys.height), slots, gone)
            if known or not self._places.current(held, np.flatnonzero(alive)).all():
                raise self._repeated(file, keys.filter(alive), slots[alive])
            rows += keys.height
            if time.monotonic() - told > _PROGRESS:
                told = time.monotonic()
                _log.info("%s: %d rows in %d of %d files indexed", self._table.uri, rows, number, count)
        if told > began:
            _log.info("%s: indexed in %.1f s", self._table.uri, time.monotonic() - began)

    def _loaded(self, files: Sequence[DataFile]) -> Iterator[_Loaded]:
        """Yield each file with its vector and the columns that identify its rows, a few files ahead."""

        def load(file: DataFile) -> _Loaded:
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

    def _admit_in_steps(self, keys: pl.DataFrame) -> Slots:
        """Ask for the slots of many rows a bounded number at a time."""
        parts = [self._admit(part) for part in keys.iter_slices(_ADMITTED)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _repeated(self, file: DataFile, keys: pl.DataFrame, slots: Slots) -> TableMismatchError:
        elsewhere = [held.slots[held.slots >= 0] for held in self._places if held.file.path != file.path]
        known = np.isin(slots, np.concatenate([*elsewhere, slots[:0]]))
        known[np.setdiff1d(np.arange(len(slots)), np.unique(slots, return_index=True)[1])] = True
        example = keys.filter(known).row(0, named=True)
        return TableMismatchError(
            f"{self._table.uri}: {int(known.sum())} rows of data file {file.path} have the key of another row, as "
            f"{example}; expected one row a key. Another writer has added them: delete those that are wrong"
        )

    def _drop(self, held: HeldFile) -> None:
        self._places.drop(held)
        self._images.drop(held.file.path)

    def _keep(self, file: DataFile, rows: pl.DataFrame) -> None:
        """Keep the rows of a new file at hand where they will be asked for as before-images."""
        if self._table.change_feed:
            self._images.keep(file.path, rows)


def _counted(file: DataFile, rows: int) -> DataFile:
    """Return a file with its number of rows, which another engine need not tell and a vector asks for."""
    return file if file.rows >= 0 else replace(file, rows=rows)


def _split(files: Iterable[DataFile], slots: Slots) -> Iterator[tuple[DataFile, Slots]]:
    """Pair files with the slots of their rows; the rows were written in the order of the slots."""
    start = 0
    for file in files:
        yield file, slots[start : start + file.rows]
        start += file.rows
