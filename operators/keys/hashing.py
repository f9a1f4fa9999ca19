"""A 64-bit hash of key columns that stays the same across releases, machines and column encodings.

Words of 64 bits are folded with the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
number generators", OOPSLA 2014). Numbers, dates, timestamps and booleans are one word; text is the sum of the words
of its UTF-8 bytes (little-endian, zero-padded), each mixed with its place, and then its length. NULL is a word of its
own. The hash is fast, not secret: whoever needs exactness compares the values behind equal hashes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

Hashes = npt.NDArray[np.uint64]

_SEED = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xD1B54A32D192ED03)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = 8
_FIRST_BYTES = np.array([(1 << (8 * count)) - 1 for count in range(_WORD + 1)], np.uint64)
_ZEROS = np.zeros(1, np.uint64)


def hash_rows(frame: pl.DataFrame) -> Hashes:
    """Return one hash per row over all columns, in their order, up to the last one that is not NULL.

    So a column that is added behind the others leaves the hash of a row alone that has nothing in it.
    """
    folded = hashes = np.full(frame.height, _SEED, np.uint64)
    for column in frame.get_columns():
        folded = _fold_column(folded, column)
        hashes = np.where(column.is_null().to_numpy(), hashes, folded) if column.null_count() else folded
    return hashes


def hash_columns(columns: Sequence[pl.Series]) -> Hashes:
    """Return one hash per row over columns of one length; there is at least one."""
    hashes = np.full(len(columns[0]), _SEED, np.uint64)
    for column in columns:
        hashes = _fold_column(hashes, column)
    return hashes


def _fold_column(hashes: Hashes, column: pl.Series) -> Hashes:
    if column.dtype.is_float():
        values = _filled(column.cast(pl.Float64)).to_numpy() + 0.0  # -0.0 + 0.0 is 0.0; polars would skip it
        folded = _mix(hashes ^ values.view(np.uint64))
    elif column.dtype.is_integer() or column.dtype.is_temporal() or column.dtype == pl.Boolean:
        folded = _mix(hashes ^ _filled(column.to_physical().cast(pl.Int64)).to_numpy().view(np.uint64))
    else:
        folded = _fold_text(hashes, _as_text(column))
    if column.null_count():
        nulls = column.is_null().to_numpy()
        folded[nulls] = _mix(hashes[nulls] ^ _NULL)
    return folded


def _filled(numbers: pl.Series) -> pl.Series:
    return numbers.fill_null(0) if numbers.null_count() else numbers


def _as_text(column: pl.Series) -> pl.Series:
    if column.dtype == pl.List(pl.String):
        length = column.list.len().cast(pl.String)
        items = column.list.eval(pl.element().str.len_bytes().cast(pl.String).fill_null("-"))
        lengths = items.list.join(",")
        return (length + ":" + lengths + ":" + column.list.join("", ignore_nulls=True)).fill_null("")
    texts = column.cast(pl.String)
    return texts.fill_null("") if texts.null_count() else texts


def _fold_text(hashes: Hashes, column: pl.Series) -> Hashes:
    """Fold in the sum of all words of a text, each mixed with its place; where none has two, in fewer steps."""
    text = column.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    lengths = np.diff(offsets)
    if lengths.max(initial=0) <= _WORD:
        words = _overlapping_words(text.buffers()[2])[offsets[:-1]] & _FIRST_BYTES[lengths]
        return _mix(
            _mix(hashes ^ np.where(lengths > 0, _mix(words ^ _mix(_ZEROS)), _ZEROS)) ^ lengths.astype(np.uint64)
        )
    counts = -(-lengths // _WORD)
    rows = np.repeat(np.arange(len(lengths)), counts)
    ends = np.cumsum(counts)
    places = np.arange(len(rows)) - (ends - counts)[rows]
    words = _overlapping_words(text.buffers()[2])[offsets[:-1][rows] + places * _WORD]
    left = lengths[rows] - places * _WORD
    short = np.flatnonzero(left < _WORD)
    words[short] &= (np.uint64(1) << (left[short] * 8).astype(np.uint64)) - np.uint64(1)
    mixed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mix(words ^ _mix(places.astype(np.uint64))))])
    total = mixed[ends] - mixed[ends - counts]  # modulo 2**64
    return _mix(_mix(hashes ^ total) ^ lengths.astype(np.uint64))


def _overlapping_words(data: object) -> Hashes:
    """View bytes as the little-endian words that begin at each of them, zero-padded at the end."""
    raw = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)  # type: ignore[call-overload]
    padded = np.concatenate([raw, np.zeros(_WORD, np.uint8)])
    return np.ndarray((len(padded) - _WORD + 1,), dtype="<u8", buffer=padded.data, strides=(1,))


def _mix(words: Hashes) -> Hashes:
    words = words + _SEED
    words = (words ^ (words >> np.uint64(30))) * _MIX_A
    words = (words ^ (words >> np.uint64(27))) * _MIX_B
    mixed: Hashes = words ^ (words >> np.uint64(31))
    return mixed
