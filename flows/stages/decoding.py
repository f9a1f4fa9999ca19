"""From records to change events: a batch of records of one partition becomes a batch of events, row for row."""

import base64
import json
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import polars as pl

from flows.event_batch import NOTHING_UNMET, ORIGIN, QUARANTINE, UNMET, EventBatch, position_as, staging_schema
from operators.decoding.decode import RecordDecoder
from operators.eager import constant
from operators.schema import Schema
from storage.logs.records import Headers, Records

_REJECTED = pl.Schema({"_row": pl.Int64(), "stage": pl.String(), "reason": pl.String()})
_YEAR_10000 = 253_402_300_800_000  # milliseconds since the epoch


class Decoding:
    """The step that decodes records of one table; shared by the workers of a process, each with a decoder for a while.

    What a decoder has learned of its records is worth keeping, and the engine's threads keep nothing of their own from
    one call to the next. So decoders wait here for whoever comes.
    A batch costs some milliseconds however few records it has. So small ones are best left as they are until they are
    committed, and then decoded together.
    """

    def __init__(self, build: Callable[[], RecordDecoder], schema: Schema) -> None:
        self.become(build, schema)

    def become(self, build: Callable[[], RecordDecoder], schema: Schema) -> None:
        """Decode from now on with decoders that `build` makes, for tables of `schema`."""
        self._how: tuple[Callable[[], RecordDecoder], Schema, deque[RecordDecoder]] = build, schema, deque()

    def __call__(self, records: Records) -> EventBatch:
        """Return the change events of `records`."""
        with self._decoder() as (decoder, schema):
            return decode_records(records, decoder, schema)

    def rest(self, batches: Sequence[EventBatch | Records]) -> list[EventBatch]:
        """Return the change events of all batches; those of one partition stay in their order."""
        runs: list[list[Records] | EventBatch] = []
        open_runs: dict[tuple[str, int], list[Records]] = {}
        for batch in batches:
            name = batch.topic, batch.partition
            if isinstance(batch, EventBatch):
                runs.append(batch)
                open_runs.pop(name, None)
            elif (run := open_runs.get(name)) and run[-1].end == batch.start:
                run.append(batch)
            else:
                run = open_runs[name] = [batch]
                runs.append(run)
        waiting = [Records.joined(run) for run in runs if isinstance(run, list)]
        with self._decoder() as (decoder, schema):
            decoded = iter(decode_together(waiting, decoder, schema) if waiting else ())
        return [run if isinstance(run, EventBatch) else next(decoded) for run in runs]

    @contextmanager
    def _decoder(self) -> Iterator[tuple[RecordDecoder, Schema]]:
        """Lend a decoder, one that waits or a new one, and the columns that it reads."""
        build, schema, waiting = self._how
        try:
            decoder = waiting.pop()
        except IndexError:
            decoder = build()
        try:
            yield decoder, schema
        finally:
            waiting.append(decoder)


def decode_records(records: Records, decoder: RecordDecoder, schema: Schema) -> EventBatch:
    """Turn records into change events; a record that cannot be one becomes a reject and costs no other."""
    (batch,) = decode_together([records], decoder, schema)
    return batch


def decode_together(batches: Sequence[Records], decoder: RecordDecoder, schema: Schema) -> list[EventBatch]:
    """Turn batches of records into as many batches of change events, at the price of one."""
    keys = [key for batch in batches for key in batch.keys] if len(batches) > 1 else batches[0].keys
    values = [value for batch in batches for value in batch.values] if len(batches) > 1 else batches[0].values
    undecided: Sequence[int] = ()
    if not keys:
        events = pl.DataFrame(schema=staging_schema(schema, decoder.sequence_type))
        rejected = pl.DataFrame(schema=_REJECTED)
        unmet = NOTHING_UNMET
    else:
        decoded = decoder.decode(keys, values)
        unmet = decoded.unmet
        rejected = (
            decoded.rejects.cast({"_row": pl.Int64}) if decoded.rejects.height else pl.DataFrame(schema=_REJECTED)
        )
        origin = pl.concat([_origin(batch) for batch in batches])
        events = _events(origin, decoded.events, rejected["_row"], schema)
        undecided = decoded.undecided
    ends = np.cumsum([0, *map(len, batches)]).tolist()
    return [
        EventBatch(
            batch.topic,
            batch.partition,
            batch.start,
            batch.end,
            events[start:end],
            _rejects(batch, rejected, start, end),
            _unmet(batch, unmet, start, end),
            _undecided(batch, _between(undecided, start, end)) if undecided else None,
        )
        for batch, start, end in zip(batches, ends, ends[1:], strict=False)
    ]


