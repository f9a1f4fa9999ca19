"""Stopping on request: sources end, stages commit what they hold, the process exits with 0."""

import signal
from types import FrameType


class Stopping:
    """Whether a stop was asked for. Read by all workers of a process."""

    def __init__(self) -> None:
        self._requested = False

    @property
    def requested(self) -> bool:
        """Tell whether sources should end now."""
        return self._requested

    def request(self) -> None:
        """Ask all sources of this process to end."""
        self._requested = True

    def on_signals(self) -> None:
        """Ask for a stop when SIGTERM or SIGINT comes; a second one ends the process at once.

        Call it in the main thread.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.request()
        signal.signal(number, signal.SIG_DFL)
