"""The engine as users run it: one process, threads, a cluster on loopback, with recovery; stopped and resumed."""

import json
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import polars as pl
import pytest

from storage.logs.event_log_writer import EventLogWriter, NewRecord
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
Tables = dict[str, pl.DataFrame]


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
def expected(events_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """Return the tables of one uninterrupted run."""
    engine = Engine(tmp_path_factory.mktemp("expected"), {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    assert_every_record_once(engine.lake, event_log_ends(events_directory / "orders"))
    return tables(engine.lake)


@pytest.mark.parametrize("arguments", [("-w", "2"), ("-r",), ("-w", "2", "-r")], ids=" ".join)
def test_workers_and_recovery_change_no_row(
    arguments: tuple[str, ...], events_directory: Path, expected: Tables, tmp_path: Path
) -> None:
    if arguments[-1] == "-r":
        arguments = (*arguments[:-1], *with_recovery(tmp_path / "recovery"))
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)}, arguments)
    engine.run(TEST_MAX_ROWS="3000")
    assert_same_tables(tables(engine.lake), expected)
    assert_every_record_once(engine.lake, event_log_ends(events_directory / "orders"))


@pytest.mark.parametrize("recovery", [False, True], ids=["without recovery", "with recovery"])
def test_a_cluster_of_two_processes_changes_no_row(
    events_directory: Path,
    expected: Tables,
    tmp_path: Path,
    recovery: bool,  # noqa: FBT001
) -> None:
    """Commits are so small that a source may only go on when it hears of them from the other process."""
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory), "TEST_MAX_ROWS": "700"})
    processes = _cluster(engine, with_recovery(tmp_path / "recovery") if recovery else ())
    outputs = _ended(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_same_tables(tables(engine.lake), expected)
    assert_every_record_once(engine.lake, event_log_ends(events_directory / "orders"))


@pytest.mark.parametrize("history", ["scd1", "scd2"])
def test_a_table_learns_the_same_with_threads_and_in_a_cluster(tmp_path: Path, history: str) -> None:
    """Batches are so large that other workers decode them, which do not know what has been learned meanwhile."""
    with EventLogWriter(tmp_path / "events", "orders", orders.PARTITIONS) as writer:
        for partition, records in orders.events_with_new_fields(COUNT).items():
            writer.append(records, partition)
    ends = event_log_ends(tmp_path / "events/orders")
    settings = {"GOLDWAX_EVENTS": str(tmp_path / "events"), "TEST_NEW_FIELDS": "add", "TEST_HISTORY": history}
    alone = Engine(tmp_path / "alone", settings)
    alone.run()
    assert_every_record_once(alone.lake, ends)
    expected = tables(alone.lake)
    silver = expected["silver/orders"].filter(pl.col("loyalty").is_not_null())
    assert silver.height > 500
    assert silver.filter(pl.col("note") != pl.format("é {}", "loyalty")).is_empty()
    assert (silver["tags"].list.len() == 2).all()
    assert expected["quarantine/orders"].filter(pl.col("stage") == "new fields").height > 100
    threads = Engine(tmp_path / "threads", {**settings, "TEST_MAX_ROWS": "5000"}, ("-w", "2"))
    threads.run()
    assert_same_tables(tables(threads.lake), expected)
    cluster = Engine(tmp_path / "cluster", {**settings, "TEST_MAX_ROWS": "5000"})
    processes = _cluster(cluster, ())
    outputs = _ended(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_same_tables(tables(cluster.lake), expected)
    assert_every_record_once(cluster.lake, ends)


def test_a_cluster_drains_when_all_its_processes_are_told_to_stop(tmp_path: Path) -> None:
    events = tmp_path / "events"
    write_events(events, 3_000)
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events)})
    processes = _cluster(engine, (), tail=True)
    ends = event_log_ends(events / "orders")
    _wait_until_staged(engine.lake, sum(ends.values()))
    for process in processes:
        process.terminate()
    outputs = _ended(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert_every_record_once(engine.lake, ends)


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


def test_a_lost_table_is_filled_from_the_layer_below(events_directory: Path, expected: Tables, tmp_path: Path) -> None:
    """Silver and Gold are derived: without them, and without the topic's old records, they come back the same."""
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    for lost in ("silver/orders", "gold/orders_by_country"):
        (engine.lake / lost).rename(tmp_path / lost.replace("/", "-"))
    (engine.lake / "gold/revenue_by_country_hour").rename(tmp_path / "hourly")
    engine.run()
    assert_same_tables(tables(engine.lake), expected)


def test_gold_is_made_anew_when_silver_is(events_directory: Path, expected: Tables, tmp_path: Path) -> None:
    """A new Silver table counts its versions from 0 again; Gold must not take them for ones it has seen."""
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run(TEST_MAX_ROWS="1000")
    (engine.lake / "silver/orders").rename(tmp_path / "lost")
    engine.run()
    assert_same_tables(tables(engine.lake), expected)


def test_a_kpi_declared_otherwise_is_made_anew(events_directory: Path, expected: Tables, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run(TEST_COUNTED="country")
    assert not tables(engine.lake)["gold/orders_by_country"].equals(expected["gold/orders_by_country"])
    engine.run()
    assert_same_tables(tables(engine.lake), expected)


def test_another_pipeline_on_the_same_lake_is_refused(events_directory: Path, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    before = tables(engine.lake)
    for other, message in (("TEST_PIPELINE", "has not written"), ("TEST_KEYS", "made by another declaration")):
        process = engine.start(tail=False, arguments=(), **{other: "country"})
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert message in output
    assert_same_tables(tables(engine.lake), before)


def test_a_lost_staging_table_stops_the_run_until_silver_goes_too(
    events_directory: Path, expected: Tables, tmp_path: Path
) -> None:
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    (engine.lake / "staging/orders").rename(tmp_path / "staging")
    output, _ = engine.start().communicate(timeout=60)
    assert "staging/orders: the table is gone or new, while silver/orders has read orders/0 up to" in output
    (engine.lake / "silver/orders").rename(tmp_path / "silver")
    (engine.lake / "quarantine/orders").rename(tmp_path / "quarantine")
    engine.run()
    assert_same_tables(tables(engine.lake), expected)


@pytest.mark.parametrize(
    ("start", "expected_offsets"),
    [("'latest'", []), ("7", [7, 8, 9]), ("datetime.fromtimestamp(1_700_000_005, UTC)", [5, 6, 7, 8, 9])],
)
def test_a_new_table_starts_where_it_is_declared_to_and_then_goes_on(
    start: str, expected_offsets: list[int], tmp_path: Path
) -> None:
    """What arrives between the first start and the first record is not skipped, whatever the start."""
    events = tmp_path / "events"
    with EventLogWriter(events, "orders") as writer:
        writer.append(_numbered(range(10)))
        engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events), "TEST_START": start})
        engine.run()
        writer.append(_numbered(range(10, 12)))
    engine.run()
    staged = pl.scan_delta(str(engine.lake / "staging/orders")).collect()
    assert sorted(staged["_offset"]) == [*expected_offsets, 10, 11]
    assert pl.scan_delta(str(engine.lake / "silver/orders")).collect().height == len(expected_offsets) + 2


