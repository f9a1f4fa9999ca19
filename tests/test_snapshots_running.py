"""Full snapshots in the engine as users run it: while they arrive, with kills, two workers, beside a stream."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from storage.logs.event_log_writer import EventLogWriter, NewRecord
from tests.customers import ROWS
from tests.engine import Engine
from tests.snapshot_feed import assert_each_offset_once

Customers = dict[int, tuple[str, Decimal]]


def customers(chance: random.Random, count: int) -> Customers:
    return {
        chance.randrange(3 * count): (chance.choice(["DE", "FR", "JP"]), Decimal(chance.randrange(10**6)) / 100)
        for _ in range(count)
    }


def frame(state: Customers) -> pl.DataFrame:
    return pl.DataFrame([(key, *row) for key, row in state.items()], pl.Schema(ROWS), orient="row")


def export(root: Path, version: int, state: Customers, parts: int = 1) -> None:
    """Write a file or, in parts, a directory as Spark does."""
    (root / "exports").mkdir(exist_ok=True)
    if parts == 1:
        frame(state).write_parquet(root / "new.parquet")
        (root / "new.parquet").rename(root / f"exports/v={version}.parquet")
        return
    (root / f"exports/v={version}").mkdir()
    for number, part in enumerate(frame(state).iter_slices(-(-len(state) // parts))):
        part.write_parquet(root / f"exports/v={version}/part-{number:05}.parquet")
    (root / f"exports/v={version}/_SUCCESS").touch()


def engine(root: Path, *arguments: str, **environment: str) -> Engine:
    settings = {"TEST_EXPORTS": str(root / "exports"), "GOLDWAX_EVENTS": str(root / "events"), **environment}
    return Engine(root / "lake", settings, arguments, module="tests.customers")


def silver(root: Path) -> Customers:
    rows = pl.read_delta(str(root / "lake/silver/customers")).select("id", "country", "credit").rows()
    assert len({row[0] for row in rows}) == len(rows)
    return {key: (country, credit) for key, country, credit in rows}


def assert_tables_are(root: Path, state: Customers) -> None:
    assert silver(root) == state
    gold = pl.read_delta(str(root / "lake/gold/customers_by_country"))
    assert dict(gold.select("country", "customers").rows()) == Counter(country for country, _ in state.values())
    assert_each_offset_once(pl.read_delta(str(root / "lake/staging/customers")))


def eventually(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if done():
            return
        time.sleep(0.1)
    raise TimeoutError


def shows(root: Path, state: Customers) -> bool:
    return (root / "lake/silver/customers/_delta_log").exists() and silver(root) == state


@pytest.mark.parametrize("arguments", [(), ("-w", "2")], ids=["one worker", "two workers"])
def test_snapshots_are_taken_in_as_they_arrive_and_a_stop_drains(arguments: tuple[str, ...], tmp_path: Path) -> None:
    chance = random.Random(1)
    first, second = customers(chance, 5_000), customers(chance, 4_000)
    export(tmp_path, 1, first, parts=3)
    process = engine(tmp_path, *arguments).start(tail=True)
    eventually(lambda: shows(tmp_path, first))
    export(tmp_path, 2, second)
    eventually(lambda: shows(tmp_path, second))
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert_tables_are(tmp_path, second)


def test_kills_in_the_middle_of_snapshots_change_no_row(tmp_path: Path) -> None:
    chance = random.Random(2)
    states = [customers(chance, 6_000) for _ in range(4)]
    for version, state in enumerate(states):
        export(tmp_path, version, state, parts=version % 2 + 1)
    crashing = engine(tmp_path, TEST_MAX_ROWS="300")
    killed = 0
    for _ in range(6):
        process = crashing.start()
        try:
            process.communicate(timeout=chance.uniform(1.5, 3.5))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    crashing.run()
    assert killed
    assert_tables_are(tmp_path, states[-1])
    marks = pl.read_delta(str(tmp_path / "lake/staging/customers")).filter(_op="dropped").sort("_offset")
    assert marks["_sequence"].to_list() == [0, 1, 2, 3], "each snapshot was taken in once, in order"


def test_an_initial_load_and_a_stream_lose_and_double_nothing(tmp_path: Path) -> None:
    """The snapshot knows the stream up to its record 999, and comes when all the stream is merged."""
    chance = random.Random(3)
    state, records = customers(chance, 3_000), list[NewRecord]()
    loaded = {**state}
    for position in range(2_000):
        key = chance.randrange(9_000)
        row = {"op": "upsert", "id": key, "country": "US", "credit": "1.00"}
        if position == 999:
            loaded = {**state}  # what the export sees
        if chance.random() < 0.3:
            row, _ = {"op": "delete", "id": key}, state.pop(key, None)
        else:
            state[key] = ("US", Decimal("1.00"))
        records.append(NewRecord(None, json.dumps(row).encode(), 1_700_000_000_000 + position))
    with EventLogWriter(tmp_path / "events", "customers") as writer:
        writer.append(records)
    engine(tmp_path, TEST_KIND="stream").run()
    export(tmp_path, 998, loaded, parts=2)
    engine(tmp_path, "-w", "2", TEST_KIND="initial").run()
    assert_tables_are(tmp_path, state)
    process = engine(tmp_path, TEST_KIND="stream").start()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "it holds events of snapshots of 'exports', and Silver 'customers' declares none" in output


def test_versions_of_a_delta_table_and_what_tables_says(tmp_path: Path) -> None:
    chance = random.Random(4)
    states = [customers(chance, 300) for _ in range(3)]
    for state in states:
        frame(state).write_delta(tmp_path / "exports", mode="overwrite")
        engine(tmp_path, TEST_KIND="delta").run()
        assert_tables_are(tmp_path, state)
    environment = {**os.environ, "GOLDWAX_LAKE": str(tmp_path / "lake"), "TEST_KIND": "delta"}
    environment["TEST_EXPORTS"] = str(tmp_path / "exports")
    command = [sys.executable, "-m", "flows.commands.cli", "tables", "tests.customers"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    staged = pl.read_delta(str(tmp_path / "lake/staging/customers")).height
    assert f"at exports (snapshots) {staged:,}\n" in shown
    assert f"snapshots of {tmp_path}/exports: 3 taken in, the newest 2; 0 refused" in shown


def test_a_place_that_is_not_there_and_a_lost_staging_table_stop_the_run(tmp_path: Path) -> None:
    def refused() -> str:
        output, _ = engine(tmp_path).start().communicate(timeout=60)
        assert output.startswith("goldwax: crm: "), output
        return output

    assert "exports: no such directory; expected one with snapshots" in refused()
    export(tmp_path, 1, customers(random.Random(5), 10))
    engine(tmp_path).run()
    (tmp_path / "lake/staging/customers").rename(tmp_path / "staging")
    assert "staging/customers: the table is gone or new, while silver/customers has read exports/-1 up to" in refused()
