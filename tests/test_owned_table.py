"""A table and its owner: what one commit holds, who may commit, and what becomes of a commit nobody answered for."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from storage.delta import table as storage_table
from storage.delta.owned_table import LEDGER, Commit, OwnedTable, read_positions
from storage.delta.table import Edit
from storage.delta.table_swap import Swap, swap
from storage.errors import CommitRaceError, FencedError, TransientError
from tests.faults import Outcome, before_the_next_entry, fault
from tests.keyed_table import KeyedTable
from tests.rooms import ADA, BOB, CYD, ROOMS, append_foreign, declared, held, keyed_rooms, open_rooms, rooms

ZOE = ("9z", 9, "Zoe")


def test_rows_positions_and_ledger_are_one_commit_and_reopening_finds_the_positions(tmp_path: Path) -> None:
    table = open_rooms(tmp_path / "rooms")
    assert table.positions(["desk/0", "desk/1"]) == {}
    table.append(rooms(ADA), Commit({"desk/0": 5}, {"read": 1}))
    table.append(rooms(), Commit({"desk/1": 7}, {"read": 0}))
    table.append(rooms(("1b", 1, None)), Commit({"desk/0": 6, "desk/1": 9}, {"read": 3}))

    told = []
    for commit in reversed(DeltaTable(tmp_path / "rooms").history()):
        then = DeltaTable(tmp_path / "rooms", version=commit["version"])
        positions = [then.transaction_version(f"hotel/desk/{partition}") for partition in (0, 1)]
        told.append((pl.read_delta(then).height, positions, commit.get(LEDGER)))
    assert told == [
        (0, [None, None], None),
        (1, [5, None], '{"read":1}'),
        (1, [5, 7], '{"read":0}'),
        (2, [6, 9], '{"read":3}'),
    ]
    assert open_rooms(tmp_path / "rooms").positions(["desk/0", "desk/1", "bar/0"]) == {"desk/0": 6, "desk/1": 9}
    assert read_positions(str(tmp_path / "rooms"), "hotel", ["desk/0", "bar/0"]) == {"desk/0": 6}
    assert read_positions(str(tmp_path / "rooms"), "motel", ["desk/0"]) == {}, "positions are a pipeline's own"
    assert read_positions(str(tmp_path / "nothing"), "hotel", ["desk/0"]) == {}


def test_rows_of_other_columns_are_never_written(tmp_path: Path) -> None:
    table = open_rooms(tmp_path / "rooms")
    with pytest.raises(ValueError, match=r"received rows of .*Int32.*, expected .*Int64"):
        table.append(rooms(ADA).cast({"the floor's": pl.Int32()}), Commit({}))
    assert [*(tmp_path / "rooms").glob("*.parquet")] == []


def acts(table: OwnedTable, keyed: KeyedTable) -> dict[str, Callable[[int], object]]:
    return {
        "append": lambda position: table.append(rooms(ZOE), Commit({"desk/0": position})),
        "positions only": lambda position: table.append(rooms(), Commit({"desk/0": position})),
        "merge": lambda position: keyed.merge([("1a", 1, "Zoe")], [("1b", 1)], {"desk/0": position}),
    }


ACTS = ("append", "positions only", "merge")


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("act", ACTS)
def test_an_older_owner_stops_once_a_newer_one_has_committed(
    tmp_path: Path,
    act: str,
    vectors: bool,  # noqa: FBT001
) -> None:
    older = keyed_rooms(tmp_path / "rooms", vectors=vectors)
    older.merge([ADA], [], {"desk/0": 1})
    newer = keyed_rooms(tmp_path / "rooms", vectors=vectors)
    older.merge([BOB], [], {"desk/0": 2})
    with pytest.raises(CommitRaceError, match=r"an older owner, 1, committed version 2 before us"):
        newer.merge([BOB], [], {"desk/0": 2})  # it is the newer one, but did not see what the older one wrote since
    newer = keyed_rooms(tmp_path / "rooms", vectors=vectors)
    newer.merge([CYD], [], {"desk/0": 3})
    for _ in range(2):
        with pytest.raises(FencedError, match=r"owner epoch 2 has committed up to version 3, ours is 1: .*'hotel'"):
            acts(older.table, older)[act](4)
    assert held(tmp_path / "rooms") == [ADA, BOB, CYD]
    newer.merge([], [BOB[:2]], {"desk/0": 4})
    assert held(tmp_path / "rooms") == [ADA, CYD]
    assert newer.table.positions(["desk/0"]) == {"desk/0": 4}


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_owners_that_opened_at_the_same_instant_one_goes_on(tmp_path: Path, first: int) -> None:
    keyed_rooms(tmp_path / "rooms").merge([ADA], [], {"desk/0": 1})
    twins = [keyed_rooms(tmp_path / "rooms"), keyed_rooms(tmp_path / "rooms")]
    winner, loser = twins[first], twins[1 - first]
    with (
        before_the_next_entry(lambda: winner.merge([BOB], [], {"desk/0": 2})),
        pytest.raises(FencedError, match="owner epoch 2 has committed up to version 2, ours is 2 and has not: another"),
    ):
        loser.merge([("1b", 1, "not Bob")], [], {"desk/0": 2})
    winner.merge([CYD], [], {"desk/0": 3})
    assert held(tmp_path / "rooms") == [ADA, BOB, CYD]


@pytest.mark.parametrize("definition", ["", "keys Room"])
@pytest.mark.parametrize("sees_commit", [True, False])
def test_who_is_fenced_by_a_table_that_was_made_anew_is_told_so(
    tmp_path: Path,
    definition: str,
    sees_commit: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it finds the commit that did so, or only what the table has become while it slept."""
    monkeypatch.setattr(storage_table, "_SURE_FOR", 0.0)  # seconds
    keyed_rooms(tmp_path / "rooms").merge([ADA], [], {"desk/0": 1})
    sleeper = keyed_rooms(tmp_path / "rooms")
    other = declared(ROOMS, definition=definition, change_feed=True, vectors=True)
    swap(str(tmp_path / "rooms"), Swap(other, lambda table: Edit("REBUILD", removed=table.data_files), Commit({})))
    if not sees_commit:
        forget_the_past(OwnedTable(str(tmp_path / "rooms"), other), tmp_path / "rooms")
    told = r"ours is 2 and has not: the table was made anew, .*Start pipeline 'hotel' again, as it is declared now"
    with pytest.raises(FencedError, match=told):
        sleeper.merge([BOB], [], {"desk/0": 2})


