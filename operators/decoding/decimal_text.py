"""Decimals written as text: what they are exactly, and which of them Arrow can be trusted with.

Arrow's parser of decimals (26.0.1) moves the point by a table of powers of ten that it does not guard: in a decimal128
it reads beyond the table for exponents of -39 and less, and crashes the process for large ones; and it checks the
digits as written, not those of the result, so that 123456 becomes a decimal(6, 2). So:

1. It parses to `parsed`, a decimal256 of 38 digits before the point is moved. Moved by up to 38 places to the left they
   still fit its 76 digits, and the cast to the declared type, which checks digits, is what decides.
2. No text with an exponent below -38 reaches it: the point then moves by at most 76 places to the right, which is as
   far as the table goes. `perilous` finds the documents that may hold one, and `is_plain` tells of a single text.
3. Texts that are not plain, although they may fit, are read by `exactly`.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from operators.decoding.json_batch import Bytes, lines_of, stretches

_MAX_DIGITS = 38
_MAX_SHIFT = 76
_TEXT = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?", re.ASCII)
_ENDLESS = 10**12  # an exponent beyond the length of any document
_PERILOUS = re.compile(rb'["\s:,\[][+-]?[\d.]+[eE]-0*(?:39|[4-9]\d|\d{3,})["\s,}\]\\]|\\u00(?:[46]5|2[dD]|3\d)')
_ESCAPE = b"\\u00"  # may hide a digit, a sign or an e
_MINUS, _ZERO, _NINE = b"-0\x09"
_IS_E = np.isin(np.arange(256), [*b"eE"])


class _Written(NamedTuple):
    """A decimal is `digits` times ten to the power `exponent`; `whole` and `fraction` are as written."""

    negative: bool
    whole: str
    fraction: str
    exponent: int

    @property
    def places(self) -> int:
        return len(self.fraction) - self.exponent


def parsed(scale: int) -> pa.DataType:
    """Return the type for Arrow to parse decimals of this scale to; to be cast to the declared type."""
    return pa.decimal256(_MAX_DIGITS, scale)


def perilous(documents: Sequence[bytes]) -> list[int]:
    """Return which documents may hold an exponent that must not reach Arrow; some are returned that hold none."""
    joined = lines_of(documents)
    if not (b"\\" in joined and _ESCAPE in joined) and not _has_small_exponent(joined):
        return []
    return [i for i, document in enumerate(documents) if _PERILOUS.search(document)]


def _has_small_exponent(joined: bytes) -> bool:
    """Tell whether an ``e-`` is followed by three digits, or two of 39 and more, anywhere."""
    return b"-" in joined and any(map(_holds_small_exponent, stretches(joined, ahead=4)))


def _holds_small_exponent(content: Bytes) -> bool:
    minus = np.flatnonzero(content[1:-3] == _MINUS) + 1
    minus = minus[_IS_E[content[minus - 1]]]
    tens, ones, more = (content[minus + i] - _ZERO for i in (1, 2, 3))  # what is no digit wraps to more than 9
    large = (more <= _NINE) | (10 * tens + ones > _MAX_DIGITS)
    return bool(((tens <= _NINE) & (ones <= _NINE) & large).any())


def is_plain(text: str) -> bool:
    """Tell whether Arrow reads a decimal with so many digits and such an exponent."""
    found = _written(text)
    if found is None:
        return False
    digits = len(found.whole.lstrip("0")) + len(found.fraction) - min(found.places, 0)
    return digits <= _MAX_DIGITS and found.places <= _MAX_SHIFT and -found.exponent <= _MAX_DIGITS


def at_a_glance(declared: pa.Decimal128Type) -> re.Pattern[str]:
    """Return a pattern of texts that are plain and fit, the usual ones though not all."""
    whole = f"[0-9]{{1,{declared.precision - declared.scale}}}" if declared.precision > declared.scale else "0"
    return re.compile(f"-?{whole}(?:\\.[0-9]{{1,{declared.scale}}})?" if declared.scale else f"-?{whole}")


def exactly(text: str, precision: int, scale: int) -> Decimal | None:
    """Return the number that `text` writes if a decimal(precision, scale) can hold it, else None.

    >>> exactly("1250e-3", 3, 2), exactly("1.255", 3, 2), exactly("0e-999999999999", 3, 2)
    (Decimal('1.25'), None, Decimal('0'))
    """
    found = _written(text)
    if found is None:
        return None
    digits = (found.whole + found.fraction).lstrip("0")
    if not digits:
        return Decimal(0)
    significant = digits.rstrip("0")
    power = len(digits) - len(significant) - found.places
    if power < -scale or len(significant) + power > precision - scale:
        return None
    return Decimal((int(found.negative), tuple(map(int, significant)), power))


def _written(text: str) -> _Written | None:
    found = _TEXT.fullmatch(text)
    if found is None or not (found[2] or found[3]):
        return None
    return _Written(found[1] == "-", found[2], found[3] or "", _exponent(found[4] or "0"))


def _exponent(text: str) -> int:
    digits = text.lstrip("+-").lstrip("0")
    size = int(digits or "0") if len(digits) < len(str(_ENDLESS)) else _ENDLESS
    return -size if text[0] == "-" else size
