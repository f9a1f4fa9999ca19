"""When to doubt a silent Kafka broker, and when to give it up.

A client that has lost its brokers and a topic without news look the same to a reader: nothing comes. So after half of
`retry_seconds` without a sign of life the reader is to ask for one, and after all of it to give up.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Contact:
    """Remembers the last sign of life; times are seconds of one monotonic clock."""

    retry_seconds: float
    last: float

    def heard(self, now: float) -> None:
        """Note that a broker answered."""
        self.last = now

    def in_doubt(self, now: float) -> bool:
        """Say whether to ask a broker for a sign of life."""
        return now - self.last > self.retry_seconds / 2

    def lost(self, now: float) -> bool:
        """Say whether to give up."""
        return now - self.last > self.retry_seconds
