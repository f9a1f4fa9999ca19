"""Removing files that no version within retention refers to: replaced data, read change data, and orphans.

A file may go when the table does not consist of it and it was taken out longer ago than the retention. What the log
never spoke of goes by its age: change data and vectors, which are committed at once, after the retention; data files,
which others may be long in writing, after a day. Only Parquet files and vectors are touched, nothing of the Delta log.

Source: Delta protocol, "Add File and Remove File" (tombstones), "Change Data Files", "Deletion Vectors".
"""

from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import unquote

import obstore
from obstore.store import ObjectStore

from storage.delta.snapshot import Snapshot

_BATCH = 1_000
_ORPHAN_DAYS = 1


def sweep(store: ObjectStore, snapshot: Snapshot, before: int) -> int:
    """Remove what has been of no use since `before`, in milliseconds since the epoch; return how many files went."""
    live = {unquote(path) for path in snapshot.live_paths()}
    removed_at = {unquote(path): at for path, at in snapshot.tombstones.items()}
    expired = [
        item["path"]
        for batch in obstore.list(store)
        for item in batch
        if _is_table_file(item["path"])
        and item["path"] not in live
        and _expired(item["path"], removed_at.get(item["path"]), item["last_modified"].timestamp() * 1000, before)
    ]
    remove_files(store, expired)
    return len(expired)


def remove_files(store: ObjectStore, paths: Sequence[str]) -> None:
    """Delete files for good; one that is not there is no error. Raises what the store raises."""
    for start in range(0, len(paths), _BATCH):
        some = [*paths[start : start + _BATCH]]
        try:
            obstore.delete(store, some)
        except FileNotFoundError:  # which is said of the first, and leaves the others
            for path in some:
                with suppress(FileNotFoundError):
                    obstore.delete(store, path)


def _expired(path: str, removed_at: int | None, modified: float, before: int) -> bool:
    if removed_at is not None:
        return removed_at < before
    known_by_age = path.startswith(("_change_data/", "_dv/"))
    return modified < before - (0 if known_by_age else _ORPHAN_DAYS * 86_400_000)


def _is_table_file(path: str) -> bool:
    name = path.rpartition("/")[2]
    vector = name.startswith("deletion_vector_") and name.endswith(".bin")
    return not path.startswith("_delta_log/") and (vector or name.endswith(".parquet"))
