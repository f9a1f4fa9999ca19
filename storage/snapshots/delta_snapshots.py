"""The versions of a Delta table that someone else writes, as full snapshots.

1. A table that nothing was taken from begins with its newest version: of earlier ones, files may be gone.
2. From then on, every version that changes rows is a snapshot; those that only move rows are none.
3. Versions that are no longer in the log are passed over: the newest is what counts.

Source: Delta protocol, "Delta Log Entries", "Commit Provenance Information".
"""

from collections.abc import Collection, Iterator, Sequence

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from polars.exceptions import PolarsError

from storage.delta.delta_actions import Action
from storage.delta.delta_log import DeltaLog
from storage.delta.snapshot import Snapshot
from storage.errors import SourceError, UnreadableSnapshotError
from storage.object_store import open_store, reason
from storage.snapshots.full_snapshots import FullSnapshot, to_read


class DeltaSnapshots:
    """The versions of the Delta table at `uri`; implements `storage.snapshots.full_snapshots.FullSnapshots`."""

    def __init__(self, uri: str) -> None:
        self._uri = uri.rstrip("/")

    def complete(self, done: Collection[int]) -> list[FullSnapshot]:
        """Return the versions after the newest of those `done`, or the newest there is when none is."""
        if not done:
            return [self._newest()]
        log, last = DeltaLog(open_store(self._uri), self._uri), max(done)
        found = [
            _snapshot(version, actions)
            for version, actions in log.follow(Snapshot(version=last))
            if _changes_rows(actions)
        ]
        return found if found or log.holds(last) else self._beyond(last)

    def parts(self, snapshot: FullSnapshot, columns: Collection[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows of a version, in those of `columns` that are there."""
        yield read_delta(self._uri, snapshot.version, columns)

    def _beyond(self, last: int) -> list[FullSnapshot]:
        """Return the newest version when the log no longer goes back to the `last` that was taken."""
        newest = self._newest()
        if newest.version < last:
            raise SourceError(
                f"{self._uri}: the table is at version {newest.version}, expected at least {last}, which was taken in "
                "before: it was made anew. Restore it, or declare it under another name as a new source"
            )
        return [newest] if newest.version > last else []

    def _newest(self) -> FullSnapshot:
        try:
            table = DeltaTable(self._uri)
        except TableNotFoundError as error:
            raise SourceError(f"{self._uri}: no Delta table is here. Correct the path, or make the table") from error
        except (DeltaError, OSError) as error:
            raise UnreadableSnapshotError(f"{self._uri}: it cannot be read: {reason(error)}") from error
        written = next(iter(table.history(1)), {}).get("timestamp", -1)
        return FullSnapshot(table.version(), f"version {table.version()}", written)


def read_delta(uri: str, version: int | None, columns: Collection[str]) -> pl.DataFrame:
    """Return the rows of a version of a Delta table, or of its newest, in those of `columns` that are there.

    Raises UnreadableSnapshotError.
    """
    try:
        rows = pl.scan_delta(DeltaTable(uri, version=version))
        return rows.select(to_read(rows.collect_schema().names(), columns)).collect()
    except (DeltaError, PolarsError, OSError) as error:
        raise UnreadableSnapshotError(f"{uri}: version {version} cannot be read: {reason(error)}") from error


def _snapshot(version: int, actions: Sequence[Action]) -> FullSnapshot:
    written = next((action["commitInfo"].get("timestamp", -1) for action in actions if "commitInfo" in action), -1)
    return FullSnapshot(version, f"version {version}", written)


def _changes_rows(actions: Sequence[Action]) -> bool:
    return any(content.get("dataChange") for action in actions for content in action.values())
