"""New fields beside what else there is: formats, absent fields, expectations, retries, rebuilds, snapshots."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flows import Avro, Custom, Debezium, EventLog, Expect, Json, JsonSchema, Silver, Snapshots
from flows.commands.rebuild import rebuild
from flows.lake import Lake
from operators.decoding.expect import Otherwise
from operators.decoding.expectations import ExpectationError
from operators.schema import DeclarationError
from tests import snapshot_feed
from tests.faults import Crash, Outcome, crash_at_entry, fault
from tests.new_fields import SCHEMA, Run, silver, table, thing
from tests.readers import IN_PROCESS, assert_all_read
from tests.snapshot_feed import Feed
from tests.test_expectations import counted
from tests.test_retries import Line, retry, states

HEADER = b"\0\0\0\0\7"
SCD2: dict[str, Any] = {"history": "scd2", "track": ["kind"]}
BOTH_HISTORIES = pytest.mark.parametrize("history", [{}, SCD2], ids=["scd1", "scd2"])
LAYERS = ("staging", "quarantine", "silver")


def decode(records: pl.DataFrame) -> pl.DataFrame:
    return records


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (EventLog("things", format=Avro(registry="http://127.0.0.1:1")), "of Avro records only declared fields"),
        (
            EventLog("things", format=Debezium(encoding="avro", registry="http://127.0.0.1:1")),
            "of Avro records only declared fields",
        ),
        (EventLog("things", format=Custom(decode)), "test_new_fields_beside.decode gives back declared columns only"),
        (Snapshots("exports"), "the source are snapshots, of which only declared columns are read"),
    ],
)
@pytest.mark.parametrize("new_fields", ["add", "quarantine"])
def test_new_fields_are_looked_for_in_json_only(source: Any, told: str, new_fields: str) -> None:
    expected = f"Silver 'things': new_fields='{new_fields}': .*{told}.*Expected records"
    with pytest.raises(DeclarationError, match=expected):
        silver(source=source, sequence_by=None, new_fields=new_fields)


def framed(source_format: JsonSchema | Debezium, number: int, version: int, **fields: object) -> bytes:
    """Return a record behind the header of Confluent's serializers."""
    row = {"id": number, "version": version, "kind": "a", **fields}
    return HEADER + json.dumps({"after": row, "op": "u"} if isinstance(source_format, Debezium) else row).encode()


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("fmt", [JsonSchema(), Debezium(encoding="json_schema")])
def test_a_schema_header_before_the_json_makes_no_difference(
    tmp_path: Path,
    fmt: JsonSchema | Debezium,
    elsewhere: bool,  # noqa: FBT001
) -> None:
    run = Run(tmp_path, silver(source=EventLog("things", format=fmt)))
    bad = framed(fmt, 3, 1, n="text")
    run.send(framed(fmt, 1, 1), framed(fmt, 2, 1, n=5), bad, elsewhere=elsewhere)
    run.send(framed(fmt, 1, 2, n=6, note="é"), b'{"id": 4, "version": 1, "n": 1}', elsewhere=elsewhere)
    assert table(tmp_path, "silver").sort("id").select("id", "n", "note").rows() == [(1, 6, "é"), (2, 5, None)]
    quarantine = table(tmp_path, "quarantine").select("value", "stage").rows()
    assert quarantine == [(bad, "new fields"), (b'{"id": 4, "version": 1, "n": 1}', "decode")]


PARTIAL = [
    thing(1, 1),
    thing(1, 2, n=5, kind=None),
    thing(1, 3),
    b'{"op": "upsert", "id": 1, "version": 4, "m": 1}',
    thing(1, 5, n=None, kind="b"),
    thing(2, 1, n="x"),
    thing(1, 6, z=None),
    thing(2, 2, m=7, kind=None),
    b'{"op": "upsert", "id": 2, "version": 3}',
]


