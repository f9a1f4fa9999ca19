r"""Which NULLs of parsed JSON objects were written, and which stand for a field that is not there.

The parser does not tell them apart, so only rows with a NULL are looked at, in the cheapest way that is sure:

1. A name of letters, digits and underscores that stands nowhere in quotes is not there, unless it may be spelled with
   ``\u`` escapes.
2. Where it does, one regular expression for all documents finds it before a colon at the top level, whatever stands in
   strings and below, down to some depth.
3. All others are read name by name.
"""

import json
import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from operators.arrow_arrays import arrow_int64
from operators.decoding.avro_datums import Flags, Ints
from operators.decoding.json_batch import Documents
from operators.eager import listed

_UNICODE = b"\\u"
_SPELLED = r"\\u00[3-7]"  # may be a letter, a digit or an underscore
_DEPTH = 5
_TOKENS = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*:)?|[{}\[\]]', re.DOTALL)


def _contents(depth: int) -> str:
    """Return the pattern of what may stand in an object or array, where these go so deep."""
    below = f"|[{{\\[]{_contents(depth - 1)}[}}\\]]" if depth else ""
    return rf'(?:[^{{}}\[\]"]|"(?:[^"\\]|\\.)*"{below})*'


_SHALLOW = rf"(?s)^\{{{_contents(_DEPTH)}\}}$"


def absent_names(frame: pl.DataFrame, documents: Documents, names: Sequence[str]) -> pl.Series | None:
    """Return for each row of `frame` those of its columns `names` that its document does not have, as `_unavailable`.

    `_row` says which of the regular, parsed `documents` a row is of. Returns None when there are no NULLs.
    """
    doubtful = [name for name in names if frame[name].null_count()]
    if not doubtful:
        return None
    search = _Search(documents)
    rows = frame["_row"].to_numpy()
    masks = {}
    for name in doubtful:
        places = frame[name].is_null().arg_true().to_numpy()
        masks[name] = np.zeros(frame.height, bool)
        masks[name][places] = search.lacks(name, rows[places])
    return listed("_unavailable", masks, frame.height)


class _Search:
    """Looks for fields of documents."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._unicode = b"\\" in documents.lines and _UNICODE in documents.lines  # one byte is found faster than two
        self._known: dict[int, set[str]] = {}
        self._texts: pa.Array | None = None

    def lacks(self, name: str, rows: Ints) -> Flags:
        """Tell which of the documents `rows` do not have a field."""
        if not re.fullmatch(r"\w+", name):
            return self._read(name, rows)
        quoted = f'"{name}"'.encode()
        if not self._unicode and quoted not in self._documents.lines:
            return np.ones(len(rows), bool)
        texts = self._arrow().take(arrow_int64(rows))
        lacking: Flags = ~_matches(texts, rf'(?s)^\{{{_contents(_DEPTH)}"{name}"\s*:')
        unsure = _matches(texts, _SPELLED if name.isascii() else r"\\u") if self._unicode else np.zeros(len(rows), bool)
        named = np.flatnonzero(lacking & _flags(pc.match_substring(texts, quoted)))
        unsure[named] |= ~_matches(texts.take(arrow_int64(named)), _SHALLOW)
        lacking[unsure] = self._read(name, rows[unsure])
        return lacking

    def _arrow(self) -> pa.Array:
        if self._texts is None:
            self._texts = pa.array(self._documents, pa.large_binary())
        return self._texts

    def _read(self, name: str, rows: Ints) -> Flags:
        return np.array([name not in self._names(row) for row in rows.tolist()], bool)

    def _names(self, row: int) -> set[str]:
        if row not in self._known:
            self._known[row] = _top_level_names(self._documents[row])
        return self._known[row]


def _matches(texts: pa.Array, pattern: str) -> Flags:
    return _flags(pc.match_substring_regex(texts, pattern))


def _flags(found: pa.Array) -> Flags:
    flags: Flags = found.to_numpy(zero_copy_only=False)
    return flags


def _top_level_names(document: bytes) -> set[str]:
    """Return the names of the fields of a JSON object, however deep it is."""
    names, depth = set(), 0
    for token in _TOKENS.finditer(document):
        if token[0] in b"{[":
            depth += 1
        elif token[0] in b"}]":
            depth -= 1
        elif depth == 1 and token[2]:
            names.add(json.loads(token[1], strict=False))
    return names
