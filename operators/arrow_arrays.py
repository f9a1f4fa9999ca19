"""Numbers and flags as Arrow arrays and back, without what imports pandas, where that is installed, for a second."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def arrow_int64(numbers: npt.NDArray[np.int64]) -> pa.Array:
    """Return numbers as an array without NULL that shares their memory.

    >>> arrow_int64(np.array([3, 1])).to_pylist()
    [3, 1]
    """
    values = np.ascontiguousarray(numbers, np.int64)
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def arrow_flags(flags: npt.NDArray[np.bool_]) -> pa.Array:
    """Return flags as an array without NULL.

    >>> arrow_flags(np.array([True, False])).to_pylist()
    [True, False]
    """
    return pa.Array.from_buffers(
        pa.bool_(), len(flags), [None, pa.py_buffer(np.packbits(flags, bitorder="little").tobytes())]
    )


def flags_of(array: pa.Array) -> npt.NDArray[np.bool_]:
    """Return the values of an array of booleans; in place of NULL stands anything.

    >>> flags_of(arrow_flags(np.array([True, False]))[1:]).tolist()
    [False]
    """
    bits = np.frombuffer(array.buffers()[1], np.uint8)
    return np.unpackbits(bits, count=array.offset + len(array), bitorder="little")[array.offset :].astype(bool)
