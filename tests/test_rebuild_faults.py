"""Rebuilds that die, whose commits fail, or that a pipeline runs beside."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from flows.commands.rebuild import rebuild
from flows.commands.restaging import CannotRebuildError
from flows.commands.table_facts import TablePlace, table_facts
from flows.lake import Lake
from flows.silver import Silver
from storage.errors import FencedError, HoleError, TableMismatchError
from tests.faults import Crash, Outcome, before_the_next_entry, crash_at_entry, fault
from tests.test_rebuild import (
    CHANGES,
    HISTORY,
    Change,
    assert_same,
    check,
    fed,
    kinds,
    made,
    rebuilt,
    rows,
    stream,
    thing,
    things,
)
from tests.test_stages import Chain


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("name", ["a history of other dates", "a current row becomes a history", "nothing changes"])
def test_a_rebuild_that_dies_at_any_commit_leaves_the_old_table_or_the_new_one_and_the_next_is_through(
    tmp_path: Path,
    name: str,
    written: bool,  # noqa: FBT001
) -> None:
    change = CHANGES.get(name, Change(HISTORY, HISTORY, ""))
    before, after = things(**change.before), things(**change.after)
    early, late = stream(3, 40, deletes=change.deletes), stream(4, 30, deletes=True)
    template = made(tmp_path / "template", before, early)
    new, end = made(tmp_path / "new", after, early), made(tmp_path / "end", after, early + late)
    states = [rows(template, "silver/things"), rows(new, "silver/things")]
    number, died = 0, True
    while died:
        number += 1
        lake = Path(shutil.copytree(template, tmp_path / f"{number}"))
        with crash_at_entry(number, written=written):
            try:
                died = rebuilt(lake, after) is None
            except Crash:
                died = True
        found = rows(lake, "silver/things")
        assert any(found.equals(state) for state in states), f"entry {number}"
        if not goes_on(lake, after, len(early), late):
            assert found.equals(states[0])
            rebuilt(lake, after)
            assert goes_on(lake, after, len(early), late)
        assert_same(lake, end)
    assert number > 5, "staging, the shadow and what is beside it, and the table have commits"


@pytest.mark.parametrize("written", [False, True])
def test_a_rebuild_that_dies_lists_the_pairs_of_the_new_sequence_all_the_same(
    tmp_path: Path,
    written: bool,  # noqa: FBT001
) -> None:
    """By version, 2 has two rows at one sequence, by position none; 1 has them at one day."""
    events = [thing(1, 1, "a"), thing(1, 29, "b"), thing(2, 5, "a"), thing(2, 5, "b"), thing(1, 2, "a")]
    template, after = made(tmp_path / "template", things(), events), things(sequence_by="day")
    assert pairs(template) == [(2, 3, 2)]
    died, number = True, 0
    while died:
        number += 1
        lake = Path(shutil.copytree(template, tmp_path / f"{number}"))
        with crash_at_entry(number, written=written):
            try:
                died = rebuilt(lake, after) is None
            except Crash:
                died = True
        if died:
            rebuilt(lake, after)
        assert pairs(lake) == [(1, 1, 0), (2, 3, 2)]
        Chain(lake, len(events), kpi=kinds(after)).advance()
        assert pairs(lake) == [(1, 1, 0), (2, 3, 2)]
    rebuilt(lake, things(sequence_by=None))
    assert pairs(lake) == []


def pairs(lake: Path) -> list[tuple[object, ...]]:
    """Return key and both offsets of the pairs that are listed."""
    return pl.read_delta(str(lake / "ambiguous/things")).select("id", "_offset", "_other_offset").sort("id").rows()


def goes_on(lake: Path, silver: Silver, start: int, events: list[bytes]) -> bool:
    """Run the pipeline on, unless it is refused."""
    try:
        check(lake, silver)
    except TableMismatchError:
        return False
    fed(Chain(lake, start, kpi=kinds(silver)), events).advance()
    return True


@pytest.mark.parametrize("outcome", ["lost", "unanswered", "unsure"])
@pytest.mark.parametrize("table", ["staging/things", "silver/things"])
def test_a_swap_whose_outcome_is_unknown_happens_once(tmp_path: Path, table: str, outcome: Outcome) -> None:
    before, after, early = things(), things(sequence_by=None), stream(5, 40, deletes=True)
    lake = made(tmp_path / "lake", before, early)
    version = DeltaTable(lake / table).version()
    with fault(outcome, lake / table, times=1):
        rebuilt(lake, after)
    assert DeltaTable(lake / table).version() == version + 1
    assert_frame_equal(rows(lake, "silver/things"), rows(made(tmp_path / "new", after, early), "silver/things"))


@pytest.mark.parametrize("name", ["a current row becomes a history", "a history becomes a current row"])
def test_a_pipeline_that_runs_by_the_old_declaration_is_fenced_and_what_it_staged_is_kept(
    tmp_path: Path, name: str
) -> None:
    """It commits while the shadow is made and, no ambiguous pairs, in the last moment before the swap."""
    change = CHANGES[name]
    before, after, events = things(**change.before), things(**change.after), stream(6, 60, deletes=True)
    events[40:50] = [thing(number % 6, 100 + number) for number in range(10)]
    lake = tmp_path / "lake"
    running = fed(Chain(lake, kpi=kinds(before)), events[:30])
    with ExitStack() as last_moment:

        def tell(_: str) -> None:
            running.advance(*events[30:40])
            in_between = before_the_next_entry(lambda: running.advance(*events[40:50]), at=lake / "silver/things")
            last_moment.enter_context(in_between)

        done = rebuild(after, Lake(str(lake)), "demo", tell)
    with pytest.raises(FencedError, match=r"things: owner epoch 2 has committed up to version \d+, ours is 1"):
        running.advance(*events[50:])
    assert done
    assert done.version == DeltaTable(lake / "silver/things").version()
    assert_frame_equal(rows(lake, "silver/things"), rows(made(tmp_path / "then", after, events[:30]), "silver/things"))
    Chain(lake, len(events), kpi=kinds(after)).advance()
    assert_same(lake, made(tmp_path / "expected", after, events))


def test_a_rebuild_of_many_steps_runs_after_a_pipeline_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends less than a step behind; the shadow is compacted on its way, and its counts are the table's."""
    monkeypatch.setattr("storage.staging._STEP", 2)
    monkeypatch.setattr("flows.commands.rebuild._STEP", 5)
    before, after, events = things(), things(**HISTORY), stream(12, 100, deletes=True)
    lake = tmp_path / "lake"
    running, told = fed(Chain(lake, kpi=kinds(before)), events[:40]), 0

    def tell(_: str) -> None:
        nonlocal told
        running.advance(*events[40 + 4 * told : 44 + 4 * told])
        told += 1

    assert rebuild(after, Lake(str(lake)), "demo", tell)
    facts = table_facts(TablePlace("silver", "things", str(lake / "silver/things")))
    assert facts
    reached = facts.positions["things/0"]
    assert 40 < reached == facts.totals["read"]
    assert 0 <= len(pl.read_delta(str(lake / "staging/things"))) - reached < 5
    assert_frame_equal(
        rows(lake, "silver/things"), rows(made(tmp_path / "then", after, events[:reached]), "silver/things")
    )
    assert not [*lake.glob("silver/*__rebuild*")]


