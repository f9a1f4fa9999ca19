"""Saying in one clear line what stops a run; the engine's own report of it is a chain of stack traces."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from operators.decoding.custom_events import CustomDecodeError
from operators.decoding.expectations import ExpectationError
from operators.gold.measures import MeasureOverflowError
from storage.errors import StorageError

_log = logging.getLogger("goldwax")


@contextmanager
def announced() -> Iterator[None]:
    """Log an error that leaves the block, in one line, and let it go on; the end of a source is none."""
    try:
        yield
    except StopIteration:
        raise
    except (StorageError, MeasureOverflowError, CustomDecodeError, ExpectationError) as error:
        _log.error("goldwax: stopped: %s", error)
        raise
    except Exception as error:
        _log.error("goldwax: stopped by an unexpected %s: %s", type(error).__name__, error)
        raise
