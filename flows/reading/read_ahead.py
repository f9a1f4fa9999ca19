"""Reading and decoding of one partition beside the engine, as far ahead as may be in flight.

The engine asks a source on the thread that also commits the tables: what is only read then waits for every commit, and
the other cores wait with it. So while there is a backlog, batches are read and decoded on threads that all partitions
share, one after the other within a partition, and wait here until the engine asks.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

from flows.event_batch import EventBatch
from storage.logs.records import Records


class ReadAhead:
    """Batches of one partition that are decoded before they are asked for.

    `following` returns the next records, None when there are none now or no more may be in flight; between `begin` and
    the moment `is_busy` is false again, nobody else may use what it uses.
    """

    def __init__(
        self, threads: Executor, decode: Callable[[Records], EventBatch], following: Callable[[], Records | None]
    ) -> None:
        self._threads, self._decode, self._following = threads, decode, following
        self._ready: deque[EventBatch] = deque()
        self._idle = threading.Event()
        self._idle.set()
        self._failure: BaseException | None = None
        self._is_over = False

    @property
    def is_busy(self) -> bool:
        """Tell whether batches are still being read or decoded."""
        return not self._idle.is_set()

    def begin(self, records: Records) -> None:
        """Decode these records, and read and decode on while there are more."""
        self._idle.clear()
        self._threads.submit(self._work, records)

    def take(self) -> list[EventBatch]:
        """Return what is decoded by now, in the order it was read; when that is nothing, raise what went wrong."""
        batches = [self._ready.popleft() for _ in range(len(self._ready))]
        if self._failure and not batches:
            raise self._failure
        return batches

    def end(self) -> None:
        """Read no further, and wait until nothing is being read or decoded."""
        self._is_over = True
        self._idle.wait()

    def _work(self, records: Records) -> None:
        """Do one batch, then stand in line again: no partition keeps the others from their turn."""
        try:
            self._ready.append(self._decode(records))
            following = None if self._is_over else self._following()
            if following is not None:
                self._threads.submit(self._work, following)
                return
        except BaseException as error:  # noqa: BLE001 - whatever it is, `take` raises it; a panic of polars is no Exception
            self._failure = error
        self._idle.set()