def test_a_start_outside_the_log_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    events = tmp_path / "events"
    with EventLogWriter(events, "orders") as writer:
        writer.append(_numbered(range(3)))
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events), "TEST_START": "99"})
    output, _ = engine.start().communicate(timeout=60)
    assert "start=99: partition 0 of topic 'orders' holds offsets 0 up to 3 (exclusive)" in output
    engine.run(TEST_START="3")


def test_a_topic_that_lost_what_was_not_read_is_read_anew_into_tables_made_anew(tmp_path: Path) -> None:
    events, engine = tmp_path / "events", Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(tmp_path / "events")})
    with EventLogWriter(events, "orders") as writer:
        writer.append(_numbered(range(10)))
    engine.run()
    shutil.rmtree(events)
    with EventLogWriter(events, "orders") as writer:
        writer.append(_numbered(range(5, 8)))
    output, _ = engine.start().communicate(timeout=60)
    assert "cannot be read from offset 10: it holds offsets 0 up to 3 (exclusive)" in output
    assert "move all tables made from it away (in staging, quarantine, silver and ambiguous)" in output
    for layer in ("staging", "quarantine", "silver", "ambiguous"):
        (engine.lake / layer).rename(tmp_path / layer)
    engine.run()
    anew = Engine(tmp_path / "anew", engine.environment)
    anew.run()
    assert_same_tables(tables(engine.lake), tables(anew.lake))


def test_a_second_run_finds_nothing_to_do(events_directory: Path, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events_directory)})
    engine.run()
    before = sorted(path.name for path in engine.lake.rglob("*.json"))
    engine.run()
    assert sorted(path.name for path in engine.lake.rglob("*.json")) == before


def _cluster(engine: Engine, arguments: tuple[str, ...], *, tail: bool = False) -> list[subprocess.Popen[str]]:
    addresses = f"127.0.0.1:{free_port()};127.0.0.1:{free_port()}"
    return [engine.start(tail=tail, arguments=("-i", str(number), "-a", addresses, *arguments)) for number in range(2)]


def _ended(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all processes of a cluster and return what they printed; kill what hangs."""

    def kill() -> None:
        for process in processes:
            process.kill()

    watchdog = threading.Timer(60, kill)
    watchdog.start()
    try:
        return [process.communicate()[0] for process in processes]
    finally:
        watchdog.cancel()


def _wait_until_staged(lake: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    staged = 0
    while time.monotonic() < deadline and staged < count:
        time.sleep(0.2)
        if list((lake / "silver/orders/_delta_log").glob("*1.json")):
            staged = pl.scan_delta(str(lake / "staging/orders")).select(pl.len()).collect().item()
    assert staged == count


def _numbered(numbers: range) -> list[NewRecord]:
    """Return orders, one a second."""
    return [
        NewRecord(None, json.dumps({"op": "upsert", "order_id": 3 * n}).encode(), 1_700_000_000_000 + 1000 * n)
        for n in numbers
    ]
