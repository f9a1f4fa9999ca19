"""A 64-bit hash of key columns that stays the same across releases, machines and column encodings.

Words of 64 bits are folded with the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom
number generators", OOPSLA 2014). Numbers, dates, timestamps and booleans are one word; text is its UTF-8 bytes
in little-endian words, then its length. NULL is a word of its own. The hash is fast, not secret: whoever needs
exactness compares the values behind equal hashes.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

Hashes = npt.NDArray[np.uint64]

_SEED = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xD1B54A32D192ED03)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_WORD = 8


def hash_rows(frame: pl.DataFrame) -> Hashes:
    """Return one hash per row over all columns, in their order."""
    hashes = np.full(frame.height, _SEED, np.uint64)
    for column in frame.iter_columns():
        hashes = _fold_column(hashes, column)
    return hashes


def _fold_column(hashes: Hashes, column: pl.Series) -> Hashes:
    if column.dtype.is_float():
        values = column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0  # -0.0 + 0.0 is 0.0; polars would skip it
        folded = _mix(hashes ^ values.view(np.uint64))
    elif column.dtype.is_integer() or column.dtype.is_temporal() or column.dtype == pl.Boolean:
        folded = _mix(hashes ^ column.to_physical().cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64))
    else:
        folded = _fold_text(hashes, _as_text(column))
    if column.null_count():
        nulls = column.is_null().to_numpy()
        folded[nulls] = _mix(hashes[nulls] ^ _NULL)
    return folded


def _as_text(column: pl.Series) -> pl.Series:
    if column.dtype == pl.List(pl.String):
        length = column.list.len().cast(pl.String)
        items = column.list.eval(pl.element().str.len_bytes().cast(pl.String).fill_null("-"))
        lengths = items.list.join(",")
        return (length + ":" + lengths + ":" + column.list.join("", ignore_nulls=True)).fill_null("")
    return column.cast(pl.String).fill_null("")


def _fold_text(hashes: Hashes, column: pl.Series) -> Hashes:
    """Fold the UTF-8 bytes word by word; rows drop out as their text ends."""
    text = column.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    words = _overlapping_words(text.buffers()[2])
    lengths = np.diff(offsets)
    hashes = hashes.copy()
    active, place = np.flatnonzero(lengths > 0), 0
    while active.size:
        left = lengths[active] - place
        word = words[offsets[active] + place]
        short = left < _WORD
        keep = (left[short] * _WORD).astype(np.uint64)
        word[short] &= (np.uint64(1) << keep) - np.uint64(1)
        hashes[active] = _mix(hashes[active] ^ word)
        place += _WORD
        active = active[left > _WORD]
    return _mix(hashes ^ lengths.astype(np.uint64))


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
