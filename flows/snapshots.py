"""Declaring full snapshots of a table as a source."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from operators.declared import check_fields
from operators.events import SequenceBy
from operators.schema import DeclarationError, Schema
from operators.silver.version_names import TIMESTAMP, VersionNames
from storage.snapshots.delta_snapshots import DeltaSnapshots
from storage.snapshots.full_snapshots import FullSnapshots
from storage.snapshots.parquet_snapshots import Modified, ParquetSnapshots

_log = logging.getLogger("goldwax")

_MARKER = "_SUCCESS"


@dataclass(frozen=True, slots=True)
class Snapshots:
    """Full snapshots of a table, each compared with the one before it: what differs becomes change events.

    `path` is a directory or URL of snapshots, each a Parquet file or a sub-directory of them; which are complete, says
    `storage.snapshots.parquet_snapshots`. `versions` says in which order they come:

    - "arrival": the version is when the file, or the marker of a directory, was written;
    - a pattern of names with `{integer}`, `{date}` or `{timestamp}` (see `version_names`), as "v={integer}";
    - a number: `path` is one snapshot alone, of this version;
    - "delta": `path` is a Delta table, whose versions are the snapshots (`storage.snapshots.delta_snapshots`).

    A directory counts when it has a file named `marker`; None is for directories that get their names when they are
    complete. Raises DeclarationError.
    """

    path: str
    versions: str | int = "arrival"
    marker: str | None = _MARKER

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.topic:
            raise DeclarationError(f"Snapshots({self.path!r}): expected a path that ends with a name")
        if self.versions not in ("arrival", "delta") and isinstance(self.versions, str):
            VersionNames(self.versions)
        if self.versions == "delta" and self.marker != _MARKER:
            raise DeclarationError(
                "marker is for directories of Parquet files; versions of a Delta table are always whole"
            )

    @property
    def topic(self) -> str:
        """The name that the position is kept under: the last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def version_type(self) -> pl.DataType:
        """Type of the versions."""
        if self.versions == "arrival":
            return TIMESTAMP
        return pl.Int64() if self.versions == "delta" or isinstance(self.versions, int) else self._names().dtype

    def open(self) -> FullSnapshots:
        """Return the snapshots to read. Connects to nothing yet."""
        if self.versions == "delta":
            return DeltaSnapshots(self.path)
        if isinstance(self.versions, int):
            place = self.path.rstrip("/").removesuffix(self.topic)
            return ParquetSnapshots(place or ".", _only(self.topic, self.versions), self.marker)
        version_of = _by_arrival if self.versions == "arrival" else _by_name(self.path, self._names())
        return ParquetSnapshots(self.path, version_of, self.marker)

    def shown(self, version: int) -> str:
        """Return a version as people write it."""
        return str(pl.Series([version]).cast(self.version_type)[0])

    def _names(self) -> VersionNames:
        return VersionNames(str(self.versions))


def check_snapshots(source: object, initial: Snapshots | None, sequence_by: SequenceBy, schema: Schema) -> None:
    """Check that events of snapshots, and those of a stream beside them, have one order. Raises DeclarationError."""
    if isinstance(source, Snapshots):
        if initial is not None:
            raise DeclarationError("initial is for a source of change events; the source is one of snapshots itself")
        if sequence_by is not None:
            raise DeclarationError(
                f"sequence_by={sequence_by!r}: the sequence of snapshots is their version; leave sequence_by out"
            )
    elif initial is not None and isinstance(sequence_by, tuple):
        raise DeclarationError(f"sequence_by={[*sequence_by]}: beside snapshots, expected one column or field")
    elif initial is not None and sequence_by not in schema and not _says_sequence(initial):
        order = "the position" if sequence_by is None else repr(sequence_by)
        raise DeclarationError(
            f"initial={initial}: its versions cannot be compared with the sequence of the stream, {order}. Expected "
            "versions that say up to which sequence a snapshot knows the stream, as 'lsn={integer}' or a number, or a "
            "declared column as sequence_by"
        )


def _says_sequence(snapshots: Snapshots) -> bool:
    return snapshots.versions != "delta" and snapshots.version_type == pl.Int64()


def _by_arrival(_: str, modified: Modified) -> int | None:
    return modified()


def _only(wanted: str, version: int) -> Callable[[str, Modified], int | None]:
    return lambda name, _: version if name == wanted else None


def _by_name(path: str, names: VersionNames) -> Callable[[str, Modified], int | None]:
    passed_over: set[str] = set()

    def version_of(name: str, _: Modified) -> int | None:
        version = names.version(name)
        if version is None and name not in passed_over:
            passed_over.add(name)
            _log.warning("%s/%s: passed over: its name does not say a version as declared", path, name)
        return version

    return version_of
