"""The README's promises that are code: its blocks run, and the tests it names exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_pipeline_of_the_readme_runs_as_it_says(tmp_path: Path) -> None:
    (declaration,), (events,) = _blocks("python"), _blocks("json")
    (tmp_path / "shop.py").write_text(declaration)
    topic = tmp_path / "events/orders"
    topic.mkdir(parents=True)
    (topic / "0-0.jsonl").write_text(events)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "bytewax.run", "shop:flow(False)"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)

    silver = pl.read_delta(str(tmp_path / "lake/silver/orders"))
    assert silver["order_id"].to_list() == [1]
    gold = pl.read_delta(str(tmp_path / "lake/gold/revenue_by_country_hour"))
    (row,) = gold.select("country", "revenue", "orders").with_columns(pl.col("revenue").cast(str)).to_dicts()
    assert row == {"country": "DE", "revenue": "9.50", "orders": 1}

    shown = subprocess.run(
        [Path(sys.executable).parent / "goldwax", "tables", "shop"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "lake/silver/orders" in shown.stdout


def test_what_stops_a_run_is_told_where_the_readme_says(tmp_path: Path) -> None:
    (declaration,) = _blocks("python")
    (tmp_path / "events/orders").mkdir(parents=True)
    (tmp_path / "events/orders/0-0.jsonl").write_text("no record\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def stderr(text: str) -> list[str]:
        (tmp_path / "shop.py").write_text(text)
        command = [sys.executable, "-m", "bytewax.run", "shop:flow(False)"]
        run = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, timeout=60)
        assert run.returncode != 0
        return run.stderr.decode().splitlines()

    lines = stderr(declaration)
    (told,) = (number for number, line in enumerate(lines) if line.startswith("goldwax:"))
    stack = next(number for number, line in enumerate(lines) if "Traceback" in line or "panicked" in line)
    assert told < stack
    assert "it does not begin with '{'" in lines[told]
    assert "key 'order': expected one of" in stderr(declaration.replace('["order_id"]', '["order"]'))[-1]


def test_a_pipeline_takes_twenty_lines() -> None:
    (declaration,) = _blocks("python")
    statements = [line for line in declaration.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(statements) <= 20


def test_the_events_of_the_readme_are_json_lines() -> None:
    (events,) = _blocks("json")
    assert all(json.loads(line) for line in events.splitlines())


def test_every_guarantee_names_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/\w+\.py)`", README)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