@pytest.mark.parametrize("ignored", [[], ["kind"]])
@pytest.mark.parametrize("absent", ["keep", "null"])
@pytest.mark.parametrize("cut", [1, 2, 4, 9])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_a_record_leaves_out_is_the_same_for_learned_columns_whatever_the_batching(
    tmp_path: Path,
    ignored: list[str],
    absent: Any,
    cut: int,
    elsewhere: bool,  # noqa: FBT001
) -> None:
    source = EventLog("things", format=Json(operation="op", absent=absent))
    partial = silver(**SCD2, source=source, ignore_null_updates=ignored)
    run = Run(tmp_path, partial)
    for at in range(0, len(PARTIAL), cut):
        run.send(*PARTIAL[at : at + cut], elsewhere=elsewhere)
    null_kind = ["kind"] if ignored else []
    keeps = [[], null_kind, ["n"], ["kind", "n"], ["m"], [], ["n", "m"], [*null_kind, "n"], ["kind", "n", "m"]]
    nulls = [[], null_kind, [], null_kind, [], [], [], null_kind, null_kind]
    staged = table(tmp_path, "staging")
    assert staged["_unavailable"].fill_null([]).to_list() == (keeps if absent == "keep" else nulls)
    assert staged["n"].to_list() == [None, 5, *[None] * 7]
    assert staged["m"].to_list() == [*[None] * 3, 1, *[None] * 3, 7, None]
    current = table(tmp_path, "silver").filter("is_current").select("id", "version", "kind", "n", "m").rows()
    assert current == [
        (1, 6, "a", None, 1 if absent == "keep" else None),
        (2, 3, None, None, 7 if absent == "keep" else None),
    ]


@pytest.mark.parametrize("written", [False, True])
@BOTH_HISTORIES
def test_a_crash_at_any_commit_does_not_change_what_records_carry(
    tmp_path: Path,
    history: dict[str, Any],
    written: bool,  # noqa: FBT001
) -> None:
    """Records before and after those that teach, in one batch; late events, which show what newer ones carried."""
    late = [thing(1, 0, n=9, m=9), thing(2, 0, m=8)]
    Run(tmp_path / "whole", silver(**history)).send(*PARTIAL, *late)
    for number in range(1, 100):
        lake = tmp_path / f"{number}"
        run = Run(lake, silver(**history))
        try:
            with crash_at_entry(number, written=written):
                run.send(*PARTIAL)
        except Crash:
            again = Run(lake, silver(**history))
            again.send(*PARTIAL[again.ends[0] :])
            again.send(*late)
        else:
            break
        for name in LAYERS:
            assert_frame_equal(table(lake, name), table(tmp_path / "whole", name))
    assert number > 8


OTHERWISE: tuple[Otherwise, ...] = ("warn", "drop", "quarantine")
EXPECTED = [Expect(f"not_{each}", pl.col("kind") != each, otherwise=each) for each in OTHERWISE]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_expectations_are_checked_on_records_with_new_fields_as_if_these_had_been_declared(
    tmp_path: Path,
    elsewhere: bool,  # noqa: FBT001
) -> None:
    """What is not met teaches nothing: `note` is learned as text."""
    values = [
        thing(1, 1, n=1),
        *(thing(number, 1, kind=each, n=2, note=7) for number, each in enumerate(OTHERWISE[1:], 2)),
        thing(4, 1, kind="warn", n=3, note="x"),
        thing(5, 1, kind="warn"),
        thing(6, 1, kind="drop"),
        thing(7, 1, kind="quarantine"),
    ]
    learns = silver(expectations=EXPECTED)
    declares = silver(schema={**SCHEMA, "n": "int64", "note": "string"}, expectations=EXPECTED)
    for name, declared in (("learned", learns), ("declared", declares)):
        run = Run(tmp_path / name, declared)
        run.send(*values[:3], elsewhere=elsewhere)
        run.send(*values[3:], elsewhere=elsewhere)
    assert counted(tmp_path / "learned/staging/things") == {f"not_{each}": 2 for each in OTHERWISE}
    fates = table(tmp_path / "learned", "staging")["_op"].to_list()
    assert fates == ["upsert", "dropped", "quarantined", "upsert", "upsert", "dropped", "quarantined"]
    assert table(tmp_path / "learned", "quarantine")["stage"].to_list() == ["expectation", "expectation"]
    assert_frame_equal(table(tmp_path / "learned", "silver"), table(tmp_path / "declared", "silver"))


def test_an_expectation_that_stops_the_run_does_so_for_a_record_with_new_fields(tmp_path: Path) -> None:
    strict = Expect("never", pl.col("kind") != "never", otherwise="fail")
    run = Run(tmp_path, silver(expectations=[strict]))
    with pytest.raises(ExpectationError, match="things/0/1: expectation 'never': received kind"):
        run.send(thing(1, 1, n=1), thing(2, 1, kind="never", n=2))
    assert table(tmp_path, "staging").height == 0


