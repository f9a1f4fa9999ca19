"""Decoding records of a table that does not ignore undeclared fields.

What they mean is decided later and in one place (`learning`), which alone knows all columns that the table has learned.
A decoder may know some of them, and then reads them like declared ones, which is only quicker: a record that does not
fit these is decoded without them, and is undecided.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import polars as pl

from operators.decoding.decode import Decoded, Decoder
from operators.decoding.formats import Format, Rows, keeps_absent
from operators.decoding.known_fields import KnownFields
from operators.decoding.readers import unframed
from operators.eager import rows_where
from operators.schema import Schema


class WatchingDecoder:
    """Decodes like a `Decoder` of the columns declared and `learned`, and tells which upserts are undecided.

    `build` makes a decoder of such columns. `check` looks at declared columns, before anything is undecided: what it
    takes out teaches nothing. Where absent fields keep their values, a record with a NULL in a field that no column is
    known for is undecided too: that there is one tells it from a record without the field.
    """

    def __init__(
        self,
        build: Callable[[Schema], Decoder],
        declared: Schema,
        learned: Schema,
        fmt: Format,
        check: Callable[[Decoded], Decoded] | None = None,
    ) -> None:
        self._declared, self._check, self._format = build(declared), check, fmt
        self._all = build({**declared, **learned}) if learned else self._declared
        operation = [fmt.operation] if isinstance(fmt, Rows) and fmt.operation is not None else []
        self._known = KnownFields([*declared, *learned, *operation], fmt, nulls=not keeps_absent(fmt))

    @property
    def sequence_type(self) -> pl.DataType:
        """Type of the column `_sequence` of events."""
        return self._all.sequence_type

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Decoded:
        """Return what the records with these raw keys and values say; never raises for what is in them."""
        decoded = self._all.decode(keys, values)
        unfit: list[int] = []
        if decoded.rejects.height and self._all is not self._declared:
            decoded, unfit = self._without_learned(decoded, keys, values)
        if self._check:
            decoded = self._check(decoded)
        events = decoded.events
        upserts = rows_where(events, (events["_op"] == "upsert").to_numpy())["_row"].to_numpy()
        documents = values if len(upserts) == len(values) else [values[row] for row in upserts]
        unlike = self._known.unlike(unframed(cast("Sequence[bytes]", documents), self._format))
        unlike |= np.isin(upserts, unfit)
        return replace(decoded, undecided=upserts[unlike].tolist())

    def _without_learned(
        self, decoded: Decoded, keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> tuple[Decoded, list[int]]:
        """Decode what was rejected without the learned columns; return all, and the events found so."""
        rows = decoded.rejects["_row"]
        again = self._declared.decode([keys[row] for row in rows], [values[row] for row in rows])
        events, rejects = (
            found.with_columns(rows.gather(found["_row"]).cast(pl.UInt32)) for found in (again.events, again.rejects)
        )
        dropped = pl.concat([decoded.dropped, rows.gather(again.dropped).cast(pl.UInt32)]).sort()
        both = pl.concat([decoded.events, events], how="diagonal").sort("_row")
        return Decoded(both, rejects, dropped), events["_row"].to_list()
