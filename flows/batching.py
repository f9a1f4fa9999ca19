"""When a stage commits."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Batching:
    """A stage commits at `max_rows` waiting, or when the first of them has waited for `max_delay`.

    Where a commit takes longer than that, the stage waits as long as its last commit took: work that piles up is
    done in fewer, larger commits.
    """

    max_rows: int
    max_delay: timedelta
