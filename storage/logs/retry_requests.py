"""Requests to read records again: a log of its own beside a quarantine table, written by hand and read as a partition.

    <uri>/<number>.parquet        numbers are 0, 1, 2, …

1. *Put.* A request is put under the next number if nobody has that; of several at once, each gets a number of its own.
2. *Read.* A request is one offset, however many records it has, so it is never cut in two. A reader looks for the next
   number about once a second.
3. Requests are never removed: they say what was sent in when. They are small, or hold what is in quarantine anyway.
"""

import base64
import io
import json
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import obstore
import polars as pl
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore
from polars.exceptions import PolarsError

from storage.errors import OffsetLostError, SourceError, TransientError
from storage.logs.records import Headers, Origin, Records
from storage.object_store import is_local, open_store, reason

REQUEST = pl.Schema(
    {
        "_topic": pl.String(),
        "_partition": pl.Int32(),
        "_offset": pl.Int64(),
        "_changed_at": pl.Datetime("us", "UTC"),
        "key": pl.Binary(),
        "value": pl.Binary(),
        "headers": pl.String(),
    }
)
"""Columns of a request, as in quarantine: records with the position and the time that they had the first time."""

_log = logging.getLogger("goldwax")

_NAME = re.compile(r"(\d{20})\.parquet")
_LOOK_EVERY = 1.0  # seconds
_NO_TIMESTAMP = -1


class RetryRequests:
    """The requests at `uri`, as a record log called `name` of one partition; implements `records.RecordLog`.

    Whoever reads gets the records of `topic` alone, or of all where it is None: requests outlive a table that is moved
    away and made anew from another topic.
    """

    def __init__(self, uri: str, name: str, topic: str | None = None) -> None:
        self.uri, self._name, self._topic = uri, name, topic

    @property
    def name(self) -> str:
        """The name that positions are kept under."""
        return self._name

    def partitions(self) -> Sequence[int]:
        """Return the one partition."""
        return [0]

    def bounds(self, partition: int) -> tuple[int, int]:  # noqa: ARG002 - there is one
        """Return 0 and the number of the next request. Raises SourceError."""
        return 0, max(self.numbers(), default=-1) + 1

    def reader(self, partition: int, position: int) -> "RetryReader":  # noqa: ARG002 - there is one
        """Open a reader that starts at a request, which may still be to come. Raises OffsetLostError, SourceError."""
        later = [number for number in self.numbers() if number >= position]
        if later and position not in later:
            raise OffsetLostError(
                f"{self.uri}: request {position} is the next to be read and is gone, while {min(later)} is there. "
                f"Restore it, or put a copy of {min(later)} in its place: what comes twice changes nothing"
            )
        return RetryReader(self, position)

    def numbers(self) -> list[int]:
        """Return the numbers of all requests, ascending. Raises SourceError."""
        if not self._is_made():
            return []
        try:
            found = [_NAME.fullmatch(each["path"]) for part in obstore.list(self._store) for each in part]
        except (BaseError, OSError) as error:
            raise SourceError(f"{self.uri}: requests could not be listed: {reason(error)}") from error
        return sorted(int(each[1]) for each in found if each)

    def put(self, records: pl.DataFrame, at_least: int) -> int:
        """Put `records`, with the columns of `REQUEST`, as a new request; return its number.

        `at_least` is the position of whoever reads: a number below would never be read. Raises TransientError, after
        which the request may be there all the same.
        """
        if is_local(self.uri):
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        records.select(REQUEST.names()).cast(REQUEST).write_parquet(content)
        number = max(at_least, self.bounds(0)[1])
        while True:
            try:
                obstore.put(self._store, _path(number), content.getvalue(), mode="create")
            except AlreadyExistsError:
                number += 1
            except (BaseError, OSError) as error:
                raise TransientError(f"{self.uri}: request {number} was not written: {reason(error)}") from error
            else:
                return number

    def get(self, number: int) -> pl.DataFrame | None:
        """Return the records of a request, None when it is not there yet. Raises SourceError."""
        if not self._is_made():
            return None
        with suppress(FileNotFoundError):
            try:
                content = bytes(obstore.get(self._store, _path(number)).bytes())
                return pl.read_parquet(io.BytesIO(content)).select(REQUEST.names()).cast(REQUEST)
            except FileNotFoundError:
                raise
            except (BaseError, OSError, PolarsError) as error:
                raise SourceError(f"{self.uri}/{_path(number)}: cannot be read: {reason(error)}. Restore it") from error
        return None

    def wanted(self, number: int) -> pl.DataFrame | None:
        """Return the records of a request that are to be read, None when it is not there yet. Raises SourceError."""
        found = self.get(number)
        if found is None or self._topic is None or (others := found.filter(pl.col("_topic") != self._topic)).is_empty():
            return found
        _log.warning(
            "%s: request %d: %d records of %s are passed over: the table is made from %s now",
            self.uri,
            number,
            others.height,
            ", ".join(others["_topic"].unique().sort()),
            self._topic,
        )
        return found.filter(_topic=self._topic)

    @cached_property
    def _store(self) -> ObjectStore:
        return open_store(self.uri)

    def _is_made(self) -> bool:
        return not is_local(self.uri) or Path(self.uri).is_dir()


class RetryReader:
    """Reads requests; implements `storage.logs.records.Reader`. Made by `RetryRequests.reader`."""

    def __init__(self, requests: RetryRequests, position: int) -> None:
        self._requests = requests
        self._position = position
        self._look_at = 0.0

    def read(self, max_records: int, timeout: float) -> Records:  # noqa: ARG002 - the protocol's
        """Return what is to be read of the next request, or nothing, at once. Raises SourceError."""
        name, start = self._requests.name, self._position
        if (now := time.monotonic()) < self._look_at:
            return Records.empty(name, 0, start)
        found = self._requests.wanted(start)
        if found is None:
            self._look_at = now + _LOOK_EVERY
            return Records.empty(name, 0, start)
        self._position += 1
        return as_records(found, name, start)

    def close(self) -> None:
        """Hold nothing open."""


def as_records(request: pl.DataFrame, name: str, number: int) -> Records:
    """Return the records of a request as they are read again."""
    timestamps = request["_changed_at"].dt.epoch("ms").fill_null(_NO_TIMESTAMP)
    headers = [_headers(text) for text in request["headers"]]
    return Records(
        name,
        0,
        number,
        number + 1,
        np.full(request.height, number, np.int64),
        timestamps.to_numpy(),
        request["key"].to_list(),
        request["value"].to_list(),
        headers if any(headers) else None,
        Origin(request["_topic"].to_list(), request["_partition"].to_numpy(), request["_offset"].to_numpy()),
    )


def _headers(text: str | None) -> Headers | None:
    return None if text is None else tuple((name, _header(value)) for name, value in json.loads(text))


def _header(value: str | dict[str, str] | None) -> bytes | None:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return None if value is None else value.encode()


def _path(number: int) -> str:
    return f"{number:020}.parquet"
