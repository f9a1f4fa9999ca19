"""`goldwax quarantine` beside the pipeline, whether that runs or not."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flows.commands.cli import main
from storage.logs.event_log_writer import EventLogWriter, NewRecord
from tests import orders, snapshot_feed
from tests.engine import Engine, assert_every_record_once, event_log_ends, free_port, with_recovery
from tests.test_retries import Line, things

EXPECT = {
    "TEST_EXPECT": "[Expect('has_country', pl.col('country').is_not_null()), Expect('light', pl.col('weight') < 45)]"
}
MODULE = "from tests import orders\npipeline = orders.pipeline()\n"
OF_THINGS = """
from flows import Pipeline
from tests.test_retries import things
pipeline = Pipeline("demo", tables=[things("scd1", None, mended=False)])
"""
OF_SNAPSHOTS = """
from pathlib import Path
from flows import Pipeline
from tests.snapshot_feed import things
pipeline = Pipeline("demo", tables=[things(Path({!r}))])
"""
Command = Callable[..., str]


@pytest.fixture
def goldwax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give the command of `goldwax quarantine`, for the modules `a_shop` and `a_desk` and the lake in `lake`."""
    (tmp_path / "a_shop.py").write_text(MODULE)
    (tmp_path / "a_desk.py").write_text(OF_THINGS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("GOLDWAX_LAKE", str(tmp_path / "lake"))

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(arguments) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("events")
    with EventLogWriter(directory, "orders", orders.PARTITIONS) as writer:
        for partition, records in orders.events(3_000, keys=200).items():
            writer.append(records, partition)
    return directory


def results(lake: Path) -> dict[str, pl.DataFrame]:
    """Return Silver and Gold; of current rows the values, as events with the same values may both be theirs."""
    found = {
        name: pl.read_delta(str(lake / name)) for name in ("silver/orders", *(f"gold/{kpi}" for kpi in orders.KPIS))
    }
    if "valid_from" not in found["silver/orders"].columns:
        found["silver/orders"] = found["silver/orders"].select([*orders.SCHEMA])
    return {name: rows.sort(rows.columns, nulls_last=True) for name, rows in found.items()}


def assert_same_results(lake: Path, right: Engine) -> None:
    right.run()
    expected = results(right.lake)
    for name, rows in results(lake).items():
        assert_frame_equal(rows, expected[name])


def requests_read(lake: Path) -> pl.DataFrame:
    return pl.read_delta(str(lake / "staging/orders")).filter(pl.col("_retried").is_not_null())


@pytest.mark.parametrize("history", ["scd1", "scd2"])
def test_what_was_quarantined_is_sent_in_again_and_lands_where_it_belongs(
    history: str, events: Path, goldwax: Command, tmp_path: Path
) -> None:
    """The expectations were wrong: without them the tables become what they would have been without them at first."""
    environment = {"GOLDWAX_EVENTS": str(events), "TEST_HISTORY": history}
    engine = Engine(tmp_path / "lake", environment, ("-w", "2", *with_recovery(tmp_path / "recovery")))
    engine.run(**EXPECT)
    ends = event_log_ends(events / "orders")
    assert_every_record_once(engine.lake, ends)
    assert "not met: has_country " in goldwax("tables", "a_shop")

    entries = pl.read_delta(str(engine.lake / "quarantine/orders"))
    told = goldwax("quarantine", "list", "a_shop")
    assert f"orders: {entries.height:,} quarantined\n" in told
    assert "  expectation: expectation 'has_country'\n" in told
    assert f"orders: {entries.height:,} sent in again as request 0; " in goldwax(
        "quarantine", "retry", "a_shop", "orders", "--all"
    )
    assert f"orders: {entries.height:,} waiting\n" in goldwax("quarantine", "list", "a_shop", "orders")

    engine.run(TEST_MAX_ROWS="50")  # a request is longer
    bad = entries.filter(stage="decode").height
    assert f"orders: {bad:,} quarantined, {entries.height - bad:,} retried\n" in goldwax("quarantine", "list", "a_shop")
    assert requests_read(engine.lake).height == entries.height
    assert_same_results(engine.lake, Engine(tmp_path / "right", environment))
    engine.run()
    assert requests_read(engine.lake).height == entries.height


@pytest.mark.parametrize("processes", [1, 2])
def test_a_running_pipeline_reads_what_is_sent_in_again_once(
    processes: int, events: Path, goldwax: Command, tmp_path: Path
) -> None:
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(events)})
    engine.run(**EXPECT)
    first, *others = goldwax("quarantine", "list", "a_shop").rsplit("newest", 1)[1].splitlines()[1:]
    position = first.split()[0]
    addresses = ("-a", ";".join(f"127.0.0.1:{free_port()}" for _ in range(processes)))
    running = [
        engine.start(tail=True, arguments=() if processes == 1 else ("-i", str(number), *addresses))
        for number in range(processes)
    ]
    try:
        goldwax("quarantine", "retry", "a_shop", "orders", position)
        _wait(lambda: requests_read(engine.lake).height == 1)
        goldwax("quarantine", "retry", "a_shop", "orders", "--all")
        _wait(lambda: requests_read(engine.lake).height > len(others))
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes, outputs
    assert_same_results(engine.lake, Engine(tmp_path / "right", {"GOLDWAX_EVENTS": str(events)}))


