"""Fields that nobody declared: in staging, Silver and quarantine, with crashes, restarts and several processes."""

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flows import Count, Debezium, DeclarationError, EventLog, Kpi, Pipeline, Silver, Sum
from flows.lake import Lake
from flows.stages.learned import as_learned
from flows.stages.tables import silver_table, staging_table
from operators.decoding.formats import PLACEHOLDER
from storage.delta.table_declaration import check_table
from storage.errors import TableMismatchError, TransientError
from tests.faults import Outcome, fault
from tests.new_fields import SCHEMA, Run, silver, table, thing
from tests.readers import IN_PROCESS, assert_all_read

CASES = Path(__file__).parents[2] / "shared" / "cases"
SCD2: dict[str, Any] = {"history": "scd2", "track": ["kind"]}
BOTH_HISTORIES = pytest.mark.parametrize("history", [{}, SCD2], ids=["scd1", "scd2"])
WHERE = pytest.mark.parametrize("elsewhere", [False, True], ids=["in this process", "elsewhere"])


def rows(lake: Path, *columns: str) -> list[tuple[Any, ...]]:
    return table(lake, "silver").sort("id", "version").select("id", "version", *columns).rows()


def reasons(lake: Path) -> dict[int, str]:
    return dict(table(lake, "quarantine").select("_offset", "reason").rows())


@BOTH_HISTORIES
@WHERE
def test_a_new_field_becomes_a_column_that_rows_from_before_have_null_in(
    tmp_path: Path,
    history: dict[str, Any],
    elsewhere: bool,  # noqa: FBT001
) -> None:
    kpi = Kpi("kinds", source=silver(**history), group_by=["kind"], measures={"n": Count(), "sum": Sum("version")})
    run = Run(tmp_path, silver(**history), kpi)
    run.send(thing(1, 1), thing(2, 1), thing(3, 1), elsewhere=elsewhere)
    run.send(
        thing(2, 2), thing(3, 2, loyalty=7, note="x", kind="b"), thing(2, 3, "delete", loyalty="?"), elsewhere=elsewhere
    )
    run.send(thing(4, 1, loyalty=8, tags=["a", None]), thing(1, 2, note=None), elsewhere=elsewhere)
    found = rows(tmp_path, "kind", "loyalty", "note", "tags")
    current = [
        (1, 2, "a", None, None, None),
        (3, 2, "b", 7, "x", None),
        (4, 1, "a", 8, None, ["a", None]),
    ]
    past = [(2, 2, "a", None, None, None), (3, 1, "a", None, None, None)]
    assert found == (sorted([*current, *past]) if history else current)
    assert table(tmp_path, "staging").schema.items() >= {"loyalty": pl.Int64, "note": pl.String}.items()
    assert pl.read_delta(str(tmp_path / "gold/kinds")).sort("kind").select("kind", "n", "sum").rows() == [
        ("a", 2, 3),
        ("b", 1, 2),
    ]
    if history:
        assert "loyalty" in pl.read_delta(str(tmp_path / "silver/things__side")).columns
    for name in ("staging", "silver", "quarantine"):
        assert_all_read(IN_PROCESS, str(tmp_path / f"{name}/things"), table(tmp_path, name))
    again = Run(tmp_path, silver(**history), kpi)
    again.send(thing(2, 9, loyalty=9), thing(3, 3, kind="b"), elsewhere=elsewhere)
    assert [row for row in rows(tmp_path, "loyalty") if row[1] > 2] == [(2, 9, 9), (3, 3, 7)]
    assert table(tmp_path, "quarantine").height == 0


