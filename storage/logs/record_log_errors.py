"""What every record log says when it cannot serve a reader: received, expected, remedy in the same words."""

import difflib
from collections.abc import Iterable

from storage.errors import OffsetLostError, UnknownTopicError

_LISTED = 20


def unknown_topic(name: str, place: str, existing: Iterable[str]) -> UnknownTopicError:
    """Build the error for topic `name`, which `place` does not hold; `existing` are the topics it does hold."""
    topics = sorted(topic for topic in existing if not topic.startswith("__"))  # those are Kafka's own
    close = difflib.get_close_matches(name, topics, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownTopicError(
        f"Topic {name!r} does not exist in {place}, which holds {_listed(topics)}.{hint}"
        " Correct the name, or create the topic; it is never created by reading."
    )


def unknown_partition(topic: str, partition: int, existing: Iterable[int]) -> UnknownTopicError:
    """Build the error for a `partition` the topic does not have."""
    return UnknownTopicError(
        f"Topic {topic!r} has no partition {partition}; it has {_listed(map(str, sorted(existing)))}."
        " Read one of those."
    )


def offset_lost(topic: str, partition: int, position: int, bounds: tuple[int, int], where: str) -> OffsetLostError:
    """Build the error for a `position` outside `bounds` (first offset held, end offset) of the log at `where`."""
    first, end = bounds
    if position < first:
        cause = (
            f"offsets {position} to {first - 1} were deleted (retention, delete-records or a new topic of this name)"
        )
    elif position > end:
        cause = "the log is shorter than what was already read from it (truncated, or a new topic of this name)"
    else:
        cause = "that range was removed from inside the log"
    return OffsetLostError(
        f"Topic {topic!r} partition {partition} in {where} cannot be read from offset {position}:"
        f" it holds offsets {first} up to {end} (exclusive); {cause}."
        " Restore the missing records, or decide that they are lost and move all tables made from it away (in staging,"
        " quarantine, silver and ambiguous): they are made anew of what the topic holds, and of a snapshot"
        " if one is declared beside it."
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
