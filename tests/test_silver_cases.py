"""The acceptance cases of Silver through staging, Silver and Gold, with both strategies."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import Count, EventLog, Json, Kpi, Silver
from flows.strategy import Strategy
from tests.test_stages import Chain

CASES = Path(__file__).parents[2] / "shared" / "cases" / "silver.json"
Row = tuple[Any, ...]


def _cases() -> list[Any]:
    if not CASES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"the acceptance cases are not at {CASES}"))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(CASES.read_text())]


def _kpi(case: dict[str, Any], strategy: Strategy) -> Kpi:
    things = Silver(
        "things",
        source=EventLog("things", format=Json(operation="op")),
        schema={**case["columns"], case["sequence"]: "int64"},
        keys=case["keys"],
        sequence_by=case["sequence"],
        history="scd2" if case["scd"] == 2 else "scd1",
        track=case["track"],
        strategy=strategy,
    )
    return Kpi("count", source=things, group_by=case["keys"], measures={"rows": Count()}, strategy=strategy)


def _arrivals(batches: list[list[dict[str, Any]]]) -> Iterator[list[list[dict[str, Any]]]]:
    """Yield the batches as given, then the same events in other orders and batches."""
    yield batches
    events = [event for batch in batches for event in batch]
    yield [events]
    for seed in range(3):
        chance = random.Random(seed)
        shuffled = chance.sample(events, len(events))
        cut = chance.randrange(len(events) + 1)
        yield [shuffled[:cut], *([event] for event in shuffled[cut:])]


def _rows(table: Path, columns: list[str]) -> set[Row]:
    return set(pl.read_delta(str(table)).select(columns).rows())


@pytest.mark.parametrize("strategy", ["deletion_vectors", "rewrite"])
@pytest.mark.parametrize("case", _cases())
def test_a_case_makes_its_table_whatever_the_arrival(tmp_path: Path, case: dict[str, Any], strategy: Strategy) -> None:
    columns = [*case["columns"], *(["valid_from", "valid_to"] if case["scd"] == 2 else [])]
    expected = {tuple(row[name] for name in columns) for row in case["expected"]}
    is_open = [row for row in case["expected"] if row.get("valid_to") is None]
    counted = {(*(row[key] for key in case["keys"]), 1) for row in is_open}
    for number, batches in enumerate(_arrivals(case["batches"])):
        lake = tmp_path / str(number)
        chain = Chain(lake, kpi=_kpi(case, strategy))
        for batch in batches:
            chain.advance(*(json.dumps(event).encode() for event in batch))
        assert _rows(lake / "silver/things", columns) == expected, batches
        assert _rows(lake / "gold/count", [*case["keys"], "rows"]) == counted, batches
