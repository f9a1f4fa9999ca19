"""How the values and keys of each format become columns: one reader for each encoding."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import polars as pl

from operators.decoding.absent import absent_names
from operators.decoding.avro_reader import AvroReader, Schemas
from operators.decoding.documents import Read, Reader
from operators.decoding.envelope import EnvelopeReader
from operators.decoding.formats import Avro, Debezium, Format, JsonSchema, Rows, keeps_absent
from operators.decoding.json_batch import Documents, tidy
from operators.decoding.json_values import Path
from operators.decoding.look import Field
from operators.decoding.wire_format import HEADER, bounds_of, of_no_header, schema_ids


class RecordReader(Protocol):
    """Reads fields from the raw bytes of records."""

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return them as columns, and the reason for each other one; never raises for what is in them."""
        ...


def unknown(_: int) -> None:
    """Know no schema: for declarations that are only checked."""


def row_reader(fields: Sequence[Field], fmt: Rows, schemas: Schemas) -> RecordReader:
    """Return the reader of the rows of a topic, where absent fields with a label are unavailable if they are kept."""
    keeps = keeps_absent(fmt)
    if isinstance(fmt, Avro):
        return AvroReader(fields, {}, fmt, schemas, keeps_absent=keeps)
    labels = [each.label for each in fields if each.label] if keeps else []
    return framed(JsonReader(Reader(fields), labels), fmt)


def envelope_reader(
    fields: Sequence[Field], sections: Mapping[str, Path], fmt: Debezium, schemas: Schemas
) -> RecordReader:
    """Return the reader of Debezium's envelopes, or of its keys."""
    if fmt.encoding == "avro":
        return AvroReader(fields, sections, fmt, schemas)
    return framed(JsonReader(EnvelopeReader(fields, sections)), fmt)


def framed(reader: RecordReader, fmt: Rows | Debezium) -> RecordReader:
    """Return `reader` for JSON texts with a header, if those of the format have one."""
    return FramedReader(reader) if _has_header(fmt) else reader


def unframed(documents: Sequence[bytes], fmt: Rows | Format) -> Sequence[bytes]:
    """Return JSON texts without the header that those of the format have."""
    return [document[HEADER:] for document in documents] if _has_header(fmt) else documents


def _has_header(fmt: Rows | Format) -> bool:
    return isinstance(fmt, JsonSchema) or (isinstance(fmt, Debezium) and fmt.encoding == "json_schema")


class JsonReader:
    """Reads JSON texts as they come; of rows without them, the fields named `labels` are listed as unavailable."""

    def __init__(self, reader: RecordReader, labels: Sequence[str] = ()) -> None:
        self._reader, self._labels = reader, labels

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns."""
        tidied = tidy(documents)
        frame, refused = self._reader.read(tidied.documents)
        if self._labels:
            frame = _with_absent(frame, tidied.documents, self._labels)
        if len(tidied.documents) == len(documents):
            return Read(frame, refused)
        places = tidied.places
        return _moved(Read(frame, refused), places, dict(tidied.rejects))


class FramedReader:
    """Reads what stands behind the header of Confluent's serializers."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns."""
        ids = schema_ids(b"".join([*documents, bytes(HEADER)]), bounds_of(documents))
        good = np.flatnonzero(ids >= 0).tolist()
        if len(good) == len(documents):
            return self._reader.read([document[HEADER:] for document in documents])
        bare = {row: of_no_header(documents[row]) for row in np.flatnonzero(ids < 0).tolist()}
        return _moved(self._reader.read([documents[row][HEADER:] for row in good]), good, bare)


def _moved(read: Read, places: Sequence[int], others: Mapping[int, str]) -> Read:
    """Return what was read of documents that stand at these places, among others that were refused."""
    rows = pl.Series("_row", places, pl.UInt32).gather(read.frame["_row"])
    refused = {places[row]: reason for row, reason in read.refused.items()} | dict(others)
    return Read(read.frame.with_columns(rows), dict(sorted(refused.items())))


def _with_absent(frame: pl.DataFrame, documents: Documents, labels: Sequence[str]) -> pl.DataFrame:
    """Return `frame` with the labelled fields that its documents do not have listed in `_unavailable`."""
    found = absent_names(frame, documents, labels)
    return frame if found is None else frame.with_columns(found)
