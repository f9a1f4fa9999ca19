"""The engine as users run it: one process, threads, a cluster on loopback, with recovery; stopped and resumed."""

import signal
import time
from pathlib import Path

import polars as pl
import pytest

from storage.event_log_writer import EventLogWriter
from tests import orders
from tests.engine import (
    Engine,
    assert_every_record_once,
    assert_same_tables,
    event_log_ends,
    free_port,
    tables,
    with_recovery,
)

COUNT = 20_000


def write_events(directory: Path, count: int = COUNT, seed: int = 1) -> None:
    with EventLogWriter(directory, "orders", orders.PARTITIONS) as writer:
        for partition, records in orders.events(count, seed).items():
            writer.append(records, partition)


@pytest.fixture(scope="module")
def events_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("events")
    write_events(directory)
    return directory


@pytest.fixture(scope="module")
def expected(events_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.DataFrame]:
    """Return the tables of one uninterrupted run."""
    engine = Engine(tmp_path_factory.mktemp("expected"), {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    assert_every_record_once(engine.lake, event_log_ends(events_directory / "orders"))
    return tables(engine.lake)


@pytest.mark.parametrize("arguments", [("-w", "2"), ("-r",), ("-w", "2", "-r")], ids=" ".join)
def test_workers_and_recovery_change_no_row(
    arguments: tuple[str, ...], events_directory: Path, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    if arguments[-1] == "-r":
        arguments = (*arguments[:-1], *with_recovery(tmp_path / "recovery"))
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)}, arguments)
    engine.run(TEST_MAX_ROWS="3000")
    assert_same_tables(tables(engine.lake), expected)
    assert_every_record_once(engine.lake, event_log_ends(events_directory / "orders"))


def test_a_cluster_of_two_processes_changes_no_row(
    events_directory: Path, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    addresses = f"127.0.0.1:{free_port()};127.0.0.1:{free_port()}"
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory), "TEST_MAX_ROWS": "3000"})
    processes = [engine.start(arguments=("-i", str(number), "-a", addresses)) for number in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_same_tables(tables(engine.lake), expected)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stop_drains_and_exits_with_0_and_the_next_run_goes_on(
    number: signal.Signals, workers: str, tmp_path: Path
) -> None:
    events = tmp_path / "events"
    write_events(events, 3_000)
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events)}, ("-w", workers))
    process = engine.start(tail=True)
    ends = event_log_ends(events / "orders")
    _wait_until_staged(engine.lake, sum(ends.values()))
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert_every_record_once(engine.lake, ends)

    write_events(events, 2_000, seed=2)
    engine.run()
    uninterrupted = Engine(tmp_path / "other", {"GOLDWAX_EVENTS": str(events)})
    uninterrupted.run()
    assert_same_tables(tables(engine.lake), tables(uninterrupted.lake))
    assert_every_record_once(engine.lake, event_log_ends(events / "orders"))


def test_a_lost_table_is_filled_from_the_layer_below(
    events_directory: Path, expected: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    """Silver and Gold are derived: without them, and without the topic's old records, they come back the same."""
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    for lost in ("silver/orders", "gold/orders_by_country"):
        (engine.lake / lost).rename(tmp_path / lost.replace("/", "-"))
    (engine.lake / "gold/revenue_by_country_hour").rename(tmp_path / "hourly")
    engine.run()
    assert_same_tables(tables(engine.lake), expected)


def test_a_second_run_finds_nothing_to_do(events_directory: Path, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    before = sorted(path.name for path in engine.lake.rglob("*.json"))
    engine.run()
    assert sorted(path.name for path in engine.lake.rglob("*.json")) == before


def _wait_until_staged(lake: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    staged = 0
    while time.monotonic() < deadline and staged < count:
        time.sleep(0.2)
        if list((lake / "silver/orders/_delta_log").glob("*1.json")):
            staged = pl.scan_delta(str(lake / "staging/orders")).select(pl.len()).collect().item()
    assert staged == count
