"""A Delta table that is committed to against all others.

1. *Commit.* What changes is one log entry, made only if nobody committed since the version we know: a strict
   compare-and-set on the table version.
2. *Lost race.* Read what the others committed. When our change no longer holds, stop; else take theirs in, work out
   our change to the files again and commit it at the next version.
3. *Unknown outcome.* The log reads back whether a commit happened. When even that fails, the caller opens the table
   again and reads where it stands.

Sources: Delta protocol, "Delta Log Entries", "Commit Provenance Information".
"""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import polars as pl
import pyarrow as pa
from deltalake import Schema

from storage.delta.compaction import Compacted, StaleCompactionError
from storage.delta.delta_actions import Action, DataFile, transaction
from storage.delta.delta_log import DeltaLog
from storage.delta.snapshot import Snapshot, check_supported
from storage.delta.table_files import TableFiles
from storage.errors import CommitRaceError, TransientError, UnreadableTableError
from storage.object_store import open_store

_Result = TypeVar("_Result")

_ENGINE = "goldwax"
_ATTEMPTS = 20
_SURE_FOR = 30.0  # seconds for which no one can have removed log entries that we have just seen; see `maintenance`


@dataclass(frozen=True, slots=True)
class Edit:
    """What a commit does to the files of a table.

    A file in both `removed` and `added` is one whose deletion vector changed. Without `data_change` the rows are the
    same as before, only elsewhere. `others` are actions of other kinds.
    """

    operation: str
    added: Sequence[DataFile] = ()
    removed: Sequence[DataFile] = ()
    others: Sequence[Action] = ()
    data_change: bool = True


@dataclass(frozen=True, slots=True)
class ForeignEdit:
    """What commits that are not ours did to the files of a table, all together, up to `version`.

    `rows_removed` tells that rows are gone or were replaced, and not only moved.
    """

    version: int
    added: Sequence[DataFile]
    removed: Sequence[DataFile]
    rows_removed: bool


class Follower(Protocol):
    """Someone who keeps state about the files of a table."""

    def follow(self, edit: ForeignEdit, /) -> None:
        """Take in what another writer did. Raises CommitRaceError when our own change no longer holds after it."""
        ...


