"""A KPI is declared otherwise: its table becomes, in one commit, what it would have been from the start."""

import json
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from polars.testing import assert_frame_equal

from flows import Count, EventLog, Json, Kpi, Mean, Pipeline, Silver, Sum, tumbling
from flows.batching import Batching
from flows.lake import Lake
from flows.run import Run
from flows.settings import Settings
from operators.gold.measures import MeasureOverflowError
from storage.errors import FencedError, TableMismatchError
from tests.faults import Crash, Outcome, before_the_next_entry, crash_at_entry, fault
from tests.readers import IN_PROCESS, assert_all_read
from tests.test_stages import Chain

SCHEMA = {"id": "int64", "name": "string", "people": "int64", "area": "decimal(12, 2)", "at": "timestamp"}
BOTH = pytest.mark.parametrize("strategy", ["deletion_vectors", "rewrite"])

CHANGES: dict[str, tuple[Mapping[str, str], Mapping[str, Any]]] = {
    "as it was first": ({}, {}),
    "a measure goes": ({}, {"measures": {"n": Count(), "a": Sum("area")}}),
    "a measure comes": ({}, {"measures": {"n": Count(), "a": Sum("area"), "mean": Mean("people")}}),
    "a measure becomes another": ({}, {"measures": {"n": Count(), "a": Mean("area"), "mean": Sum("people")}}),
    "another group": ({}, {"group_by": ["id"]}),
    "no group but a window": ({}, {"group_by": [], "window": tumbling("1h", on="at")}),
    "as it was again": ({}, {}),
    "a source column is widened": ({"area": "decimal(14, 3)"}, {}),
    "integers become a decimal": ({"area": "decimal(14, 3)", "people": "decimal(19, 0)"}, {}),
    "with a point": ({"area": "decimal(14, 3)", "people": "decimal(22, 2)"}, {}),
}


def cities(columns: Mapping[str, str], declared: Mapping[str, Any], strategy: Any = "deletion_vectors") -> Kpi:
    source = EventLog("cities", format=Json(operation="op"))
    silver = Silver("cities", source=source, schema={**SCHEMA, **columns}, keys=["id"])
    usual = {"group_by": ["name"], "measures": {"n": Count(), "m": Sum("people"), "a": Sum("area")}}
    return Kpi("k", source=silver, strategy=strategy, **{**usual, **declared})


def city(position: int) -> bytes:
    op = "delete" if position % 5 == 4 else "upsert"
    row = {"id": position % 7, "name": "ABC"[position % 3], "people": position, "area": "0.25"}
    return json.dumps({"op": op, **row, "at": f"2026-03-01T{position % 24:02}:30:00Z"}).encode()


def opened(lake: Path, kpi: Kpi, start: int) -> Chain:
    """Check the tables as a pipeline does before it runs, and bring them to where staging is."""
    run = Run("demo", Lake(str(lake)), Settings.from_environment(), Batching(1, timedelta(0)), tail=False)
    Pipeline("demo", [kpi.source, kpi])._check(run)
    chain = Chain(lake, start, kpi)
    chain.advance()
    return chain


def made(lake: Path, kpi: Kpi, count: int) -> Chain:
    """Make the tables from so many records, by one declaration from the start."""
    chain = opened(lake, kpi, 0)
    chain.advance(*map(city, range(count)))
    return chain


def gold(lake: Path) -> pl.DataFrame:
    return pl.read_delta(str(lake / "gold/k")).sort(pl.all())


def version(lake: Path) -> int:
    return DeltaTable(lake / "gold/k").version()


@BOTH
def test_after_any_change_the_table_is_what_it_would_have_been_from_the_start_and_its_past_can_be_read(
    tmp_path: Path, strategy: str
) -> None:
    lake, past = tmp_path / "lake", dict[int, pl.DataFrame]()
    for number, (columns, declared) in enumerate(CHANGES.values()):
        kpi, start = cities(columns, declared, strategy), 10 * number
        expected = tmp_path / f"{number}"
        chains = [opened(lake, kpi, start), made(expected, kpi, start)]
        assert_frame_equal(gold(lake), gold(expected))
        assert version(lake) == max(past, default=0) + 1, "one commit"
        past[version(lake)] = gold(lake)
        for chain in chains:
            chain.advance(*map(city, range(start, start + 5)))
            chain.advance(*map(city, range(start + 5, start + 10)))
        assert_frame_equal(gold(lake), gold(expected))
        past[version(lake)] = gold(lake)
    for earlier, rows in past.items():
        assert_all_read(IN_PROCESS, str(lake / "gold/k"), rows, earlier)


