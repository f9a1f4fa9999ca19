"""Sums of floats without rounding, so that a retracted value leaves nothing behind and order does not matter.

Every finite float is a whole number of units of 2**-1074 (IEEE 754 binary64, the smallest subnormal). A sum is
kept as that whole number and rounded once, when it is read: the result of `math.fsum` over the same values. The
idea of a long accumulator is Kulisch's ("Computer Arithmetic and Validity", 2008).
"""

import numpy as np
import numpy.typing as npt
import polars as pl

_UNIT_EXPONENT = -1074
_MANTISSA_BITS = 53
_LOW_BITS = 26  # sums of the high and low parts of 2**36 mantissas still fit 64 bits


def sum_by_group(values: npt.NDArray[np.float64], groups: npt.NDArray[np.int64], size: int) -> list[int]:
    """Return the exact sum of the finite `values` of each group 0 … size - 1, in units of 2**-1074."""
    fraction, exponent = np.frexp(values)
    mantissa = np.ldexp(fraction, _MANTISSA_BITS).astype(np.int64)
    parts = pl.DataFrame(
        {
            "group": groups,
            "shift": exponent.astype(np.int64) - _MANTISSA_BITS - _UNIT_EXPONENT,
            "high": mantissa >> _LOW_BITS,
            "low": mantissa & ((1 << _LOW_BITS) - 1),
        }
    )
    sums = [0] * size
    for group, shift, high, low in parts.group_by("group", "shift").sum().iter_rows():
        part = (high << _LOW_BITS) + low
        sums[group] += part << shift if shift >= 0 else part >> -shift  # subnormals end in as many zero bits
    return sums


def encode(total: int) -> str:
    """Write a sum compactly, as hexadecimal digits and a power of two.

    >>> encode(3 << 1074)
    '3p1074'
    """
    power = (total & -total).bit_length() - 1 if total else 0
    return f"{total >> power:x}p{power}"


def decode(text: str) -> int:
    """Read what `encode` wrote.

    >>> decode("-3p1074") == -3 << 1074
    True
    """
    digits, power = text.split("p")
    return int(digits, 16) << int(power)


def rounded(total: int, count: int = 1) -> float:
    """Return `total` units divided by `count`, rounded once, to the nearest float; infinite where none is near.

    >>> rounded(3 << 1073)
    1.5
    """
    try:
        return total / (count << -_UNIT_EXPONENT)
    except OverflowError:
        return float("inf") if total > 0 else float("-inf")
