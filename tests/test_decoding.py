"""From records to staging rows: every record has one, whatever became of it."""

import threading
from datetime import UTC, datetime

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from flows import Debezium, EventLog, Json, Silver
from flows.event_batch import QUARANTINE, EventBatch
from flows.stages.decoding import Decoding, decode_records
from storage.logs.records import Origin, Records

SCHEMA = {"id": "int64", "name": "string"}
GOOD = b'{"id": 1, "name": "a"}'


def silver(source: EventLog) -> Silver:
    return Silver("things", source=source, schema=SCHEMA, keys=["id"])


def records(*values: bytes | None, timestamps: list[int] | None = None) -> Records:
    count = len(values)
    offsets = np.arange(7, 7 + count)
    return Records(
        "things", 2, 7, 7 + count, offsets, np.array(timestamps or [0] * count), [b'{"id": 1}'] * count, values
    )


def decoded(source: EventLog, batch: Records) -> EventBatch:
    table = silver(source)
    return decode_records(batch, table.decoder(), table.schema)


def test_every_record_has_a_staging_row_that_says_what_became_of_it() -> None:
    created = b'{"before": null, "after": {"id": 1, "name": "a"}, "source": {}, "op": "c"}'
    batch = decoded(EventLog("things", format=Debezium()), records(created, None, b"{", created))
    assert batch.events.select("_topic", "_partition", "_offset", "_op", "_sequence", "name").rows() == [
        ("things", 2, 7, "upsert", 7, "a"),
        ("things", 2, 8, "dropped", 8, None),
        ("things", 2, 9, "quarantined", 9, None),
        ("things", 2, 10, "upsert", 10, "a"),
    ]
    assert batch.rejects.select("_offset", "key", "value", "stage").rows() == [(9, b'{"id": 1}', b"{", "decode")]
    later = batch.starting_at(9)
    assert (later.start, later.end, later.events["_offset"].to_list()) == (9, 11, [9, 10])
    assert batch.starting_at(10).rejects.equals(pl.DataFrame(schema=QUARANTINE))


def test_a_record_time_that_is_no_date_is_unknown() -> None:
    times = [-1, 0, 1_767_225_600_123, 2**62]
    batch = decoded(EventLog("things", format=Json()), records(*[GOOD] * 4, timestamps=times))
    assert batch.events["_changed_at"].to_list() == [
        None,
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 0, 0, 123000, tzinfo=UTC),
        None,
    ]


def test_decoders_are_lent_to_one_at_a_time_and_outlive_the_threads_that_use_them() -> None:
    table = silver(EventLog("things", format=Json()))
    step = Decoding(table.decoder, table.schema)
    lent = []

    def work() -> None:
        for _ in range(3):
            step(records(GOOD))
            step.rest([records(GOOD)])
        with step._decoder() as (decoder, _):
            lent.append(decoder)

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert lent[0] is lent[1]
    with step._decoder() as (one, _), step._decoder() as (other, _):
        assert one is lent[0]
        assert other is not one


def test_small_batches_decoded_together_are_what_each_is_alone() -> None:
    """Two partitions; one has a large batch between its small ones, and a record with headers that is refused."""
    table = silver(EventLog("things", format=Json()))
    step = Decoding(table.decoder, table.schema)

    def part(partition: int, start: int, *values: bytes | None) -> Records:
        offsets = np.arange(start, start + len(values))
        headers = [(("source", b"desk"),)] * len(values) if b"{" in values else None
        keys = [b'{"id": %d}' % offset for offset in offsets]
        return Records("things", partition, start, start + len(values), offsets, offsets, keys, values, headers)

    small = [part(0, 0, GOOD, None), part(1, 5, b"{", GOOD), part(0, 2, b'{"id": 2}'), part(1, 7), part(0, 8, b"[]")]
    large = part(0, 3, *[GOOD] * 5)
    told = [*small[:4], large, small[4]]
    together = step.rest([step(each) if each is large else each for each in told])
    alone = [decode_records(each, table.decoder(), table.schema) for each in told]
    assert [(batch.partition, batch.start, batch.end) for batch in together] == [
        (0, 0, 3),
        (1, 5, 7),
        (0, 3, 8),
        (0, 8, 9),
    ]
    for partition in (0, 1):
        for frame in ("events", "rejects"):
            mine = pl.concat([getattr(batch, frame) for batch in together if batch.partition == partition])
            theirs = pl.concat([getattr(batch, frame) for batch in alone if batch.partition == partition])
            assert_frame_equal(mine, theirs)
    assert together[1].rejects["headers"].to_list() == ['[["source", "desk"]]']


def test_records_that_come_again_do_not_mix_with_those_of_a_topic_of_the_same_partition() -> None:
    """Where the topic's batch ends, the number of the request begins."""
    table = silver(EventLog("things", format=Json()))
    offsets = np.arange(3)
    first = Records("things", 0, 0, 3, offsets, offsets, [None] * 3, [GOOD] * 3)
    origin = Origin(["things", "other"], np.array([4, 0], np.int32), np.array([99, 8]))
    number = np.full(2, 3)
    again = Records("retry/things", 0, 3, 4, number, offsets[:2], [None] * 2, [GOOD, b"{"], None, origin)
    new, old = Decoding(table.decoder, table.schema).rest([first, again])
    assert (new.range.partition_id, new.events.height, old.range.partition_id) == ("things/0", 3, "retry/things/0")
    where = ["_topic", "_partition", "_offset", "_retried", "_op", "_sequence"]
    assert old.events.select(where).rows() == [
        ("things", 4, 99, 3, "upsert", 99),
        ("other", 0, 8, 3, "quarantined", 8),
    ]
    assert old.rejects.select(where[:4]).rows() == [("other", 0, 8, 3)]
    assert old.starting_at(4).events.height == old.starting_at(4).rejects.height == 0
    assert old.starting_at(3) is old
