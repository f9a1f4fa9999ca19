"""Decoding records of a table that does not ignore undeclared fields.

What they mean is decided later and in one place (`learning`), which alone knows all columns that the table has learned.
A decoder may know some of them, and then reads them like declared ones, which is only quicker: a record that does not
fit these is decoded without them, and is undecided.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import polars as pl

from operators.decode import Decoded, Decoder
from operators.eager import rows_where
from operators.formats import Format, Json
from operators.known_fields import KnownFields
from operators.schema import Schema


class WatchingDecoder:
    """Decodes like a `Decoder` of the columns declared and `learned`, and tells which upserts are undecided."""

    def __init__(
        self, schema: Schema, learned: Schema, keys: Sequence[str], sequence_by: str | None, fmt: Format
    ) -> None:
        self._declared = Decoder(schema, keys, sequence_by, fmt)
        self._all = Decoder({**schema, **learned}, keys, sequence_by, fmt) if learned else self._declared
        operation = [fmt.operation] if isinstance(fmt, Json) and fmt.operation is not None else []
        self._known = KnownFields([*schema, *learned, *operation], fmt)

    def decode(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Decoded:
        """Return what the records with these raw keys and values say; never raises for what is in them."""
        decoded = self._all.decode(keys, values)
        undecided: list[int] = []
        if decoded.rejects.height and self._all is not self._declared:
            decoded, undecided = self._without_learned(decoded, keys, values)
        events = decoded.events
        upserts = rows_where(events, (events["_op"] == "upsert").to_numpy())["_row"].to_numpy()
        documents = values if len(upserts) == len(values) else [values[row] for row in upserts]
        unlike = upserts[self._known.unlike(cast("Sequence[bytes]", documents))]
        return replace(decoded, undecided=sorted({*unlike.tolist(), *undecided}))

    def _without_learned(
        self, decoded: Decoded, keys: Sequence[bytes | None], values: Sequence[bytes | None]
    ) -> tuple[Decoded, list[int]]:
        """Decode what was rejected without the learned columns; return all, and the upserts found so."""
        rows = decoded.rejects["_row"]
        again = self._declared.decode([keys[row] for row in rows], [values[row] for row in rows])
        events, rejects = (
            found.with_columns(rows.gather(found["_row"]).cast(pl.UInt32)) for found in (again.events, again.rejects)
        )
        dropped = pl.concat([decoded.dropped, rows.gather(again.dropped).cast(pl.UInt32)]).sort()
        undecided: list[int] = events.filter(pl.col("_op") == "upsert")["_row"].to_list()
        return Decoded(pl.concat([decoded.events, events], how="diagonal").sort("_row"), rejects, dropped), undecided
