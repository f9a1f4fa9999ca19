"""Messages of librdkafka, taken apart into the columns of `Records` chunk by chunk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from storage.logs.records import Headers, Records

CHUNK = 2_000
"""Messages to ask the library for at once: each is an object of its own, and so few are still in the processor's
cache when they are taken apart, and their memory serves the next ones."""

_NOTHING = np.empty(0, np.int64)


@dataclass(slots=True)
class Columns:
    """The records of one partition received so far, in offset order."""

    offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)
    timestamps: list[npt.NDArray[np.int64]] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: dict[int, Headers] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def take(self, messages: Sequence[Message]) -> None:
        """Add messages without error, at least one."""
        if any(map(Message.headers, messages)):
            found: Iterable[Any] = map(Message.headers, messages)
            self.headers |= {row: tuple(each) for row, each in enumerate(found, len(self)) if each}
        self.offsets.append(_offsets(messages))
        times = [time for _, time in map(Message.timestamp, messages)]
        self.timestamps.append(np.fromiter(times, np.int64, len(times)))
        self.keys += map(Message.key, messages)
        self.values += map(Message.value, messages)

    def records(self, topic: str, partition: int, start: int, end: int) -> Records:
        """Return all that was taken as the records of a partition from `start` to `end`."""
        return Records(
            topic=topic,
            partition=partition,
            start=start,
            end=end,
            offsets=np.concatenate([_NOTHING, *self.offsets]),
            timestamps=np.concatenate([_NOTHING, *self.timestamps]),
            keys=self.keys,
            values=self.values,
            headers=[*map(self.headers.get, range(len(self)))] if self.headers else None,
        )


def offset_of(message: Message) -> int:
    """Return the offset of a message, -1 where it has none."""
    offset = message.offset()
    return -1 if offset is None else offset


def _offsets(messages: Sequence[Message]) -> npt.NDArray[np.int64]:
    first, last = offset_of(messages[0]), offset_of(messages[-1])
    if last - first == len(messages) - 1:  # they ascend, so none is missing
        return np.arange(first, last + 1)
    return np.fromiter(map(offset_of, messages), np.int64, len(messages))
