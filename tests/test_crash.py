"""Killed with SIGKILL at random moments, again and again: no row is lost, doubled or changed.

The expected tables are those of one run that nobody interrupts. A kill comes after a random number of commits, so that
a fast machine does not finish before it; commits are small, so that one is always under way; a last run does the rest.
"""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from storage.logs.event_log_writer import EventLogWriter, NewRecord
from tests import orders
from tests.engine import (
    Engine,
    assert_every_record_once,
    assert_same_tables,
    event_log_ends,
    forget_recovery,
    tables,
    with_recovery,
)
from tests.kafka_broker import Broker

FEW, MANY = 3, 25
_EVENTS_A_KILL = 7_000
_SMALL_COMMITS = "400"
_COMMITS_A_KILL = 20  # at most; to all tables together, so that the events of a kill are never read up before it


def _log(
    tmp_path: Path, count: int, made: Callable[[int], dict[int, list[NewRecord]]] = orders.events
) -> tuple[dict[str, str], dict[int, int]]:
    events = tmp_path / "events"
    with EventLogWriter(events, "orders", orders.PARTITIONS) as writer:
        for partition, records in made(count).items():
            writer.append(records, partition)
    return {"GOLDWAX_EVENTS": str(events)}, event_log_ends(events / "orders")


def _kafka(broker: Broker, topic: str, count: int) -> tuple[dict[str, str], dict[int, int]]:
    broker.create_topic(topic, orders.PARTITIONS)
    ends = {}
    for partition, records in orders.events(count).items():
        broker.produce(topic, records, partition)
        ends[partition] = len(records)
    settings = {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "TEST_SOURCE": "kafka", "TEST_TOPIC": topic}
    return settings, ends


def _kill_again_and_again(engine: Engine, recovery: Path, kills: int, *, keep_recovery: bool) -> None:
    chance = random.Random(kills)
    for number in range(kills):
        if not keep_recovery:
            forget_recovery(recovery)
        process = engine.start(arguments=with_recovery(recovery), TEST_MAX_ROWS=_SMALL_COMMITS)
        said = _kill(process, engine.lake, chance.randint(1, _COMMITS_A_KILL), chance.uniform(0, 0.05))
        assert process.returncode == -signal.SIGKILL, f"run {number} ended by itself: {said}"


def _kill(process: subprocess.Popen[str], lake: Path, commits: int, seconds: float) -> str:
    """Kill it `seconds` after so many commits, so that no kill is wasted on the start-up; return what it printed."""
    enough = _commits(lake) + commits
    while _commits(lake) < enough and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    process.kill()
    return process.communicate()[0]


def _commits(lake: Path) -> int:
    return sum(1 for _ in lake.rglob("_delta_log/*.json"))


def _survives(engine: Engine, ends: Mapping[int, int], tmp_path: Path, kills: int, *, keep_recovery: bool) -> None:
    uninterrupted = Engine(tmp_path / "uninterrupted", engine.environment)
    uninterrupted.run()
    _kill_again_and_again(engine, tmp_path / "recovery", kills, keep_recovery=keep_recovery)
    engine.run()
    assert_every_record_once(engine.lake, ends)
    assert_same_tables(tables(engine.lake), tables(uninterrupted.lake))


@pytest.mark.parametrize("keep_recovery", [True, False], ids=["recovery kept", "recovery deleted"])
@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_event_log_survives_kills(kills: int, keep_recovery: bool, tmp_path: Path) -> None:  # noqa: FBT001
    settings, ends = _log(tmp_path, kills * _EVENTS_A_KILL)
    _survives(Engine(tmp_path / "lake", settings), ends, tmp_path, kills, keep_recovery=keep_recovery)


def test_histories_survive_kills(tmp_path: Path) -> None:
    settings, ends = _log(tmp_path, FEW * _EVENTS_A_KILL)
    engine = Engine(tmp_path / "lake", {**settings, "TEST_HISTORY": "scd2"}, ("-w", "2"))
    _survives(engine, ends, tmp_path, FEW, keep_recovery=False)


def test_tables_that_learn_columns_survive_kills(tmp_path: Path) -> None:
    settings, ends = _log(tmp_path, FEW * _EVENTS_A_KILL, orders.events_with_new_fields)
    engine = Engine(tmp_path / "lake", {**settings, "TEST_NEW_FIELDS": "add"}, ("-w", "2"))
    _survives(engine, ends, tmp_path, FEW, keep_recovery=False)
    assert "loyalty" in tables(engine.lake)["silver/orders"].columns


@pytest.mark.parametrize("keep_recovery", [True, False], ids=["recovery kept", "recovery deleted"])
@pytest.mark.parametrize("kills", [FEW, pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_kafka_survives_kills(
    kills: int,
    keep_recovery: bool,  # noqa: FBT001
    kafka_broker: Broker,
    tmp_path: Path,
) -> None:
    settings, ends = _kafka(kafka_broker, f"crash-{kills}-{keep_recovery}", kills * _EVENTS_A_KILL)
    engine = Engine(tmp_path / "lake", settings, ("-w", "2"))
    _survives(engine, ends, tmp_path, kills, keep_recovery=keep_recovery)
