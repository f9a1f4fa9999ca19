"""What a source may have on its way is bounded in records and in bytes, and comes free as Silver merges."""

import pytest

from flows.reading.in_flight import InFlight, Limits, Progress
from storage.delta.positions import Range


@pytest.mark.parametrize("limits", [Limits(20, 10**6), Limits(10**6, 200)], ids=["records", "bytes"])
def test_a_partition_holds_back_until_silver_has_merged_what_it_emitted(limits: Limits) -> None:
    progress = Progress(dict)
    in_flight = InFlight("orders/0", limits, progress)
    in_flight.emitted(end=10, records=10, size=100)
    assert in_flight.has_room()
    in_flight.emitted(end=20, records=10, size=100)
    assert not in_flight.has_room()
    progress.settle(Range("orders/1", 0, 99))
    progress.settle(Range("orders/0", 0, 9))
    assert not in_flight.has_room(), "neither another partition nor a part of a batch makes room"
    progress.settle(Range("orders/0", 9, 10))
    assert in_flight.has_room()


def test_without_a_silver_stage_in_this_process_the_lake_is_asked_now_and_then() -> None:
    asked: list[int] = []

    def ask() -> dict[str, int]:
        asked.append(len(asked))
        return {"orders/0": 20} if len(asked) > 1 else {}

    progress = Progress(ask)
    in_flight = InFlight("orders/0", Limits(20, 10**6), progress)
    assert in_flight.has_room()
    assert not asked
    in_flight.emitted(end=20, records=20, size=1)
    tries = 0
    while not in_flight.has_room():
        tries += 1
    assert len(asked) == 2
    assert tries > 100, "it asks every 50 ms, not every time"
