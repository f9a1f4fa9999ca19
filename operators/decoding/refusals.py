"""Why a document was refused: what was received where, and what was expected."""

from collections.abc import Sequence

from operators.decoding.json_values import NOTHING, shown, value_at
from operators.decoding.look import Field, form_of
from operators.wording import clip

DEEP = "invalid JSON, nested too deeply, or a value that does not fit its column"


def of_invalid(document: bytes, error: ValueError) -> str:
    """Return the reason for a document that is no JSON."""
    return f"invalid JSON: {clip(str(error), 100)}: received {clip(document.decode(), 100)}"


def of_value(each: Field, value: object) -> str:
    """Return the reason for a field that the document `value` has no usable value for."""
    for depth in range(1, len(each.path)):
        section = value_at(value, each.path[:depth])
        if section is not None and not isinstance(section, dict):
            return f"field {each.path[depth - 1]!r}: received {shown(section)}, expected an object"
    return f"column {each.path[-1]!r}: received {shown(value_at(value, each.path))}, expected {expected(each)}"


def expected(each: Field) -> str:
    """Return what a field may be, as messages name it."""
    return " or ".join(dict.fromkeys(wire.expected for wire in each.wires if wire.expected != "the placeholder"))


def of_look(fields: Sequence[Field], value: object) -> str | None:
    """Return the reason for the first field that plainly has an unusable value, None when none has."""
    for each in fields:
        found = value_at(value, each.path)
        if found is NOTHING or (found is not None and form_of(each.wires, found) is None):
            return of_value(each, value)
    return None


def of_parse(message: str) -> str | None:
    """Return the reason for a document that is no JSON to the parser, None when it complained of something else."""
    if not message.startswith("JSON parse error"):
        return None
    return clip(f"invalid JSON: {message.removesuffix(' in row 0').split(': ', 1)[1]}")


def of_unknown(document: bytes) -> str:
    """Return the reason for a document that looks right in every field."""
    return f"received {clip(document.decode())}, expected one JSON object with the declared types"
