"""The files of one table: data, change data and deletion vectors, each written once under a name of its own.

Nothing here is part of the table before a log entry names it; what no entry ever names is an orphan, which maintenance
removes later. Sources: Delta protocol, "Data Files", "Change Data Files", "Deletion Vector Files".
"""

import io
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import unquote

import obstore
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from polars.exceptions import PolarsError
from pyroaring import BitMap64

from storage.delta.deletion_vectors import Descriptor, decode, encode
from storage.delta.delta_actions import Action, DataFile, change_file
from storage.delta.ranged_file import RangedFile
from storage.delta.statistics import statistics
from storage.delta.sweep import remove_files
from storage.errors import CorruptVectorError, TransientError, UnreadableTableError
from storage.object_store import is_local, reason

MAX_ROWS = 4_000_000
"""Rows of one data file."""

_ROW_GROUP = 2**18
_CODEC: Literal["lz4"] = "lz4"  # quick to write, and as quick to read as any
_CHANGE_DATA = "_change_data"

Content = bytes | memoryview


class TableFiles:
    """Reads and writes the files of the table at `uri`. Safe to use by several threads."""

    def __init__(self, store: ObjectStore, uri: str) -> None:
        self._store, self._uri = store, uri

    def write(self, rows: pl.DataFrame) -> list[DataFile]:
        """Write rows as data files of at most 4 million rows, in their order; none for no rows.

        Raises TransientError.
        """
        return [self._write(part, _quickly) for part in rows.iter_slices(MAX_ROWS)] if rows.height else []

    def write_beside(self, rows: pl.DataFrame) -> list[DataFile]:
        """Write rows as `write` does, on this thread alone, which leaves the other cores to the owner."""
        return [self._write(part, _on_one_core) for part in rows.iter_slices(MAX_ROWS)] if rows.height else []

    def write_changes(self, rows: pl.DataFrame) -> Action:
        """Write rows with their `_change_type` as a change-data file. Raises TransientError."""
        path, content = f"{_CHANGE_DATA}/cdc-{uuid.uuid4()}.parquet", _quickly(rows)
        self._put(path, content)
        return change_file(path, len(content))

    def write_vectors(self, vectors: Mapping[str, BitMap64]) -> dict[str, Descriptor]:
        """Write deletion vectors, one a data file path, and return where each is. Raises TransientError."""
        descriptors, file = encode(vectors)
        if file:
            self._put(file.path, file.content)
        return descriptors

    def read(self, file: DataFile, schema: pl.Schema) -> pl.DataFrame:
        """Return all rows of a data file, those gone included; a column that the file does not have is NULL.

        Raises UnreadableTableError, and TransientError when the store fails.
        """
        try:
            source = pq.ParquetFile(self._source(file))
            found = [name for name in schema if name in source.schema_arrow.names]
            rows = pl.DataFrame(source.read(found, use_threads=False))
            nothing = pl.repeat(None, source.metadata.num_rows, eager=True)
            columns = [rows[name] if name in found else nothing.alias(name) for name in schema]
            return pl.DataFrame(columns).cast(schema)
        except (PolarsError, pa.ArrowException, BaseError, OSError) as error:
            if _may_pass(error):
                raise self._failing(file.path, error) from error
            raise UnreadableTableError(
                f"{self._uri}: data file {file.path} cannot be read ({reason(error)}). Restore it, or restore the "
                "table to a version without it"
            ) from error

    def vector(self, file: DataFile) -> BitMap64:
        """Return the numbers of the rows of a data file that are gone. Raises CorruptVectorError, TransientError."""
        if file.vector is None:
            return BitMap64()
        path = file.vector.path
        try:
            return decode(file.vector, None if path is None else bytes(obstore.get(self._store, path).bytes()))
        except FileNotFoundError as error:
            raise CorruptVectorError(
                f"{self._uri}: deletion vector file {path} is missing. The rows of {file.path} are not known without "
                "it; restore the file, or restore the table to an earlier version"
            ) from error
        except (BaseError, OSError) as error:
            raise self._failing(str(path), error) from error

    def remove(self, paths: Sequence[str]) -> None:
        """Delete files for good; one that is not there is no error. Raises TransientError."""
        try:
            remove_files(self._store, paths)
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._uri}: files could not be removed: {reason(error)}") from error

    def _write(self, rows: pl.DataFrame, encode_rows: Callable[[pl.DataFrame], Content]) -> DataFile:
        path, content = f"part-{uuid.uuid4()}.parquet", encode_rows(rows)
        self._put(path, content)
        return DataFile(path, len(content), int(time.time() * 1000), rows.height, statistics(rows))

    def _put(self, path: str, content: Content) -> None:
        try:
            obstore.put(self._store, path, content)
        except (BaseError, OSError) as error:
            raise TransientError(f"{self._uri}: {path} could not be written: {reason(error)}") from error

    def _failing(self, path: str, error: Exception) -> TransientError:
        return TransientError(f"{self._uri}: {path} could not be read: {reason(error)}")

    def _source(self, file: DataFile) -> str | RangedFile:
        """Return what reads a data file, of which only the columns asked for are fetched."""
        path = unquote(file.path)
        return f"{self._uri}/{path}" if is_local(self._uri) else RangedFile(self._store, path, file.size)


def _may_pass(error: Exception) -> bool:
    """Tell whether a store failed, rather than that a file is missing or not what it should be."""
    if isinstance(error, FileNotFoundError | pa.ArrowException):
        return False
    return isinstance(error, BaseError) or getattr(error, "errno", None) is not None


def _quickly(rows: pl.DataFrame) -> memoryview:
    """Return rows as Parquet with all cores: what the owner writes and waits for."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression=_CODEC)
    return buffer.getbuffer()


def _on_one_core(rows: pl.DataFrame) -> memoryview:
    """Return rows as Parquet with one core."""
    buffer = io.BytesIO()
    texts = [name for name, dtype in rows.schema.items() if dtype == pl.String]
    pq.write_table(
        rows.to_arrow(compat_level=pl.CompatLevel.oldest()),
        buffer,
        compression=_CODEC,
        use_dictionary=texts,
        store_decimal_as_integer=True,
        row_group_size=_ROW_GROUP,
    )
    return buffer.getbuffer()
