"""Full snapshots in a directory: each a Parquet file, a sub-directory of Parquet files, or one that is a Delta table.

1. A file is complete when it is there under its final name: write it elsewhere, then rename it.
2. A directory is complete when its marker is there: `_SUCCESS`, say, which Spark and Hadoop write last.
3. What has changed while it was read was not complete.
4. Names that begin with `_` or `.` are nobody's, as Spark, Hive and Trino have it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from polars.exceptions import PolarsError

from storage.delta.ranged_file import RangedFile
from storage.errors import SourceError, TransientError, UnreadableSnapshotError
from storage.object_store import is_local, open_store, reason
from storage.snapshots.delta_snapshots import read_delta
from storage.snapshots.full_snapshots import FullSnapshot, to_read

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DELTA = "_delta_log"
_SUFFIX = ".parquet"

Modified = Callable[[], int | None]
"""When a snapshot was completed, in microseconds since the epoch; None when it is not. Asks the store."""


class ParquetSnapshots:
    """The snapshots in the directory or URL `place`; implements `storage.snapshots.full_snapshots.FullSnapshots`.

    `version_of` tells the version of what has a name, or None when it is no snapshot. Without a `marker` a
    directory is complete as soon as it is there.
    """

    def __init__(self, place: str, version_of: Callable[[str, Modified], int | None], marker: str | None) -> None:
        self._place, self._version_of, self._marker = place.rstrip("/") or "/", version_of, marker
        self._completed: dict[str, int] = {}  # directories do not change any more, and looking into each takes time

    def complete(self, done: Collection[int]) -> list[FullSnapshot]:
        """Return the complete snapshots whose versions are not among those `done`, by version."""
        found: dict[int, FullSnapshot] = {}
        for name, modified in self._listed():
            version = self._version_of(name, modified)
            if version is None or version in done or (written := modified()) is None:
                continue
            if version in found:
                raise SourceError(
                    f"{self._place}: {found[version].name} and {name} are snapshots of the same version, {version}. "
                    "Move one of them away"
                )
            found[version] = FullSnapshot(version, name, written // 1000)
        return [found[version] for version in sorted(found)]

    def parts(self, snapshot: FullSnapshot, columns: Collection[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows of a snapshot, file by file, in those of `columns` that are there."""
        files = self._files(snapshot.name)
        if any(path.startswith(f"{snapshot.name}/{_DELTA}/") for path in files):
            yield read_delta(f"{self._place}/{snapshot.name}", None, columns)
            return
        tables = [path for path in files if path.endswith(_SUFFIX) and not _is_hidden(path)]
        if not tables:
            raise UnreadableSnapshotError(f"{self._place}/{snapshot.name}: it holds no Parquet file")
        for path in sorted(tables):
            yield self._read(path, files[path][1], columns)
        if self._files(snapshot.name) != files:
            raise UnreadableSnapshotError(f"{self._place}/{snapshot.name}: it was changed while it was read")

    def _listed(self) -> Iterator[tuple[str, Modified]]:
        """Yield the names that may be snapshots, and how to learn when each was completed."""
        if is_local(self._place) and not Path(self._place).is_dir():
            raise SourceError(f"{self._place}: no such directory; expected one with snapshots. Correct it, or make it")
        try:
            listed = obstore.list_with_delimiter(open_store(self._place))
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._place}: it could not be listed: {reason(error)}") from error
        for item in listed["objects"]:
            if item["path"].endswith(_SUFFIX) and not _is_hidden(item["path"]):
                yield item["path"], partial(_micros, item["last_modified"])
        for name in listed["common_prefixes"]:
            if not _is_hidden(name):
                yield name, partial(self._directory_modified, name)

    def _directory_modified(self, name: str) -> int | None:
        if name not in self._completed and (written := self._completed_at(name)) is not None:
            self._completed[name] = written
        return self._completed.get(name)

    def _completed_at(self, name: str) -> int | None:
        """Return when a directory was completed: by its marker, by the log of a Delta table, or by its newest file."""
        files = self._files(name)
        log = [written for path, (written, _) in files.items() if path.startswith(f"{name}/{_DELTA}/")]
        if log or self._marker is None:
            return max(log or [written for written, _ in files.values()], default=None)
        written, _ = files.get(f"{name}/{self._marker}", (None, 0))
        return written

    def _files(self, name: str) -> Mapping[str, tuple[int, int]]:
        """Return when the files of a snapshot were written, and their sizes, by path."""
        store = open_store(self._place)
        try:
            found = [item for batch in obstore.list(store, prefix=name) for item in batch]
            found = found or [obstore.head(store, name)]
        except FileNotFoundError:
            return {}
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._place}/{name}: it could not be listed: {reason(error)}") from error
        return {item["path"]: (_micros(item["last_modified"]), item["size"]) for item in found}

    def _read(self, path: str, size: int, columns: Collection[str]) -> pl.DataFrame:
        place = f"{self._place}/{path}"
        try:
            source = pq.ParquetFile(place if is_local(place) else RangedFile(open_store(self._place), path, size))
            names = source.schema_arrow.names
            return pl.DataFrame(source.read([name for name in names if name in columns])).select(
                to_read(names, columns)
            )
        except (PolarsError, pa.ArrowException, FileNotFoundError) as error:
            raise UnreadableSnapshotError(f"{place}: it cannot be read: {reason(error)}") from error
        except (BaseError, OSError) as error:
            raise TransientError(f"{place}: it could not be read: {reason(error)}") from error


def _is_hidden(path: str) -> bool:
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
