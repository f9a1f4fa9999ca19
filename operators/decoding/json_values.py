"""JSON values of one document in plain Python, and where in the document they stand."""

import json
from collections.abc import Iterator

from operators.wording import clip

Path = tuple[str, ...]
NOTHING = object()
_LONGEST = 4300  # digits that Python turns into an int; more is an error
_SHOWN = 100  # characters of a value in a message


class Number(str):
    """A JSON number with a fraction or an exponent, or of thousands of digits, as it is written."""

    __slots__ = ()


def _integer(digits: str) -> int | Number:
    return int(digits) if len(digits) <= _LONGEST else Number(digits)


_DECODER = json.JSONDecoder(parse_float=Number)
_PATIENT = json.JSONDecoder(parse_float=Number, parse_int=_integer)  # slower


def load(document: bytes) -> object:
    """Return the JSON value of a document, numbers that are no integers as `Number`.

    Raises ValueError, or RecursionError when it is nested too deeply.
    """
    text = document.decode()
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of thousands of digits
        return _PATIENT.decode(text)


def value_at(value: object, path: Path) -> object:
    """Return what stands at `path`: None for missing or NULL, `NOTHING` below something that is not an object."""
    for step in path:
        if value is None:
            return None
        if not isinstance(value, dict):
            return NOTHING
        value = value.get(step)
    return value


def shown(value: object) -> str:
    """Return a JSON value as text for a message, cut to 100 characters."""
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > _SHOWN:
            break
    return clip(text, _SHOWN)


def _pieces(value: object) -> Iterator[str]:
    """Yield the text of a value; at least a character a level, so whoever stops early goes no deeper than that."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            yield ", " if i else "["
            yield from _pieces(each)
        yield "]" if value else "[]"
    elif isinstance(value, dict):
        for i, (name, each) in enumerate(value.items()):
            yield f"{', ' if i else '{'}{json.dumps(name, ensure_ascii=False)}: "
            yield from _pieces(each)
        yield "}" if value else "{}"
    else:
        yield str(value) if isinstance(value, Number) else json.dumps(value, ensure_ascii=False)
