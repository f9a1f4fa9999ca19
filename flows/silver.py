"""Declaring a Silver table."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Annotated

import polars as pl

from flows.event_batch import staging_schema
from flows.history import History, checked_history, checked_retention
from flows.names import checked_name, checked_silver_name
from flows.new_fields import NewFields, check_new_fields
from flows.settings import Settings
from flows.snapshots import Snapshots, check_snapshots
from flows.sources import EventLog, Kafka
from flows.strategy import Strategy
from flows.ties import Ties
from operators.declared import check_arguments
from operators.decoding.avro_reader import Schemas
from operators.decoding.decode import Decoder
from operators.decoding.expect import Expect
from operators.decoding.expectations import Expectations
from operators.decoding.formats import Custom, Format, Json
from operators.decoding.learning import Learner
from operators.decoding.readers import unknown
from operators.decoding.watching import WatchingDecoder
from operators.events import SequenceBy, names_of
from operators.schema import DeclarationError, Schema, parse_schema
from operators.sequences import stored_type
from operators.silver.scd2 import history_columns
from operators.silver.technical import technical
from storage.logs.records import Topic


@dataclass(frozen=True, eq=False)
class Silver:
    """A Silver table: the current row of each business key, merged from one topic of change events or from snapshots.

    `schema` maps column names to types (`operators.schema`). `new_fields` says what becomes of fields that are not
    declared: "ignore" them; "add" them to the table, as columns that it learns (`learning`), which snapshots
    do not carry; "quarantine" the records that have a value in one. `keys` are the columns of the business key.
    `sequence_by` says what orders the events of a key: a declared integer, date or timestamp column, a field of
    Debezium's source block ("source.lsn"), several of them, the most significant first, or None for the position in the
    topic.
    `history` "scd1" keeps the current row of a key, "scd2" a row for every state it was in, valid from the sequence in
    `valid_from` to that in `valid_to`; the last one is open (`is_current`) unless the key is deleted. `track` names the
    columns that begin a new row, all but the sequence where it is None; the others are updated in place. `ties` says
    what becomes of two events of a key that have one sequence and different rows (`flows.ties`). `expectations` say
    what a row must meet, and what to do otherwise. They are for records to come: changing them makes no other table,
    and judges no record again.
    `tombstone_retention` is how long after a delete, by the times of the log, an older event that comes late still
    finds it; None is for ever. What is past it is forgotten at the next start. A history keeps its deletes.
    `initial` are full snapshots beside a stream of change events, such as the state it begins with: their rows are
    events like any other, so it does not matter which comes first. Their sequence is that of `sequence_by` where that
    is a declared column, else their version, which then says up to which sequence of the stream a snapshot knows.
    `strategy` "rewrite" is for tables whose readers know no deletion vectors: every merge writes the data files that it
    touches anew. A table that once had vectors keeps asking its readers to know them.
    `ignore_null_updates` names columns in which a NULL changes nothing: the key keeps the value that it has, as if the
    event did not carry the column.

    Raises DeclarationError.
    """

    name: str
    source: Kafka | EventLog | Snapshots
    columns: Mapping[str, str]
    keys: Sequence[str]
    sequence_by: SequenceBy = None
    history: History = "scd1"
    track: Sequence[str] | None = None
    ties: Ties = "last_position"
    tombstone_retention: timedelta | None = None
    strategy: Strategy = "deletion_vectors"
    ignore_null_updates: Sequence[str] = ()
    expectations: Sequence[Expect] = ()
    initial: Snapshots | None = None
    new_fields: NewFields = "ignore"
    schema: Schema = field(init=False, repr=False)

    def __init__(  # noqa: PLR0913 - a declaration has as many parts
        self,
        name: str,
        *,
        source: Kafka | EventLog | Snapshots,
        schema: Annotated[Mapping[str, str], "{'id': 'int64'}"],
        keys: Annotated[Sequence[str], "['id']"],
        sequence_by: str | Sequence[str] | None = None,
        history: History = "scd1",
        track: Sequence[str] | None = None,
        ties: Ties = "last_position",
        tombstone_retention: timedelta | None = None,
        strategy: Strategy = "deletion_vectors",
        ignore_null_updates: Sequence[str] = (),
        expectations: Sequence[Expect] = (),
        initial: Snapshots | None = None,
        new_fields: NewFields = "ignore",
    ) -> None:
        check_arguments(f"Silver {name!r}", Silver.__init__, locals())
        for attribute, value in (
            ("name", checked_silver_name(name)),
            ("source", source),
            ("columns", dict(schema)),
            ("keys", names_of(keys)),
            ("sequence_by", sequence_by if sequence_by is None or isinstance(sequence_by, str) else tuple(sequence_by)),
            ("history", history),
            ("track", None if track is None else names_of(track)),
            ("ties", ties),
            ("tombstone_retention", tombstone_retention),
            ("strategy", strategy),
            ("ignore_null_updates", names_of(ignore_null_updates)),
            ("expectations", tuple(expectations)),
            ("initial", initial),
            ("new_fields", new_fields),
        ):
            object.__setattr__(self, attribute, value)
        try:
            object.__setattr__(self, "schema", parse_schema(schema))
            check_snapshots(source, initial, self.sequence_by, self.schema)
            check_new_fields(new_fields, self.stream.format if self.stream else None)
            self.decoder()
            for each in self.expectations:
                checked_name("Expectation", each.name)
            checked_history(history, self.track, self.schema)
            checked_retention(history, tombstone_retention)
        except DeclarationError as error:
            raise DeclarationError(f"Silver {name!r}: {error}") from None

    @property
    def row_schema(self) -> pl.Schema:
        """Columns of the table: the declared ones, those of a history, then the technical ones."""
        history = history_columns(self.sequence_type) if self.history == "scd2" else {}
        return pl.Schema({**self.schema, **history, **technical(self.sequence_type)})

    @property
    def sequence_type(self) -> pl.DataType:
        """Type of the sequence: of its column, a struct of several, or of the versions of snapshots; else int64."""
        if isinstance(self.source, Snapshots):
            return self.source.version_type
        if isinstance(self.sequence_by, tuple):
            parts = {name.removeprefix("source."): self.schema.get(name, pl.Int64()) for name in self.sequence_by}
            return pl.Struct(parts)
        return self.schema.get(self.sequence_by or "", pl.Int64())

    @property
    def staged_schema(self) -> pl.Schema:
        """Columns of the staging table."""
        return staging_schema(self.schema, stored_type(self.sequence_type))

    @property
    def snapshots(self) -> Snapshots | None:
        """The full snapshots it is made from, alone or beside a stream."""
        return self.source if isinstance(self.source, Snapshots) else self.initial

    @property
    def stream(self) -> Kafka | EventLog | None:
        """The topic of change events it is made from, None where that are snapshots alone."""
        return None if isinstance(self.source, Snapshots) else self.source

    @property
    def format(self) -> Format:
        """The format of its records; a source of snapshots has none, and any format serves."""
        return self.stream.format if self.stream else Json()

    @property
    def declared(self) -> Schema:
        """The columns of `schema` that are declared."""
        return {name: dtype for name, dtype in self.schema.items() if name in self.columns}

    @property
    def learned(self) -> Schema:
        """The columns of `schema` that are not declared."""
        return {name: dtype for name, dtype in self.schema.items() if name not in self.columns}

    def having_learned(self, columns: Schema) -> "Silver":
        """Return the same table with other learned columns, behind the declared ones."""
        table = copy(self)
        object.__setattr__(table, "schema", {**self.declared, **columns})
        return table

    def open_topic(self, settings: Settings) -> Topic:
        """Return the topic to read. Connects to nothing yet. Raises DeclarationError where there is none."""
        if self.stream is None:
            raise DeclarationError(f"Silver {self.name!r}: its source are snapshots; expected a topic")
        return self.stream.open(settings)

    @property
    def tracked(self) -> Sequence[str]:
        """The columns that begin a new row of a history: those of `track`, or all but the sequence."""
        ordering = () if self.sequence_by is None else names_of(self.sequence_by)
        return [name for name in self.schema if name not in ordering] if self.track is None else self.track

    def decoder(self, schemas: Schemas = unknown) -> Decoder | WatchingDecoder:
        """Return a new decoder of this table's records; `schemas` gives the Avro schemas of ids."""
        check = Expectations(self.declared, self.expectations).check if self.expectations else None
        build = partial(
            Decoder,
            keys=self.keys,
            sequence_by=self.sequence_by,
            format=self.format,
            ignore_null_updates=self.ignore_null_updates,
            schemas=schemas,
        )
        if self.new_fields == "ignore":
            return build(self.schema, check=check)
        return WatchingDecoder(build, self.declared, self.learned, self.format, check)

    def learner(self) -> Learner | None:
        """Return what decides about undeclared fields, None where they are ignored."""
        if self.new_fields == "ignore" or isinstance(self.format, Custom):
            return None
        reserved = [name for name in self.row_schema if name not in self.schema]
        return Learner(self.declared, self.format, reserved, may_learn=self.new_fields == "add")
