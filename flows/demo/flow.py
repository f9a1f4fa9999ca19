"""The demo's flow as a process of its own, and what the lake shows of it."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TextIO

from flows.commands.table_facts import merged_version
from flows.demo.errors import DemoError
from flows.demo.lock import note_flow
from flows.lake import Lake
from flows.pipeline import Pipeline
from storage.delta.owned_table import read_positions
from storage.delta.positions import Positions

WORKERS = 2
_STOPPING_SECONDS = 60
_STALLED_SECONDS = 120


class FlowProcess:
    """`python -m bytewax.run` on the flights with two workers; leaving the context ends it if it still runs.

    It has a session of its own, so that Ctrl-C reaches the demo alone, which then stops it.
    """

    def __init__(self, lock: TextIO, *, tail: bool) -> None:
        command = [sys.executable, "-m", "bytewax.run", f"flows.flights:flow({tail})", "-w", str(WORKERS)]
        note_flow(lock, None)
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and flow
            command, stdin=subprocess.DEVNULL, pass_fds=[lock.fileno()], start_new_session=True
        )
        note_flow(lock, self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _t: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()  # safe: what it had not committed is read again
                self._process.wait()

    def ended(self, seconds: float) -> bool:
        """Wait up to `seconds` and tell whether the flow has ended. Raises DemoError when it failed."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code != 0:
            raise DemoError(f"the flow ended with exit code {code}; its own messages are above. Run the demo again")
        return True

    def stop(self) -> None:
        """Ask the flow to stop and wait until it has. Raises DemoError when it fails or does not stop."""
        if self.ended(0):
            raise DemoError("the flow ended by itself while it should follow the events. Run the demo again")
        self._process.send_signal(signal.SIGTERM)
        if not self.ended(_STOPPING_SECONDS):
            raise DemoError(f"the flow did not stop within {_STOPPING_SECONDS} s after SIGTERM")


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the tables are: Silver's positions and version, and the Silver version each Gold table shows."""

    positions: Positions
    silver: int
    gold: tuple[int, ...]

    @property
    def merged(self) -> int:
        """Events merged into Silver so far; offsets of the event log are contiguous from 0."""
        return sum(self.positions.values())

    def shows(self, ends: Positions) -> bool:
        """Tell whether Silver has read up to `ends` and every Gold table shows all of Silver."""
        reached = all(self.positions.get(name, 0) >= end for name, end in ends.items())
        return reached and all(version >= self.silver for version in self.gold)


def standing(pipeline: Pipeline, lake: Lake, partitions: Positions) -> Standing:
    """Read from the lake how far the tables of the one Silver table of `pipeline` are; -1 for what is not there."""
    silver = pipeline.silvers[0].name
    uri = lake.silver(silver)
    shown = [read_positions(lake.gold(kpi.name), pipeline.name, [silver]).get(silver, -1) for kpi in pipeline.kpis]
    version = merged_version(uri)
    return Standing(read_positions(uri, pipeline.name, partitions), version, tuple(shown))


def watch(flow: FlowProcess, pipeline: Pipeline, lake: Lake, ends: Positions, every: float) -> Iterator[Standing]:
    """Yield where the tables stand until the flow ends. Raises DemoError when it fails or stands still."""
    last, moved = standing(pipeline, lake, ends), time.monotonic()
    while not flow.ended(every):
        now = standing(pipeline, lake, ends)
        if now != last:
            last, moved = now, time.monotonic()
        elif time.monotonic() - moved > _STALLED_SECONDS:
            raise DemoError(f"the flow has committed nothing for {_STALLED_SECONDS} s. Run the demo again")
        yield now
