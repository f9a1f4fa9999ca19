"""The Delta log of one table: reading what it says, and committing to it against all others.

1. *Read.* Take the newest checkpoint, then every log entry after it, in order; entries must follow each other.
2. *Refuse* what we do not understand: a feature, column mapping, partitions. Better no write than a wrong one.
3. *Commit.* Put the next entry if it is absent: of several writers exactly one succeeds.
4. *Unknown outcome.* When the store fails without saying whether it wrote, read the entry back: it is ours, it is
   another's, or it is not there. Every entry is unique by the id in its `commitInfo`.

Sources: Delta protocol, "Delta Log Entries", "Checkpoints", "Action Reconciliation", "Protocol Evolution",
"Valid Feature Names in Table Features".
"""

import io
import json
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import obstore
import polars as pl
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore

from storage.delta_actions import Action, DataFile
from storage.errors import CommitRaceError, TransientError, UnreadableTableError, UnsupportedTableError
from storage.object_store import reason

READER_FEATURES = frozenset({"deletionVectors"})
WRITER_FEATURES = frozenset({"deletionVectors", "changeDataFeed", "appendOnly", "invariants"})

_LOG = "_delta_log"
_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.\d{10})?\.parquet")
_READER_VERSION, _WRITER_VERSION = 3, 7


@dataclass(slots=True)
class Snapshot:
    """What a table is at `version`: its files by path, and how far each application is."""

    version: int = -1
    protocol: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    files: dict[str, DataFile] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)

    def apply(self, action: Action) -> None:
        """Take in one action; the removes of a version come before its adds."""
        for kind, content in action.items():
            match kind:
                case "add":
                    file = DataFile.from_add(content)
                    self.files[file.path] = file
                case "remove":
                    self.files.pop(content["path"], None)
                case "txn":
                    self.transactions[content["appId"]] = content["version"]
                case "protocol":
                    self.protocol = content
                case "metaData":
                    self.metadata = content
                case _:
                    pass  # commitInfo, cdc and what later versions add carry no state of ours

    def take(self, version: int, actions: Sequence[Action]) -> None:
        """Become the next version, which has these actions."""
        for action in sorted(actions, key=lambda action: "add" in action):
            self.apply(action)
        self.version = version

    def edit(self, added: Iterable[DataFile], removed: Iterable[DataFile], transactions: Mapping[str, int]) -> None:
        """Become the next version, which has these files and transactions."""
        for file in removed:
            del self.files[file.path]
        self.files |= {file.path: file for file in added}
        self.transactions |= transactions
        self.version += 1


class DeltaLog:
    """The log below a table's root in an object store. Used by one thread at a time."""

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
            snapshot.version = max(checkpoints)
            self._apply_checkpoint(snapshot, checkpoints[snapshot.version])
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

        Raises CommitRaceError when another entry has that version, and TransientError when nothing was written.
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
        entries: set[int] = set()
        checkpoints: dict[int, list[str]] = {}
        for batch in obstore.list(self._store, prefix=_LOG):
            for item in batch:
                name = item["path"].rpartition("/")[2]
                if found := _ENTRY.fullmatch(name):
                    entries.add(int(found[1]))
                elif found := _CHECKPOINT.fullmatch(name):
                    checkpoints.setdefault(int(found[1]), []).append(item["path"])
        return entries, checkpoints

    def _apply_checkpoint(self, snapshot: Snapshot, paths: Sequence[str]) -> None:
        for path in paths:
            rows = pl.read_parquet(io.BytesIO(self._get(path) or b""))
            for kind in ("protocol", "metaData", "txn", "add"):
                if kind in rows.columns:
                    for content in rows[kind].drop_nulls():
                        snapshot.apply({kind: _without_nulls(content)})

    def _apply_entry(self, snapshot: Snapshot, version: int) -> None:
        if version != snapshot.version + 1:
            raise self._unreadable(f"version {snapshot.version + 1} is missing")
        snapshot.take(version, self._entry(version) or [])

    def _entry(self, version: int) -> list[Action] | None:
        content = self._get(self._path(version))
        if content is None:
            return None
        try:
            return [json.loads(line) for line in content.splitlines() if line.strip()]
        except ValueError as error:
            raise self._unreadable(f"version {version} is not whole: {error}") from error

    def _get(self, path: str) -> bytes | None:
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def _path(self, version: int) -> str:
        return f"{_LOG}/{version:020}.json"

    def _unreadable(self, problem: str) -> UnreadableTableError:
        return UnreadableTableError(
            f"{self._place}: the Delta log cannot be read: {problem}. Restore it, or move the table away"
        )


def check_supported(snapshot: Snapshot, place: str) -> None:
    """Refuse a table that asks more of its readers or writers than we can do. Raises UnsupportedTableError."""
    protocol, metadata = snapshot.protocol, snapshot.metadata
    unknown_to_reader = {*(protocol.get("readerFeatures") or ())} - READER_FEATURES
    unknown_to_writer = {*(protocol.get("writerFeatures") or ())} - WRITER_FEATURES
    problems = [
        f"reader version {protocol['minReaderVersion']}" * (protocol["minReaderVersion"] > _READER_VERSION),
        f"writer version {protocol['minWriterVersion']}" * (protocol["minWriterVersion"] > _WRITER_VERSION),
        *(f"reader feature {name!r}" for name in sorted(unknown_to_reader)),
        *(f"writer feature {name!r}" for name in sorted(unknown_to_writer)),
        "partition columns" * bool(metadata.get("partitionColumns")),
        "column mapping" * (_configured(metadata, "delta.columnMapping.mode") not in (None, "none")),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise UnsupportedTableError(
            f"{place}: the table needs {', '.join(found)}, which goldwax cannot write. Use the table's own engine, or "
            "point the pipeline at a table of its own"
        )


def _configured(metadata: Mapping[str, Any], name: str) -> str | None:
    configuration = metadata.get("configuration") or {}
    value: str | None = configuration.get(name)
    return value


def _without_nulls(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a checkpoint as the JSON of an entry would have it: absent instead of NULL, maps as objects."""
    return {
        name: {pair["key"]: pair["value"] for pair in value} if _is_map(value) else value
        for name, value in content.items()
        if value is not None
    }


def _is_map(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(pair, dict) and pair.keys() == {"key", "value"} for pair in value)