@WHERE
def test_what_does_not_fit_is_quarantined_as_it_was_read_and_costs_no_other(
    tmp_path: Path,
    elsewhere: bool,  # noqa: FBT001
) -> None:
    run = Run(tmp_path)
    bad = [thing(2, 1, n="text"), thing(3, 1, n=1.5), thing(4, 1, n={"a": 1}), thing(5, 1, N=1), thing(6, 1, _n=1)]
    run.send(thing(1, 1, n=5), *bad, b"{", thing(7, 1, n=6), elsewhere=elsewhere)
    assert rows(tmp_path, "n") == [(1, 1, 5), (7, 1, 6)]
    quarantine = table(tmp_path, "quarantine")
    assert quarantine["value"].to_list() == [*bad, b"{"]
    assert quarantine["stage"].to_list() == [*["new fields"] * 5, "decode"]
    assert quarantine["headers"].unique().to_list() == ['[["trace", "x"]]']
    other = "another name, as Delta does not tell it from column 'n'"
    assert [*reasons(tmp_path).values()][:5] == [
        "column 'n': received \"text\", expected an int64",
        "column 'n': received 1.5, expected an int64",
        "column 'n': received {\"a\": 1}, expected an int64",
        f"field 'N': received 1, expected {other}; rename it in the source",
        "field '_n': received 1, expected a name that a column can have, of at most 255 bytes; rename it in the source",
    ]
    staged = table(tmp_path, "staging")
    assert staged["_op"].to_list() == ["upsert", *["quarantined"] * 6, "upsert"]
    assert staged.filter(_op="quarantined").select(*SCHEMA, "n", "_unavailable").null_count().row(0) == (6,) * 5
    assert staged["_sequence"].to_list() == [1, *range(1, 7), 1]


@WHERE
def test_a_table_may_quarantine_what_has_new_fields_also_after_it_has_learned_some(
    tmp_path: Path,
    elsewhere: bool,  # noqa: FBT001
) -> None:
    Run(tmp_path).send(thing(1, 1, n=5))
    run = Run(tmp_path, silver(new_fields="quarantine"))
    run.send(thing(2, 1, n=6), thing(3, 1, new=6), thing(4, 1, new=None), thing(5, 1, n="x"), elsewhere=elsewhere)
    assert rows(tmp_path, "n") == [(1, 1, 5), (2, 1, 6), (4, 1, None)]
    assert reasons(tmp_path) == {
        2: "field 'new': received 6, expected declared fields only; declare it, or new_fields='add'",
        4: "column 'n': received \"x\", expected an int64",
    }


def test_who_ignores_new_fields_is_told_to_declare_what_a_table_has_learned(tmp_path: Path) -> None:
    Run(tmp_path).send(thing(1, 1, n=5))
    frozen = silver(new_fields="ignore")
    with pytest.raises(
        TableMismatchError,
        match=r"n: found int64, declared nothing.*Declare every column it has, or new_fields=\"add\" where",
    ):
        check_table(str(tmp_path / "staging/things"), staging_table(as_learned(frozen, Lake(str(tmp_path))), "demo"))
    with pytest.raises(DeclarationError, match=r"new_fields: received 'ad', expected 'ignore', 'add' or 'quarantine'"):
        silver(new_fields="ad")


@pytest.mark.parametrize("declared", ["int32", "int64"])
def test_a_learned_column_may_be_declared_later_as_it_is_or_wider(tmp_path: Path, declared: str) -> None:
    wrapped = {"source": EventLog("things", format=Debezium()), "sequence_by": "version"}
    Run(tmp_path, silver(**wrapped)).send(change(1, "int32", n=5, m="x"))
    schema = {"n": declared, **SCHEMA}
    declares = silver(**wrapped, schema=schema)
    run = Run(tmp_path, declares, Kpi("kinds", source=declares, group_by=["n"], measures={"things": Count()}))
    run.send(change(2, "int64", n=2**31), change(3, "int32", n=6, m="y"))
    wide = declared == "int64"
    expected = [(1, 5, "x"), *([(2, 2**31, None)] if wide else []), (3, 6, "y")]
    assert table(tmp_path, "silver").sort("id").select("id", "n", "m").rows() == expected
    assert table(tmp_path, "silver").columns[:5] == [*schema, "m"]
    counted = pl.read_delta(str(tmp_path / "gold/kinds")).sort("n").select("n", "things").rows()
    assert counted == [(5, 1), (6, 1), *([(2**31, 1)] if wide else [])]
    assert table(tmp_path, "quarantine").height == 1 - wide
    assert_all_read(IN_PROCESS, str(tmp_path / "silver/things"), table(tmp_path, "silver"))


