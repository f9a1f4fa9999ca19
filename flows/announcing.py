"""Saying in one clear line what stops a run; the engine's own report of it is a chain of stack traces."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from storage.errors import StorageError

_log = logging.getLogger("goldwax")


@contextmanager
def announced() -> Iterator[None]:
    """Log a StorageError that leaves the block, and let it go on."""
    try:
        yield
    except StorageError as error:
        _log.error("goldwax: stopped: %s", error)
        raise
