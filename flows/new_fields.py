"""What a Silver table does with fields that are not declared."""

from typing import Literal, get_args

from operators.schema import DeclarationError, did_you_mean

NewFields = Literal["ignore", "add", "quarantine"]
"""Ignored; or learned as columns; or not accepted."""


def checked_new_fields(name: str, new_fields: str) -> None:
    """Check what a Silver table declares to do with new fields. Raises DeclarationError."""
    known = get_args(NewFields)
    if new_fields not in known:
        raise DeclarationError(
            f"Silver {name!r}: unknown new_fields {new_fields!r}; expected one of: {', '.join(known)}."
            f"{did_you_mean(new_fields, known)}"
        )
