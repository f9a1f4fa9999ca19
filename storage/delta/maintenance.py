"""Keeping a table small and quick to read, by its owner, between its commits.

1. The owner calls `tick` after its commits. What takes long is done on a thread beside it, one thing at a time.
2. A *checkpoint* is written every 50 commits.
3. *Compaction* reads and writes beside the owner; the commit that puts the new file in place is the owner's own, made
   at a later tick. Rows that were replaced meanwhile are marked in the new file's deletion vector. Then it rests four
   times as long as it took: the more there is to do, the more is done at once, and merges keep their cores.
4. A *sweep* removes files and log entries that no version within the retention needs.
5. What fails is logged and tried again after a pause; the table is as right without it.

A merge waits only as long as that commit takes, and while a sweep takes in what others have committed: for a file of 4
million rows, the most there is, that is some tenths of a second (`make bench`).
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Protocol

import polars as pl
from obstore.exceptions import BaseError

from storage.delta.compaction import Compacted, StaleCompactionError, choose, compact
from storage.delta.delta_actions import DataFile
from storage.delta.sweep import sweep
from storage.delta.table import Table
from storage.errors import CommitRaceError, StorageError, TransientError
from storage.object_store import reason

_log = logging.getLogger("goldwax")

_CHECKPOINT_EVERY = 50  # commits
_PAUSE = 60.0  # seconds after a failure
_REST = 4.0  # times as long as a compaction took
_SWEEPS = 4  # in the time of a retention
_FIRST_SWEEP = 60.0  # seconds after the start
_FRESH = 3_600.0  # seconds for which the file of a compaction cannot have been taken for an orphan


class Mover(Protocol):
    """Whoever commits a compaction and keeps track of the rows that moved."""

    enough_rows: int
    """How many live rows a data file should have; see `compaction.choose`."""

    def read(self, file: DataFile, /) -> pl.DataFrame:
        """Return all rows of a data file, on any thread. Raises UnreadableTableError, TransientError."""
        ...

    def move(self, compacted: Compacted, /) -> None:
        """Put compacted files in place. Raises StaleCompactionError, and what `Table.commit_edit` raises."""
        ...


@dataclass(frozen=True, slots=True)
class Maintained:
    """What maintenance did: the data files of the table before and after it, and the files it removed for good."""

    files_before: int
    files: int
    removed: int


_Done = Callable[[], None]
_Work = Callable[[], _Done]


class Maintenance:
    """Maintains one table; `mover` is the table itself, or the locator that keeps track of its rows.

    Replaced files and log entries stay for `retention`: so long can readers use, or go back to, an older version.
    """

    def __init__(self, table: Table, mover: Mover, retention: timedelta) -> None:
        self._table, self._mover, self._retention = table, mover, retention
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="maintenance")
        self._job: Future[_Done] | None = None
        self._checkpointed = table.snapshot().checkpointed
        self._swept = time.monotonic() + _FIRST_SWEEP - retention.total_seconds() / _SWEEPS
        self._kind = ""  # of the work under way
        self._resume_at: dict[str, float] = {}  # by kind

    def tick(self) -> None:
        """Finish what is done beside us, and begin what is due.

        Raises CommitRaceError, when the table must be opened again, and the terminal errors of `Table.refresh`.
        """
        try:
            if self._job and self._job.done():
                job, self._job = self._job, None
                self._finish(job)
            if self._job is None and (work := self._due()):
                self._job = self._beside.submit(work)
        except CommitRaceError:
            raise
        except TransientError as error:
            self._put_off(error)

    def close(self) -> None:
        """Wait for what is being done beside us, which is then let go; nothing may come after this."""
        self._beside.shutdown(cancel_futures=True)

    def run(self) -> Maintained:
        """Do here and now all there is to do: compaction until the table is in shape, a checkpoint, a sweep.

        Raises StorageError.
        """
        self._table.refresh()
        before = len(self._table.data_files)
        while chosen := choose(self._table.data_files, self._mover.enough_rows):
            self._compaction(chosen)()()
        self._checkpoint()()()
        removed = self._swept_now()
        return Maintained(before, len(self._table.data_files), removed)

    def _due(self) -> _Work | None:
        """Return the work to do beside the owner; it returns what is then left to the owner."""
        kinds: dict[str, Callable[[], _Work | None]] = {
            "a checkpoint": self._due_checkpoint,
            "a sweep": self._due_sweep,
            "a compaction": self._due_compaction,
        }
        for kind, due in kinds.items():
            self._kind = kind
            if time.monotonic() >= self._resume_at.get(kind, 0.0) and (work := due()):
                return work
        return None

    def _due_checkpoint(self) -> _Work | None:
        return self._checkpoint() if self._table.version - self._checkpointed >= _CHECKPOINT_EVERY else None

    def _due_sweep(self) -> _Work | None:
        late = time.monotonic() - self._swept > self._retention.total_seconds() / _SWEEPS
        return self._sweep() if late else None

    def _due_compaction(self) -> _Work | None:
        chosen = choose(self._table.data_files, self._mover.enough_rows)
        return self._compaction(chosen) if chosen else None

    def _finish(self, job: Future[_Done]) -> None:
        try:
            done = job.result()
        except (StorageError, BaseError, OSError) as error:
            self._put_off(error)
        else:
            done()

    def _put_off(self, error: Exception) -> None:
        """Go on without the kind of work that failed, for a while."""
        _log.warning("%s: %s failed and is tried again: %s", self._table.uri, self._kind, reason(error))
        self._resume_at[self._kind] = time.monotonic() + _PAUSE

    def _checkpoint(self) -> _Work:
        snapshot = self._table.snapshot()

        def done() -> None:
            self._checkpointed = snapshot.version

        def work() -> _Done:
            self._table.log.write_checkpoint(snapshot)
            return done

        return work

    def _compaction(self, chosen: Sequence[DataFile]) -> _Work:
        began, since = time.time(), time.monotonic()

        def work() -> _Done:
            compacted = compact(self._table.files, chosen, self._mover.read)
            now = time.monotonic()
            self._resume_at["a compaction"] = now + _REST * (now - since)
            return partial(self._move, compacted, began)

        return work

    def _move(self, compacted: Compacted, began: float) -> None:
        with suppress(StaleCompactionError):
            if time.time() - began < _FRESH:
                self._mover.move(compacted)
                return
        with suppress(TransientError):  # a sweep removes them later
            self._table.files.remove([file.path for file in compacted.written])

    def _sweep(self) -> _Work:
        self._table.refresh()  # what others added is not to be taken for an orphan
        snapshot, before = self._table.snapshot(), self._expired_before()
        self._swept = time.monotonic()

        def work() -> _Done:
            self._table.log.clean_up(before)
            sweep(self._table.store, snapshot, before)
            return partial(self._table.forget_tombstones, before)

        return work

    def _swept_now(self) -> int:
        self._table.refresh()
        before = self._expired_before()
        try:
            self._table.log.clean_up(before)
            return sweep(self._table.store, self._table.snapshot(), before)
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._table.uri}: expired files could not be removed: {reason(error)}") from error

    def _expired_before(self) -> int:
        return int((time.time() - self._retention.total_seconds()) * 1000)
