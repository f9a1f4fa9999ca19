"""Rows of data files by number, out of decoded files: the before-images of rows that are replaced or deleted.

A file's rows are decoded when one of them is first asked for, or given to us when we write it. What was used last stays
in memory up to a number of bytes. What has to go and was asked for is written, decoded, to a nameless temporary file
(in TMPDIR) that stays mapped into memory, where the operating system keeps what is hot: tables of any size have their
before-images at the price of local disk, and where that has room no file is decoded twice for them.
"""

import logging
import mmap
import tempfile
from collections import OrderedDict
from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from storage.delta.delta_actions import DataFile
from storage.delta.table_files import TableFiles

_log = logging.getLogger("goldwax")

_BUDGET = 2**30  # bytes of decoded files in memory


class RowImages:
    """Decoded rows of the data files of one table."""

    def __init__(self, files: TableFiles, schema: pl.Schema, budget: int = _BUDGET) -> None:
        self._files, self._schema, self._budget = files, schema, budget
        self._frames: OrderedDict[str, pl.DataFrame] = OrderedDict()
        self._bytes = 0
        self._asked_for: set[str] = set()
        self._mapped: dict[str, pl.DataFrame] = {}
        self._spills = True

    def rows(self, files: Sequence[DataFile]) -> pl.DataFrame:
        """Return all rows of these files, one file after the other, without copying any.

        Raises UnreadableTableError.
        """
        return pl.concat([self._frame(file) for file in files], rechunk=False)

    def keep(self, path: str, rows: pl.DataFrame) -> None:
        """Remember the rows of a file that was just written."""
        self._keep(path, _compact(rows))

    def at_hand(self, path: str) -> pl.DataFrame | None:
        """Return the rows of a file if they are in memory; the one method for other threads than the owner's."""
        return self._frames.get(path)

    def drop(self, path: str) -> None:
        """Forget a file that is not part of the table any more."""
        frame = self._frames.pop(path, None)
        self._bytes -= 0 if frame is None else _size(frame)
        self._asked_for.discard(path)
        self._mapped.pop(path, None)

    def _frame(self, file: DataFile) -> pl.DataFrame:
        path = file.path
        if path in self._mapped:
            return self._mapped[path]
        self._asked_for.add(path)
        if path not in self._frames:
            frame = self._files.read(file, self._schema)
            self._keep(path, frame)
            return frame
        self._frames.move_to_end(path)
        return self._frames[path]

    def _keep(self, path: str, frame: pl.DataFrame) -> None:
        self._frames[path] = frame
        self._bytes += _size(frame)
        while self._bytes > self._budget and len(self._frames) > 1:
            oldest, gone = self._frames.popitem(last=False)
            self._bytes -= _size(gone)
            if oldest in self._asked_for:
                self._spill(oldest, gone)

    def _spill(self, path: str, frame: pl.DataFrame) -> None:
        if not self._spills:
            return
        try:
            self._mapped[path] = _mapped(frame)
        except OSError as error:
            self._spills = False
            _log.warning("%s: a data file is decoded whenever it is needed: %s", tempfile.gettempdir(), error)


def _mapped(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows out of a temporary file, which is gone when they are."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.newest())  # the layout that polars uses without copying
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(pa.PythonFile(file, "wb"), table.schema) as writer:
            writer.write_table(table)
        file.flush()
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _frame(pa.ipc.open_file(pa.py_buffer(mapping)).read_all())


def _compact(rows: pl.DataFrame) -> pl.DataFrame:
    """Copy rows into buffers of their own: a polars text that is kept also keeps the whole batch it came from alive."""
    return _frame(rows.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks())


def _size(frame: pl.DataFrame) -> int:
    return int(frame.estimated_size())


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - narrows the union that from_arrow declares
    return frame
