"""A clock that a test moves, for the modules of storage that look at the time of day, and files as old as it says."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest

from storage.delta import delta_log, maintenance, table, table_files


class Clock:
    """The time of day, moved by `offset`; durations are measured as ever."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def time(self) -> float:
        return time.time() + self.offset.total_seconds()

    def monotonic(self) -> float:
        return time.monotonic()


def movable_clock(patch: pytest.MonkeyPatch) -> Clock:
    """Give the storage layer a clock that can be moved."""
    clock = Clock()
    for module in (delta_log, maintenance, table, table_files):
        patch.setattr(module, "time", clock)
    return clock


def age(path: Path, by: timedelta) -> None:
    """Make a file, or all files below a directory, older."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        then = file.stat().st_mtime - by.total_seconds()
        os.utime(file, (then, then))
