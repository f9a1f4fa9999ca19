"""An object of a store as a file that can be read from anywhere, so that only what is wanted of it is fetched."""

import io

import obstore
from obstore.store import ObjectStore


class RangedFile(io.RawIOBase):
    """Reads the object at `path`, which is `size` bytes long, one range a read. Raises what the store raises."""

    def __init__(self, store: ObjectStore, path: str, size: int) -> None:
        self._store, self._path, self._size = store, path, size
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be read from anywhere."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Let the next read begin somewhere else."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        left = self._size - self._at
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted <= 0:
            return b""
        found = bytes(obstore.get_range(self._store, self._path, start=self._at, length=wanted))
        self._at += len(found)
        return found
