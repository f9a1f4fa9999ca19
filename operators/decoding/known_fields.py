"""Which documents have a field that is not known, found for many at once.

The fields of a row are one flat JSON object: the document itself or, in a Debezium envelope, its `after`. Whether such
an object has known names only is a regular language, so one compiled pattern decides it, without a parse:

1. A pair is a known name with any value that nests at most once, which is all that a declared type can be, or any
   name with NULL, where that says nothing.
2. A document is like the known ones when its object consists of such pairs. In an envelope the object is the one
   behind `"after":`, of which there is one alone: where that ends a longer key with an escaped quote there are two,
   or no row at all.

A document that is not like them may still have no unknown field (a name with escapes, a second `after`): whoever must
be sure looks at it by itself.

Source: RFC 8259, "JSON Grammar".
"""

import json
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import ComputeError

from operators.decoding.formats import Debezium, Format, Rows

_STRING = r'"(?:[^"\\]|\\.)*"'
_SCALAR = r'[^"\[\]{},\s]+'
_FLAT = rf'[\[{{](?:[^"\[\]{{}}]|{_STRING})*[\]}}]'
_AFTER = r'"after"\s*:'


class KnownFields:
    """Tells documents of one format that have fields besides `names`; without `nulls`, also fields that are NULL."""

    def __init__(self, names: Iterable[str], fmt: Rows | Format, *, nulls: bool = True) -> None:
        known = "|".join(re.escape(json.dumps(name, ensure_ascii=False)[1:-1]) for name in names)
        pair = rf'"(?:{known})"\s*:\s*(?:{_STRING}|{_SCALAR}|{_FLAT})'
        pair = rf"(?:{pair}|{_STRING}\s*:\s*null)" if nulls else rf"(?:{pair})"
        row = rf"\{{\s*(?:{pair}(?:\s*,\s*{pair})*)?\s*\}}"
        self._in_envelope = isinstance(fmt, Debezium)
        self._like = rf"{_AFTER}\s*{row}" if self._in_envelope else rf"^\s*{row}\s*$"

    def unlike(self, documents: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Return a mask of the `documents`, JSON objects in UTF-8, that may have another field."""
        texts = pl.Series(documents, dtype=pl.Binary).cast(pl.String)
        try:
            like = texts.str.contains(self._like)
        except ComputeError:  # the names are more than some 75,000 bytes: too many for one pattern
            return np.ones(len(documents), np.bool_)
        if self._in_envelope:
            like &= texts.str.count_matches(_AFTER) == 1
        return ~like.to_numpy()