@BOTH_HISTORIES
@pytest.mark.parametrize("outcome", [None, "lost", "unsure"])
@pytest.mark.parametrize(("broken", "after"), [("staging", 0), ("staging", 1), ("quarantine", 0), ("silver", 0)])
def test_records_that_were_quarantined_for_their_new_fields_are_sent_in_again_and_teach(
    tmp_path: Path, broken: str, after: int, outcome: Outcome | None, history: dict[str, Any]
) -> None:
    """They are in one request, that is one offset; what it teaches is known to all of its records."""
    values = [thing(1, 1), thing(1, 2, a=1), thing(1, 3, b="x"), thing(2, 1, a="text"), thing(1, 5, b="y")]
    frozen, learns = silver(**history, new_fields="quarantine"), silver(**history)
    Line(tmp_path, frozen).feed([values, []], 9)
    assert states(tmp_path, frozen) == {"quarantined": 4}
    assert retry(tmp_path, learns) == [0]
    with fault(outcome, tmp_path / broken / "things", times=1, after=after):
        Line(tmp_path, learns).read_requests()
    assert states(tmp_path, learns) == {"retried": 3, "quarantined": 1}
    staged = pl.read_delta(str(tmp_path / "staging/things")).filter(pl.col("_retried") == 0).sort("_offset")
    assert staged.select("_op", "a", "b", "_unavailable").rows() == [
        ("upsert", 1, None, ["b"]),
        ("upsert", None, "x", ["a"]),
        ("quarantined", None, None, None),
        ("upsert", None, "y", ["a"]),
    ]
    quarantine = pl.read_delta(str(tmp_path / "quarantine/things")).filter(pl.col("_retried") == 0)
    reason = "column 'a': received \"text\", expected an int64"
    assert quarantine.select("_offset", "value", "stage", "reason").rows() == [(3, values[3], "new fields", reason)]
    current = table(tmp_path, "silver").filter(pl.col("is_current") if history else True)
    assert current.select("id", "version", "a", "b").rows() == [(1, 5, 1, "y")]


def test_a_table_that_has_learned_is_made_anew_with_what_it_learned(tmp_path: Path) -> None:
    values = [thing(1, 1), thing(1, 2, n=5), thing(2, 1, n=6), thing(1, 2, n=7)]
    values += [thing(1, 1, note="x", n=1), thing(2, 3)]
    run = Run(tmp_path / "lake")
    for value in values:
        run.send(value)
    wanted = silver(**SCD2)
    assert rebuild(wanted, Lake(str(tmp_path / "lake")), "demo", print)
    Run(tmp_path / "lake", wanted).send(thing(3, 1, more=True))
    Run(tmp_path / "right", wanted).send(*values, thing(3, 1, more=True))
    assert_frame_equal(table(tmp_path / "lake", "silver"), table(tmp_path / "right", "silver"))
    assert_all_read(IN_PROCESS, str(tmp_path / "lake/silver/things"), table(tmp_path / "lake", "silver"))
    pairs = pl.read_delta(str(tmp_path / "lake/ambiguous/things")).sort("_sequence")
    assert pairs.select("id", "_sequence", "n", "_other_n").rows() == [(1, 1, 1, None), (1, 2, 7, 5)]
    side = pl.read_delta(Lake(str(tmp_path / "lake")).side("things"))
    assert {"n", "note", "more"} <= {*side.columns}


@pytest.mark.parametrize("fmt", [Json(operation="op"), Json(operation="op", absent="null")])
def test_snapshots_beside_a_stream_do_not_carry_what_was_learned_from_it(tmp_path: Path, fmt: Json) -> None:
    """Even if they have a column of that name: only declared ones are read."""
    schema = {**snapshot_feed.TYPES, "n": pl.Int64()}
    rows = {1: ("b", "snapshot", 1), 3: ("c", "new", 1)}
    snapshot_feed.write_snapshot(tmp_path / "exports/v=7.parquet", rows, schema)
    learns = Silver(
        "things",
        source=EventLog("things", format=fmt),
        schema={"id": "int64", "kind": "string", "note": "string"},
        keys=["id"],
        initial=Snapshots(str(tmp_path / "exports"), versions="v={integer}.parquet"),
        new_fields="add",
    )
    streamed = [{"id": 1, "n": 5}, {"id": 2}, {"id": 2, "n": 6}]
    values = [json.dumps({"op": "upsert", "kind": "a", "note": "stream", **row}).encode() for row in streamed]
    Feed(learns, tmp_path).stream(values[:2])
    with suppress(snapshot_feed.CrashError):
        Feed(learns, tmp_path).take()
    Feed(learns, tmp_path).stream(values[2:])
    expected = {1: ("snapshot", 5), 2: ("stream", 6), 3: ("new", None)}
    assert snapshot_feed.current(tmp_path, "note", "n") == expected
