"""What every stage does: advance its table from the position it holds to a newer one of its input.

1. Open the table and read back where it stands.
2. Work on what is new to it, and commit.
3. When another commit came first or the outcome is unknown, go back to 1: the position tells whether ours happened.
4. Give up when that does not help, with the last error.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from storage.errors import TransientError

_Result = TypeVar("_Result")
_log = logging.getLogger("goldwax")

_ATTEMPTS = 6
_FIRST_WAIT = 0.05  # seconds, doubled after each attempt


def advance(work: Callable[[], _Result], reopen: Callable[[], None]) -> _Result:
    """Return what `work` returns; after a TransientError, `reopen` and try again. Raises the last error."""
    is_open = True
    for attempt in range(_ATTEMPTS):
        try:
            if not is_open:
                reopen()
            is_open = True
            return work()
        except TransientError as error:
            if attempt == _ATTEMPTS - 1:
                raise
            is_open = False
            _log.warning("%s; reading back where the table stands (attempt %d)", error, attempt + 1)
            time.sleep(_FIRST_WAIT * 2**attempt)
    raise AssertionError
