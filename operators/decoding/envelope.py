"""Documents with or without the wrapper of Kafka Connect's JSON converter, ``{"schema": ..., "payload": ...}``.

A document is wrapped when its `payload` is an object; both kinds may stand in one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl

from operators.decoding.documents import Read, Reader
from operators.decoding.json_values import Path
from operators.decoding.look import Field

_PAYLOAD = "payload"
_WRAPPED = "_wrapped"  # names of fields have no leading underscore


class EnvelopeReader:
    """Reads fields whose paths are given as in the bare document; the frame has one more column, `_wrapped`."""

    def __init__(self, fields: Sequence[Field], sections: Mapping[str, Path]) -> None:
        probe = {_WRAPPED: (_PAYLOAD,)}
        inner = [replace(field, path=(_PAYLOAD, *field.path)) for field in fields]
        self._bare = Reader(fields, {**sections, **probe})
        self._wrapped = Reader(inner, {**{name: (_PAYLOAD, *path) for name, path in sections.items()}, **probe})
        self._probe = Reader([], probe)
        self._guess = False

    def read(self, documents: Sequence[bytes]) -> Read:
        """Return `documents` as columns, as `Reader.read` does."""
        wrapped = self._guess
        frame, refused = self._reader(wrapped=wrapped).read(documents)
        found = self._others(documents, frame, refused, wrapped=wrapped)
        if not found:
            return Read(frame, refused)
        others = sorted(found)
        self._guess = wrapped ^ (2 * len(others) > len(documents))
        rest = self._reader(wrapped=not wrapped).read([documents[i] for i in others])
        index = pl.Series(others, dtype=pl.UInt32)
        moved = rest.frame.with_columns(_row=index.gather(rest.frame["_row"]))
        both = pl.concat([frame.filter(pl.col(_WRAPPED) == wrapped), moved]).sort("_row")
        still = {row: reason for row, reason in refused.items() if row not in found}
        still |= {others[i]: reason for i, reason in rest.refused.items()}
        return Read(both, dict(sorted(still.items())))

    def _reader(self, *, wrapped: bool) -> Reader:
        return self._wrapped if wrapped else self._bare

    def _others(
        self, documents: Sequence[bytes], frame: pl.DataFrame, refused: Mapping[int, str], *, wrapped: bool
    ) -> set[int]:
        """Return the documents that are not of the kind they were read as."""
        others: list[int] = frame["_row"].filter(frame[_WRAPPED] != wrapped).to_list()
        if not refused:
            return {*others}
        probed = self._probe.read([documents[i] for i in refused]).frame
        kinds = dict(zip(probed["_row"], probed[_WRAPPED], strict=True))
        return {*others, *(i for at, i in enumerate(refused) if kinds.get(at, False) != wrapped)}
