"""What the values of a topic look like: rows in JSON or Avro, Debezium change events, or anything by a function.

A format is what a user declares beside a topic, for example ``Kafka("shop.orders", format=Debezium())``. Its `repr` is
part of what a table remembers of its declaration, so it holds what changes the rows of records read before, and no
more: not where a registry is, and not `absent`, as every staged event says itself which fields it did not have.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal
from urllib.parse import urlsplit

import polars as pl

from operators.declared import SECRET, check_fields
from operators.events import names_of
from operators.schema import DeclarationError

PLACEHOLDER = "__debezium_unavailable_value"
"""Debezium's ``unavailable.value.placeholder``: the column was not sent because the update did not touch it (TOAST)."""

Absent = Literal["keep", "null"]


def _check_registry(url: str) -> None:
    if "@" in url:
        raise DeclarationError(
            "registry: received an URL with credentials, which would show in messages; put them into the environment, "
            "as GOLDWAX_REGISTRY_USERNAME and GOLDWAX_REGISTRY_PASSWORD"
        )
    if not _is_http(url):
        raise DeclarationError(f"registry={url!r}: expected an URL like 'http://127.0.0.1:8081' or 'https://…'")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets, or a port that is no number
        return False


@dataclass(frozen=True, slots=True)
class Rows:
    """What the formats have in common whose values are rows: what to do with a row, and what a missing field means."""

    operation: str | None = None
    upserts: tuple[str, ...] = ("upsert", "insert", "update", "c", "u", "r")
    deletes: tuple[str, ...] = ("delete", "d")
    timestamps: Literal["s", "ms", "us", "ns"] = "ms"
    absent: Absent = field(default="keep", repr=False)
    truncates: tuple[str, ...] = field(default=("truncate",), repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        for words in ("upserts", "deletes", "truncates"):
            object.__setattr__(self, words, names_of(getattr(self, words)))
        kinds = {"upserts": self.upserts, "deletes": self.deletes, "truncates": self.truncates}
        for one, other in combinations(kinds, 2):
            if both := sorted({*kinds[one]} & {*kinds[other]}):
                raise DeclarationError(f"operation {both[0]!r} is in {one} and in {other}; expected it in one of them")


@dataclass(frozen=True, slots=True)
class Json(Rows):
    """Each value is a JSON object that holds the row, and upserts it; a NULL value (tombstone) deletes its key.

    ``operation`` names a field that says what to do with the row; None makes every value an upsert. The field may
    be a declared string column or not; a record whose field is NULL, or in none of ``upserts``, ``deletes`` and
    ``truncates``, is rejected. A truncate, which needs `sequence_by`, removes all rows that are older.
    ``timestamps`` is the unit of instants that arrive as integers since the epoch; ISO 8601 text is always understood.
    ``absent`` says what a declared field means that an upsert does not have: "keep", that its key keeps the value it
    has; "null", that it is NULL, for producers that leave NULLs out. A tombstone's business key is read
    from the Kafka key: a JSON object with the key columns or, for one key column, a JSON scalar.

    >>> Json(operation="op", deletes=("remove",))
    Json(operation='op', upserts=('upsert', 'insert', 'update', 'c', 'u', 'r'), deletes=('remove',), timestamps='ms')
    """


@dataclass(frozen=True, slots=True)
class JsonSchema(Rows):
    """As `Json`, but values and keys are framed by Confluent's JSON Schema serializer: a header, then the JSON text.

    The header is a zero byte and a schema id of 4 bytes (Confluent documentation, "Wire format"). The schema itself is
    not asked for: the text says what its values are, and these are checked against the declared columns.
    """


@dataclass(frozen=True, slots=True)
class Avro(Rows):
    """As `Json`, but values and keys are Avro records framed by Confluent's serializer: a header, then the datum.

    ``registry`` is the URL of the schema registry; the environment's `GOLDWAX_REGISTRY_URL` wins, and has its
    credentials. A record whose schema id the registry does not know goes to quarantine; a registry that does not
    answer stops the run. A field that the writer's schema does not have is absent; defaults in it do not count.
    ``timestamps`` is the unit of integers that have no logical type. A tombstone's Kafka key may be a bare value
    instead of a record where there is one key column.

    >>> Avro(registry="http://127.0.0.1:8081").absent
    'keep'
    """

    registry: str = field(kw_only=True, repr=False, metadata=SECRET)

    def __post_init__(self) -> None:
        Rows.__post_init__(self)  # super() knows the class as it was before it got slots
        _check_registry(self.registry)


@dataclass(frozen=True, slots=True, repr=False)
class Debezium:
    """Each value is a Debezium change event (``before``, ``after``, ``source``, ``op``), with or without its schema.

    Both forms of the JSON converter, the bare envelope and ``{"schema": ..., "payload": ...}``, are recognised
    record by record. ``decimals`` is the connector's ``decimal.handling.mode``. ``timestamps`` is the unit of
    instants that arrive as integers (``time.precision.mode``); ISO 8601 text is always understood. Dates arrive as
    days since the epoch or as ISO text. Tombstones are dropped: the ``op=d`` before them said it all.
    ``encoding`` "json_schema" and "avro" are those of Confluent's converters (see `JsonSchema` and `Avro`); "avro"
    needs the URL of a ``registry``, and takes decimals and units from its schemas where they say them.

    >>> Debezium(decimals="string")
    Debezium(decimals='string', timestamps='us')
    """

    decimals: Literal["precise", "string", "double"] = "precise"
    timestamps: Literal["ms", "us", "ns"] = "us"
    encoding: Literal["json", "json_schema", "avro"] = "json"
    registry: str | None = field(default=None, metadata=SECRET)

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.registry is None) == (self.encoding == "avro"):
            raise DeclarationError("registry: expected an URL where encoding='avro', and only there")
        if self.registry is not None:
            _check_registry(self.registry)

    def __repr__(self) -> str:
        encoding = f", encoding={self.encoding!r}" if self.encoding != "json" else ""
        return f"Debezium(decimals={self.decimals!r}, timestamps={self.timestamps!r}{encoding})"


