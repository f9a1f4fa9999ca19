"""A growing text file, read by whole lines: what has no newline yet is not there yet."""

import os
from pathlib import Path

from storage.logs.event_log_lines import newline_positions

_CHUNK_BYTES = 4 * 2**20  # read at once; a longer line is read whole


class TruncatedError(Exception):
    """The file is shorter than what was already read from it."""


class TailedFile:
    """Reads `path` by whole lines, in order, while another process may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._position = 0  # in bytes, always at the start of a line

    def next_lines(self) -> bytes:
        """Return about 4 MiB of whole lines, newlines included, and move past them; nothing when there is none yet.

        Raises TruncatedError.
        """
        lines = self._peek_lines()
        self._position += len(lines)
        return lines

    def skip_lines(self, count: int) -> int:
        """Move past `count` lines and return how many there were: fewer when the file ends before."""
        skipped = 0
        while skipped < count and (lines := self._peek_lines()):
            ends = newline_positions(lines)[: count - skipped]
            self._position += int(ends[-1]) + 1
            skipped += len(ends)
        return skipped

    @property
    def removed(self) -> bool:
        """Whether the file was deleted under us; what it held can still be read."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._file.close()

    def _peek_lines(self) -> bytes:
        size = _CHUNK_BYTES
        while True:
            chunk = os.pread(self._file.fileno(), size, self._position)
            end = chunk.rfind(b"\n") + 1
            if end or len(chunk) < size:
                break
            size *= 2
        if not chunk and os.fstat(self._file.fileno()).st_size < self._position:
            raise TruncatedError
        return chunk[:end]


def count_lines(path: Path) -> int:
    """Return the number of whole lines in the file at `path`."""
    with path.open("rb", buffering=0) as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))
