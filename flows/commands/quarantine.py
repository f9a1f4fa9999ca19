"""What is in the quarantine of a Silver table, in which state, and sending it in again.

A record in quarantine is *quarantined* when its last attempt failed; *waiting* when it was sent in again and the
pipeline has not read it yet; *retried* when it went in. A record that fails again has one more row, with the number of
the request. Nothing here writes a table: a request is put beside them, and the pipeline reads it, now or when it runs.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import polars as pl

from flows.commands.table_facts import table_version
from flows.event_batch import POSITION, QUARANTINE
from flows.lake import Lake
from flows.pipeline import Pipeline
from flows.stages.settling import NEW_FIELDS
from operators.schema import did_you_mean
from storage.delta.owned_table import read_positions
from storage.logs.retry_requests import REQUEST, RetryRequests
from storage.staging import retry_partition, retry_topic

_PLACE = POSITION.names()
_ABOUT = [*_PLACE, "_changed_at", "_retried", "stage", "reason"]
_RAW = ("decode", "expectation", NEW_FIELDS)  # the stages where the raw record is at hand
_POSITION = re.compile(r"([^/]+)/(-?\d+)/(\d+)")  # -1 is the partition of snapshots
_REQUEST_RECORDS = 10_000
_REQUEST_BYTES = 32 * 2**20


class QuarantineError(Exception):
    """What was asked for is not there; the message says what is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands in its topic, written as `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a place as it is written. Raises QuarantineError.

        >>> Place.parse("shop.orders/3/17")
        Place(topic='shop.orders', partition=3, offset=17)
        """
        found = _POSITION.fullmatch(text)
        if not found:
            raise QuarantineError(f"position {text!r}: expected topic/partition/offset, as orders/0/17")
        return cls(found[1], int(found[2]), int(found[3]))


class Quarantine:
    """The quarantine of one Silver table. Raises QuarantineError when the pipeline has no such table."""

    def __init__(self, pipeline: Pipeline, lake: Lake, name: str) -> None:
        names = [silver.name for silver in pipeline.silvers]
        if name not in names:
            raise QuarantineError(
                f"no Silver table {name!r} in pipeline {pipeline.name!r}; it has: {', '.join(names)}."
                f"{did_you_mean(name, names)}"
            )
        self.name, self._pipeline = name, pipeline.name
        self._uri, self._staging = lake.quarantine(name), lake.staging(name)
        self._requests = RetryRequests(lake.retries(name), retry_topic(name))

    def entries(self) -> pl.DataFrame:
        """Return one row a record, the newest first: `_ABOUT` of its last attempt, and `state`."""
        last = self._scan(self._uri, QUARANTINE).select(_ABOUT).sort("_retried", nulls_last=False)
        last = last.unique(_PLACE, keep="last", maintain_order=True)
        tried = self._scan(self._staging, pl.Schema({**POSITION, "_retried": pl.Int64()}))
        tried = tried.filter(pl.col("_retried").is_not_null()).group_by(_PLACE).agg(tried=pl.col("_retried").max())
        waiting = self._waiting().lazy().with_columns(waits=True)
        went_in = pl.col("tried") > pl.col("_retried").fill_null(-1)
        state = pl.when("waits").then(pl.lit("waiting")).when(went_in).then(pl.lit("retried"))
        found = last.join(tried, on=_PLACE, how="left").join(waiting, on=_PLACE, how="left")
        found = found.select(*_ABOUT, state=state.otherwise(pl.lit("quarantined")))
        return found.sort("_changed_at", *_PLACE, descending=True, nulls_last=True).collect()

    def attempts(self, place: Place) -> pl.DataFrame:
        """Return all that quarantine has of a record, the oldest attempt first. Raises QuarantineError."""
        rows = self._scan(self._uri, QUARANTINE)
        found = rows.filter(_topic=place.topic, _partition=place.partition, _offset=place.offset)
        attempts = found.sort("_retried", nulls_last=False).collect()
        if not attempts.height:
            raise self._unknown(place)
        return attempts

    def wanted(self, places: Sequence[Place]) -> pl.DataFrame:
        """Return the entries of these places, in whatever state. Raises QuarantineError for one that has none."""
        asked = pl.DataFrame([(place.topic, place.partition, place.offset) for place in places], POSITION, orient="row")
        entries = self.entries()
        found = entries.join(asked, on=_PLACE, how="semi")
        for place in places:
            if found.filter(_topic=place.topic, _partition=place.partition, _offset=place.offset).is_empty():
                raise self._unknown(place)
        if not (others := without_raw(found)).is_empty():
            raise QuarantineError(
                f"{place_of(others)} was quarantined at stage {others['stage'][0]!r}, where its raw record is not "
                f"known; a retry is for records of stage {' or '.join(map(repr, _RAW))}"
            )
        return found

    def retry(self, entries: pl.DataFrame) -> list[int]:
        """Ask the pipeline to read the records of these entries again; return the numbers of the requests.

        A record that is asked for twice comes twice, which changes no row. Raises StorageError, after which some of the
        records may have been asked for.
        """
        partition = retry_partition(self.name)
        at_least = read_positions(self._staging, self._pipeline, [partition]).get(partition, 0)
        return [self._requests.put(records, at_least) for records in self._records(entries)]

    def _records(self, entries: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the raw records of entries, in order of position, so many that a request stays small."""
        raw = self._scan(self._uri, QUARANTINE).filter(pl.col("stage").is_in(_RAW))
        for part in entries.select(_PLACE).sort(_PLACE).iter_slices(_REQUEST_RECORDS):
            records = raw.join(part.lazy(), on=_PLACE, how="semi").select(REQUEST.names()).collect()
            records = records.unique(_PLACE).sort(_PLACE)
            size = sum((records[name].bin.size().fill_null(0) for name in ("key", "value")), pl.Series([0]))
            for _, few in records.group_by(size.cum_sum() // _REQUEST_BYTES, maintain_order=True):
                yield few.select(REQUEST.names())

    def _waiting(self) -> pl.DataFrame:
        partition = retry_partition(self.name)
        position = read_positions(self._staging, self._pipeline, [partition]).get(partition, 0)
        asked = [self._requests.get(number) for number in self._requests.numbers() if number >= position]
        nothing = pl.DataFrame(schema=POSITION)
        return pl.concat([nothing, *(each.select(_PLACE) for each in asked if each is not None)]).unique()

    def _unknown(self, place: Place) -> QuarantineError:
        entries = self.entries()
        some = ", ".join(place_of(entries[row : row + 1]) for row in range(min(3, entries.height)))
        there = f"it has {entries.height:,}, the newest: {some}" if some else "it is empty"
        return QuarantineError(f"{place} is not in the quarantine of {self.name!r}; {there}")

    @staticmethod
    def _scan(uri: str, schema: pl.Schema) -> pl.LazyFrame:
        """Return these columns of a table, NULL where it has none yet; no rows where there is no table."""
        if table_version(uri) < 0:
            return pl.LazyFrame(schema=schema)
        found = pl.scan_delta(uri)
        missing = [name for name in schema if name not in found.collect_schema()]
        return found.with_columns(pl.lit(None, schema[name]).alias(name) for name in missing).select(schema.names())


def without_raw(entries: pl.DataFrame) -> pl.DataFrame:
    """Return the entries whose raw record is not known, and which so cannot be sent in again."""
    return entries.filter(~pl.col("stage").is_in(_RAW))


def place_of(entries: pl.DataFrame) -> str:
    """Return where the record of the first of some entries stands."""
    return str(Place(*entries.select(_PLACE).row(0)))