def test_who_stages_by_the_old_declaration_is_fenced_where_staging_changes(tmp_path: Path) -> None:
    """What he stages in the last moment is looked at and made anew too."""
    before, after, events = things(), things(sequence_by=None), stream(7, 60, deletes=True)
    lake = tmp_path / "lake"
    running = fed(Chain(lake, kpi=kinds(before)), events[:30])
    with before_the_next_entry(lambda: running.advance(*events[30:40])):
        rebuilt(lake, after)
    with pytest.raises(FencedError, match="staging/things: owner epoch 2 has committed"):
        running.advance(*events[40:])
    fed(Chain(lake, 40, kpi=kinds(after)), events[40:]).advance()
    assert_same(lake, made(tmp_path / "expected", after, events))


def test_a_delete_that_cannot_be_staged_stops_a_rebuild_in_the_last_moment_too(tmp_path: Path) -> None:
    before, after = things(), things(keys=["id", "kind"])
    lake = tmp_path / "lake"
    running = fed(Chain(lake, kpi=kinds(before)), [thing(1, 1), thing(2, 1)])
    with (
        before_the_next_entry(lambda: running.advance(thing(1, 2, op="delete"))),
        pytest.raises(CannotRebuildError, match="deletes without kind: 1; the first: things/0 offset 2"),
    ):
        rebuilt(lake, after)
    running.advance(thing(1, 3))
    assert_same(lake, made(tmp_path / "x", before, [thing(1, 1), thing(2, 1), thing(1, 2, op="delete"), thing(1, 3)]))


def test_a_record_that_would_be_an_event_now_stops_a_rebuild_in_the_last_moment_too(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    running = fed(Chain(lake, kpi=kinds(things())), [thing(1, 1)])
    with (
        before_the_next_entry(lambda: running.advance(b'{"op": "delete", "id": 1}')),
        pytest.raises(CannotRebuildError, match=r"quarantine that would be events now, .*the first: things/0 offset 1"),
    ):
        rebuilt(lake, things(sequence_by=None))


def test_of_two_rebuilds_the_one_that_began_first_stops(tmp_path: Path) -> None:
    before, after, events = things(), things(**HISTORY), stream(11, 40, deletes=True)
    lake = made(tmp_path / "lake", before, events)

    def tell() -> None:
        rebuilt(lake, after)

    with pytest.raises(CannotRebuildError, match="is gone, as another rebuild of the table has begun since"):
        rebuild(things(sequence_by=None), Lake(str(lake)), "demo", lambda _: tell())
    assert_frame_equal(rows(lake, "silver/things"), rows(made(tmp_path / "new", after, events), "silver/things"))


def test_staging_that_is_behind_the_table_it_made_is_no_ground_for_another(tmp_path: Path) -> None:
    lake = made(tmp_path / "lake", things(), [thing(1, 1)])
    shutil.copytree(lake / "staging", tmp_path / "saved")
    fed(Chain(lake, 1, kpi=kinds(things())), [thing(2, 1)])
    shutil.rmtree(lake / "staging")
    shutil.copytree(tmp_path / "saved", lake / "staging")
    version = DeltaTable(lake / "silver/things").version()
    told = "staging/things: holds things/0 up to 1, while silver/things has read it up to 2: rows would be lost"
    with pytest.raises(HoleError, match=told):
        rebuilt(lake, things(**HISTORY))
    assert DeltaTable(lake / "silver/things").version() == version
