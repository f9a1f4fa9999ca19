"""The history of one key as dull Python: what SCD2 rows its events make."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Event:
    """A change event of one key; `absent` are the places in `row` that it did not carry.

    A truncate takes away what is older than it, and comes before whatever else is at its sequence.
    """

    op: str
    sequence: int
    position: int
    row: Row = ()
    absent: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Version:
    """A row of the history; `valid_to` is None for the open one."""

    row: Row
    valid_from: int
    valid_to: int | None


def history(events: Iterable[Event], width: int, tracked: Sequence[int]) -> list[Version]:
    """Return the versions that events of one key make: one event at a time, in order of rank."""
    versions: list[Version] = []
    known: list[Any] = [None] * width
    in_order = sorted(events, key=lambda event: (*_point(event), event.op == "delete", event.position))
    for event, following in zip(in_order, [*in_order[1:], None], strict=True):
        if event.op != "upsert":
            known = [None] * width
        else:
            known = [
                old if i in event.absent else new for i, (old, new) in enumerate(zip(known, event.row, strict=True))
            ]
        if following is not None and _point(following) == _point(event):
            continue  # another event decides what the key is from here on
        last = versions[-1] if versions and versions[-1].valid_to is None else None
        if event.op != "upsert":
            versions[-1:] = [Version(last.row, last.valid_from, event.sequence)] if last else versions[-1:]
        elif last is None:
            versions.append(Version(tuple(known), event.sequence, None))
        elif all(last.row[i] == known[i] for i in tracked):
            versions[-1] = Version(tuple(known), last.valid_from, None)
        else:
            versions[-1] = Version(last.row, last.valid_from, event.sequence)
            versions.append(Version(tuple(known), event.sequence, None))
    return versions


def _point(event: Event) -> tuple[int, bool]:
    """Return what of two events is the same when only one of them counts."""
    return event.sequence, event.op != "truncate"
