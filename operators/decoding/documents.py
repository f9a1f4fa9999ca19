"""JSON documents to typed columns, where what becomes of a document depends on that document alone.

The clean path is one columnar parse of all documents, in the forms (`Wire`) guessed from earlier ones. What it does
not take goes on, each way slower and for fewer documents:

1. In guessed forms: all documents at once and, if that fails, in pieces. Left over are the rows that a reading marks
   bad, the pieces that fail, and documents with decimals that must not reach the parser unseen (`decimal_text`).
2. One look at each document left over, in plain Python. The plainly bad are refused, the others grouped by form.
3. In their own forms: one columnar parse of each group; only a group that fails is cut, down to those to blame.

The verdict on a document is that of a parse in its own forms. A parse of many in other forms can only succeed for
documents of these forms, and what the look calls plainly bad no parse takes, so every way comes to this verdict.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import polars as pl

from operators.decoding import refusals
from operators.decoding.columnar import Columnar, Parsed
from operators.decoding.decimal_text import perilous
from operators.decoding.json_batch import UnreadableError, without_giants
from operators.decoding.json_values import Path, load
from operators.decoding.look import Eye, Field, Forms

_PIECE = 64
_WINDOW = 512
_INFINITY = b"Inf"  # the one number that the parser reads and Python does not


class Read(NamedTuple):
    """Columns of the documents that could be read, ascending by `_row` (index of the document), and all others.

    ``frame`` has `_row` UInt32, `_unavailable` List(String) (NULL if nothing is), one column per field, and one
    Boolean column per section that tells whether the object is there and not NULL. ``refused`` is the reason for
    each other document, ascending.
    """

    frame: pl.DataFrame
    refused: dict[int, str]


@dataclass(eq=False)
class _Reading:
    """Documents on their way into columns: `frames` so far, `refused` ones, the `values` of those looked at."""

    documents: Sequence[bytes]
    frames: list[pl.DataFrame] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    values: dict[int, object] = field(default_factory=dict)

    def some(self, rows: Sequence[int]) -> Sequence[bytes]:
        return self.documents if len(rows) == len(self.documents) else [self.documents[row] for row in rows]

    def keep(self, parsed: Parsed, rows: Sequence[int]) -> list[int]:
        """Add the good rows to the frames; return the places of the bad ones."""
        numbered = pl.DataFrame([_numbers(rows), *parsed.frame.get_columns()])
        bad = parsed.bad_rows
        self.frames.append(numbered if bad is None else numbered.filter(~bad))
        return [] if bad is None else bad.arg_true().to_list()


@dataclass(eq=False)
class Reader:
    """Reads regular documents (see `json_batch`); ``sections`` names the objects whose presence is wanted.

    Remembers the forms of the documents it saw, which decides how fast the next ones are read and nothing else.
    """

    fields: Sequence[Field]
    sections: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._likeliest: Forms = tuple(each.wires[0] for each in self.fields)
        self._guess = self._likeliest
        self._eye = Eye(self.fields)
        self._columnar = Columnar(self.fields, self.sections)
        self._unseen = any(wire.arrow is None for each in self.fields for wire in each.wires)

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns, in order; never raises for what is in them."""
        work = _Reading(documents)
        wary = {*perilous(documents)} if self._unseen else set()
        left = self._in_guess(
            work, [i for i in range(len(documents)) if i not in wary] if wary else range(len(documents))
        )
        if wary or left:
            groups = self._look(work, sorted([*left, *wary]), wary)
            for forms, rows in groups.items():
                self._in_own_forms(work, rows, forms)
            self._learn(groups, len(left))
        if len(work.frames) == 1:
            return Read(work.frames[0], dict(sorted(work.refused.items())))
        return Read(pl.concat([self._columnar.nothing, *work.frames]).sort("_row"), dict(sorted(work.refused.items())))

    def _in_guess(self, work: _Reading, rows: Sequence[int]) -> list[int]:
        """Read what has the guessed forms; return the rows left over."""
        left: list[int] = []
        if not rows or self._try(work, rows, left):
            return left
        first = self._forms(work.documents[rows[0]])
        if first is not None and first != self._guess:
            self._guess = first
            if self._try(work, rows, left):
                return left
        readable = self._readable(work, rows) if len(rows) > _PIECE else []
        if not readable or not self._try(work, readable, left):
            return [*rows]
        return sorted({*rows} - {*readable} | {*left})

    def _readable(self, work: _Reading, rows: Sequence[int]) -> list[int]:
        """Return most of the rows that the parser reads in the guessed forms."""
        readable: list[int] = []
        at, size = 0, _WINDOW
        while at < len(rows):
            part = rows[at : at + size]
            fault = self._columnar.fault(work.some(part), self._guess)
            if fault is None:
                readable += part
                at, size = at + len(part), _WINDOW
            elif fault.reached is not None:  # pass over one if they are few, over many if they are not
                readable += part[: fault.reached]
                at += fault.reached + (1 if fault.reached >= _PIECE // 2 else _PIECE)
            elif fault.row and fault.row >= _PIECE // 2:  # those before the blamed one may be read
                size = fault.row
            else:
                after_readable = bool(readable) and readable[-1] == rows[at - 1]
                at, size = at + (1 if fault.row == 0 and after_readable else _PIECE), _WINDOW
        return readable

    def _try(self, work: _Reading, rows: Sequence[int], left: list[int]) -> bool:
        """Read rows in the guessed forms, adding bad ones to `left`; tell whether they could be read."""
        try:
            parsed = self._columnar.parse(work.some(rows), self._guess)
        except UnreadableError:
            return False
        left += [rows[place] for place in work.keep(parsed, rows)]
        return True

    def _forms(self, document: bytes) -> Forms | None:
        """Return the forms of a document that the parser may see unseen, None when they are not known."""
        try:
            forms = self._eye.forms(load(document), self._guess)
        except (ValueError, RecursionError):
            return None
        return forms if forms and all(form.arrow for form in forms) else None

    def _look(self, work: _Reading, rows: Sequence[int], wary: set[int]) -> dict[Forms, list[int]]:
        """Refuse the plainly bad of `rows`; return the others by form."""
        groups: dict[Forms, list[int]] = defaultdict(list)
        for row in rows:
            forms = self._look_at(work, row, is_wary=row in wary)
            if forms is not None:
                groups[forms].append(row)
        return groups

    def _look_at(self, work: _Reading, row: int, *, is_wary: bool) -> Forms | None:
        document = work.documents[row]
        try:
            value = load(document)
        except (RecursionError, ValueError) as error:
            return self._blind(work, row, error, is_wary=is_wary)
        forms = self._eye.forms(value, self._guess)
        if forms is None:
            work.refused[row] = refusals.of_look(self.fields, value) or refusals.of_unknown(document)
        else:
            work.values[row] = value
        return forms

    def _blind(self, work: _Reading, row: int, error: Exception, *, is_wary: bool) -> Forms | None:
        """Return the forms of a document that Python cannot load, by parsing it in each; refuse it if it is no JSON."""
        document = work.documents[row]
        if isinstance(error, ValueError) and _INFINITY not in document:
            work.refused[row] = refusals.of_invalid(document, error)
            return None
        if is_wary:  # it may hold a decimal that crashes the parser
            work.refused[row] = refusals.DEEP
            return None
        return tuple(
            next((form for form in each.wires if form.arrow and self._columnar.accepts(i, form, document)), guess)
            if len(each.wires) > 1
            else guess
            for i, (each, guess) in enumerate(zip(self.fields, self._guess, strict=True))
        )

    def _in_own_forms(self, work: _Reading, rows: Sequence[int], forms: Forms) -> None:
        """Read rows that all have these forms; refuse those that cannot be read."""
        todo = [rows]
        while todo:
            part = todo.pop()
            try:
                parsed = self._parse(work, part, forms)
            except UnreadableError as error:
                if len(part) == 1:
                    work.refused[part[0]] = self._reason(work, part[0], forms, str(error))
                else:
                    todo.extend(_cut(part, error.row))
                continue
            for place in work.keep(parsed, part):
                row = part[place]
                each = self.fields[parsed.first_bad(place)]
                work.refused[row] = refusals.of_value(each, work.values[row]) if row in work.values else refusals.DEEP

    def _parse(self, work: _Reading, rows: Sequence[int], forms: Forms) -> Parsed:
        values = [work.values.get(row) for row in rows]
        try:
            return self._columnar.parse(work.some(rows), forms, values)
        except UnreadableError as error:
            if not error.is_giant or not all(row in work.values for row in rows):
                raise
            return self._columnar.parse([without_giants(document) for document in work.some(rows)], forms, values)

    def _reason(self, work: _Reading, row: int, forms: Forms, message: str) -> str:
        """Return why a document that was parsed on its own could not be read."""
        document = work.documents[row]
        if row not in work.values:
            return refusals.DEEP
        if reason := refusals.of_parse(message):
            return reason
        for i, (each, form) in enumerate(zip(self.fields, forms, strict=True)):
            if form.arrow and not self._columnar.accepts(i, form, document):
                return refusals.of_value(each, work.values[row])
        return refusals.of_unknown(document)

    def _learn(self, groups: Mapping[Forms, Sequence[int]], left: int) -> None:
        """Guess the forms that most of the documents left over had, if that were most documents."""
        if groups:
            forms, rows = max(groups.items(), key=lambda group: len(group[1]))
            if 2 * len(rows) > left:
                self._guess = tuple(
                    form if form.arrow else likeliest for form, likeliest in zip(forms, self._likeliest, strict=True)
                )


def _numbers(rows: Sequence[int]) -> pl.Series:
    numbers = np.arange(rows.start, rows.stop) if isinstance(rows, range) else np.array(rows)
    return pl.Series("_row", numbers.astype(np.uint32))


def _cut(rows: Sequence[int], blamed: int | None) -> Iterator[Sequence[int]]:
    """Return `rows` in at least two parts, none of them empty, the blamed one alone."""
    if len(rows) > _PIECE:
        return (rows[at : at + _PIECE] for at in range(0, len(rows), _PIECE))
    at = blamed if blamed is not None and blamed < len(rows) else len(rows) // 2
    end = at + 1 if blamed is not None else at
    return (part for part in (rows[:at], rows[at:end], rows[end:]) if part)
