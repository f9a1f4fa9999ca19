"""Faults of an object store, at the boundary to it: what it raises, and what happened all the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import obstore
import polars as pl
import pytest

from storage.delta.table_files import TableFiles
from storage.errors import TransientError

Outcome = Literal["lost", "unanswered", "unsure", "unknown"]
"""Of the next log entry.

Not written; written without an answer, so that reading back tells; written while reading back fails once; written
while nothing can be read any more.
"""


@contextmanager
def fault(kind: Outcome | None, at: Path | None = None, times: int = 1_000_000, after: int = 0) -> Iterator[None]:
    """Let the next log entries fail so, of every table or of the one at a path, `after` some that do not."""
    put, get, left = obstore.put, obstore.get, times
    unread = {"unsure": 1, "unknown": 1_000_000}.get(kind or "", 0)

    def broken_put(store: Any, path: str, *content: Any, **how: Any) -> None:
        nonlocal left, after
        if not left or not _is_entry(path) or (at and _place(store) != at):
            put(store, path, *content, **how)
            return
        if after:
            after -= 1
            put(store, path, *content, **how)
            return
        left -= 1
        if kind != "lost":
            put(store, path, *content, **how)
        raise OSError(5, "Input/output error")

    def broken_get(store: Any, path: str, *how: Any) -> Any:
        nonlocal unread
        if left < times and unread and not (at and _place(store) != at):
            unread -= 1
            raise OSError(5, "Input/output error")
        return get(store, path, *how)

    with pytest.MonkeyPatch.context() as patch:
        if kind:
            patch.setattr(obstore, "put", broken_put)
            patch.setattr(obstore, "get", broken_get)
        yield


class Crash(BaseException):
    """The process ends here."""


@contextmanager
def crash_at_entry(number: int, *, written: bool) -> Iterator[None]:
    """End the process at the log entry with this number, counted from 1, of any table: before or after it is put."""
    put, seen = obstore.put, 0

    def deadly_put(store: Any, path: str, *content: Any, **how: Any) -> None:
        nonlocal seen
        seen += _is_entry(path)
        dies = _is_entry(path) and seen == number
        if written or not dies:
            put(store, path, *content, **how)
        if dies:
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put", deadly_put)
        yield


@contextmanager
def fault_of_reads(files: TableFiles, number: int | None) -> Iterator[None]:
    """Let one read of a data file fail, the first, the second and so on; None: no one does."""
    read, done = files.read, 0

    def broken_read(*wanted: Any) -> pl.DataFrame:
        nonlocal done
        done += 1
        if done == number:
            raise TransientError("the store is away")
        return read(*wanted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "read", broken_read)
        yield


@contextmanager
def before_the_next_entry(act: Callable[[], object], times: int = 1, at: Path | None = None) -> Iterator[None]:
    """Let someone else act in the last moment before the next log entry, and some after it, of any table or of one."""
    put, waiting = obstore.put, [act] * times

    def late_put(store: Any, path: str, *content: Any, **how: Any) -> None:
        if _is_entry(path) and waiting and (not at or _place(store) == at):
            waiting.pop()()
        put(store, path, *content, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put", late_put)
        yield
    assert not waiting, "no log entry was put"


@contextmanager
def no_space_for(part: str) -> Iterator[None]:
    """Let the disk be full for all files with this in their path."""
    put = obstore.put

    def full(store: Any, path: str, *content: Any, **how: Any) -> None:
        if part in path:
            raise OSError(28, "No space left on device")
        put(store, path, *content, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(obstore, "put", full)
        yield


def _is_entry(path: str) -> bool:
    return path.startswith("_delta_log/") and path.endswith(".json")


def _place(store: Any) -> Path:
    return Path(store.prefix)
