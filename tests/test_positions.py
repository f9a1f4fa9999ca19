"""The gate: what of a batch is new to a table."""

import pytest

from storage.delta.positions import Range, take_from
from storage.errors import HoleError


@pytest.mark.parametrize(
    ("position", "start", "end", "taken"),
    [
        (None, 7, 9, 7),  # a table without a position takes everything
        (5, 5, 9, 5),  # take
        (5, 0, 5, None),  # drop: ends where the table stands
        (5, 0, 3, None),
        (5, 3, 9, 5),  # trim
        (5, 3, 6, 5),
        (5, 5, 5, 5),  # an empty range says where its partition stands
        (0, 0, 0, 0),
    ],
)
def test_a_batch_is_taken_from_the_position_on(position: int | None, start: int, end: int, taken: int | None) -> None:
    assert take_from(position, Range("orders/0", start, end)) == taken


@pytest.mark.parametrize(("start", "end"), [(6, 9), (6, 6), (100, 101)])
def test_a_batch_behind_a_hole_is_refused(start: int, end: int) -> None:
    missing = rf"orders/3: received records from offset {start} on, expected 5.*offsets 5 to {start - 1} are missing"
    with pytest.raises(HoleError, match=missing):
        take_from(5, Range("orders/3", start, end))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_offset_is_taken_once_however_ranges_repeat_and_overlap(size: int) -> None:
    position = 0
    taken: list[int] = []
    for low in range(20):
        batch = Range("orders/0", max(0, low - 3), low + size)
        start = take_from(position, batch)
        if start is not None:
            taken += range(start, batch.end)
            position = batch.end
    assert taken == list(range(19 + size))
