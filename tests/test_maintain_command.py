"""`goldwax maintain MODULE` beside the pipeline that owns the tables."""

import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from flows.commands.cli import main
from tests.clocks import age, movable_clock
from tests.test_stages import TABLES, Chain, thing

HOUR = timedelta(hours=1)
MODULE = """
from flows import Pipeline
from tests.test_stages import KINDS, THINGS
pipeline = Pipeline("demo", tables=[THINGS, KINDS])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a module with the pipeline of `tests.test_stages`, whose lake is in `lake`."""
    (tmp_path / "a_small_shop.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GOLDWAX_LAKE", str(tmp_path / "lake"))
    return "a_small_shop"


def test_tables_are_compacted_and_swept_and_their_owner_goes_on(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = tmp_path / "lake"
    clock = movable_clock(monkeypatch)
    clock.offset = -2 * HOUR
    chain = Chain(lake)
    for step in range(5):
        chain.advance(*(thing(number, 1) for number in range(4 * step, 4 * step + 4)), thing(0, 2 + step))
    files = {table: len(DeltaTable(lake / table).file_uris()) for table in (*TABLES, "silver/things__side")}
    age(lake, 2 * HOUR)
    clock.offset = timedelta(0)

    assert main(["maintain", module]) == 0
    told = re.findall(r"^(\w+ \w+): (\d+) data files are now (\d+); (\d+)", capsys.readouterr().out, re.MULTILINE)
    assert [each[0] for each in told] == [
        "staging things",
        "quarantine things",
        "silver things",
        "silver things__side",
        "ambiguous things",
        "gold kinds",
    ]
    now = {f"{layer}/{name}": len(DeltaTable(lake / layer / name).file_uris()) for layer, name in map(_split, told)}
    assert [(int(before), int(after)) for _, before, after, _ in told] == [
        (files.get(table, 0), count) for table, count in now.items()
    ]
    assert max(now["staging/things"], now["silver/things"]) <= 2
    assert sum(int(gone) for *_, gone in told) > 0
    for table in TABLES:
        assert len([*(lake / table / "_delta_log").glob("*.checkpoint.parquet")]) == 1

    chain.advance(*(thing(number, 9) for number in range(0, 20, 3)), thing(1, 9, "delete"), thing(50, 1))
    chain.advance(thing(50, 2), thing(2, 9, "delete"))
    silver = pl.read_delta(str(lake / "silver/things"))
    assert sorted(silver["id"]) == [0, *range(3, 20), 50]
    assert silver.filter(pl.col("version") == 9).height == 7
    gold = pl.read_delta(str(lake / "gold/kinds")).sort("kind")
    assert gold.select("kind", "things").rows() == [("0", 10), ("1", 9)]


def test_a_lake_without_tables_is_told_and_left_alone(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["maintain", module]) == 0
    assert set(capsys.readouterr().out.splitlines()) >= {
        f"{table.replace('/', ' ')}: not there yet" for table in TABLES
    }
    assert not list(tmp_path.rglob("*.json"))


def _split(told: tuple[str, ...]) -> list[str]:
    return told[0].split()


def test_a_table_whose_log_is_damaged_is_named(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Chain(tmp_path / "lake").advance(thing(1, 1))
    (tmp_path / "lake/silver/things/_delta_log/00000000000000000001.json").write_text("{")
    assert main(["maintain", module]) == 1
    assert "silver/things: the Delta log cannot be read: version 1 is not whole" in capsys.readouterr().err
