"""A Delta table with one owner: commits that carry positions, a ledger and the owner's epoch.

1. *Open.* Create the table, or check that the one there is ours (`table_declaration`). Read the owner epoch it
   holds; ours is the next one.
2. *Commit.* Files, positions (`txn` actions) and ledger (`commitInfo`) are one Delta commit, made only if nobody
   committed since the version we know: a strict compare-and-set on the table version.
3. *Lost race.* Read what the others committed. A newer owner: stop. Something we do not depend on: take it in, work
   out our change to the files again and commit it at the next version. Anything else: open the table again.
4. *Unknown outcome.* The log reads back whether a commit happened. When even that fails, the caller opens the table
   again, reads its positions and decides.

Sources: Delta protocol, "Transaction Identifiers" and "Commit Provenance Information".
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from storage.compaction import Compacted, StaleCompactionError
from storage.delta_actions import Action, DataFile, transaction
from storage.delta_log import DeltaLog
from storage.errors import CommitRaceError, FencedError, TransientError
from storage.object_store import open_store
from storage.positions import Positions
from storage.snapshot import Snapshot, check_supported
from storage.table_declaration import Declaration, check_snapshot, check_writable, is_current, read_snapshot
from storage.table_files import TableFiles

LEDGER = "goldwax.ledger"
"""Key of `commitInfo` that holds the ledger of a commit, as JSON."""

_ENGINE = "goldwax"
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit says besides its rows.

    `positions` are the positions after it. `ledger` says what was read and what became of it, for `commitInfo`.
    """

    positions: Positions
    ledger: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edit:
    """What a commit does to the files of a table.

    A file in both `removed` and `added` is one whose deletion vector changed. Without `data_change` the rows are the
    same as before, only elsewhere.
    """

    operation: str
    added: Sequence[DataFile] = ()
    removed: Sequence[DataFile] = ()
    change_files: Sequence[Action] = ()
    data_change: bool = True


@dataclass(frozen=True, slots=True)
class ForeignEdit:
    """What a commit that is not ours did to the files of a table."""

    version: int
    added: Sequence[DataFile]
    removed: Sequence[str]
    data_change: bool

    @classmethod
    def of(cls, version: int, actions: Sequence[Action]) -> "ForeignEdit":
        """Read the actions of a log entry."""
        adds = [action["add"] for action in actions if "add" in action]
        removes = [action["remove"] for action in actions if "remove" in action]
        changed = any(each.get("dataChange", True) for each in (*adds, *removes))
        return cls(version, [DataFile.from_add(add) for add in adds], [each["path"] for each in removes], changed)


class Follower(Protocol):
    """Someone who keeps state about the files of a table."""

    def follow(self, edit: ForeignEdit, /) -> None:
        """Take in what another writer did. Raises CommitRaceError when our own change no longer holds after it."""
        ...