def test_a_record_is_shown_as_it_came(goldwax: Command, tmp_path: Path) -> None:
    with EventLogWriter(tmp_path / "events", "orders", orders.PARTITIONS) as writer:
        headers = (("trace", b"abc"), ("raw", b"\xff"), ("none", None))
        writer.append([NewRecord(b'{"order_id": 1}', b"\xff{\x1b", 1_700_000_000_000, headers)])
        writer.append([NewRecord(None, json.dumps({"op": "upsert", "order_id": 2, "weight": 50.0}).encode())], 1)
    engine = Engine(tmp_path / "lake", {"GOLDWAX_EVENTS": str(tmp_path / "events")})
    engine.run(**EXPECT)
    lines = goldwax("quarantine", "show", "a_shop", "orders", "orders/0/0").splitlines()
    assert lines[:5] == [
        "orders/0/0: quarantined",
        "    time     2023-11-14 22:13:20+00:00",
        '    key      {"order_id": 1}',
        r"    value    b'\xff{\x1b'",
        '    headers  [["trace", "abc"], ["raw", {"base64": "/w=="}], ["none", null]]',
    ]
    assert lines[5].startswith("    first read: decode: ")
    goldwax("quarantine", "retry", "a_shop", "orders", "orders/0/0", "orders/1/0")
    engine.run(TEST_EXPECT=EXPECT["TEST_EXPECT"].replace("is_not_null", "is_null"))
    shown = goldwax("quarantine", "show", "a_shop", "orders", "orders/1/0").splitlines()
    assert shown[0] == "orders/1/0: quarantined"
    assert shown[1:5] == [
        "    time     none",
        "    key      NULL",
        '    value    {"op": "upsert", "order_id": 2, "weight": 50.0}',
        "    headers  none",
    ]
    unmet = "expectation {!r}: received {}, expected it to be met"
    light = unmet.format("light", "weight=50.0")
    assert shown[5:] == [
        "    first read: expectation: " + "; ".join((unmet.format("has_country", "country=not sent"), light)),
        f"    request 0: expectation: {light}",
    ]
    again = goldwax("quarantine", "show", "a_shop", "orders", "orders/0/0").splitlines()
    assert [line.split(":")[0] for line in again[5:]] == ["    first read", "    request 0"]
    assert again[4] == lines[4]


def test_many_entries_are_summed_up_and_the_newest_shown(goldwax: Command, tmp_path: Path) -> None:
    values = [b'{"op": "upsert", "id": %d, "version": 1, "size": "x%d\\n"}' % (n, n) for n in range(30)]
    values += [b"{"] + [b'{"op": "upsert", "id": 1, "version": 1, "size": 120}'] * 2
    Line(tmp_path / "lake", things("scd1", None, mended=False)).feed([values, []], 100)
    lines = goldwax("quarantine", "list", "a_desk").splitlines()
    assert lines[0] == "things: 33 quarantined"
    assert lines[1] == "           30  decode: column 'size'"
    assert lines[2] == "            2  expectation: expectation 'small'"
    assert lines[4] == "  the newest 20 of 33:"
    assert len(lines) == 25
    assert lines[5].startswith(
        "    things/0/32  1970-01-01 00:00:32+00:00  quarantined  expectation: expectation 'small': "
    )
    assert all(line.isprintable() for line in lines)