def test_a_learned_column_cannot_be_declared_as_something_else(tmp_path: Path) -> None:
    Run(tmp_path).send(thing(1, 1, n=5))
    other = silver(schema={**SCHEMA, "n": "string"})
    lake = Lake(str(tmp_path))
    for uri, declare in ((lake.staging("things"), staging_table), (lake.silver("things"), silver_table)):
        with pytest.raises(TableMismatchError, match="n: found int64, declared string"):
            check_table(uri, declare(as_learned(other, lake), "demo"))


def change(number: int, integers: str, **fields: object) -> bytes:
    """Return a Debezium event with a schema, in which `n` has an integer type."""
    row = {"id": number, "version": number, "kind": "a", **fields}
    block = {"field": "after", "fields": [{"field": "n", "type": integers}]}
    return json.dumps({"schema": {"fields": [block]}, "payload": {"after": row, "op": "u"}}).encode()


@BOTH_HISTORIES
@WHERE
def test_a_column_that_its_values_outgrow_is_widened(
    tmp_path: Path,
    history: dict[str, Any],
    elsewhere: bool,  # noqa: FBT001
) -> None:
    wrapped = silver(**history, source=EventLog("things", format=Debezium()))
    run = Run(tmp_path, wrapped)
    run.send(change(1, "int16", n=5), change(2, "int16", n=-6), elsewhere=elsewhere)
    assert table(tmp_path, "silver").schema["n"] == pl.Int16
    run.send(change(3, "int32", n=100_000), change(4, "int32", n=2**40), elsewhere=elsewhere)
    again = Run(tmp_path, wrapped)
    again.send(change(5, "int64", n=7), elsewhere=elsewhere)
    found = table(tmp_path, "silver")
    assert found.sort("id")["n"].to_list() == [5, -6, 100_000, 2**40, 7]
    for name in ("staging", "silver"):
        assert table(tmp_path, name).schema["n"] == pl.Int64
        assert_all_read(IN_PROCESS, str(tmp_path / f"{name}/things"), table(tmp_path, name))


@BOTH_HISTORIES
@WHERE
def test_a_value_of_a_new_field_that_postgres_did_not_send_keeps_what_it_was(
    tmp_path: Path,
    history: dict[str, Any],
    elsewhere: bool,  # noqa: FBT001
) -> None:
    """Also beside a declared column that was not sent, and where the first thing known of the field is that it is."""
    run = Run(tmp_path, silver(**history, source=EventLog("things", format=Debezium())))
    run.send(change(1, "int32", version=1, bio=PLACEHOLDER), elsewhere=elsewhere)
    run.send(change(2, "int32", version=1, bio="x", kind="b"), elsewhere=elsewhere)
    run.send(change(2, "int32", version=2, bio=PLACEHOLDER, kind=PLACEHOLDER), elsewhere=elsewhere)
    assert table(tmp_path, "staging")["_unavailable"].to_list() == [["bio"], None, ["kind", "bio"]]
    current = table(tmp_path, "silver").filter(pl.col("is_current") if history else True)
    assert current.select("id", "version", "kind", "bio").rows() == [(1, 1, "a", None), (2, 2, "b", "x")]