DecodeFunction = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True, slots=True, repr=False)
class Custom:
    """A function of yours decodes the records, in columns: `decode(records) -> events`.

    ``records`` has the columns `key` and `value` (Binary, NULL where the record has none). ``events`` has one row a
    record, in the same order: `_op` ("upsert", "delete" or "truncate"), every declared column, and, where you want it,
    `_reason` (String): a record that has one goes to quarantine with it. With ``sequence_by="_sequence"`` there is a
    column `_sequence` of integers, too. Values that do not fit their declared type, as a record without a key, send
    the record to quarantine; a missing column, another number of rows or an exception stops the run.

    What becomes of a record must depend on that record alone: batches are cut anywhere. The function's module and name
    are part of the table's declaration, so it must be defined at the top of a module.

    >>> from json import loads
    >>> Custom(loads)
    Custom(json.loads)
    """

    decode: DecodeFunction

    def __post_init__(self) -> None:
        name = getattr(self.decode, "__qualname__", None)
        if not callable(self.decode) or name is None or "<" in name:
            raise DeclarationError(
                f"Custom: received {name or type(self.decode).__name__}; expected a function defined at the top of a "
                "module, as its name is part of the table's declaration"
            )

    @property
    def name(self) -> str:
        """The function's module and name."""
        return f"{self.decode.__module__}.{self.decode.__qualname__}"

    def __repr__(self) -> str:
        return f"Custom({self.name})"


Format = Json | JsonSchema | Avro | Debezium | Custom


def keeps_absent(fmt: Rows | Format) -> bool:
    """Tell whether a field that an upsert does not have keeps the value that its key has."""
    return isinstance(fmt, Rows) and fmt.absent == "keep"
