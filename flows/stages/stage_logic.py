"""The engine's side of the stages: when to work, never what."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, Protocol, TypeVar

from bytewax.operators import StatefulBatchLogic

from flows.announcing import announced
from flows.batching import Batching

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_In_contra = TypeVar("_In_contra", contravariant=True)
_Out_co = TypeVar("_Out_co", covariant=True)


class Stage(Protocol[_In_contra, _Out_co]):
    """A stage of the flow, with its table open."""

    def advance(self, inputs: Sequence[_In_contra], /) -> Sequence[_Out_co]:
        """Commit what is new of `inputs` and return what the next stage gets."""
        ...


class StageLogic(StatefulBatchLogic[_In, _Out, None], Generic[_In, _Out]):
    """Collects the inputs of one stage and advances it as `batching` says, and at the end of the stream.

    Nothing is kept in the engine's recovery state: the stage's table holds its position.
    """

    def __init__(self, stage: Callable[[], Stage[_In, _Out]], rows: Callable[[_In], int], batching: Batching) -> None:
        self._rows, self._batching = rows, batching
        with announced():
            self._stage = stage()
        self._waiting: list[_In] = []
        self._waiting_rows = 0
        self._due: float | None = None  # this and the next two by the clock that never jumps
        self._began = time.monotonic()
        self._took = 0.0

    def on_batch(self, values: list[_In]) -> tuple[Sequence[_Out], bool]:
        """Take inputs in; commit when there are enough, or none of them has rows."""
        self._waiting += values
        self._waiting_rows += sum(map(self._rows, values))
        now = time.monotonic()
        self._due = self._due or self._batching.due(now, self._began, self._took)
        if self._waiting_rows == 0 or self._waiting_rows >= self._batching.max_rows or now >= self._due:
            return self._advance(), StatefulBatchLogic.RETAIN
        return [], StatefulBatchLogic.RETAIN

    def on_notify(self) -> tuple[Sequence[_Out], bool]:
        """Commit what has waited long enough."""
        if self._due is None or time.monotonic() < self._due:
            return [], StatefulBatchLogic.RETAIN
        return self._advance(), StatefulBatchLogic.RETAIN

    def on_eof(self) -> tuple[Sequence[_Out], bool]:
        """Commit the rest."""
        return self._advance(), StatefulBatchLogic.RETAIN

    def notify_at(self) -> datetime | None:
        """Return when the oldest input has waited long enough."""
        return None if self._due is None else datetime.now(UTC) + timedelta(seconds=self._due - time.monotonic())

    def snapshot(self) -> None:
        """Return nothing: the table holds the position."""

    def _advance(self) -> Sequence[_Out]:
        waiting, self._waiting, self._waiting_rows, self._due = self._waiting, [], 0, None
        if not waiting:
            return []
        self._began = time.monotonic()
        with announced():
            done = list(self._stage.advance(waiting))
        self._took = time.monotonic() - self._began
        return done