def _origin(records: Records) -> pl.DataFrame:
    """Return one row a record: where it comes from and when it was written, NULL where that is no calendar date."""
    known = (records.timestamps >= 0) & (records.timestamps < _YEAR_10000)
    written = pl.Series("_changed_at", np.where(known, records.timestamps, 0) * 1000).cast(pl.Datetime("us", "UTC"))
    written = written if known.all() else written.set(pl.Series(~known), None)
    if records.origin:
        first = records.origin
        columns = [pl.Series(first.topics, dtype=pl.String), first.partitions, first.offsets, written, records.offsets]
        return pl.DataFrame(dict(zip(ORIGIN, columns, strict=True)), ORIGIN)
    return pl.DataFrame(
        {
            "_topic": constant("_topic", records.topic, pl.String(), len(records)),
            "_partition": constant("_partition", records.partition, pl.Int32(), len(records)),
            "_offset": records.offsets,
            "_changed_at": written,
            "_retried": constant("_retried", None, pl.Int64(), len(records)),
        }
    )


def _events(origin: pl.DataFrame, decoded: pl.DataFrame, rejected: pl.Series, schema: Schema) -> pl.DataFrame:
    if decoded.height == origin.height:
        events = pl.DataFrame([*origin.get_columns(), *decoded.get_columns()[1:]])
    else:
        rows = origin.with_row_index("_row").with_columns(
            pl.when(pl.col("_row").is_in(rejected.to_list()))
            .then(pl.lit("quarantined"))
            .otherwise(pl.lit("dropped"))
            .alias("_fate")
        )
        events = rows.join(decoded, on="_row", how="left", maintain_order="left").with_columns(
            pl.col("_op").fill_null(pl.col("_fate"))
        )
    wanted = staging_schema(schema, events["_sequence"].dtype)
    if events["_sequence"].null_count():  # without a declared sequence, the position is the sequence
        events = events.with_columns(pl.coalesce("_sequence", position_as(wanted["_sequence"])))
    found = events[wanted.names()]
    return found if found.schema == wanted else found.cast(wanted)


def _rejects(records: Records, rejected: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
    """Return what cannot be rows of one batch, whose records are those from `start` to `end` of all."""
    mine = rejected.filter(pl.col("_row").is_between(start, end, closed="left")) if rejected.height else rejected
    if not mine.height:
        return pl.DataFrame(schema=QUARANTINE)
    return _raw(records, (mine["_row"] - start).to_list()).hstack(mine.select("stage", "reason"))


def _raw(records: Records, rows: Sequence[int]) -> pl.DataFrame:
    """Return some records as they were read."""
    raw = pl.DataFrame(
        {
            "key": pl.Series([records.keys[row] for row in rows], dtype=pl.Binary),
            "value": pl.Series([records.values[row] for row in rows], dtype=pl.Binary),
            "headers": pl.Series([_headers_text(records.headers, row) for row in rows], dtype=pl.String),
        }
    )
    return _origin(records)[np.array(rows, np.int64)].hstack(raw)


def _undecided(records: Records, rows: Sequence[int]) -> pl.DataFrame:
    return pl.DataFrame([pl.Series("_row", rows, pl.Int64), *_raw(records, rows).get_columns()])


def _between(rows: Sequence[int], start: int, end: int) -> list[int]:
    """Return those of ascending `rows` from `start` to `end`, counted from `start`."""
    return [row - start for row in rows[bisect_left(rows, start) : bisect_left(rows, end)]]


def _unmet(records: Records, unmet: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
    """Return what one batch did not meet, whose records are those from `start` to `end` of all."""
    mine = unmet.filter(pl.col("_row").is_between(start, end, closed="left")) if unmet.height else unmet
    if not mine.height:
        return NOTHING_UNMET
    found = _origin(records)[(mine["_row"] - start).to_numpy()].hstack(mine[["expectation", "stops"]])
    where = pl.format("{}/{}/{}: {}", "_topic", "_partition", "_offset", "stops")
    return found.with_columns(stops=pl.when(pl.col("stops").is_not_null()).then(where)).select(UNMET.names())


def _headers_text(headers: Sequence[Headers | None] | None, row: int) -> str | None:
    found = headers[row] if headers else None
    if not found:
        return None
    return json.dumps([[name, _header_json(value)] for name, value in found])


def _header_json(value: bytes | None) -> str | dict[str, str] | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value or b"").decode()}