@BOTH
def test_a_sum_that_outgrows_its_integers_goes_on_as_a_decimal(tmp_path: Path, strategy: str) -> None:
    lake, most = tmp_path / "lake", 2**63 - 1
    chain = made(lake, cities({}, {}, strategy), 6)
    city_of = '{"op": "upsert", "id": %d, "name": "Z", "people": %d}'
    with pytest.raises(MeasureOverflowError, match=r"Declare column 'people' decimal\(19, 0\): its tables follow at"):
        chain.advance(*((city_of % (number, most)).encode() for number in (20, 21)))
    opened(lake, cities({"people": "decimal(19, 0)"}, {}, strategy), 8).advance((city_of % (22, 10**19 - 1)).encode())
    rows = gold(lake).filter(name="Z").select("n", "m").rows()
    assert rows == [(3, 2 * most + 10**19 - 1)]


FIRST, OTHER = cities({}, {}), cities({"area": "decimal(14, 3)"}, {"group_by": ["id"], "measures": {"a": Sum("area")}})


@pytest.mark.parametrize("outcome", ["lost", "unanswered", "unsure"])
def test_a_commit_whose_outcome_is_unknown_happens_once(tmp_path: Path, outcome: Outcome) -> None:
    made(tmp_path / "lake", FIRST, 20)
    before = version(tmp_path / "lake")
    with fault(outcome, tmp_path / "lake/gold/k", times=1):
        opened(tmp_path / "lake", OTHER, 20)
    made(tmp_path / "expected", OTHER, 20)
    assert_frame_equal(gold(tmp_path / "lake"), gold(tmp_path / "expected"))
    assert version(tmp_path / "lake") == before + 1


@pytest.mark.parametrize("written", [False, True])
def test_a_crash_leaves_the_old_table_or_the_new_one_and_the_next_run_goes_on(
    tmp_path: Path,
    written: bool,  # noqa: FBT001
) -> None:
    made(tmp_path / "template", FIRST, 20)
    made(tmp_path / "expected", OTHER, 20)
    states, seen, number, died = [gold(tmp_path / "template"), gold(tmp_path / "expected")], [], 0, True
    while died:
        number += 1
        lake = Path(shutil.copytree(tmp_path / "template", tmp_path / f"{number}"))
        with crash_at_entry(number, written=written):
            try:
                opened(lake, OTHER, 20)
                died = False
            except Crash:
                pass
        seen.append([state.equals(gold(lake)) for state in states].index(True))
        opened(lake, OTHER, 20)
        assert_frame_equal(gold(lake), states[1])
    assert seen == sorted(seen), "first the old one, then the new one"
    assert {*seen} == {0, 1}


def test_who_keeps_the_table_by_the_old_declaration_is_fenced(tmp_path: Path) -> None:
    """What he commits in the last moment is counted, by the new declaration."""
    lake, other = tmp_path / "lake", cities({}, {"group_by": ["id"]})
    old = made(lake, FIRST, 20)
    with before_the_next_entry(lambda: old.advance(city(20))):
        opened(lake, other, 20)
    with pytest.raises(FencedError, match="gold/k: "):
        old.advance(city(21))
    opened(lake, other, 22)
    made(tmp_path / "expected", other, 22)
    assert_frame_equal(gold(lake), gold(tmp_path / "expected"))


@pytest.mark.parametrize("rows", [[], [1]])
def test_a_table_of_others_is_refused_whatever_its_columns(tmp_path: Path, rows: list[int]) -> None:
    theirs = pl.DataFrame({"theirs": pl.Series(rows, dtype=pl.Int64)})
    write_deltalake(tmp_path / "gold/k", theirs)
    with pytest.raises(TableMismatchError, match="gold/k: a table with other columns is already here"):
        opened(tmp_path, FIRST, 0)
    assert_frame_equal(gold(tmp_path), theirs)
