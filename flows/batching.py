"""When a stage commits."""

from dataclasses import dataclass, replace
from datetime import timedelta

_LONGEST = 2.0  # seconds that a slow commit puts off the next


@dataclass(frozen=True, slots=True)
class Batching:
    """A stage commits at `max_rows` waiting, or when the first of them has waited long enough.

    The first commits at once after a pause. Then commits begin at least `max_delay` apart, and three times as far
    apart as the last one took: work that piles up is done in fewer, larger commits.
    """

    max_rows: int
    max_delay: timedelta

    def at_once(self) -> "Batching":
        """Return the same for a later stage, which is given committed batches and adds no delay of its own."""
        return replace(self, max_delay=timedelta(0))

    def due(self, now: float, began: float, took: float) -> float:
        """Return when to commit what came `now`, after a commit that `began` then and `took` so long, in seconds."""
        return max(now, began + max(self.max_delay.total_seconds(), min(3 * took, _LONGEST)))
