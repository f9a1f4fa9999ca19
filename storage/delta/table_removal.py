"""Taking whole tables away, for good: those that were only made on the way to another."""

import shutil
from pathlib import Path

import obstore
from obstore.exceptions import BaseError

from storage.delta.sweep import remove_files
from storage.errors import TransientError
from storage.object_store import is_local, open_store, reason


def remove_table(uri: str) -> None:
    """Delete everything below `uri`; nothing there is no error. Raises TransientError, when some of it may be left."""
    try:
        if is_local(uri):
            if Path(uri).exists():
                shutil.rmtree(uri)
            return
        store = open_store(uri)
        for batch in obstore.list(store):
            remove_files(store, [item["path"] for item in batch])
    except (BaseError, OSError) as error:
        raise TransientError(f"{uri}: could not be removed: {reason(error)}. Remove it, or try again") from error


def tables_at(uri: str) -> list[str]:
    """Return the names of what lies directly below `uri`. Raises TransientError."""
    if is_local(uri) and not Path(uri).is_dir():
        return []
    try:
        found = obstore.list_with_delimiter(open_store(uri))["common_prefixes"]
    except (BaseError, OSError) as error:
        raise TransientError(f"{uri}: could not be listed: {reason(error)}") from error
    return sorted(path.rstrip("/").rpartition("/")[2] for path in found)
