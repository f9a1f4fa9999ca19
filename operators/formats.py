"""What the values of a topic look like: plain JSON rows, or Debezium change events.

A format is what a user declares beside a topic, for example ``Kafka("shop.orders", format=Debezium())``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from operators.schema import DeclarationError, did_you_mean

PLACEHOLDER = "__debezium_unavailable_value"
"""Debezium's ``unavailable.value.placeholder``: the column was not sent because the update did not touch it (TOAST)."""


def _one_of(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        expected = ", ".join(map(repr, known))
        raise DeclarationError(f"{option}={value!r}: expected one of {expected}.{did_you_mean(value, known)}")


@dataclass(frozen=True, slots=True)
class Json:
    """Each value is a JSON object that holds the row, and upserts it; a NULL value (tombstone) deletes its key.

    ``operation`` names a field that says what to do with the row; None makes every value an upsert. The field may
    be a declared string column or not; a record whose field is NULL, or in neither ``upserts`` nor ``deletes``, is
    rejected. ``timestamps`` is the unit of instants that arrive as integers since the epoch; ISO 8601 text is always
    understood. A tombstone's business key is read from the Kafka key: a JSON object with the key columns or, for
    one key column, a JSON scalar.

    >>> Json(operation="op", deletes=("remove",))
    Json(operation='op', upserts=('upsert', 'insert', 'update', 'c', 'u', 'r'), deletes=('remove',), timestamps='ms')
    """

    operation: str | None = None
    upserts: tuple[str, ...] = ("upsert", "insert", "update", "c", "u", "r")
    deletes: tuple[str, ...] = ("delete", "d")
    timestamps: Literal["s", "ms", "us", "ns"] = "ms"

    def __post_init__(self) -> None:
        _one_of("timestamps", self.timestamps, ("s", "ms", "us", "ns"))
        if both := sorted({*self.upserts} & {*self.deletes}):
            raise DeclarationError(f"operation {both[0]!r} is in upserts and in deletes; expected it in one of them")


@dataclass(frozen=True, slots=True)
class Debezium:
    """Each value is a Debezium change event (``before``, ``after``, ``source``, ``op``), with or without its schema.

    Both forms of the JSON converter, the bare envelope and ``{"schema": ..., "payload": ...}``, are recognised
    record by record. ``decimals`` is the connector's ``decimal.handling.mode``. ``timestamps`` is the unit of
    instants that arrive as integers (``time.precision.mode``); ISO 8601 text is always understood. Dates arrive as
    days since the epoch or as ISO text. Tombstones are dropped: the ``op=d`` before them said it all.
    """

    decimals: Literal["precise", "string", "double"] = "precise"
    timestamps: Literal["ms", "us", "ns"] = "us"

    def __post_init__(self) -> None:
        _one_of("decimals", self.decimals, ("precise", "string", "double"))
        _one_of("timestamps", self.timestamps, ("ms", "us", "ns"))


Format = Json | Debezium