@pytest.mark.parametrize("outcome", ["lost", "unanswered", "unsure"])
@pytest.mark.parametrize(
    ("broken", "after"), [("staging", 0), ("quarantine", 0), ("staging", 1), ("silver", 0), ("silver", 1)]
)
def test_a_commit_of_columns_or_rows_that_raised_changes_no_row(
    tmp_path: Path, broken: str, after: int, outcome: Outcome
) -> None:
    """The columns commit first, then quarantine, then the rows; each is lost, or happened without an answer."""
    values = [thing(1, 1, a=1), thing(2, 1, a="x"), thing(3, 1, b="y", a=2), thing(4, 1, b=5)]
    run = Run(tmp_path / "broken")
    run.send(thing(0, 0))
    with fault(outcome, tmp_path / "broken" / broken / "things", times=1, after=after):
        run.send(*values)
    whole = Run(tmp_path / "whole")
    whole.send(thing(0, 0), *values)
    for name in ("staging", "quarantine", "silver"):
        assert_frame_equal(table(tmp_path / "broken", name), table(tmp_path / "whole", name))


@pytest.mark.parametrize(("broken", "after"), [("quarantine", 0), ("staging", 1)])
def test_a_crash_between_the_columns_and_the_rows_changes_no_row_even_if_others_come_first(
    tmp_path: Path, broken: str, after: int
) -> None:
    """What was to be quarantined when the columns were learned still is, and what taught them is still taken."""
    values = [thing(1, 1, a=1), thing(2, 1, a="x"), thing(3, 1, a=2)]
    run = Run(tmp_path)
    with suppress(TransientError), fault("lost", tmp_path / broken / "things", after=after):
        run.send(*values)
    assert "a" in table(tmp_path, "staging").columns
    assert table(tmp_path, "staging").height == 0
    again = Run(tmp_path)
    again.send(thing(9, 1, a="text", b=1), partition=1)
    again.send(*values)
    assert rows(tmp_path, "a") == [(1, 1, 1), (3, 1, 2)]
    quarantine = table(tmp_path, "quarantine").select("_partition", "_offset", "value").rows()
    assert quarantine == [(0, 1, values[1]), (1, 0, thing(9, 1, a="text", b=1))]


@BOTH_HISTORIES
def test_silver_catches_up_and_comes_back_from_a_staging_table_that_has_learned(
    tmp_path: Path, history: dict[str, Any]
) -> None:
    behind = Run(tmp_path, silver(**history))
    behind.send(thing(1, 1), thing(2, 1))
    ahead = Run(tmp_path, silver(**history), merging=False)
    ahead.send(thing(1, 2, a=1))
    ahead.send(thing(2, 2, a=2, b="x"), thing(3, 1, b=1))
    Run(tmp_path, silver(**history)).send(thing(4, 1, c=True))
    caught_up = table(tmp_path, "silver")
    assert [row for row in rows(tmp_path, "a", "b", "c") if row[1] == 2 or row[0] == 4] == [
        (1, 2, 1, None, None),
        (2, 2, 2, "x", None),
        (4, 1, None, None, True),
    ]
    for name in ("things", "things__side"):
        if (tmp_path / "silver" / name).exists():
            (tmp_path / "silver" / name).rename(tmp_path / name)
    Run(tmp_path, silver(**history)).send()
    assert_frame_equal(table(tmp_path, "silver"), caught_up)


def stream(chance: random.Random, count: int) -> list[tuple[int, bytes]]:
    """Return values of two partitions, many with new fields, of which some do not fit."""
    found = []
    for position in range(count):
        fields: dict[str, Any] = {
            name: chance.choice([1, 2**40, "x", None, 1.5, True, ["a"], {}, "é"])
            for name in chance.sample(["a", "b", "B", "c"], chance.choice([0, 0, 1, 2]))
        }
        op = "delete" if chance.random() < 0.1 else "upsert"
        number = chance.randrange(8)
        found.append((number % 2, thing(number, position - chance.randrange(4), op, **fields)))
    return found


