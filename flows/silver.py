"""Declaring a Silver table."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import polars as pl

from flows.history import History, checked_history
from flows.names import checked_name
from flows.new_fields import NewFields, checked_new_fields
from flows.sources import EventLog, Kafka
from flows.strategy import Strategy, checked_strategy
from operators.decode import Decoder
from operators.learning import Learner
from operators.scd1 import TECHNICAL
from operators.scd2 import history_columns
from operators.schema import DeclarationError, Schema, parse_schema
from operators.watching import WatchingDecoder


@dataclass(frozen=True, eq=False)
class Silver:
    """A Silver table: the current row of each business key, merged from one topic of change events.

    `schema` maps column names to types (`operators.schema`). `new_fields` says what becomes of fields that are not
    declared: "ignore" them; "add" them to the table, as columns that it learns (`operators.learning`); "quarantine" the
    records that have a value in one. `keys` are the columns of the business key. `sequence_by` says what orders the
    events of a key: a declared integer, date or timestamp column, a field of Debezium's source block ("source.lsn"), or
    None for the position in the topic.
    `history` "scd1" keeps the current row of a key, "scd2" a row for every state it was in, valid from the sequence in
    `valid_from` to that in `valid_to`; the last one is open (`is_current`) unless the key is deleted. `track` names the
    columns that begin a new row; the others are updated in place.
    `strategy` "rewrite" is for tables whose readers know no deletion vectors: every merge writes the data files that it
    touches anew. A table that once had vectors keeps asking its readers to know them.

    Raises DeclarationError.
    """

    name: str
    source: Kafka | EventLog
    columns: Mapping[str, str]
    keys: Sequence[str]
    sequence_by: str | None = None
    history: History = "scd1"
    track: Sequence[str] | None = None
    strategy: Strategy = "deletion_vectors"
    new_fields: NewFields = "ignore"
    schema: Schema = field(init=False, repr=False)

    def __init__(  # noqa: PLR0913 - a declaration has as many parts
        self,
        name: str,
        *,
        source: Kafka | EventLog,
        schema: Mapping[str, str],
        keys: Sequence[str],
        sequence_by: str | None = None,
        history: History = "scd1",
        track: Sequence[str] | None = None,
        strategy: Strategy = "deletion_vectors",
        new_fields: NewFields = "ignore",
    ) -> None:
        for attribute, value in (
            ("name", checked_name("Silver", name)),
            ("source", source),
            ("columns", dict(schema)),
            ("keys", (keys,) if isinstance(keys, str) else tuple(keys)),
            ("sequence_by", sequence_by),
            ("history", history),
            ("track", (track,) if isinstance(track, str) else None if track is None else tuple(track)),
            ("strategy", strategy),
            ("new_fields", new_fields),
        ):
            object.__setattr__(self, attribute, value)
        checked_strategy("Silver", name, strategy)
        checked_new_fields(name, new_fields)
        try:
            object.__setattr__(self, "schema", parse_schema(schema))
            self.decoder()
            checked_history(name, history, self.track, self.schema)
        except DeclarationError as error:
            raise DeclarationError(f"Silver {name!r}: {error}") from None

    @property
    def row_schema(self) -> pl.Schema:
        """Columns of the table: the declared ones, those of a history, then the technical ones."""
        history = history_columns(self.sequence_type) if self.history == "scd2" else {}
        return pl.Schema({**self.schema, **history, **TECHNICAL})

    @property
    def sequence_type(self) -> pl.DataType:
        """Type of the sequence: that of its column, else a 64-bit integer."""
        return self.schema.get(self.sequence_by or "", pl.Int64())

    @property
    def learned(self) -> Schema:
        """The columns of `schema` that are not declared."""
        return {name: dtype for name, dtype in self.schema.items() if name not in self.columns}

    def having_learned(self, columns: Schema) -> "Silver":
        """Return the same table with other learned columns, behind the declared ones."""
        table = copy(self)
        object.__setattr__(table, "schema", {**self.declared, **columns})
        return table

    def decoder(self) -> Decoder | WatchingDecoder:
        """Return a new decoder of this table's records."""
        if self.new_fields == "ignore":
            return Decoder(self.schema, self.keys, self.sequence_by, self.source.format)
        return WatchingDecoder(self.declared, self.learned, self.keys, self.sequence_by, self.source.format)

    def learner(self) -> Learner | None:
        """Return what decides about undeclared fields, None where they are ignored."""
        if self.new_fields == "ignore":
            return None
        reserved = [name for name in self.row_schema if name not in self.schema]
        return Learner(self.declared, self.source.format, reserved, may_learn=self.new_fields == "add")

    @property
    def declared(self) -> Schema:
        """The columns of `schema` that are declared."""
        return {name: dtype for name, dtype in self.schema.items() if name in self.columns}
