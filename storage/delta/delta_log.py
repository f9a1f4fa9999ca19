"""The Delta log of one table: reading what it says, and committing to it against all others.

1. *Read.* Take the newest checkpoint, then every log entry after it, in order; entries must follow each other.
2. *Refuse* what we do not understand: a feature, column mapping, partitions. Better no write than a wrong one.
3. *Commit.* Put the next entry if it is absent: of several writers exactly one succeeds.
4. *Unknown outcome.* When the store fails without saying whether it wrote, read the entry back: it is ours, it is
   another's, or it is not there. Every entry is unique by the id in its `commitInfo`.

Sources: Delta protocol, "Delta Log Entries", "Checkpoints", "Action Reconciliation", "Protocol Evolution",
"Valid Feature Names in Table Features".
"""

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore

from storage.delta.checkpoints import checkpoint, read_checkpoint
from storage.delta.delta_actions import Action
from storage.delta.snapshot import Snapshot, check_supported
from storage.errors import CommitRaceError, TransientError, UnreadableTableError
from storage.object_store import reason

_LOG = "_delta_log"
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.(\d{10}))?\.parquet")


class DeltaLog:
    """The log below a table's root in an object store. Keeps no state, so several threads may use it."""

    def __init__(self, store: ObjectStore, place: str) -> None:
        self._store = store
        self._place = place

    def read(self) -> Snapshot | None:
        """Return the table as it is now, None when there is none.

        Raises UnreadableTableError, UnsupportedTableError.
        """
        entries, checkpoints = self._listed()
        if not entries and not checkpoints:
            return None
        snapshot = Snapshot()
        if checkpoints:
            newest = snapshot.checkpointed = max(checkpoints)
            snapshot.take(newest, self._checkpointed(checkpoints[newest]))
        for version in sorted(entry for entry in entries if entry > snapshot.version):
            self._apply_entry(snapshot, version)
        if not snapshot.metadata or not snapshot.protocol:
            raise self._unreadable("it has no protocol or no metadata")
        check_supported(snapshot, self._place)
        return snapshot

    def follow(self, snapshot: Snapshot) -> Iterator[tuple[int, list[Action]]]:
        """Yield the versions that others committed after `snapshot`, without applying them."""
        version = snapshot.version + 1
        while (actions := self._entry(version)) is not None:
            yield version, actions
            version += 1

    def commit(self, version: int, actions: Sequence[Action], info: Mapping[str, Any]) -> None:
        """Write `actions` and a `commitInfo` with `info` as `version`.

        Raises CommitRaceError when another entry has that version, and TransientError when nothing was written or
        nobody can tell; `info` may have a `txnId` to know the entry by.
        """
        commit_info = {"timestamp": int(time.time() * 1000), "txnId": str(uuid.uuid4()), **info}
        lines = [{"commitInfo": commit_info}, *actions]
        content = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines).encode()
        try:
            obstore.put(self._store, self._path(version), content, mode="create")
        except AlreadyExistsError:
            self._check_ours(version, content)
        except (BaseError, OSError) as error:
            self._check_ours(version, content, error)

    def holds(self, version: int) -> bool:
        """Tell whether the entry of a version is in the log. Raises TransientError."""
        try:
            obstore.head(self._store, self._path(version))
        except FileNotFoundError:
            return False
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._place}: version {version} could not be looked up: {reason(error)}") from error
        return True

    def write_checkpoint(self, snapshot: Snapshot) -> None:
        """Write the state of a version as a checkpoint, and say that it is there. Raises TransientError."""
        actions = snapshot.actions()
        pointer = json.dumps({"version": snapshot.version, "size": len(actions)}).encode()
        try:
            obstore.put(self._store, f"{_LOG}/{snapshot.version:020}.checkpoint.parquet", checkpoint(actions))
            obstore.put(self._store, f"{_LOG}/_last_checkpoint", pointer)
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._place}: a checkpoint was not written: {reason(error)}") from error

    def clean_up(self, before: int) -> None:
        """Remove entries and checkpoints that no version committed since `before`, in milliseconds, needs.

        What is needed is the newest checkpoint that was not written later, and all that came after it.
        """
        found = [item for batch in obstore.list(self._store, prefix=_LOG) for item in batch]
        old = {item["path"] for item in found if item["last_modified"].timestamp() * 1000 < before}
        _, checkpoints = self._listed()
        keep = max((version for version, paths in checkpoints.items() if old.issuperset(paths)), default=0)
        versions = {item["path"]: _version(item["path"]) for item in found}
        for path in sorted(path for path, version in versions.items() if version is not None and version < keep):
            with suppress(FileNotFoundError):
                obstore.delete(self._store, path)  # one by one: who slept relies on their order

    def _check_ours(self, version: int, content: bytes, cause: Exception | None = None) -> None:
        """Return when the entry is the one we meant to write: a retry inside the store finds its own first try."""
        found = self._get(self._path(version))
        if found == content:
            return
        if found is None:
            raise TransientError(
                f"{self._place}: version {version} was not written: {reason(cause) if cause else None}"
            ) from cause
        raise CommitRaceError(f"{self._place}: another commit came before ours at version {version}")

    def _listed(self) -> tuple[set[int], dict[int, list[str]]]:
        """Return the versions of entries, and the files of each checkpoint of which no part is missing."""
        entries: set[int] = set()
        parts: dict[tuple[int, int], list[str]] = {}
        for path in self._paths():
            name = path.rpartition("/")[2]
            if found := _ENTRY.fullmatch(name):
                entries.add(int(found[1]))
            elif found := _CHECKPOINT.fullmatch(name):
                parts.setdefault((int(found[1]), int(found[2] or 1)), []).append(path)
        whole = {version: paths for (version, count), paths in parts.items() if len(paths) == count}
        return entries, whole

    def _paths(self) -> list[str]:
        try:
            return [item["path"] for batch in obstore.list(self._store, prefix=_LOG) for item in batch]
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._place}: the Delta log could not be listed: {reason(error)}") from error

    def _checkpointed(self, paths: Sequence[str]) -> list[Action]:
        actions: list[Action] = []
        for path in paths:
            try:
                actions += read_checkpoint(self._get(path) or b"")
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(f"{path} is not whole: {error}") from error
        return actions

    def _apply_entry(self, snapshot: Snapshot, version: int) -> None:
        actions = self._entry(version) if version == snapshot.version + 1 else None
        if actions is None:
            raise self._unreadable(f"version {snapshot.version + 1} is missing")
        snapshot.take(version, actions)

    def _entry(self, version: int) -> list[Action] | None:
        content = self._get(self._path(version))
        if content is None:
            return None
        if not content.strip():
            raise self._unreadable(f"version {version} is not whole: it is empty")
        try:
            return [json.loads(line) for line in content.splitlines() if line.strip()]
        except ValueError as error:
            raise self._unreadable(f"version {version} is not whole: {error}") from error

    def _get(self, path: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise self._unreadable(reason(error)) from error
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._place}: {path} could not be read: {reason(error)}") from error

    def _path(self, version: int) -> str:
        return f"{_LOG}/{version:020}.json"

    def _unreadable(self, problem: str) -> UnreadableTableError:
        return UnreadableTableError(
            f"{self._place}: the Delta log cannot be read: {problem}. Restore it, or move the table away"
        )


def _version(path: str) -> int | None:
    name = path.rpartition("/")[2]
    found = _ENTRY.fullmatch(name) or _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None
