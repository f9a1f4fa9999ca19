"""Decimals as Kafka Connect sends them: the unscaled integer as big-endian two's complement bytes.

Format: ``org.apache.kafka.connect.data.Decimal`` and ``io.debezium.data.VariableScaleDecimal``.
"""

from decimal import Decimal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from operators.arrow_arrays import arrow_flags
from operators.decoding.decimal_text import exactly

_WIDTH = 16
_MAX_DIGITS = 38
_LONGEST = 64  # bytes of an integer that is looked at
_WIDE = 76  # digits of a decimal256
Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]


def unscaled(data: pl.Series, precision: int) -> tuple[Words, Mask]:
    """Return Binary `data` as 128-bit integers (rows of a low and a high word), and which of them are bad.

    Bad are values of no bytes, and integers of more than `precision` digits. NULL is zero and not bad.
    """
    array = data.rechunk().to_arrow().cast(pa.large_binary())
    _, offsets, content = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(bounds)
    flat = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(1, np.uint8)
    words = _right_aligned(flat, bounds, lengths).view(np.uint64)
    bad = (lengths == 0) | (lengths > _WIDTH) | _too_large(words, precision)
    return words, bad & data.is_not_null().to_numpy()


def to_decimals(words: Words, null: Mask, precision: int, scale: int) -> pa.Array:
    """Return 128-bit integers as decimals of this precision and scale, NULL where `null`."""
    valid = arrow_flags(~null).buffers()[1]
    return pa.Array.from_buffers(
        pa.decimal128(precision, scale), len(words), [valid, pa.py_buffer(np.ascontiguousarray(words))]
    )


def rescaled(content: pl.Series, scale: int | None, dtype: pl.Decimal) -> pl.Series:
    """Return the numbers that unscaled integers stand for at `scale`, NULL where `dtype` cannot hold one exactly."""
    nothing = pl.Series([None], dtype=dtype).new_from_index(0, len(content))
    if scale is None or scale < 0:
        return nothing
    values = nothing if scale > _MAX_DIGITS else _at_once(content, scale, dtype)
    left = (values.is_null() & content.is_not_null()).arg_true()
    numbers = [_number(each, scale, dtype) for each in content.gather(left)]
    return values.scatter(left, pl.Series(numbers, dtype=dtype)) if numbers else values


def _at_once(content: pl.Series, scale: int, dtype: pl.Decimal) -> pl.Series:
    """Return the numbers, NULL for some more: those of more bytes or digits, all where one of them overflows."""
    declared = pa.decimal128(dtype.precision or _MAX_DIGITS, dtype.scale)
    precision = declared.precision if scale == dtype.scale else _MAX_DIGITS
    words, bad = unscaled(content, precision)
    decimals = to_decimals(words, bad | content.is_null().to_numpy(), precision, scale)
    if scale == dtype.scale:
        return series_of(decimals)
    wide = decimals.cast(pa.decimal256(_WIDE, scale))  # rescaling a decimal128 may overflow unnoticed
    try:
        return series_of(wide.cast(pa.decimal256(_WIDE, dtype.scale)).cast(declared))
    except pa.ArrowInvalid:
        return series_of(pa.nulls(len(wide), declared))


def _number(content: bytes, scale: int, dtype: pl.Decimal) -> Decimal | None:
    if not 0 < len(content) <= _LONGEST:
        return None
    text = f"{int.from_bytes(content, 'big', signed=True)}e-{scale}"
    return exactly(text, dtype.precision or _MAX_DIGITS, dtype.scale)


def series_of(array: pa.Array) -> pl.Series:
    """Return an Arrow array as a column."""
    series = pl.from_arrow(array)
    if not isinstance(series, pl.Series):
        raise TypeError(f"received {type(series)}, expected a column")
    return series


def _right_aligned(
    flat: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Return each value as 16 little-endian bytes, sign-extended; of longer values the first bytes are lost."""
    sign = np.where((lengths > 0) & (flat[np.minimum(bounds[:-1], len(flat) - 1)] > np.iinfo(np.int8).max), 255, 0)
    out = np.repeat(sign.astype(np.uint8)[:, None], _WIDTH, axis=1)
    for place in range(min(_WIDTH, int(lengths.max(initial=0)))):
        held = lengths > place
        out[held, place] = flat[bounds[1:][held] - 1 - place]
    return out


def _too_large(words: Words, precision: int) -> Mask:
    """Tell which integers have a magnitude of 10**precision or more."""
    limit = 10**precision
    low, high = words[:, 0], words[:, 1]
    negative = high.view(np.int64) < 0
    magnitude_low = np.where(negative, ~low + np.uint64(1), low)
    magnitude_high = np.where(negative, ~high + (low == 0), high)
    limit_low, limit_high = np.uint64(limit & (2**64 - 1)), np.uint64(limit >> 64)
    above: Mask = (magnitude_high > limit_high) | ((magnitude_high == limit_high) & (magnitude_low >= limit_low))
    return above
