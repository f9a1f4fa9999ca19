"""One demo at a time, and no flow of a killed demo left behind.

1. A demo holds a lock beside the events. Who finds it taken gives up: another demo is running.
2. It holds a second lock, which the flow it starts inherits, and notes the flow's process id in that file. The
   system gives a lock back when the last process that holds it has ended, however that happened.
3. So who gets the first lock and not the second knows that a flow has outlived its demo. It asks that flow to stop
   and waits until it has.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from flows.demo.errors import DemoError

_STOPPING_SECONDS = 60


@contextmanager
def only_demo(folder: Path) -> Iterator[TextIO]:
    """Hold both locks in `folder` and give the file of the flow's. Raises DemoError when another demo runs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".demo.lock"
    with path.open("a") as demo, (folder / ".demo-flow.lock").open("a+") as flow:
        if not _taken(demo):
            raise DemoError(f"another demo is running here (it holds {path}). Wait for it, or end it")
        if not _taken(flow):
            _stop_orphan(flow)
        yield flow


def note_flow(lock: TextIO, pid: int | None) -> None:
    """Note the process that has inherited the flow's lock, None before it is started."""
    lock.truncate(0)
    lock.write("" if pid is None else str(pid))
    lock.flush()


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stop_orphan(lock: TextIO) -> None:
    lock.seek(0)
    pid = lock.read()  # empty when its demo was killed before it could note it
    if pid:
        os.kill(int(pid), signal.SIGTERM)
    deadline = time.monotonic() + _STOPPING_SECONDS
    while not _taken(lock):
        if time.monotonic() > deadline:
            raise DemoError(f"the flow of a killed demo (process {pid or 'unknown'}) does not stop; end it")
        time.sleep(0.1)
