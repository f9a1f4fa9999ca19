"""Where a value stands in a JSON document and which form it has, by looking at one document in plain Python.

The slow eye of the columnar readers: only for the first document of a batch in new forms, and for refused ones.
"""

import json
from dataclasses import dataclass

import polars as pl

from operators.json_batch import clip
from operators.wire import Wire

Forms = tuple[Wire, ...]
Path = tuple[str, ...]
NOTHING = object()


@dataclass(frozen=True, slots=True)
class Field:
    """A value to find at `path` in each document, and the forms it may have.

    It becomes the column ``name`` of type ``dtype``. ``label`` is what `_unavailable` calls it, None to leave it out.
    """

    name: str
    path: Path
    dtype: pl.DataType
    wires: Forms
    label: str | None = None


def load(document: bytes) -> object:
    """Return the JSON value of a document; raises ValueError, or RecursionError when it is nested too deeply."""
    return json.loads(document, parse_int=_integer)


def _integer(digits: str) -> int:
    """Read an integer of any length; beyond 40 digits only that it is too large matters."""
    return int(digits[:40])


def value_at(value: object, path: Path) -> object:
    """Return what stands at `path`: None for missing or NULL, `NOTHING` below something that is not an object."""
    for step in path:
        if value is None:
            return None
        if not isinstance(value, dict):
            return NOTHING
        value = value.get(step)
    return value


def form_of(each: Field, guess: Wire, document: object) -> Wire:
    """Return the form that the value of a field has, `guess` where it has none or an unknown one."""
    value = value_at(document, each.path)
    if value is None or len(each.wires) == 1:
        return guess
    exact = (form for form in reversed(each.wires) if form.looks(value))
    return next(exact, guess)


def shown(value: object) -> str:
    """Return a JSON value as text for a message."""
    return clip(json.dumps(value, ensure_ascii=False), 100)
