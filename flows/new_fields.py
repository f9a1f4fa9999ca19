"""What a Silver table does with fields that are not declared."""

from typing import Literal

from operators.decoding.formats import Avro, Custom, Debezium, Format
from operators.schema import DeclarationError

NewFields = Literal["ignore", "add", "quarantine"]
"""Ignored; or learned as columns; or not accepted."""


def check_new_fields(new_fields: str, fmt: Format | None) -> None:
    """Check what a table declares to do with new fields; `fmt` is None without a stream. Raises DeclarationError."""
    if new_fields != "ignore" and (problem := _problem(fmt)):
        raise DeclarationError(
            f"new_fields={new_fields!r}: {problem}. Expected records in JSON (Json, JsonSchema, or Debezium of another "
            "encoding than 'avro'), or new_fields='ignore'"
        )


def _problem(fmt: Format | None) -> str | None:
    """Say why fields that are not declared are not looked for."""
    match fmt:
        case None:
            return "the source are snapshots, of which only declared columns are read"
        case Custom():
            return f"{fmt.name} gives back declared columns only"
        case Avro() | Debezium(encoding="avro"):
            return "of Avro records only declared fields are read"
        case _:
            return None
