"""The header of Confluent's serializers: a zero byte, then the id of the schema as four bytes, the highest first.

Source: Confluent Platform documentation, "Formats, Serializers, and Deserializers", "Wire format".
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

HEADER = 5
"""Bytes before the data."""

_EXPECTED = "a schema header (a zero byte and an id of 4 bytes)"
_SHOWN = 20

Ints = npt.NDArray[np.int64]


def bounds_of(documents: Sequence[bytes]) -> Ints:
    """Return where each document begins when they are joined, and the end."""
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    return np.concatenate([[0], np.cumsum(lengths)])


def schema_ids(joined: bytes, bounds: Ints) -> Ints:
    """Return the schema id that each document begins with, -1 for those without a header.

    The documents stand in `joined` one after the other, with at least `HEADER` bytes after the last one.
    """
    content, start = np.frombuffer(joined, np.uint8), bounds[:-1]
    ids = np.zeros(len(start), np.int64)
    for place in range(1, HEADER):
        ids = ids << 8 | content[start + place]
    ids[(content[start] != 0) | (np.diff(bounds) < HEADER)] = -1
    return ids


def of_no_header(document: bytes) -> str:
    """Return the reason for a document without a header."""
    return f"received {in_hex(document) if document else 'an empty value'}, expected {_EXPECTED}"


def in_hex(data: bytes) -> str:
    r"""Return bytes as a message shows them.

    >>> in_hex(b"\x00{}")
    'the bytes 00 7b 7d'
    """
    if not data:
        return "no bytes"
    return f"the bytes {data[:_SHOWN].hex(' ')}{'…' if len(data) > _SHOWN else ''}"
