"""Removing files that no version within retention refers to: replaced data, read change data, and orphans.

A file may go when the table does not consist of it, and it was taken out, or was written and never taken in, longer
ago than the retention. Only Parquet files and deletion vectors are touched, nothing of the Delta log.

Source: Delta protocol, "Add File and Remove File" (tombstones), "Change Data Files", "Deletion Vectors".
"""

from urllib.parse import unquote

import obstore
from obstore.store import ObjectStore

from storage.snapshot import Snapshot

_BATCH = 1_000


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
        and removed_at.get(item["path"], item["last_modified"].timestamp() * 1000) < before
    ]
    for start in range(0, len(expired), _BATCH):
        obstore.delete(store, expired[start : start + _BATCH])
    return len(expired)


def _is_table_file(path: str) -> bool:
    name = path.rpartition("/")[2]
    vector = name.startswith("deletion_vector_") and name.endswith(".bin")
    return not path.startswith("_delta_log/") and (vector or name.endswith(".parquet"))
