"""Avro datums, read side by side: one step of the schema at a time, in all of them at once.

Source: Apache Avro specification 1.12, "Binary Encoding". Every datum has bounds of its own, and what does not fit them
is found out in that datum alone, so none can swallow a part of its neighbour.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from operators.decoding.wire_format import bounds_of

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_PAD = b"\0" * 16  # what is read beyond the last datum before that is found out
_BYTE_ENDS = np.uint64(0x8080808080808080)
_PAYLOAD = np.uint64(0x7F7F7F7F7F7F7F7F)
_FOLDS = (  # neighbouring groups of 7, 14 and 28 bits are put together
    (np.uint64(0x7F007F007F007F00), np.uint64(0x007F007F007F007F), np.uint64(1)),
    (np.uint64(0x3FFF00003FFF0000), np.uint64(0x00003FFF00003FFF), np.uint64(2)),
    (np.uint64(0x0FFFFFFF00000000), np.uint64(0x000000000FFFFFFF), np.uint64(4)),
)
_ONE = np.uint64(1)
_LAST_SHIFT = 63
_MORE = 0x80


@dataclass(slots=True)
class Part:
    """Some of the datums, by number, ascending: where each is read up to, and where it ends."""

    rows: Ints
    at: Ints
    end: Ints

    def some(self, places: Ints) -> "Part":
        """Return these of the part, as a part of their own; when they were read on, give them to `resume`."""
        return Part(self.rows[places], self.at[places], self.end[places])

    def resume(self, places: Ints, part: "Part") -> None:
        """Go on where `part`, which was taken from these places, was read up to."""
        self.at[places] = part.at


class Datums:
    """Reads values that begin where a part stands, and moves the part on behind them.

    A value that is damaged makes its datum `bad`, and the part goes to its end; what is returned for it is not to be
    used.
    """

    def __init__(self, documents: Sequence[bytes]) -> None:
        self.data = b"".join([*documents, _PAD])
        self.bounds = bounds_of(documents)
        self.bad = np.zeros(len(documents), bool)
        self._bytes = np.frombuffer(self.data, np.uint8)

    def part(self, rows: Ints, skipped: int) -> Part:
        """Return these datums, to be read from behind their first `skipped` bytes."""
        return Part(rows, self.bounds[rows] + skipped, self.bounds[rows + 1])

    def fail(self, part: Part, where: Flags) -> None:
        """Give up datums."""
        if where.any():
            self.bad[part.rows[where]] = True
            part.at[where] = part.end[where]

    def integer(self, part: Part) -> Ints:
        """Read a zigzag-encoded integer of up to 64 bits."""
        first = self._bytes[part.at]
        if (first < _MORE).all():
            found = first.astype(np.uint64)
            part.at += 1
        else:
            found = self._long(part)
        self.fail(part, part.at > part.end)
        signed: Ints = ((found >> _ONE) ^ (~(found & _ONE) + _ONE)).view(np.int64)
        return signed

    def integer32(self, part: Part) -> Ints:
        """Read a zigzag-encoded integer of up to 32 bits."""
        found = self.integer(part)
        self.fail(part, found != found.astype(np.int32))
        return found

    def boolean(self, part: Part) -> Flags:
        """Read a byte that is 0 or 1."""
        found = self._bytes[part.at]
        part.at += 1
        self.fail(part, (part.at > part.end) | (found > 1))
        flags: Flags = found == 1
        return flags

    def floating(self, part: Part, size: int) -> npt.NDArray[Any]:
        """Read an IEEE 754 number of 4 or 8 bytes."""
        found = self._words(part.at, f"<f{size}")
        part.at += size
        self.fail(part, part.at > part.end)
        return found

    def sized(self, part: Part) -> tuple[Ints, Ints]:
        """Read a length and as many bytes; return where they begin and end."""
        return self.fixed(part, self.integer(part))

    def fixed(self, part: Part, size: Ints) -> tuple[Ints, Ints]:
        """Read so many bytes; return where they begin and end."""
        self.fail(part, (size < 0) | (size > part.end - part.at))
        start = part.at.copy()
        part.at += np.clip(size, 0, part.end - part.at)
        return start, part.at.copy()

    def _words(self, at: Ints, dtype: str) -> npt.NDArray[Any]:
        """Return the numbers that begin at these bytes, wherever in memory that is."""
        item = np.dtype(dtype)
        count = len(self._bytes) - item.itemsize + 1
        return np.ndarray((count,), item, self.data, strides=(1,))[at]

    def _long(self, part: Part) -> Words:
        """Read seven bits a byte, the lowest first, up to the byte that says it is the last."""
        words: Words = self._words(part.at, "<u8")
        ends = ~words & _BYTE_ENDS
        last = ends & (~ends + _ONE)
        found: Words = words & (last ^ (last - _ONE)) & _PAYLOAD
        for high, low, shift in _FOLDS:
            found = ((found & high) >> shift) | (found & low)
        lengths = (np.bitwise_count(last - _ONE) >> 3).astype(np.int64) + 1
        longer = np.flatnonzero(last == 0)
        part.at += lengths
        if longer.size:
            part.at[longer] -= lengths[longer]
            found[longer] = self._longest(part, longer)
        return found

    def _longest(self, part: Part, places: Ints) -> Words:
        """Read integers of nine or ten bytes, of the last of which one bit counts; whatever is longer is bad."""
        at, found = part.at[places], np.zeros(len(places), np.uint64)
        going = np.ones(len(places), bool)
        for shift in range(0, _LAST_SHIFT + 1, 7):
            byte = self._bytes[at].astype(np.uint64)
            found[going] |= (byte[going] & np.uint64(0x7F)) << np.uint64(shift)
            at[going] += 1
            if shift == _LAST_SHIFT:
                going &= byte > 1
            else:
                going &= byte >= _MORE
        at[going] = part.end[places][going] + 1  # which `integer` finds out
        part.at[places] = at
        return found
