"""A clock that jumps: commits go on, their times never go back within an owner, and nothing is removed early."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from storage.delta.maintenance import Maintenance
from tests.clocks import age, movable_clock
from tests.readers import IN_PROCESS, assert_all_read
from tests.test_bad_tables import ROWS, frame, opened
from tests.test_maintenance import HOUR, files, ticks


def timestamps(path: Path) -> list[int]:
    entries = sorted((path / "_delta_log").glob("*.json"))
    return [json.loads(entry.read_text().splitlines()[0])["commitInfo"]["timestamp"] for entry in entries]


def removal_times(path: Path, version: int) -> list[int]:
    lines = (path / f"_delta_log/{version:020}.json").read_text().splitlines()
    return [found["remove"]["deletionTimestamp"] for line in lines if "remove" in (found := json.loads(line))]


def test_a_clock_that_jumps_back_an_hour_does_not_turn_commits_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "rooms", movable_clock(monkeypatch)
    owner = opened(path)
    owner.merge(ROWS, [], {"desk/0": 1})
    clock.offset = -HOUR
    for number in range(2, 6):
        owner.merge([(number, number)], [(100 + number,)], {"desk/0": number})
    told = timestamps(path)[1:]
    assert told == sorted(set(told)), "one after the other, and no two at once"
    assert told[-1] - told[0] < 60_000
    assert removal_times(path, 5)[0] == told[-1]
    clock.offset = timedelta(0)
    owner.merge([(7, 7)], [], {"desk/0": 7})
    assert timestamps(path)[-1] > told[-1]
    left = {key: n for key, n in ROWS if key not in range(102, 106)} | {n: n for n in (2, 3, 4, 5, 7)}
    assert_all_read(IN_PROCESS, str(path), frame([*left.items()]))


@pytest.mark.parametrize("jump", [-HOUR, -24 * HOUR])
def test_nothing_is_swept_early_when_the_clock_jumps_back(
    tmp_path: Path, jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "rooms", movable_clock(monkeypatch)
    owner = opened(path)
    owner.merge(ROWS, [], {"desk/0": 1})
    owner.merge([], [row[:1] for row in ROWS[:4000]], {"desk/0": 2})
    clock.offset = jump
    owner.merge([(1, 1)], [], {"desk/0": 3})
    before = files(path)
    maintenance = Maintenance(owner.table, owner.locator, HOUR)
    maintenance._swept -= 20 * 60  # seconds: a sweep is due
    ticks(maintenance)
    assert files(path) >= before
    assert_all_read(IN_PROCESS, str(path), frame(ROWS), 1)
    assert_all_read(IN_PROCESS, str(path), frame([(1, 1), *ROWS[4000:]]))

    clock.offset = timedelta(0)
    assert owner.maintain(HOUR).removed == 0, "nor when it jumps forth again"
    assert_all_read(IN_PROCESS, str(path), frame(ROWS), 1)


def test_what_is_old_is_swept_after_the_jump_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "rooms", movable_clock(monkeypatch)
    clock.offset = -3 * HOUR
    owner = opened(path)
    owner.merge(ROWS, [], {"desk/0": 1})
    (first,) = (Path(uri) for uri in DeltaTable(path).file_uris())
    owner.merge([(key, 2) for key, _ in ROWS], [], {"desk/0": 2})
    age(path, 3 * HOUR)
    clock.offset = -HOUR
    owner.maintain(HOUR)
    assert not first.exists()
    assert_all_read(IN_PROCESS, str(path), frame([(key, 2) for key, _ in ROWS]))
