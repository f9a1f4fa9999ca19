"""Records that come again from quarantine land where they belong, whatever fails on the way.

Each history ends as that of a lake whose declaration was right from the start.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flows import EventLog, Expect, Json, Pipeline, Silver
from flows.batching import Batching
from flows.commands.quarantine import Place, Quarantine, QuarantineError
from flows.commands.rebuild import rebuild
from flows.lake import Lake
from flows.reading.in_flight import Progress
from flows.reading.readings import readings_of
from flows.reading.record_source import Reading
from flows.run import Run
from flows.settings import Settings
from flows.stages import stage
from flows.stages.decoding import Decoding, decode_records
from flows.stages.silver_stage import SilverStage
from flows.stages.staging_stage import StagingStage
from operators.schema import DeclarationError
from storage import staging
from storage.delta.owned_table import read_positions
from storage.errors import OffsetLostError, SourceError, TransientError
from storage.logs import retry_requests
from storage.logs.records import Records
from storage.logs.retry_requests import REQUEST, RetryRequests
from storage.staging import retry_partition, retry_topic
from tests.faults import Outcome, fault

PARTITIONS = (0, 1)
RETRY = retry_partition("things")
History = Literal["scd1", "scd2"]
HISTORIES = pytest.mark.parametrize("history", ["scd1", "scd2"])
SEQUENCES = pytest.mark.parametrize("sequence_by", ["version", None])
SMALL = Expect("small", pl.col("size").cast(pl.Int64).abs() < 100, otherwise="quarantine")


def things(history: History, sequence_by: str | None, *, mended: bool) -> Silver:
    """Before it is mended, the table has types that are too narrow, and an expectation that real events do not meet."""
    return Silver(
        "things",
        source=EventLog("things", format=Json(operation="op")),
        schema={"id": "int64", "version": "int64" if mended else "int8", "size": "int32" if mended else "int8"},
        keys=["id"],
        sequence_by=sequence_by,
        history=history,
        expectations=() if mended else [SMALL],
    )


def events(seed: int, count: int = 120, keys: int = 6) -> list[list[bytes]]:
    """Return the records of each partition: a key stays in one, and its versions come in any order."""
    chance = random.Random(seed)
    partitions: list[list[bytes]] = [[] for _ in PARTITIONS]
    for _ in range(count):
        key = chance.randrange(keys)
        size = chance.choice([1, 2, 99, 120, 1000, -5000, 1000])
        op = chance.choice(["upsert"] * 5 + ["delete"])
        event = {"op": op, "id": key, "version": chance.randrange(100, 140), "size": size}
        partitions[key % len(PARTITIONS)].append(json.dumps(event).encode())
    return partitions


class Line:
    """Staging and Silver of one lake, fed by hand from where they stand; a new one is a restart."""

    def __init__(self, lake: Path, silver: Silver) -> None:
        self.lake, self._table, self._silver = Lake(str(lake)), silver, silver.name
        names = [*(f"things/{partition}" for partition in PARTITIONS), RETRY]
        self._decoder = silver.decoder()
        self._staging = StagingStage(silver, self.lake, "demo", names, Decoding(silver.decoder, silver.schema))
        self.requests = RetryRequests(self.lake.retries("things"), retry_topic("things"))
        self.send(
            *(Records.empty("things", partition, self._position(f"things/{partition}")) for partition in PARTITIONS)
        )

    def feed(self, partitions: Sequence[Sequence[bytes]], most: int) -> None:
        """Read up to so many records of each partition in all, by batches of seven."""
        for partition, values in enumerate(partitions):
            for start in range(self._position(f"things/{partition}"), min(most, len(values)), 7):
                part = values[start : min(start + 7, most)]
                offsets = np.arange(start, start + len(part))
                keys: list[bytes | None] = [None] * len(part)
                self.send(Records("things", partition, start, start + len(part), offsets, offsets * 1000, keys, part))

    def read_requests(self) -> int:
        """Read all requests that are there; return how many there were."""
        reader, done = self.requests.reader(0, self._position(RETRY)), 0
        while len(records := reader.read(1, 0)):
            self.send(records)
            done += 1
        if self._position(RETRY):
            self.send(Records.empty(RETRY.removesuffix("/0"), 0, self._position(RETRY)))
        return done

    def stage_requests(self) -> None:
        """Read one request, and end before Silver hears of it."""
        self._staging.advance([self.requests.reader(0, self._position(RETRY)).read(1, 0)])

    def send(self, *batches: Records) -> None:
        staged = self._staging.advance(batches)
        if not hasattr(self, "_merging"):
            self._merging = SilverStage(self._table, self.lake, "demo", Progress(dict))
        self._merging.advance(staged)

    def _position(self, name: str) -> int:
        return read_positions(self.lake.staging("things"), "demo", [name]).get(name, 0)


def quarantine(lake: Path, silver: Silver) -> Quarantine:
    return Quarantine(Pipeline("demo", tables=[silver]), Lake(str(lake)), "things")


def retry(lake: Path, silver: Silver, state: str = "quarantined") -> list[int]:
    found = quarantine(lake, silver)
    return found.retry(found.entries().filter(state=state))


def states(lake: Path, silver: Silver) -> dict[str, int]:
    return dict(quarantine(lake, silver).entries()["state"].value_counts().rows())


def silver_rows(lake: Path) -> pl.DataFrame:
    """Return the table; of current rows the values, as more than one event may be the one that they are from."""
    rows = pl.read_delta(str(lake / "silver/things"))
    rows = rows if "valid_from" in rows.columns else rows.select("id", "version", "size")
    return rows.sort(rows.columns, nulls_last=True)


def assert_as_if_right_from_the_start(lake: Path, right: Path, mended: Silver, partitions: list[list[bytes]]) -> None:
    Line(right, mended).feed(partitions, 1_000)
    assert_frame_equal(silver_rows(lake), silver_rows(right))


@HISTORIES
@SEQUENCES
@pytest.mark.parametrize("seed", range(2))
def test_a_mended_declaration_and_a_retry_give_what_it_would_have_given_from_the_start(
    history: History, sequence_by: str | None, seed: int, tmp_path: Path
) -> None:
    lake, partitions = tmp_path / "lake", events(seed)
    narrow, mended = (things(history, sequence_by, mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 30)
    bad = states(lake, narrow)["quarantined"]
    assert bad > 15

    assert retry(lake, narrow) == [0]  # too early: they fail again
    assert states(lake, narrow) == {"waiting": bad}
    line = Line(lake, narrow)
    line.read_requests()
    assert states(lake, narrow) == {"quarantined": bad}
    assert pl.read_delta(str(lake / "quarantine/things"))["_retried"].null_count() == bad

    line.feed(partitions, 40)
    assert retry(lake, mended) == [1]
    line = Line(lake, mended)
    line.feed(partitions, 50)
    assert line.read_requests() == 1
    line.feed(partitions, 1_000)
    assert states(lake, mended) == {"retried": states(lake, mended)["retried"]}
    assert retry(lake, mended, "retried") == [2]  # once more changes nothing
    line.read_requests()
    assert_as_if_right_from_the_start(lake, tmp_path / "right", mended, partitions)


@HISTORIES
@pytest.mark.parametrize("outcome", ["lost", "unsure"])
@pytest.mark.parametrize("broken", ["staging/things", "silver/things", "silver/things__side"])
def test_a_commit_that_failed_or_of_which_nobody_knows_changes_no_row(
    history: History, broken: str, outcome: Outcome, tmp_path: Path
) -> None:
    lake, partitions = tmp_path / "lake", events(5)
    narrow, mended = (things(history, "version", mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 1_000)
    retry(lake, narrow)
    line = Line(lake, mended)
    with fault(outcome, at=lake / broken, times=1):
        line.read_requests()
    staged = pl.read_delta(str(lake / "staging/things")).filter(pl.col("_retried").is_not_null())
    assert staged.height == states(lake, mended)["retried"]
    assert_as_if_right_from_the_start(lake, tmp_path / "right", mended, partitions)


@HISTORIES
@SEQUENCES
@pytest.mark.parametrize("broken", ["staging/things", "silver/things"])
def test_a_run_that_ends_between_two_commits_is_made_up_for_even_when_other_records_come_first(
    history: History, sequence_by: str | None, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quarantine and what is remembered beside Silver are ahead then, of records that are still to come again."""
    monkeypatch.setattr(stage, "_FIRST_WAIT", 0.0)
    lake, partitions = tmp_path / "lake", events(8)
    narrow, mended = (things(history, sequence_by, mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 25)
    retry(lake, narrow)
    line = Line(lake, mended)
    with fault("lost", at=lake / broken), pytest.raises(TransientError):
        line.read_requests()
    line = Line(lake, mended)
    line.feed(partitions, 35)
    line = Line(lake, mended)
    line.read_requests()
    line.feed(partitions, 1_000)
    assert_as_if_right_from_the_start(lake, tmp_path / "right", mended, partitions)


@HISTORIES
def test_deletes_that_come_again_are_honoured_when_silver_has_them_and_not_before(
    history: History, tmp_path: Path
) -> None:
    """It is staged, then Silver goes on without it for a while."""
    lake = tmp_path / "lake"
    narrow, mended = (things(history, "version", mended=each) for each in (False, True))
    first, last = (b'{"op": "upsert", "id": 0, "version": %d, "size": 1}' % version for version in (1, 900))
    delete = b'{"op": "delete", "id": 0, "version": 500}'
    Line(lake, narrow).feed([[first, delete], []], 2)
    assert retry(lake, narrow) == [0]
    Line(lake, mended).stage_requests()
    line = Line(lake, mended)
    line.feed([[first, delete, last], []], 3)
    line.read_requests()
    found = silver_rows(lake)
    if history == "scd1":
        assert found.select("id", "version").rows() == [(0, 900)]
    else:
        assert found.select("version", "valid_from", "valid_to").rows() == [(1, 1, 500), (900, 900, None)]


@HISTORIES
@pytest.mark.parametrize("op", ["delete", "truncate"])
def test_what_comes_again_counts_though_its_merge_failed_after_it_was_remembered(
    history: History, op: str, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    narrow, mended = (things(history, "version", mended=each) for each in (False, True))
    values = [b'{"op": "upsert", "id": 0, "version": 1, "size": 1}', b'{"op": "%s", "id": 0, "version": 500}']
    Line(lake, narrow).feed([[values[0], values[1] % op.encode()], []], 2)
    retry(lake, narrow)
    line = Line(lake, mended)
    with fault("lost", at=lake / "silver/things", times=2):
        line.read_requests()
    found = silver_rows(lake)
    assert found.height == 0 if history == "scd1" else found.select("valid_from", "valid_to").rows() == [(1, 500)]


@HISTORIES
def test_a_pair_with_a_record_that_comes_again_is_listed_once_though_its_merge_failed(
    history: History, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    narrow, mended = (things(history, "version", mended=each) for each in (False, True))
    values = [b'{"op": "upsert", "id": 0, "version": 5, "size": %d}' % size for size in (1, 300)]
    line = Line(lake, narrow)
    for most in (1, 2):
        line.feed([values, []], most)
    retry(lake, narrow)
    line = Line(lake, mended)
    with fault("lost", at=lake / "silver/things", times=2):
        line.read_requests()
    listed = pl.read_delta(str(lake / "ambiguous/things")).select("size", "_offset", "_other_size", "_other_offset")
    assert listed.rows() == [(300, 1, 1, 0)]


def test_one_record_of_one_partition_comes_again_and_no_other(tmp_path: Path) -> None:
    lake, partitions = tmp_path / "lake", events(3)
    narrow, mended = (things("scd1", None, mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 1_000)
    found = quarantine(lake, narrow)
    last = found.entries().filter(_partition=1).sort("_offset").row(-1, named=True)
    place = Place("things", 1, last["_offset"])
    found.retry(found.wanted([place]))
    line = Line(lake, mended)
    line.read_requests()
    staged = pl.read_delta(str(lake / "staging/things")).filter(pl.col("_retried").is_not_null())
    (row,) = staged.select("_partition", "_offset", "_changed_at", "_op", "_sequence").rows()
    assert row == (1, place.offset, last["_changed_at"], "upsert", place.offset)
    assert states(lake, mended)["retried"] == 1


def test_a_lost_silver_table_comes_back_with_what_was_sent_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_RETRY_STEP", 2)
    lake, partitions = tmp_path / "lake", events(4)
    narrow, mended = (things("scd1", "version", mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 1_000)
    for number in range(4):  # more requests than are read back at once
        found = quarantine(lake, narrow)
        found.retry(found.entries().filter(state="quarantined")[number : number + 1])
    retry(lake, narrow)
    Line(lake, mended).read_requests()
    before = silver_rows(lake)
    (lake / "silver/things").rename(tmp_path / "lost")
    Line(lake, mended).read_requests()
    assert_frame_equal(silver_rows(lake), before)
    assert_as_if_right_from_the_start(lake, tmp_path / "right", mended, partitions)


@pytest.mark.parametrize("declared", [("scd2", "version"), ("scd1", None)])
def test_a_rebuild_keeps_what_was_sent_in_again(declared: tuple[History, str | None], tmp_path: Path) -> None:
    """Also where staging is brought to another sequence, before which quarantine is looked at."""
    lake, partitions = tmp_path / "lake", events(9)
    narrow, mended = (things("scd1", "version", mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 1_000)
    retry(lake, narrow)
    line = Line(lake, mended)
    line.read_requests()
    assert states(lake, mended)["retried"] > 15
    other = things(*declared, mended=True)
    assert rebuild(other, Lake(str(lake)), "demo", lambda _: None) is not None
    Line(lake, other).read_requests()
    assert_as_if_right_from_the_start(lake, tmp_path / "right", other, partitions)


def test_requests_of_two_at_once_get_numbers_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = RetryRequests(str(tmp_path / "requests"), "retry/things")
    row = pl.DataFrame(
        [("things", 0, 1, None, b"k", None, '[["a", {"base64": "/w=="}], ["b", null]]')], REQUEST, orient="row"
    )
    assert requests.put(row, 0) == 0
    late = RetryRequests(requests.uri, requests.name)
    monkeypatch.setattr(late, "bounds", lambda _: (0, 0))  # it looked before the other one put its own
    assert late.put(row, 0) == 1
    assert requests.put(row, at_least=7) == 7  # what is below was read, and removed by hand
    monkeypatch.setattr(retry_requests, "_LOOK_EVERY", 0.0)
    reader = requests.reader(0, 0)
    read = [reader.read(1, 0) for _ in range(3)]
    assert [(records.start, records.end, len(records)) for records in read] == [(0, 1, 1), (1, 2, 1), (2, 2, 0)]
    assert read[0].headers == [(("a", b"\xff"), ("b", None))]
    assert read[0].timestamps.tolist() == [-1]
    with pytest.raises(OffsetLostError, match=r"request 2 is the next to be read and is gone, while 7 is there"):
        requests.reader(0, 2)
    (tmp_path / "requests/00000000000000000007.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"0007.parquet: cannot be read: .*Restore it"):
        requests.reader(0, 7).read(1, 0)


def test_requests_are_small_and_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.commands import quarantine as module  # noqa: PLC0415 - its limits are made small

    lake, partitions = tmp_path / "lake", events(6)
    narrow, mended = (things("scd1", None, mended=each) for each in (False, True))
    Line(lake, narrow).feed(partitions, 1_000)
    monkeypatch.setattr(module, "_REQUEST_RECORDS", 10)
    monkeypatch.setattr(module, "_REQUEST_BYTES", 200)
    numbers = retry(lake, narrow)
    line = Line(lake, mended)
    sizes = [len(line.requests.reader(0, number).read(1, 0)) for number in numbers]
    assert max(sizes) < 6
    assert sum(sizes) == states(lake, mended)["waiting"]
    assert line.read_requests() == len(numbers)
    batch = decode_records(line.requests.reader(0, 3).read(1, 0), mended.decoder(), mended.schema)
    assert (batch.starting_at(3).events.height, batch.starting_at(4).events.height) == (sizes[3], 0)
    assert_as_if_right_from_the_start(lake, tmp_path / "right", mended, partitions)


def test_records_of_a_topic_that_is_declared_no_more_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tables were moved away, as one does for another topic, and the requests beside quarantine stayed."""
    rows: list[tuple[Any, ...]] = [(topic, 0, 5, None, None, b"1", None) for topic in ("old", "things")]
    requests = RetryRequests(str(tmp_path / "quarantine/things__retry"), "retry/things")
    requests.put(pl.DataFrame(rows, REQUEST, orient="row"), 0)
    requests.put(pl.DataFrame(rows[:1], REQUEST, orient="row"), 0)
    (tmp_path / "events/things").mkdir(parents=True)
    settings = Settings(events=str(tmp_path / "events"))
    run = Run("demo", Lake(str(tmp_path)), settings, Batching(1, timedelta(0)), tail=False)
    readings = readings_of(things("scd1", None, mended=True), run)
    (again,) = (each for each in readings if each.partition_ids == [RETRY])
    assert isinstance(again, Reading)
    reader = again.topic.reader(0, 0)
    both = [reader.read(1, 0), reader.read(1, 0)]
    assert [(read.start, read.end, read.origin and [*read.origin.topics]) for read in both] == [
        (0, 1, ["things"]),
        (1, 2, []),
    ]
    told = "things__retry: request 1: 1 records of old are passed over: the table is made from things now"
    assert told in caplog.text


def test_mistakes_say_what_there_is(tmp_path: Path) -> None:
    narrow = things("scd1", None, mended=False)
    with pytest.raises(QuarantineError, match=r"no Silver table 'thing' in pipeline 'demo'; .* Did you mean 'things'"):
        Quarantine(Pipeline("demo", tables=[narrow]), Lake(str(tmp_path)), "thing")
    found = quarantine(tmp_path, narrow)
    with pytest.raises(QuarantineError, match=r"things/0/7 is not in the quarantine of 'things'; it is empty"):
        found.wanted([Place("things", 0, 7)])
    bad = b'{"op": "upsert", "id": 1, "version": 1, "size": "x"}'
    Line(tmp_path, narrow).feed([[bad] * 5, []], 5)
    with pytest.raises(QuarantineError, match=r"'things'; it has 5, the newest: things/0/4, things/0/3, things/0/2$"):
        found.attempts(Place("things", 0, 7))
    with pytest.raises(QuarantineError, match=r"position '0/7': expected topic/partition/offset, as orders/0/17"):
        Place.parse("0/7")
    for name in ("things__retry", "things__side"):
        with pytest.raises(DeclarationError, match=f"'{name}': names that end with '__"):
            Silver(name, source=narrow.source, schema=narrow.columns, keys=["id"])


def test_a_request_whose_origin_is_many_topics_keeps_each(tmp_path: Path) -> None:
    requests = RetryRequests(str(tmp_path / "requests"), "retry/things")
    rows: list[tuple[Any, ...]] = [("a", 1, 5, None, None, b"1", None), ("b", 0, 2, None, b"k", None, None)]
    requests.put(pl.DataFrame(rows, REQUEST, orient="row"), 0)
    requests.put(pl.DataFrame(rows[:1], REQUEST, orient="row"), 0)
    reader = requests.reader(0, 0)
    both = Records.joined([reader.read(1, 0), reader.read(1, 0)])
    assert both.origin is not None
    assert (both.origin.topics, both.origin.offsets.tolist()) == (["a", "b", "a"], [5, 2, 5])
    assert both.offsets.tolist() == [0, 0, 1]
    assert replace(both, origin=None).nbytes == 3