def test_records_whose_raw_bytes_are_not_known_are_shown_and_not_sent_in_again(
    goldwax: Command, tmp_path: Path
) -> None:
    """Whatever a later stage may put into quarantine."""
    uri = str(tmp_path / "lake/quarantine/things")
    Line(tmp_path / "lake", things("scd1", None, mended=False)).feed([[b"{"], []], 1)
    row = pl.read_delta(uri).with_columns(
        stage=pl.lit("merge"), _offset=pl.lit(7, pl.Int64), value=pl.lit(None, pl.Binary), reason=pl.lit("ambiguous")
    )
    row.write_delta(uri, mode="append")
    assert "    value    NULL\n" in goldwax("quarantine", "show", "a_desk", "things", "things/0/7")
    told = goldwax("quarantine", "retry", "a_desk", "things", "things/0/7", code=1)
    assert "things/0/7 was quarantined at stage 'merge', where its raw record is not known" in told
    told = goldwax("quarantine", "retry", "a_desk", "things", "--all")
    assert "1 are left out: their raw records are not known" in told
    assert "things: 1 sent in again as request 0" in told
    told = goldwax("quarantine", "retry", "a_desk", "things", "--all")
    assert "things: nothing to send in again" in told
    told = goldwax("quarantine", "retry", "a_desk", "things", "things/0/0")
    assert "things/0/0 is waiting already; once more changes no row" in told


def test_a_refused_row_of_a_snapshot_is_shown_and_not_sent_in_again(goldwax: Command, tmp_path: Path) -> None:
    """Its partition is -1."""
    (tmp_path / "a_list.py").write_text(OF_SNAPSHOTS.format(str(tmp_path)))
    (tmp_path / "exports").mkdir()
    pl.DataFrame({"id": [1, None], "kind": ["a", "b"], "note": ["", ""]}).write_parquet(
        tmp_path / "exports/v=1.parquet"
    )
    snapshot_feed.take(snapshot_feed.things(tmp_path), tmp_path)
    place = "exports/-1/1"
    assert f"    {place}  " in goldwax("quarantine", "list", "a_list")
    assert '    value    {"id": null, "kind": "b", "note": ""}\n' in goldwax(
        "quarantine", "show", "a_list", "things", place
    )
    told = goldwax("quarantine", "retry", "a_list", "things", place, code=1)
    assert "exports/-1/1 was quarantined at stage 'snapshot', where its raw record is not known" in told


def test_mistakes_end_with_what_is_there(goldwax: Command, tmp_path: Path) -> None:
    assert goldwax("quarantine", "list", "a_desk") == "things: nothing in quarantine\n"
    assert "Did you mean 'things'" in goldwax("quarantine", "list", "a_desk", "thing", code=1)
    told = goldwax("quarantine", "show", "a_desk", "things", "7", code=1)
    assert told.startswith("goldwax quarantine: position '7': expected topic/partition/offset")
    told = goldwax("quarantine", "retry", "a_desk", "things", "things/0/7", code=1)
    assert "things/0/7 is not in the quarantine of 'things'; it is empty" in told
    for arguments in ((), ("things/0/7", "--all"), ("--all", "things/0/7")):
        told = goldwax("quarantine", "retry", "a_desk", "things", *arguments, code=1)
        assert "expected either positions (topic/partition/offset, as `list` says them) or --all" in told
    assert not [*(tmp_path / "lake").rglob("*.parquet")]


def test_arguments_that_are_missing_or_too_many_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    retry = ("quarantine", "retry", "a_desk")
    for arguments, problem in (
        ((*retry, "--all"), "the following arguments are required: TABLE\n"),
        ((*retry, "things", "--alle"), "unrecognized arguments: --alle\n"),
        (("quarantine", "list", "a_desk", "things", "7"), "unrecognized arguments: 7\n"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert problem in capsys.readouterr().err


def test_a_quarantine_from_before_there_were_retries_is_read(goldwax: Command, tmp_path: Path) -> None:
    lake, silver = tmp_path / "lake", things("scd1", None, mended=False)
    Line(lake, silver).feed([[b"{"], []], 1)
    for name in ("quarantine/things", "staging/things"):
        uri = str(lake / name)
        old = pl.read_delta(uri).drop("_retried")
        old.write_delta(uri, mode="overwrite", delta_write_options={"schema_mode": "overwrite"})
    assert "things: 1 quarantined" in goldwax("quarantine", "list", "a_desk")
    goldwax("quarantine", "retry", "a_desk", "things", "--all")
    Line(lake, silver).read_requests()
    assert "request 0: decode: " in goldwax("quarantine", "show", "a_desk", "things", "things/0/0")


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, "waited for 60 s"
        time.sleep(0.1)
