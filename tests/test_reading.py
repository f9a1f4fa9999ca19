"""What a source gives the engine: a backlog decoded ahead and in order, within its limits; few records as they are."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
from polars.exceptions import PanicException

from flows import EventLog, Json, Silver
from flows.event_batch import EventBatch
from flows.reading.in_flight import Limits, Progress
from flows.reading.record_source import Reading, RecordSource
from flows.stages.decoding import Decoding
from flows.stopping import Stopping
from storage.delta.positions import Range
from storage.logs.event_log import EventLogTopic
from storage.logs.event_log_writer import EventLogWriter, NewRecord
from storage.logs.records import Records

TOPIC = "things"
SILVER = Silver(TOPIC, source=EventLog(TOPIC, format=Json()), schema={"id": "int64"}, keys=["id"])
BATCH = 4_000  # records; fewer are not decoded ahead
UNLIMITED = Limits(2**62, 2**62)


class Feed:
    """An event log of `counts` records a partition, read as the engine would."""

    def __init__(
        self,
        directory: Path,
        *counts: int,
        decode: Callable[[Records], EventBatch] | None = None,
        limits: Limits = UNLIMITED,
    ) -> None:
        with EventLogWriter(directory, TOPIC, len(counts)) as writer:
            for partition, count in enumerate(counts):
                writer.append([NewRecord(None, b'{"id": %d}' % number) for number in range(count)], partition)
        topic = EventLogTopic(directory, TOPIC)
        self.progress, self.stopping = Progress(dict), Stopping()
        reading = Reading(topic, topic.partitions(), lambda _: 0, tail=False, batch_records=BATCH, limits=limits)
        decode = decode or Decoding(SILVER.decoder, SILVER.schema)
        source = RecordSource([reading], decode, self.progress, self.stopping)
        self.partitions = [source.build_part("read", name, None) for name in source.list_parts()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for partition in self.partitions:
            partition.close()

    def ask(self, partition: int = 0, seconds: float = 0.0) -> list[EventBatch | Records]:
        """Return what a partition gives, for so long, or to its end."""
        return [*self.each(partition, seconds)]

    def each(self, partition: int, seconds: float) -> Iterator[EventBatch | Records]:
        """Yield what a partition gives, for so long, or to its end."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                yield from self.partitions[partition].next_batch()
            except StopIteration:
                return
            time.sleep(0.001)


def ids(batches: Sequence[EventBatch | Records]) -> list[int]:
    """Return the ids of all events and records, after a look at how they cover the offsets."""
    assert [batch.start for batch in batches] == [0, *(batch.end for batch in batches[:-1])]
    return [
        number
        for batch in batches
        for number in (batch.events["id"].to_list() if isinstance(batch, EventBatch) else range(batch.start, batch.end))
    ]


def failing_at(offset: int, error: BaseException) -> Callable[[Records], EventBatch]:
    """Return what decodes batches, but for the one that begins there."""
    decode = Decoding(SILVER.decoder, SILVER.schema)

    def work(records: Records) -> EventBatch:
        if records.start == offset:
            raise error
        return decode(records)

    return work


def slowly(decoded: list[int]) -> Callable[[Records], EventBatch]:
    """Return what takes its time to decode a batch, and notes where each began."""
    decode = Decoding(SILVER.decoder, SILVER.schema)

    def work(records: Records) -> EventBatch:
        time.sleep(0.3)
        decoded.append(records.start)
        return decode(records)

    return work


def test_a_backlog_comes_decoded_and_in_order_and_what_is_few_as_it_is(tmp_path: Path) -> None:
    with Feed(tmp_path, 5 * BATCH + 10, 3) as feed:
        many, few = feed.ask(0, 60), feed.ask(1, 60)
    assert ids(many) == [*range(5 * BATCH + 10)]
    assert [type(batch) for batch in many] == [Records, *[EventBatch] * 6]
    assert ids(few) == [0, 1, 2]
    assert [type(batch) for batch in few] == [Records, Records]


def test_no_more_is_read_ahead_than_may_be_in_flight(tmp_path: Path) -> None:
    with Feed(tmp_path, 6 * BATCH, limits=Limits(2 * BATCH, 2**62)) as feed:
        first = feed.ask(seconds=1)
        assert len(ids(first)) == 2 * BATCH
        feed.progress.settle(Range(f"{TOPIC}/0", 0, BATCH))
        second = feed.ask(seconds=1)
    assert len(ids([*first, *second])) == 3 * BATCH


@pytest.mark.parametrize("error", [ValueError("the third batch"), PanicException("the third batch")])
def test_what_cannot_be_decoded_stops_the_run_after_all_before_it(tmp_path: Path, error: BaseException) -> None:
    given: list[EventBatch | Records] = []
    decode = failing_at(2 * BATCH, error)
    with Feed(tmp_path, 4 * BATCH, decode=decode) as feed, pytest.raises(type(error), match="third"):
        given.extend(feed.each(0, 60))
    assert ids(given) == [*range(2 * BATCH)]


def test_a_stop_gives_what_was_read(tmp_path: Path) -> None:
    decoded: list[int] = []
    with Feed(tmp_path, 10 * BATCH, decode=slowly(decoded)) as feed:
        feed.ask(seconds=0.1)
        feed.stopping.request()
        rest = feed.ask(seconds=60)
    assert [batch.start for batch in rest] == decoded
    assert len(decoded) in {1, 2}


def test_closing_waits_for_the_batch_under_way_and_reads_no_further(tmp_path: Path) -> None:
    decoded: list[int] = []
    with Feed(tmp_path, 10 * BATCH, decode=slowly(decoded)) as feed:
        feed.ask(seconds=0.1)
    assert len(decoded) == 1
    time.sleep(0.5)
    assert len(decoded) == 1
