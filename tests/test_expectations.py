"""Expectations: which expressions may be one, what becomes of records, and that each is counted exactly once."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from deltalake import DeltaTable
from prometheus_client import REGISTRY

from flows import Debezium, DeclarationError, EventLog, Expect, Json, Silver
from flows.lake import Lake
from flows.stages.decoding import Decoding
from flows.stages.staging_stage import StagingStage
from flows.stages.tables import silver_table, staging_table
from operators.decoding.decode import Decoded
from operators.decoding.expectations import ExpectationError
from storage.delta.owned_table import LEDGER
from storage.logs.records import Records
from tests.faults import Outcome, fault

SCHEMA = {
    "id": "int64",
    "amount": "decimal(9, 2)",
    "weight": "float64",
    "name": "string",
    "day": "date",
    "tags": "list<string>",
}
amount, NAME = pl.col("amount"), pl.col("name")


def table(*expectations: Expect, source: EventLog | None = None) -> Silver:
    source = source or EventLog("things", format=Json(operation="op"))
    return Silver("things", source=source, schema=SCHEMA, keys=["id"], expectations=expectations)


def value(number: int, op: str = "upsert", **fields: Any) -> bytes:
    return json.dumps({"op": op, "id": number, **fields}).encode()


def decoded(silver: Silver, *values: bytes) -> Decoded:
    return silver.decoder().decode([None] * len(values), values)


ROW_BY_ROW = {
    "compared": amount >= 0,
    "two columns": pl.col("weight") <= amount.cast(pl.Float64),
    "a pattern": NAME.str.contains("^[a-z]+$"),
    "in a list": NAME.is_in(["a", "b"]),
    "in a column of lists": NAME.is_in(pl.col("tags")),
    "in a list of columns": pl.col("id").is_in(pl.concat_list(pl.col("id") + 1, pl.col("weight").cast(pl.Int64))),
    "a choice": pl.when(amount > 0).then(NAME.is_not_null()).otherwise(pl.lit(value=True)),
    "several at once": pl.all_horizontal(amount.is_not_null(), NAME.str.len_chars() > 1),
    "a part of a date": pl.col("day").dt.year() > 1999,
    "elements": pl.col("tags").list.contains("x") | (pl.col("tags").list.len() > 2),
    "a number in a text": NAME.cast(pl.Int64, strict=False) > 3,
    "computed constant": amount > pl.lit(1) + pl.lit(2),
    "between": pl.col("weight").is_between(0, pl.col("id")),
}
OF_OTHER_ROWS = {
    "an aggregate": amount > amount.mean(),
    "an aggregate behind a constant test": (NAME == "never") & (amount > amount.mean()),
    "a window": (amount > 0).all().over("name"),
    "the row before": amount > amount.shift(1),
    "all rows before": amount.cum_sum() > 0,
    "unique": NAME.is_unique(),
    "first of its kind": NAME.is_first_distinct(),
    "rank": amount.rank() > 1,
    "sorted": amount.sort() > 0,
    "filled from neighbours": NAME.forward_fill() == "a",
    "chance": amount.shuffle() > 0,
    "the number of rows": pl.len() > amount,
    "a row for each element": pl.col("tags").explode() == "x",
    "the row's place": pl.int_range(pl.len()) > pl.col("id"),
    "a guess from all rows": NAME.str.to_date(strict=False) > pl.col("day"),
    "in a column": pl.col("id").is_in(pl.col("weight").cast(pl.Int64)),
    "in a column, deep inside": pl.when(amount > 0).then(~pl.col("id").is_in(pl.col("id") + 1)).otherwise(None),
    "in a column of structs": pl.struct("id", "name").is_in(pl.struct("id", "name")),
    "a list in a column of lists": pl.col("tags").is_in(pl.col("tags")),
    "in a folded column": amount.is_in(amount.implode()),
    "a sample of a list": pl.col("tags").list.sample(1).list.first() == "x",
    "the difference to the row before": amount.diff() > 0,
    "a running count": NAME.cum_count() > 1,
    "the first row": amount >= amount.first(),
    "filled with the mean": pl.col("weight").fill_null(strategy="mean") > 0,
    "a duplicate": pl.struct("name", "day").is_duplicated(),
    "a rolling mean": amount.rolling_mean(2) > 0,
    "groups of equal neighbours": NAME.rle_id() > 0,
    "the last rows first": amount.reverse() > 0,
    "the kinds": NAME.n_unique() > pl.col("id"),
}
NO_CONDITION: dict[str, tuple[Any, str]] = {
    "a number": (amount + 1, "received Decimal"),
    "two columns": (pl.col("amount", "weight") > 0, "received 2 columns"),
    "a constant": (pl.lit(value=True), "received 1 values for 0 rows"),
    "one value": ((amount > 0).all(), "received 1 values for 0 rows"),
    "unknown column": (pl.col("amuont") > 0, 'unable to find column "amuont"'),
    "technical column": (pl.col("_offset") > 0, 'unable to find column "_offset"'),
    "the wrong type": (pl.col("tags").str.len_chars() > 0, "cannot be evaluated"),
    "a Series": (amount > pl.lit(pl.Series([1, 2])), "cannot be evaluated"),
    "Python": (NAME.map_batches(lambda names: names != "a", pl.Boolean), "polars cannot tell whether"),
    "a selector": (pl.all_horizontal(pl.col("^.*t$") > 0), "polars cannot tell whether"),
}


@pytest.mark.parametrize("condition", ROW_BY_ROW.values(), ids=ROW_BY_ROW)
def test_a_condition_of_each_row_by_itself_is_taken_and_is_the_same_in_any_batch(condition: pl.Expr) -> None:
    table(Expect("holds", condition))
    chance = random.Random(7)
    rows = [
        [
            chance.randrange(5),
            chance.choice([None, -1, 0, 3]),
            chance.choice([None, -0.5, 4.0]),
            chance.choice([None, "a", "b7", "7"]),
            chance.choice([None, 20_000, 9_000]),
            chance.choice([None, [], ["x"], ["y", "z", "x"]]),
        ]
        for _ in range(60)
    ]
    frame = pl.DataFrame(rows, dict(table().schema), orient="row")
    whole = frame.select(condition).to_series()
    alone = pl.concat([frame[row].select(condition).to_series() for row in range(60)])
    assert whole.to_list() == alone.to_list()


@pytest.mark.parametrize("condition", OF_OTHER_ROWS.values(), ids=OF_OTHER_ROWS)
def test_a_condition_that_looks_at_other_rows_is_refused(condition: pl.Expr) -> None:
    with pytest.raises(DeclarationError, match=r"expectation 'holds': .* is not of each row by itself"):
        table(Expect("holds", condition))


@pytest.mark.parametrize(("condition", "message"), NO_CONDITION.values(), ids=NO_CONDITION)
def test_what_is_no_condition_is_refused(condition: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=f"expectation 'holds': .*{re.escape(message)}") as refused:
        table(Expect("holds", condition))
    assert "Expected a polars expression over id, amount, weight, name, day, tags" in str(refused.value)


def test_mistakes_beside_the_condition_are_named() -> None:
    with pytest.raises(DeclarationError, match=r"otherwise: received 'quarantined', .* Did you mean 'quarantine'"):
        table(Expect("holds", amount > 0, otherwise="quarantined"))  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="two expectations are named 'holds'"):
        table(Expect("holds", amount > 0), Expect("holds", NAME != "a"))
    with pytest.raises(DeclarationError, match="Expectation name 'Amount > 0'"):
        table(Expect("Amount > 0", amount > 0))


def test_each_policy_and_the_strictest_of_several_decides() -> None:
    silver = table(
        Expect("named", NAME.is_not_null(), otherwise="warn"),
        Expect("not_negative", amount >= 0, otherwise="quarantine"),
        Expect("light", pl.col("weight") < 10, otherwise="drop"),
        Expect("not_huge", amount < 1000, otherwise="fail"),
    )
    found = decoded(
        silver,
        value(0, name="good", amount=1),
        value(1, amount=1),  # warned of
        value(2, name="a", weight=10),  # dropped
        value(3, weight=10),  # warned of, dropped
        b"{",
        value(5, name="a", amount=-1, weight=10.5),  # dropped, quarantined
        value(6, amount=1000),  # warned of, stops
        value(7),  # NULL is no violation, but of `named`
        value(8, op="delete", amount=-1),
    )
    assert found.events["_row"].to_list() == [0, 1, 6, 7, 8]
    assert found.dropped.to_list() == [2, 3]
    assert found.rejects.rows()[1:] == [
        (5, "expectation", "expectation 'not_negative': received amount=-1.00, expected it to be met")
    ]
    assert found.rejects["_row"].to_list() == [4, 5]
    stops = "expectation 'not_huge': received amount=1000.00, expected it to be met"
    assert found.unmet.rows() == [
        (1, "named", None),
        (2, "light", None),
        (3, "named", None),
        (3, "light", None),
        (5, "not_negative", None),
        (5, "light", None),
        (6, "named", stops),
        (6, "not_huge", stops),
        (7, "named", None),
    ]


def test_a_value_that_was_not_sent_is_null_and_shown_as_such() -> None:
    debezium = EventLog("things", format=Debezium())
    silver = table(
        Expect("short", NAME.str.len_chars() < 5), Expect("sized", NAME.is_not_null() | (amount > 0)), source=debezium
    )
    after = {"id": 1, "name": "__debezium_unavailable_value", "amount": None, "weight": None}
    found = decoded(silver, json.dumps({"before": None, "after": after, "source": {}, "op": "u"}).encode())
    assert found.events.height == 1  # NULL is met by both
    wanted = table(Expect("named", NAME.is_not_null()), source=debezium)
    found = decoded(wanted, json.dumps({"before": None, "after": after, "source": {}, "op": "u"}).encode())
    assert found.rejects["reason"].to_list() == ["expectation 'named': received name=not sent, expected it to be met"]


@pytest.mark.parametrize("otherwise", ["warn", "drop", "quarantine", "fail"])
def test_only_the_rows_that_a_condition_raises_on_are_refused(otherwise: Any) -> None:
    silver = table(Expect("numbered", NAME.cast(pl.Int64) > 3, otherwise=otherwise))
    names = ["4", "five", "5", None, "3", "6", "x" * 200, "7"]
    found = decoded(silver, *(value(number, name=name) for number, name in enumerate(names)))
    if otherwise == "fail":
        stops = found.unmet.drop_nulls("stops")
        assert stops["_row"].to_list() == [1, 4, 6]
        assert "evaluated on" in stops["stops"][0]
        return
    refused = {1: '"five"', 6: '"' + "x" * 99 + "…"} | ({4: '"3"'} if otherwise == "quarantine" else {})
    assert found.rejects["_row"].to_list() == sorted(refused)
    for row, _, reason in found.rejects.rows():
        assert f"received name={refused[row]}, expected " in reason
    assert "values it can be evaluated on: " in found.rejects["reason"][0]
    assert found.dropped.to_list() == ([4] if otherwise == "drop" else [])
    assert found.unmet["_row"].to_list() == [1, 4, 6]


def test_no_table_is_another_for_its_expectations() -> None:
    plain, expecting = table(), table(Expect("holds", amount > 0))
    for declared in (staging_table, silver_table):
        assert declared(plain, "demo") == declared(expecting, "demo")


class Staging:
    """The staging stage of a lake, fed by hand; a new one is a restart."""

    def __init__(self, lake: Path, silver: Silver) -> None:
        self._decoding = Decoding(silver.decoder, silver.schema)
        self._stage = StagingStage(silver, Lake(str(lake)), "demo", ["things/0"], self._decoding)

    def take(self, start: int, *values: bytes) -> None:
        offsets = np.arange(start, start + len(values))
        keys: list[bytes | None] = [None] * len(values)
        self._stage.advance([Records("things", 0, start, start + len(values), offsets, offsets, keys, values)])


def ledgers(uri: Path) -> list[dict[str, Any]]:
    return [json.loads(entry[LEDGER]) for entry in DeltaTable(str(uri)).history() if LEDGER in entry]


def counted(uri: Path) -> dict[str, int]:
    found = pl.DataFrame([ledger["unmet"] for ledger in ledgers(uri) if "unmet" in ledger])
    return {name: int(found[name].sum()) for name in sorted(found.columns)}


EXPECTING = table(
    Expect("named", NAME.is_not_null(), otherwise="warn"),
    Expect("light", pl.col("weight") < 10, otherwise="drop"),
    Expect("not_negative", amount >= 0, otherwise="quarantine"),
)


@pytest.mark.parametrize("outcome", ["lost", "unsure", None])
@pytest.mark.parametrize("broken", ["staging/things", "quarantine/things"])
def test_each_is_counted_once_whatever_fails_and_however_records_are_cut(
    outcome: Outcome | None, broken: str, tmp_path: Path
) -> None:
    """Batches come again and overlap; the parts before the position were counted before."""
    values = [
        value(number, **({} if number % 2 else {"name": "a"}), weight=number, amount=-1 if number % 5 == 0 else 1)
        for number in range(20)
    ]
    staging = Staging(tmp_path, EXPECTING)
    for start, end in ((0, 3), (1, 8), (8, 8), (5, 9), (2, 20)):
        with fault(outcome if start else None, at=tmp_path / broken, times=1):
            staging.take(start, *values[start:end])
    Staging(tmp_path, EXPECTING).take(0, *values)
    assert counted(tmp_path / "staging/things") == {"light": 10, "named": 10, "not_negative": 4}
    staged = pl.read_delta(str(tmp_path / "staging/things")).sort("_offset")
    fates = ["quarantined" if n % 5 == 0 else "dropped" if n >= 10 else "upsert" for n in range(20)]
    assert staged["_op"].to_list() == fates
    quarantine = pl.read_delta(str(tmp_path / "quarantine/things")).sort("_offset")
    assert quarantine.select("_offset", "value", "stage").rows() == [
        (n, values[n], "expectation") for n in range(0, 20, 5)
    ]


def test_a_record_that_stops_the_run_is_named_and_never_committed(tmp_path: Path) -> None:
    """What was committed before the expectation was declared does not stop, even when it comes again."""
    Staging(tmp_path, table()).take(0, value(0, amount=-1), value(1, amount=2))
    strict = table(Expect("not_negative", amount >= 0, otherwise="fail"), Expect("named", NAME.is_not_null()))
    staging = Staging(tmp_path, strict)
    staging.take(0, value(0, amount=-1), value(1, amount=2), value(2, amount=3, name="a"))
    for take in (staging.take, Staging(tmp_path, strict).take):
        with pytest.raises(ExpectationError) as stopped:
            take(3, b"{", value(4, amount=-7), value(5, amount=-8))
        assert str(stopped.value).startswith("things/0/4: expectation 'not_negative': received amount=-7.00, expected")
        assert "Correct the record where it comes from, or declare" in str(stopped.value)
    assert pl.read_delta(str(tmp_path / "staging/things"))["_offset"].sort().to_list() == [0, 1, 2]
    assert pl.read_delta(str(tmp_path / "quarantine/things")).height == 0


def test_prometheus_is_told_what_is_committed(tmp_path: Path) -> None:
    def told() -> Sequence[float | None]:
        labels = [{"table": "things", "expectation": name} for name in ("named", "light", "not_negative")]
        return [REGISTRY.get_sample_value("goldwax_unmet_total", each) or 0 for each in labels]

    before = told()
    staging = Staging(tmp_path, EXPECTING)
    staging.take(0, value(0), value(1, weight=11), value(2, amount=-1, name="a"))
    staging.take(0, value(0), value(1, weight=11), value(2, amount=-1, name="a"))
    assert [after - (was or 0) for after, was in zip(told(), before, strict=True) if after is not None] == [2, 1, 1]


def test_small_batches_decoded_together_do_not_mix_what_they_did_not_meet() -> None:
    step = Decoding(EXPECTING.decoder, EXPECTING.schema)

    def part(start: int, *values: bytes) -> Records:
        offsets = np.arange(start, start + len(values))
        return Records("things", 0, start, start + len(values), offsets, offsets, [None] * len(values), values)

    parts = [part(0, value(0), value(1, name="a")), part(5, value(5, amount=-1), value(6, name="b", weight=50))]
    batches = step.rest(parts)
    assert [batch.unmet.select("_offset", "expectation").rows() for batch in batches] == [
        [(0, "named")],
        [(5, "named"), (5, "not_negative"), (6, "light")],
    ]
    assert batches[1].starting_at(6).unmet["_offset"].to_list() == [6]