class Table:
    """One Delta table, at `version`. Used by one thread at a time.

    `schema` has its columns; `data_version` is the version of the newest commit that changed rows. Raises
    UnreadableTableError when there is no table, UnsupportedTableError.
    """

    enough_rows = 100_000

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.store = open_store(uri)
        self.log = DeltaLog(self.store, uri)
        self.files = TableFiles(self.store, uri)
        self._snapshot = self._opened()
        self.schema = polars_schema(self._snapshot.metadata["schemaString"])
        self.data_version = self.version
        self._follower: Follower | None = None
        self._clock = 0
        self._attempt = ""
        self._seen_at = _clocks()

    @property
    def version(self) -> int:
        """The version our state describes: the one that was opened, or our last commit."""
        return self._snapshot.version

    @property
    def vectors(self) -> bool:
        """Tell whether rows may go by deletion vectors."""
        return self._snapshot.has_vectors

    @property
    def data_files(self) -> list[DataFile]:
        """The data files the table consists of."""
        return [*self._snapshot.files.values()]

    def snapshot(self) -> Snapshot:
        """Return a copy of the state of the table at `version`."""
        return self._snapshot.copy()

    def forget_tombstones(self, before: int) -> None:
        """Drop what is known of files taken out before this time, in milliseconds, once they are removed."""
        self._snapshot.forget_tombstones(before)

    def refresh(self) -> None:
        """Take in what others committed since our version. Raises CommitRaceError when our state no longer holds."""
        self._check_unbroken()
        now, data_version, rows_removed = self.snapshot(), self.data_version, False
        for version, actions in self.log.follow(self._snapshot):
            self._check_not_ours(version, actions)
            self._check_foreign(version, actions)
            now.take(version, actions)
            kinds = {kind for action in actions for kind, content in action.items() if content.get("dataChange")}
            data_version = version if kinds & {"add", "remove"} else data_version
            rows_removed = rows_removed or "remove" in kinds
        if now.version == self.version:
            return
        self._check_state(now)
        old, new = self._snapshot.files, now.files
        added = [file for path, file in new.items() if old.get(path) != file]
        removed = [file for path, file in old.items() if new.get(path) != file]
        if self._follower:
            self._follower.follow(ForeignEdit(now.version, added, removed, rows_removed))
        self._snapshot, self.data_version = now, data_version

    def current(self, read: Callable[[], _Result]) -> _Result:
        """Return what `read` returns, which is asked again when a file was missing that others have replaced."""
        version = self.version
        try:
            return read()
        except UnreadableTableError:
            self.refresh()
            if self.version == version:
                raise
            return read()

    def followed_by(self, follower: Follower) -> None:
        """Tell `follower` from now on what other writers do to the files."""
        self._follower = follower

    def write(self, rows: pl.DataFrame) -> list[DataFile]:
        """Write rows to new data files, to be committed by an edit. Raises TransientError.

        Nothing but us checks that they have the columns of the table: ValueError says where they do not.
        """
        if rows.schema != self.schema:
            raise ValueError(f"{self.uri}: received rows of {rows.schema}, expected {self.schema}")
        return self.files.write(rows)

    def read(self, file: DataFile) -> pl.DataFrame:
        """Return all rows of a data file, those gone included. Raises UnreadableTableError, TransientError."""
        return self.files.read(file, self.schema)

    def move(self, compacted: Compacted) -> None:
        """Put compacted files in the place of their sources; for a table whose rows nobody keeps track of.

        Raises StaleCompactionError when a source has changed, and what `commit_edit` raises.
        """

        def edit() -> Edit:
            if any(self._snapshot.files.get(file.path) != file for file in compacted.sources):
                raise StaleCompactionError
            return Edit("OPTIMIZE", compacted.written, compacted.sources, data_change=False)

        self.commit_edit(edit)

    def commit_edit(
        self,
        edit: Callable[[], Edit],
        transactions: Mapping[str, int] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit what `edit` returns, which is asked again when others committed first; `info` goes to `commitInfo`.

        Raises CommitRaceError when our change no longer holds, and TransientError when nothing was committed or the
        outcome is unknown. Open the table again after these.
        """
        for _ in range(_ATTEMPTS):
            wanted = self.current(edit)
            try:
                self._try(wanted, transactions or {}, info or {})
            except CommitRaceError:
                self.refresh()
            except TransientError:
                self.refresh()  # whoever is fenced must not come back as the newest owner
                raise
            else:
                return
        raise CommitRaceError(f"{self.uri}: {_ATTEMPTS} other commits came before ours, one after the other")

    def _try(self, edit: Edit, transactions: Mapping[str, int], info: Mapping[str, Any]) -> None:
        now = self._now()
        actions = [
            *(file.remove(now, data_change=edit.data_change) for file in edit.removed),
            *(file.add(data_change=edit.data_change) for file in edit.added),
            *edit.others,
            *(transaction(application, version) for application, version in transactions.items()),
        ]
        self._attempt = str(uuid.uuid4())
        said = {"timestamp": now, "txnId": self._attempt, **provenance(edit.operation), **info}
        self.log.commit(self.version + 1, actions, said)
        if self._seconds_unseen() > _SURE_FOR:
            self._check_unbroken()
        self._seen_at = _clocks()
        self._snapshot.edit(edit.added, edit.removed, transactions, now)
        if edit.data_change:
            self.data_version = self.version

    def _check_unbroken(self) -> None:
        """Check that the version we know is still in the log.

        A writer that slept while entries were cleaned up would find the place of an old version free and write there.
        Entries go in their order, so it can tell by the one before.
        """
        if self.log.holds(self.version):
            return
        self._check_outrun(self._opened())
        raise CommitRaceError(f"{self.uri}: others have gone on so far that version {self.version} is out of the log")

    def _check_not_ours(self, version: int, actions: Sequence[Action]) -> None:
        """Check that a commit we do not know is not our own, of which no answer came and which nobody could read."""
        if any(action.get("commitInfo", {}).get("txnId") == self._attempt for action in actions):
            raise CommitRaceError(f"{self.uri}: our commit, whose outcome was unknown, has become version {version}")

    def _check_outrun(self, snapshot: Snapshot) -> None:
        """Look at what the table has become while we slept."""

    def _check_foreign(self, version: int, actions: Sequence[Action]) -> None:
        """Look at a commit of another writer before it is taken in."""

    def _check_state(self, snapshot: Snapshot) -> None:
        """Look at what the table is after the commits of other writers."""
        check_supported(snapshot, self.uri)

    def _opened(self) -> Snapshot:
        snapshot = self.log.read()
        if snapshot is None:
            raise UnreadableTableError(f"{self.uri}: no Delta table is here; expected one with a _delta_log")
        return snapshot

    def _seconds_unseen(self) -> float:
        """Return how long ago we last knew the table; one clock stops when the machine sleeps, the other may jump."""
        return max(now - then for now, then in zip(_clocks(), self._seen_at, strict=True))

    def _now(self) -> int:
        """Return the time in milliseconds; it never goes back from one commit of ours to the next."""
        self._clock = max(int(time.time() * 1000), self._clock + 1)
        return self._clock


def _clocks() -> tuple[float, float]:
    return time.monotonic(), time.time()


def provenance(operation: str) -> dict[str, Any]:
    """Return what the `commitInfo` of any commit of ours says."""
    return {"operation": operation, "operationParameters": {}, "engineInfo": _ENGINE}


def polars_schema(schema: str) -> pl.Schema:
    """Return the columns of a schema in Delta's JSON form."""
    return pl.Schema(pa.schema(Schema.from_json(schema).to_arrow()))