def test_two_that_make_a_table_at_the_same_instant_make_one(tmp_path: Path) -> None:
    made: list[OwnedTable] = []
    with before_the_next_entry(lambda: made.append(open_rooms(tmp_path / "rooms"))):
        made.append(open_rooms(tmp_path / "rooms"))
    made[0].append(rooms(ADA), Commit({}))
    with pytest.raises(FencedError):
        made[1].append(rooms(BOB), Commit({}))
    assert held(tmp_path / "rooms") == [ADA]


@pytest.mark.parametrize("act", ACTS)
def test_a_sleeper_whose_part_of_the_log_was_cleaned_up_is_fenced(
    tmp_path: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the place of an old version free, and what it puts there is no part of the table."""
    monkeypatch.setattr(storage_table, "_SURE_FOR", 0.0)  # seconds
    sleeper = keyed_rooms(tmp_path / "rooms")
    sleeper.merge([ADA, BOB], [], {"desk/0": 1})
    newer = keyed_rooms(tmp_path / "rooms")
    newer.merge([CYD], [], {"desk/0": 2})
    newer.merge([], [BOB[:2]], {"desk/0": 3})
    forget_the_past(newer.table, tmp_path / "rooms")
    with pytest.raises(FencedError, match="owner epoch 2 has committed up to version 3, ours is 1"):
        acts(sleeper.table, sleeper)[act](4)
    assert held(tmp_path / "rooms") == [ADA, CYD]
    newer.merge([BOB], [], {"desk/0": 4})
    assert held(tmp_path / "rooms") == [ADA, BOB, CYD]
    assert keyed_rooms(tmp_path / "rooms").table.positions(["desk/0"]) == {"desk/0": 4}


def test_a_sleeper_that_others_but_no_owner_outran_opens_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_table, "_SURE_FOR", 0.0)  # seconds
    sleeper = open_rooms(tmp_path / "rooms")
    sleeper.append(rooms(ADA), Commit({"desk/0": 1}))
    append_foreign(tmp_path / "rooms", BOB)
    append_foreign(tmp_path / "rooms", CYD)
    DeltaTable(tmp_path / "rooms").create_checkpoint()
    for version in (0, 1, 2):
        (tmp_path / f"rooms/_delta_log/{version:020}.json").unlink()
    with pytest.raises(CommitRaceError, match="version 1 is out of the log"):
        sleeper.append(rooms(ZOE), Commit({"desk/0": 2}))
    again = open_rooms(tmp_path / "rooms")
    assert again.positions(["desk/0"]) == {"desk/0": 1}
    again.append(rooms(ZOE), Commit({"desk/0": 2}))
    assert held(tmp_path / "rooms") == [ADA, BOB, CYD, ZOE]


def forget_the_past(owner: OwnedTable, path: Path) -> None:
    """Leave a checkpoint of the newest version, and no entry before it."""
    owner.log.write_checkpoint(owner.snapshot())
    for entry in sorted((path / "_delta_log").glob("*.json"))[:-1]:
        entry.unlink()


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize(
    ("outcome", "raises", "happened"),
    [("lost", True, False), ("unanswered", False, True), ("unsure", True, True), ("unknown", True, True)],
)
def test_a_commit_that_failed_is_found_out_by_the_positions(
    tmp_path: Path,
    outcome: Outcome,
    raises: bool,  # noqa: FBT001
    happened: bool,  # noqa: FBT001
    vectors: bool,  # noqa: FBT001
) -> None:
    owner = keyed_rooms(tmp_path / "rooms", vectors=vectors)
    owner.merge([ADA, BOB, CYD], [], {"desk/0": 1})
    change = ([("1a", 1, "ada"), ZOE], [BOB[:2]], {"desk/0": 2})
    with fault(outcome):
        if raises:
            with pytest.raises(TransientError, match=r"rooms: "):
                owner.merge(*change)
        else:
            owner.merge(*change)
    assert read_positions(str(tmp_path / "rooms"), "hotel", ["desk/0"]) == {"desk/0": 2 if happened else 1}
    owner = keyed_rooms(tmp_path / "rooms", vectors=vectors) if raises else owner
    if not happened:
        owner.merge(*change)
    owner.merge([], [CYD[:2]], {"desk/0": 3})
    assert held(tmp_path / "rooms") == [("1a", 1, "ada"), ZOE]
    assert owner.table.version == 3


def test_whoever_is_fenced_does_not_come_back_as_the_newest_owner_after_a_failed_write(tmp_path: Path) -> None:
    older = open_rooms(tmp_path / "rooms")
    older.append(rooms(ADA), Commit({}))
    open_rooms(tmp_path / "rooms").append(rooms(BOB), Commit({}))
    with fault("lost"), pytest.raises(FencedError):
        older.append(rooms(CYD), Commit({}))


def test_positions_and_definition_belong_to_the_pipeline_that_is_named(tmp_path: Path) -> None:
    uri = str(tmp_path / "rooms")
    made = OwnedTable(uri, declared(ROOMS, definition="keys GUEST"))
    made.append(rooms(ADA), Commit({"desk/0": 1}))
    assert made.is_current
    again = OwnedTable(uri, declared(ROOMS, definition="keys Room", derived=True))
    assert not again.is_current
    again.replace(rooms(BOB), Commit({"desk/0": 2}))
    assert held(tmp_path / "rooms") == [BOB]
    assert again.is_current