class OwnedTable:
    """One Delta table as its owner sees it. Used by one thread at a time.

    `data_version` is the version of the newest commit that changed rows.
    """

    def __init__(self, uri: str, declaration: Declaration) -> None:
        check_writable(uri)
        store = open_store(uri)
        self.uri = uri
        self._declaration = declaration
        self.store, self.log = store, DeltaLog(store, uri)
        self._snapshot = self.log.read() or self._create()
        check_snapshot(uri, self._snapshot, declaration)
        self.files = TableFiles(store, uri)
        self.schema = _polars_schema(declaration)
        self.data_version = self.version
        self._epoch = self._snapshot.transactions.get(self._app_id("owner"), 0) + 1
        self._follower: Follower | None = None
        self._clock = 0

    @property
    def version(self) -> int:
        """The version our state describes: the one that was opened, or our last commit."""
        return self._snapshot.version

    @property
    def change_feed(self) -> bool:
        """Tell whether commits say row by row what they change."""
        return self._declaration.change_feed

    @property
    def vectors(self) -> bool:
        """Tell whether rows may go by deletion vectors."""
        return self._declaration.vectors

    @property
    def is_current(self) -> bool:
        """Tell whether the rows were made by our definition; a table nobody has written to has none."""
        return is_current(self._snapshot, self._declaration)

    @property
    def data_files(self) -> list[DataFile]:
        """The data files the table consists of."""
        return [*self._snapshot.files.values()]

    def positions(self, names: Iterable[str]) -> dict[str, int]:
        """Return the positions the table holds of these inputs; an input never read is left out."""
        held = {name: self._snapshot.transactions.get(self._app_id(name)) for name in names}
        return {name: position for name, position in held.items() if position is not None}

    def append(self, rows: pl.DataFrame, commit: Commit) -> None:
        """Commit new rows (or none, to advance positions only). Raises as `commit` does."""
        edit = Edit("WRITE", self.files.write(rows))
        self.commit(lambda: edit, commit)

    def snapshot(self) -> Snapshot:
        """Return a copy of the state of the table at `version`."""
        return self._snapshot.copy()

    def forget_tombstones(self, before: int) -> None:
        """Drop what is known of files taken out before this time, in milliseconds, once they are removed."""
        self._snapshot.forget_tombstones(before)

    def move(self, compacted: Compacted) -> None:
        """Put compacted files in the place of their sources; for a table whose rows nobody keeps track of.

        Raises StaleCompactionError when a source has changed, and what `commit` raises.
        """

        def edit() -> Edit:
            if any(self._snapshot.files.get(file.path) != file for file in compacted.sources):
                raise StaleCompactionError
            return Edit("OPTIMIZE", compacted.written, compacted.sources, data_change=False)

        self.commit(edit)

    def followed_by(self, follower: Follower) -> None:
        """Tell `follower` from now on what other writers do to the files."""
        self._follower = follower

    def commit(self, edit: Callable[[], Edit], commit: Commit | None = None) -> Edit:
        """Commit what `edit` returns, and return it; it is asked again when others committed first.

        Maintenance commits without positions and epoch.

        Raises FencedError when one of them is a newer owner, CommitRaceError when our change no longer holds, and
        TransientError when nothing was committed or the outcome is unknown. Open the table again after these.
        """
        for _ in range(_ATTEMPTS):
            wanted = edit()
            try:
                self._try(wanted, commit)
            except CommitRaceError:
                self._follow()
            except TransientError:
                self._follow()  # whoever is fenced must not come back as the newest owner
                raise
            else:
                return wanted
        raise CommitRaceError(f"{self.uri}: {_ATTEMPTS} other commits came before ours, one after the other")

    def _try(self, edit: Edit, commit: Commit | None) -> None:
        now = self._now()
        transactions = self._transactions(commit) if commit else {}
        actions = [
            *(file.remove(now, data_change=edit.data_change) for file in edit.removed),
            *(file.add(data_change=edit.data_change) for file in edit.added),
            *edit.change_files,
            *(transaction(application, version) for application, version in transactions.items()),
        ]
        info = {
            "timestamp": now,
            "operation": edit.operation,
            "operationParameters": {},
            "engineInfo": _ENGINE,
        }
        if commit:
            info[LEDGER] = json.dumps(commit.ledger, separators=(",", ":"))
        self.log.commit(self.version + 1, actions, info)
        self._snapshot.edit(edit.added, edit.removed, transactions, now)
        if edit.data_change:
            self.data_version = self.version

    def _transactions(self, commit: Commit) -> dict[str, int]:
        ours = {"owner": self._epoch, "definition": self._declaration.digest}
        return {self._app_id(name): version for name, version in {**commit.positions, **ours}.items()}

    def _follow(self) -> None:
        """Take in what others committed since our version; see points 3 and 4 above."""
        for version, actions in self.log.follow(self._snapshot):
            self._check_owner(version, actions)
            edit = ForeignEdit.of(version, actions)
            if self._follower:
                self._follower.follow(edit)
            self._snapshot.take(version, actions)
            if any("metaData" in action or "protocol" in action for action in actions):
                check_supported(self._snapshot, self.uri)
                check_snapshot(self.uri, self._snapshot, self._declaration)
            if edit.data_change and (edit.added or edit.removed):
                self.data_version = version

    def _check_owner(self, version: int, actions: Sequence[Action]) -> None:
        owner = self._app_id("owner")
        for action in actions:
            if action.get("txn", {}).get("appId") != owner:
                continue
            epoch = action["txn"]["version"]
            if epoch < self._epoch:
                raise CommitRaceError(f"{self.uri}: an older owner, {epoch}, committed version {version} before us")
            raise FencedError(
                f"{self.uri}: owner epoch {epoch} committed version {version}, ours is {self._epoch}: another process "
                f"of pipeline {self._declaration.pipeline!r} has taken this table over. Keep one of them running; this "
                "one stops"
            )

    def _create(self) -> Snapshot:
        info = {"operation": "CREATE TABLE", "operationParameters": {}, "engineInfo": _ENGINE}
        with suppress(CommitRaceError):  # someone else has just made it
            self.log.commit(0, [self._declaration.protocol(), self._declaration.metadata()], info)
        created = self.log.read()
        assert created is not None  # noqa: S101 - version 0 is there
        return created

    def _app_id(self, name: str) -> str:
        return self._declaration.transaction_id(name)

    def _now(self) -> int:
        """Return the time in milliseconds; it never goes back from one commit of ours to the next."""
        self._clock = max(int(time.time() * 1000), self._clock + 1)
        return self._clock


def read_positions(uri: str, pipeline: str, names: Iterable[str]) -> dict[str, int]:
    """Return the positions that a table holds without opening it for writing; none when there is no table."""
    snapshot = read_snapshot(uri)
    held = {name: snapshot.transactions.get(f"{pipeline}/{name}") for name in names} if snapshot else {}
    return {name: position for name, position in held.items() if position is not None}


def table_id(uri: str) -> str:
    """Return the id that a table got when it was made; a table made anew at the same path has another."""
    snapshot = read_snapshot(uri)
    return str(snapshot.metadata["id"]) if snapshot else ""


def _polars_schema(declaration: Declaration) -> pl.Schema:
    frame = pl.from_arrow(declaration.schema.empty_table())
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - narrows the union that from_arrow declares
    return frame.schema
