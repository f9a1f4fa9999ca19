"""The demo's events: a backlog that is written as it stands, and the last of the year, held back and sent live.

How many are in the log already is told by its end offsets alone, partition by partition: an interrupted demo goes on
behind them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from flows.demo.errors import DemoError
from flows.flight_events import PARTITIONS, flight_events, write_event_log
from storage.delta.positions import Positions, partition_id
from storage.logs.event_log import EventLogTopic
from storage.logs.event_log_writer import EventLogWriter, NewRecord

EVENTS = 1_000_898
HELD_BACK = 100_000
RATE = 20_000
"""Live events a second."""

_TICK_SECONDS = 0.01


class LiveEvent(NamedTuple):
    """An event that is not in the log yet."""

    partition: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """What was appended: how many events, and the interval ``[since, until)`` that holds their record timestamps."""

    events: int
    since: datetime
    until: datetime

    @property
    def rate(self) -> float:
        """Events a second, from the first to the last."""
        return self.events / (self.until - self.since).total_seconds()


def write_backlog(topic: EventLogTopic) -> int:
    """Write all events but the held back ones, whole or not at all; return how many, 0 when a log is there."""
    return write_event_log(flight_events().head(EVENTS - HELD_BACK), topic.directory, topic.name)


def log_ends(topic: EventLogTopic) -> Positions:
    """Return the end offset of each partition, none without a log. Raises DemoError when the log cannot be ours."""
    if not (topic.directory / topic.name).is_dir():
        return {}
    ends = {partition_id(topic.name, each): topic.bounds(each)[1] for each in topic.partitions()}
    if len(ends) != PARTITIONS or sum(ends.values()) > EVENTS:
        raise DemoError(
            f"{topic.directory / topic.name}: received {sum(ends.values()):,} events in {len(ends)} partitions, "
            f"expected at most {EVENTS:,} in {PARTITIONS}: this is not the demo's log. Move it away"
        )
    return ends


def live_events(topic: EventLogTopic, ends: Positions) -> list[LiveEvent]:
    """Return the events that are not in the log yet, in the order of event time."""
    if sum(ends.values()) == EVENTS:
        return []
    held = [ends[partition_id(topic.name, partition)] for partition in range(PARTITIONS)]
    offset, end = pl.int_range(pl.len()).over("partition"), pl.col("partition").replace_strict(dict(enumerate(held)))
    missing = flight_events().filter(offset >= end)
    columns = (missing["partition"], missing["key"].cast(pl.Binary), missing["value"].cast(pl.Binary))
    return [LiveEvent(*event) for event in zip(*columns, strict=True)]


def send(writer: EventLogWriter, events: Sequence[LiveEvent], tick: Callable[[int], None]) -> Sent:
    """Append `events` at RATE, or as fast as this machine can, each with the time of its appending.

    `tick` is called about 100 times a second with how many have been sent; what it raises ends the sending.
    """
    since, began, sent = _now_ms(), time.monotonic(), 0
    while sent < len(events):
        due = min(len(events), int((time.monotonic() - began) * RATE))
        append(writer, events[sent:due])
        sent = due
        tick(sent)
        time.sleep(_TICK_SECONDS)
    return Sent(len(events), _instant(since), _instant(_now_ms() + 1))


def append(writer: EventLogWriter, events: Sequence[LiveEvent]) -> None:
    """Append `events` now."""
    now = _now_ms()
    for partition in range(PARTITIONS):
        records = [NewRecord(each.key, each.value, now) for each in events if each.partition == partition]
        if records:
            writer.append(records, partition)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