@BOTH_HISTORIES
@pytest.mark.parametrize("seed", range(3))
def test_batches_processes_crashes_and_restarts_change_no_row(
    tmp_path: Path, seed: int, history: dict[str, Any]
) -> None:
    """The order of records from both partitions is that of a run that takes them one by one."""
    chance = random.Random(seed)
    events = stream(chance, 60)
    one_by_one = Run(tmp_path / "whole", silver(**history))
    for partition, value in events:
        one_by_one.send(value, partition=partition)

    lake, at = tmp_path / "lake", 0
    run = Run(lake, silver(**history))
    while at < len(events):
        count = chance.choice([1, 2, 5, 20])
        elsewhere = chance.random() < 0.5
        batches = []
        for partition, value in events[at : at + count]:
            batches.append(run.batch([value], partition, elsewhere=True))
        if not elsewhere and len({partition for partition, _ in events[at : at + count]}) == 1:
            values = [value for _, value in events[at : at + count]]
            run.ends[events[at][0]] -= len(values)
            batches = [run.batch(values, events[at][0], elsewhere=False)]
        broken = lake / chance.choice(["staging", "quarantine", "silver"]) / "things"
        outcome: Outcome | None = chance.choice([None, None, "lost", "unanswered", "unsure"])
        with fault(outcome, broken, times=1, after=chance.choice([0, 1])):
            run.advance(batches)
        at += count
        if chance.random() < 0.3:
            run = Run(lake, silver(**history))
    for name in ("staging", "quarantine", "silver"):
        assert_frame_equal(table(lake, name), table(tmp_path / "whole", name))
    assert table(lake, "quarantine").height > 5


@BOTH_HISTORIES
@WHERE
@pytest.mark.parametrize(
    ("capture", "dtype"), [("debezium_postgres", pl.Int64()), ("debezium_postgres_schema", pl.Int32())]
)
def test_a_column_that_postgres_got_on_the_way_is_the_same_as_if_it_had_been_declared(
    tmp_path: Path,
    capture: str,
    dtype: pl.DataType,
    history: dict[str, Any],
    elsewhere: bool,  # noqa: FBT001
) -> None:
    if not (CASES / f"{capture}.jsonl").exists():
        pytest.skip("the acceptance cases are not beside this checkout")
    lines = map(json.loads, (CASES / f"{capture}.jsonl").read_text(encoding="utf-8").splitlines())
    values = [line["value"] and line["value"].encode() for line in lines if line["topic"].endswith(".customers")]
    types = {"id": "int32", "name": "string", "email": "string", "city": "string", "vip": "bool", "bio": "string"}
    known = {
        "source": EventLog("things", format=Debezium()),
        "schema": {**types, "updated_at": "timestamp"},
        "sequence_by": "source.lsn",
        **({"history": "scd2"} if history else {}),
    }
    learns = silver(**known)
    declares = silver(
        **{**known, "schema": {**learns.columns, "loyalty": str(dtype).lower()}, "new_fields": "quarantine"}
    )
    for name, made in (("learned", learns), ("declared", declares)):
        run = Run(tmp_path / name, made)
        for at in range(0, len(values), 7):
            run.send(*values[at : at + 7], elsewhere=elsewhere)
    for name in ("staging", "silver", "quarantine"):
        assert_frame_equal(table(tmp_path / "learned", name), table(tmp_path / "declared", name))
    found = table(tmp_path / "learned", "silver").filter(pl.col("is_current") if history else True)
    expected = json.loads((CASES / f"{capture}.expected.json").read_text(encoding="utf-8"))["customers"]
    assert found.schema["loyalty"] == dtype
    assert dict(found.select("id", "loyalty").rows()) == {row["id"]: row["loyalty"] for row in expected}
    assert found["loyalty"].null_count() < found.height


def test_a_pipeline_starts_again_on_tables_that_have_learned(tmp_path: Path) -> None:
    learns: Silver = silver()
    Run(tmp_path, learns).send(thing(1, 1, n=5))
    pipeline = Pipeline("demo", tables=[learns], lake=str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOLDWAX_EVENTS", str(tmp_path / "events"))
        (tmp_path / "events/things").mkdir(parents=True)
        (tmp_path / "events/things/0-0.jsonl").write_text('{"value": "{}"}\n')
        pipeline.dataflow(tail=False)
