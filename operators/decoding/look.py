"""Which form each value of a JSON document has, by looking at one document in plain Python.

The slow eye of the columnar readers, some microseconds a document: only for documents that a columnar parse did not
take. What it finds plainly bad no parse would take; what it does not may still be bad.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import polars as pl

from operators.decoding.json_values import NOTHING, Path, value_at
from operators.decoding.wire import Wire

Forms = tuple[Wire, ...]


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


class Eye:
    """Looks at documents for the forms of `fields`."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._sections = [
            (path, [(i, each.path[-1], each.wires) for i, each in members])
            for path, members in groupby(enumerate(fields), lambda member: member[1].path[:-1])
        ]

    def forms(self, value: object, guess: Forms) -> Forms | None:
        """Return the forms of the values in the document `value`, those of `guess` where it has none; None: bad."""
        other: dict[int, Wire] = {}
        for path, members in self._sections:
            section = value_at(value, path)
            if section is None:
                continue
            if not isinstance(section, dict):
                return None
            for i, name, wires in members:
                found = section.get(name)
                if found is None or guess[i].looks(found):
                    continue
                form = form_of(wires, found)
                if form is None:
                    return None
                other[i] = form
        return tuple(other.get(i, form) for i, form in enumerate(guess)) if other else guess


def form_of(wires: Forms, found: object) -> Wire | None:
    """Return the form that a value has, None when it has none of `wires`."""
    if found is NOTHING:
        return None
    return next((form for form in wires if form.looks(found)), None)
