"""One demo at a time, and no flow of an interrupted one left behind.

1. A demo locks a file beside the events and writes its process id into it. The flow it starts inherits the lock and
   its process id is written behind.
2. The system gives the lock back when the last of the two has ended, however that happened.
3. Who finds it locked by a demo that runs gives up. Where only the flow is left, because its demo was killed, the
   flow is asked to stop and waited for.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from flows.demo_errors import DemoError

_STOPPING_SECONDS = 60


@contextmanager
def only_demo(path: Path) -> Iterator[TextIO]:
    """Hold the lock at `path` and give its open file. Raises DemoError when another demo runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not _taken(file):
            _stop_orphan(file, path)
        file.truncate(0)
        note_process(file, os.getpid())
        yield file


def note_process(file: TextIO, pid: int) -> None:
    """Write down a process that holds the lock."""
    file.write(f"{pid}\n")
    file.flush()


def _taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop_orphan(file: TextIO, path: Path) -> None:
    file.seek(0)
    holders = [int(line) for line in file.read().split()]
    if not holders or _runs(holders[0]) or len(holders) == 1:
        raise DemoError(
            f"another demo is running (process {holders or 'unknown'}, lock {path}). Wait for it, or end it"
        )
    print(f"demo: stopping the flow of an interrupted demo (process {holders[-1]})", flush=True)  # noqa: T201
    deadline = time.monotonic() + _STOPPING_SECONDS
    os.kill(holders[-1], signal.SIGTERM)
    while not _taken(file):
        if time.monotonic() > deadline:
            raise DemoError(f"the flow of an interrupted demo (process {holders[-1]}) does not stop; end it")
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
