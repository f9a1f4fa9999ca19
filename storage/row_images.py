"""Rows of data files by number, out of decoded files: the before-images of rows that are replaced or deleted.

A file's rows are decoded when one of them is first asked for, or given to us when we write it. What was used last stays
in memory up to a number of bytes. A file that is asked for again after it had to go is written, decoded, to a nameless
temporary file (in TMPDIR) and mapped into memory, so that the operating system keeps what is hot: tables of any size
have their before-images at the price of local disk.
"""

import mmap
import tempfile
from collections import OrderedDict
from typing import IO

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from storage.delta_actions import DataFile
from storage.table_files import TableFiles

_BUDGET = 2**30  # bytes of decoded files in memory


class RowImages:
    """Decoded rows of the data files of one table."""

    def __init__(self, files: TableFiles, schema: pl.Schema, budget: int = _BUDGET) -> None:
        self._files, self._schema, self._budget = files, schema, budget
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._bytes = 0
        self._decoded_before: set[str] = set()
        self._spilled: dict[str, IO[bytes]] = {}

    def take(self, file: DataFile, rows: npt.NDArray[np.int64]) -> pa.Table:
        """Return rows of a file, in the order of their numbers. Raises UnreadableTableError."""
        return self._table(file).take(pa.array(rows))

    def keep(self, path: str, rows: pl.DataFrame) -> None:
        """Remember the rows of a file that was just written."""
        self._keep(path, _arrow(rows))

    def drop(self, path: str) -> None:
        """Forget a file that is not part of the table any more."""
        table = self._tables.pop(path, None)
        self._bytes -= 0 if table is None else table.nbytes
        self._decoded_before.discard(path)
        if spilled := self._spilled.pop(path, None):
            spilled.close()

    def _table(self, file: DataFile) -> pa.Table:
        path = file.path
        if path in self._tables:
            self._tables.move_to_end(path)
            return self._tables[path]
        if path in self._spilled:
            table = _mapped(self._spilled[path])
        else:
            table = _arrow(self._files.read(file, self._schema))
            table = self._spill(path, table) if path in self._decoded_before else table
            self._decoded_before.add(path)
        self._keep(path, table)
        return table

    def _keep(self, path: str, table: pa.Table) -> None:
        self._tables[path] = table
        self._bytes += table.nbytes
        while self._bytes > self._budget and len(self._tables) > 1:
            oldest, gone = self._tables.popitem(last=False)
            self._decoded_before.add(oldest)
            self._bytes -= gone.nbytes

    def _spill(self, path: str, table: pa.Table) -> pa.Table:
        file = self._spilled[path] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `drop`
        with pa.ipc.new_file(pa.PythonFile(file, "wb"), table.schema) as writer:
            writer.write_table(table)
        file.flush()
        return _mapped(file)


def _mapped(file: IO[bytes]) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))).read_all()


def _arrow(rows: pl.DataFrame) -> pa.Table:
    """Return rows as Arrow in one chunk: a polars text that is kept also keeps the whole batch it came from alive."""
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
