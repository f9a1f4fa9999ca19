"""The embedded event log: a record log on a plain directory, so that nothing but a disk is needed.

    <directory>/<topic>/<partition>-<base offset>.jsonl

A file is a *segment*; usually there is one a partition, `0-0.jsonl`. Segments of a partition follow each other: where
one ends, the next one's base offset begins. Deleting the oldest is retention. The line format is in
`storage.logs.event_log_lines`; the offset of a record is its segment's base offset plus its line number from 0. A last
line without its newline is not a record yet, so a log may be read while it is written (`event_log_writer`).
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from storage.errors import OffsetLostError, SourceError
from storage.logs.event_log_lines import Columns, MalformedLineError, decode_lines
from storage.logs.record_log_errors import offset_lost, unknown_partition, unknown_topic
from storage.logs.records import Records
from storage.logs.tailed_file import TailedFile, TruncatedError, count_lines

_SEGMENT_NAME = re.compile(r"(\d+)-(\d+)\.jsonl")
_POLL_SECONDS = 0.02  # between two looks for new lines
_SCAN_RECORDS = 2**16


class Segment(NamedTuple):
    """One file of one partition; `base` is the offset of its first line."""

    base: int
    path: Path


@dataclass(frozen=True, slots=True)
class EventLogTopic:
    """The topic `name` of the event log in `directory`; implements `storage.logs.records.Topic`."""

    directory: Path
    name: str

    def partitions(self) -> Sequence[int]:
        """Return the partition numbers, ascending. Raises UnknownTopicError."""
        return sorted(self._segments())

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset held and the offset the next whole line will have. Raises UnknownTopicError."""
        segments = self.segments(partition)
        last = segments[-1]
        return segments[0].base, last.base + count_lines(last.path)

    def offset_at(self, partition: int, timestamp_ms: int) -> int:
        """Return the first offset with a timestamp at or after `timestamp_ms`, the end offset if there is none.

        Reads the log from its start, as it has no index. Records without a timestamp are passed over.
        """
        first, end = self.bounds(partition)
        reader = self.reader(partition, first)
        try:
            while len(records := reader.read(_SCAN_RECORDS, timeout=0)):
                found = np.flatnonzero(records.timestamps >= timestamp_ms)
                if len(found):
                    return int(records.offsets[found[0]])
        finally:
            reader.close()
        return max(end, records.end)

    def reader(self, partition: int, position: int) -> "EventLogReader":
        """Open a reader that starts at `position`. Raises OffsetLostError, UnknownTopicError."""
        reached = [segment for segment in self.segments(partition) if segment.base <= position]
        if not reached:
            raise self.lost(partition, position)
        reader = EventLogReader(self, partition, reached[-1])
        try:
            reader.seek(position)
        except OffsetLostError:
            reader.close()
            raise
        return reader

    def segments(self, partition: int) -> list[Segment]:
        """Return the segments of `partition` by base offset, at least one. Raises UnknownTopicError."""
        segments = self._segments()
        if partition not in segments:
            raise unknown_partition(self.name, partition, segments)
        return sorted(segments[partition])

    def lost(self, partition: int, position: int) -> OffsetLostError:
        """Build the error that says `position` cannot be read."""
        return offset_lost(self.name, partition, position, self.bounds(partition), str(self.directory))

    def _segments(self) -> dict[int, list[Segment]]:
        existing = [path.name for path in self.directory.iterdir() if path.is_dir()] if self.directory.is_dir() else []
        if self.name not in existing:
            raise unknown_topic(self.name, f"the event log {self.directory}", existing)
        segments: dict[int, list[Segment]] = {}
        for path in (self.directory / self.name).iterdir():
            if match := _SEGMENT_NAME.fullmatch(path.name):
                segments.setdefault(int(match[1]), []).append(Segment(int(match[2]), path))
        return segments


class EventLogReader:
    """Reads one partition; implements `storage.logs.records.Reader`. Made by `EventLogTopic.reader`.

    Holds one open file and one parsed chunk of about 4 MiB.
    """

    def __init__(self, topic: EventLogTopic, partition: int, segment: Segment) -> None:
        self._topic = topic
        self._partition = partition
        self._base = segment.base
        self._file = TailedFile(segment.path)
        self._parsed = Columns(np.empty(0, np.int64), (), (), None)
        self._taken = 0  # how many of the parsed rows were handed out
        self._position = segment.base

    def seek(self, position: int) -> None:
        """Move forward to `position`, within the segment the reader was opened on. Raises OffsetLostError."""
        self._position += self._file.skip_lines(position - self._position)
        if self._position < position:
            raise self._topic.lost(self._partition, position)

    def read(self, max_records: int, timeout: float) -> Records:
        """Return the next records; see `storage.logs.records.Reader`.

        Raises OffsetLostError when the file was truncated or removed under us, SourceError when a line is malformed.
        """
        deadline = time.monotonic() + timeout
        while self._taken == len(self._parsed.keys) and not self._parse_more():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return Records.empty(self._topic.name, self._partition, self._position)
            time.sleep(min(_POLL_SECONDS, remaining))
        return self._take(max_records)

    def close(self) -> None:
        """Release the file; safe to call twice."""
        self._file.close()

    def _parse_more(self) -> bool:
        lines = self._next_lines()
        if not lines:
            return False
        try:
            self._parsed = decode_lines(lines)
        except MalformedLineError as error:
            raise SourceError(
                f"{self._file.path}, line {self._position - self._base + error.line + 1}: {error.problem}."
                ' Expected one JSON object a line: {"key": string or null, "value": string or null,'
                ' "timestamp": integer milliseconds}. Correct or cut that line; every line counts as an offset.'
            ) from error
        self._taken = 0
        return True

    def _next_lines(self) -> bytes:
        try:
            # Listed before the read: lines appended between the two belong before the segment that follows them.
            following = self._following_segment()
            lines = self._file.next_lines()
            if lines or (following is None and not self._file.removed):
                return lines
            if following is None or following.base != self._position:
                raise self._topic.lost(self._partition, self._position)
            self._enter(following)
            return self._file.next_lines()
        except (TruncatedError, FileNotFoundError):
            raise self._topic.lost(self._partition, self._position) from None

    def _following_segment(self) -> Segment | None:
        return next((segment for segment in self._topic.segments(self._partition) if segment.base > self._base), None)

    def _enter(self, segment: Segment) -> None:
        self._file.close()
        self._file = TailedFile(segment.path)
        self._base = segment.base

    def _take(self, max_records: int) -> Records:
        rows = slice(self._taken, self._taken + max_records)
        columns = self._parsed
        timestamps = columns.timestamps[rows]
        start, end = self._position, self._position + len(timestamps)
        self._taken += len(timestamps)
        self._position = end
        return Records(
            topic=self._topic.name,
            partition=self._partition,
            start=start,
            end=end,
            offsets=np.arange(start, end, dtype=np.int64),
            timestamps=timestamps,
            keys=columns.keys[rows],
            values=columns.values[rows],
            headers=columns.headers[rows] if columns.headers else None,
        )
