"""Appends to the embedded event log; see `storage.logs.event_log` for its layout."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from storage.logs.event_log_lines import encode_line
from storage.logs.records import Headers
from storage.logs.tailed_file import count_lines


class NewRecord(NamedTuple):
    """A record to append; `timestamp` is milliseconds since the epoch, None where there is none to tell."""

    key: bytes | None
    value: bytes | None
    timestamp: int | None = None
    headers: Headers = ()


class EventLogWriter:
    """Appends records to the topic `name` of the event log in `directory`, making both when missing.

    One writer a topic at a time. Readers may follow: they see a record when its whole line is written, and never
    before. Appended records are with the operating system when `append` returns: they outlive this process, not a
    power cut. A half-written line that a killed writer left behind never was a record and is cut off.
    """

    def __init__(self, directory: Path, name: str, partitions: int = 1) -> None:
        self._topic = directory / name
        self._topic.mkdir(parents=True, exist_ok=True)
        self._segments = {partition: _Segment(self._newest_segment(partition)) for partition in range(partitions)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, records: Iterable[NewRecord], partition: int = 0) -> int:
        """Append `records` in this order and return the partition's new end offset."""
        return self._segments[partition].append([encode_line(*record) for record in records])

    def roll(self, partition: int = 0) -> Path:
        """Begin a new segment at the end offset and return the file of the old one, which may then be deleted."""
        old = self._segments[partition]
        old.close()
        self._segments[partition] = _Segment(self._topic / f"{partition}-{old.end}.jsonl")
        return old.path

    def close(self) -> None:
        """Release the files; safe to call twice."""
        for segment in self._segments.values():
            segment.close()

    def _newest_segment(self, partition: int) -> Path:
        bases = [int(path.stem.partition("-")[2]) for path in self._topic.glob(f"{partition}-*.jsonl")]
        return self._topic / f"{partition}-{max(bases, default=0)}.jsonl"


class _Segment:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self.end = int(path.stem.partition("-")[2]) + count_lines(path)
        _cut_half_line(path)

    def append(self, lines: list[bytes]) -> int:
        data = memoryview(b"".join(lines))
        while data:
            data = data[self._file.write(data) :]
        self.end += len(lines)
        return self.end

    def close(self) -> None:
        self._file.close()


def _cut_half_line(path: Path) -> None:
    with path.open("rb") as file:
        size = position = file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - 2**16)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                break
            position = start
        whole = start + newline + 1 if position else 0
    if whole < size:
        os.truncate(path, whole)
