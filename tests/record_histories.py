"""Records to write to a log, and what was read from it as plain rows."""

import time
from collections.abc import Iterable
from contextlib import closing

from storage.logs.event_log_writer import NewRecord
from storage.logs.records import Headers, Reader, Records, Topic

MORNING = 1_700_000_000_000
PATIENCE = 10.0  # seconds that reading to an end may take

Row = tuple[int, int, bytes | None, bytes | None, Headers | None]


def numbered(numbers: Iterable[int]) -> list[NewRecord]:
    """One record a second, each number its own key and value."""
    return [NewRecord(b"%d" % number, b"value %d" % number, MORNING + 1000 * number) for number in numbers]


def rows(*batches: Records) -> list[Row]:
    return [
        (int(offset), int(timestamp), key, value, headers)
        for batch in batches
        for offset, timestamp, key, value, headers in zip(
            batch.offsets,
            batch.timestamps,
            batch.keys,
            batch.values,
            batch.headers or [None] * len(batch),
            strict=True,
        )
    ]


def values(*batches: Records) -> list[bytes | None]:
    return [value for batch in batches for value in batch.values]


def read_to(reader: Reader, end: int, max_records: int = 10_000) -> list[Records]:
    """Read batches until one ends at `end`."""
    batches: list[Records] = []
    deadline = time.monotonic() + PATIENCE
    while not batches or batches[-1].end < end:
        assert time.monotonic() < deadline, f"stuck at {batches[-1].end if batches else 'the start'}, wanted {end}"
        batches.append(reader.read(max_records, timeout=0.2))
    return batches


def read_all(topic: Topic, position: int | None = None) -> list[Records]:
    """Read from `position`, else from the first offset, to the end."""
    first, end = topic.bounds(0)
    with closing(topic.reader(0, first if position is None else position)) as reader:
        return read_to(reader, end)
