r"""Many JSON objects in one columnar parse, without letting one of them speak for its neighbours.

`pyarrow.json` reads a stream of values, not lines, and crashes the process on a bare ``null`` between them. So:

1. `tidy` makes every document *regular*: it begins with ``{`` and ends with ``}``, is valid UTF-8, and holds no raw
   newline, no NUL byte and no ``null`` that follows a ``}`` outside of strings.
2. `parse` joins regular documents with newlines. A line break then always stands between ``}`` and ``{``, which no
   JSON value allows inside itself (nor a raw newline inside a string): a parse that succeeds broke the stream there,
   so each line held at least one row, and as many rows as lines means exactly one each.
"""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from operators.wording import clip

Bytes = npt.NDArray[np.uint8]

_STRING = rb'"[^"\\]*+(?:\\.?[^"\\]*+)*+(?:"|\Z)'
_STRINGS = re.compile(_STRING, re.DOTALL)
_LINE_BREAKS = re.compile(rb"(%s)|[\r\n]+" % _STRING, re.DOTALL)
_STRAY_NULL = re.compile(rb"\}[ \t\r]*null")
_ROW = re.compile(r" in row (\d+)\Z")
_VALUE = re.compile(r"couldn't parse:(.+)\Z|: (\S+) requires |string '(.+)' is not", re.DOTALL)
_TOKENS = re.compile(rb"(%s)|[^\s,:\[\]{}\"]+" % _STRING, re.DOTALL)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WHITESPACE = b" \t\r\n"
_OPEN, _CLOSE, _NEWLINE = b"{}\n"
_SUSPECT = np.isin(np.arange(256), [*b"n \t\r"])  # by byte: what a stray null after a closing brace begins with
_STRETCH = 2**18


class UnreadableError(ValueError):
    """A batch of documents that does not parse as a whole; take it apart and try again.

    ``row`` is the index of a document that is to blame, when the parser named one.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row

    @property
    def reached(self) -> int | None:
        """How many documents the parser took before it failed, None when it failed after it took all."""
        return self.row if str(self).startswith("JSON parse error") else None

    @property
    def is_giant(self) -> bool:
        """Whether a number is to blame that is too large for the parser, be it declared or not."""
        return "Number too big" in str(self)


class Documents(list[bytes]):
    """The documents of a batch, not to be changed: their lines are joined once, however often they are asked for."""

    @cached_property
    def lines(self) -> bytes:
        """The documents with a newline between each two."""
        return b"\n".join(self)


def lines_of(documents: Sequence[bytes]) -> bytes:
    """Return `documents` with a newline between each two."""
    return documents.lines if isinstance(documents, Documents) else b"\n".join(documents)


class Tidied(NamedTuple):
    """Regular documents, the place each had in the input (ascending), and (place, reason) of all others."""

    documents: Documents
    places: list[int] | range
    rejects: list[tuple[int, str]]


def tidy(documents: Sequence[bytes]) -> Tidied:
    """Return `documents` as regular documents, or why they cannot be; the verdict on each depends on it alone."""
    whole = Documents(documents)
    if _regular(whole.lines, len(whole)):
        return Tidied(whole, range(len(whole)), [])
    good = Documents()
    places: list[int] = []
    rejects: list[tuple[int, str]] = []
    for i, document in enumerate(documents):
        tidied = document if _regular(document, 1) else _tidy_one(document)
        if isinstance(tidied, bytes):
            good.append(tidied)
            places.append(i)
        else:
            rejects.append((i, tidied))
    return Tidied(good, places, rejects)


def parse(documents: Sequence[bytes], schema: pa.Schema) -> pa.StructArray:
    """Return regular `documents` as one struct per document, in order, with the fields of `schema`.

    Missing fields are NULL, undeclared ones are ignored. Raises UnreadableError when a document is not a JSON
    object, holds more than one, or has a value that does not fit its field.
    """
    joined = lines_of(documents)
    try:
        table = pj.read_json(
            pa.BufferReader(joined),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(joined) + 64),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid as error:
        raise UnreadableError(str(error), _blamed(str(error), documents)) from None
    if len(table) != len(documents):
        raise UnreadableError("invalid JSON: expected one document, received more")
    return pa.StructArray.from_arrays([column.combine_chunks() for column in table.columns], fields=list(schema))


def without_giants(document: bytes) -> bytes:
    """Return a document without numbers that the parser refuses even where they are not declared.

    Those beyond the largest float64 are made NULL, and zeros with an exponent are made zeros without.
    """
    return _TOKENS.sub(lambda found: found[1] or _small(found[0]), document)


def _small(token: bytes) -> bytes:
    if not _NUMBER.fullmatch(token):
        return token
    if math.isinf(float(token)):
        return b"null"
    mantissa, exponent, _ = token.lower().partition(b"e")
    return mantissa if exponent and not mantissa.strip(b"-0.") else token


def _blamed(message: str, documents: Sequence[bytes]) -> int | None:
    """Guess which document an error message of the parser means: by its row, else by the value it quotes."""
    if row := _ROW.search(message):
        return int(row[1])
    if value := _VALUE.search(message):
        quoted = (value[1] or value[2] or value[3]).encode()
        return next((i for i, document in enumerate(documents) if quoted in document), None)
    return None


def stretches(joined: bytes, ahead: int) -> Iterator[Bytes]:
    """Return `joined` in parts so small that what is found out about one stays in the processor's cache.

    Each ends with the `ahead` bytes that the next one begins with; there is none if `joined` has no more than these.
    """
    content = np.frombuffer(joined, np.uint8)
    return (content[at : at + _STRETCH + ahead] for at in range(0, max(len(content) - ahead, 0), _STRETCH))


def _regular(joined: bytes, count: int) -> bool:
    """Tell whether `count` documents joined by newlines are regular (some that are may be told not to be)."""
    if joined[:1] != b"{" or joined[-1:] != b"}" or b"\0" in joined:
        return False
    newlines = breaks = 0
    for stretch in stretches(joined, ahead=2):
        first, second, third = stretch[:-2], stretch[1:-1], stretch[2:]
        newlines += int(np.count_nonzero(second == _NEWLINE))
        ends = np.flatnonzero(first == _CLOSE)
        after = second[ends]
        if _SUSPECT[after].any():
            return False
        follows = third[ends[after == _NEWLINE]]
        if (follows != _OPEN).any():
            return False
        breaks += len(follows)
    return newlines == breaks == count - 1 and _is_utf8(joined)


def _tidy_one(document: bytes) -> bytes | str:
    """Return the regular form of one document, or as text why it has none."""
    stripped = document.strip(_WHITESPACE)
    if not stripped:
        return "received an empty value, expected a JSON object"
    if b"\0" in stripped or not _is_utf8(stripped):
        fault = "a NUL byte" if b"\0" in stripped else "invalid UTF-8"
        return f"received {fault}, expected a JSON object: {clip(stripped.decode(errors='backslashreplace'))}"
    flat = _LINE_BREAKS.sub(lambda found: found[1] or b" ", stripped)
    if flat[:1] != b"{":
        return f"received {clip(flat.decode())}, expected a JSON object"
    if flat[-1:] != b"}" or b"\n" in flat or _STRAY_NULL.search(_STRINGS.sub(b"", flat)):
        return f"invalid JSON: received {clip(flat.decode())}, expected one JSON object"
    return flat


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    text = pa.Array.from_buffers(pa.large_binary(), 1, [None, _offsets(len(data)), pa.py_buffer(data)])
    try:
        pc.cast(text, pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _offsets(length: int) -> pa.Buffer:
    return pa.array([0, length], pa.int64()).buffers()[1]
