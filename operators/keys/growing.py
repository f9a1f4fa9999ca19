"""Arrays by slot that grow with the number of keys, by an eighth at a time so that little of them stays unused."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Scalar = TypeVar("_Scalar", bound=np.generic)


def grown(array: npt.NDArray[_Scalar], size: int, fill: object = 0) -> npt.NDArray[_Scalar]:
    """Return `array`, or when it is shorter than `size`, a longer copy whose new places hold `fill`.

    >>> grown(np.array([7]), 2, fill=-1)[:3]
    array([ 7, -1, -1])
    """
    if len(array) >= size:
        return array
    longer = np.full(max(size, len(array) + len(array) // 8) + 64, fill, array.dtype)
    longer[: len(array)] = array
    return longer
