"""A decode function of the user's own: what it is given, what it may give back, and what becomes of that."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import Count, Custom, EventLog, Kpi, Silver
from flows.stages.decoding import decode_records
from flows.stages.tables import staging_table
from operators.decoding.custom_events import CustomDecodeError
from operators.decoding.decode import Decoded, Decoder
from operators.schema import DeclarationError, parse_schema
from storage.logs.records import Records
from tests.test_stages import Chain

COLUMNS = {
    "id": "int32",
    "amount": "decimal(6, 2)",
    "day": "date",
    "at": "timestamp",
    "weight": "float32",
    "tags": "list<string>",
}
SCHEMA = parse_schema(COLUMNS)


def semicolons(records: pl.DataFrame) -> pl.DataFrame:
    """Decode texts like `7;12.50`; a NULL value deletes the key."""
    parts = records["value"].cast(pl.String).str.split(";").list
    bad = records["value"].is_not_null() & (parts.len() != 2)
    return records.select(
        _op=pl.when(pl.col("value").is_null()).then(pl.lit("delete")).otherwise(pl.lit("upsert")),
        id=pl.coalesce(pl.lit(parts.first()), pl.col("key").cast(pl.String)).cast(pl.Int64, strict=False),
        amount=pl.lit(parts.last()).cast(pl.Decimal(10, 1), strict=False),
        day=pl.lit(None),
        at=pl.lit(datetime(2026, 1, 1)),  # noqa: DTZ001 - what has no zone is in UTC
        weight=pl.lit(0.5),
        tags=pl.lit(None),
        _reason=pl.when(pl.lit(bad)).then(pl.lit("expected two parts")),
    )


def decode(function: Callable[[pl.DataFrame], pl.DataFrame], *values: bytes | None, **how: Any) -> Decoded:
    declared = {"schema": SCHEMA, "keys": ["id"], "sequence_by": None} | how
    return Decoder(**declared, format=Custom(function)).decode([b"9"] * len(values), values)


def test_a_function_decodes_records_in_columns() -> None:
    decoded = decode(semicolons, b"7;12.5", None, b"x;1.0", b"7", b"8;10000.0", b"3000000000;1.0")
    at = datetime(2026, 1, 1, tzinfo=UTC)
    assert decoded.events.rows() == [
        (0, "upsert", None, None, 7, Decimal("12.50"), None, at, 0.5, None),
        (1, "delete", None, None, 9, *[None] * 5),
    ]
    assert decoded.rejects.select("_row", "reason").rows() == [
        (2, "key column 'id': received NULL or nothing, expected a value"),
        (3, "expected two parts"),
        (4, "column 'amount': received 10000.0, expected decimal(6, 2)"),
        (5, "column 'id': received 3000000000, expected int32"),
    ]
    assert decoded.dropped.to_list() == []


def ordered(records: pl.DataFrame) -> pl.DataFrame:
    """Decode JSON that says everything itself."""
    rows = [json.loads(value) for value in records["value"]]
    return pl.DataFrame(rows, {"_op": pl.String, "id": pl.Int64, "_sequence": pl.Int64}, orient="row")


def test_a_function_can_say_the_sequence() -> None:
    schema = parse_schema({"id": "int64"})
    values = [
        b'{"_op": "upsert", "id": 1, "_sequence": 5}',
        b'{"_op": "truncate", "_sequence": 6}',
        b'{"_op": "upsert", "id": 2}',
    ]
    values += [b'{"id": 1, "_sequence": 5}', b'{"_op": "merge", "id": 1, "_sequence": 5}']
    decoded = decode(ordered, *values, schema=schema, sequence_by="_sequence")
    assert decoded.events.rows() == [(0, "upsert", 5, None, 1), (1, "truncate", 6, None, None)]
    assert decoded.rejects["reason"].to_list() == [
        "sequence '_sequence': received NULL or nothing, expected a value",
        "_op: received NULL, expected one of upsert, delete, truncate",
        "_op: received merge, expected one of upsert, delete, truncate",
    ]
    with pytest.raises(CustomDecodeError, match="a column '_sequence', expected _op, id and"):
        decode(ordered, *values, schema=schema)
    with pytest.raises(DeclarationError, match=r"sequence_by='_sequenc': expected one of id, _sequence. Did you mean"):
        decode(ordered, *values, schema=schema, sequence_by="_sequenc")


def failing(_: pl.DataFrame) -> pl.DataFrame:
    raise LookupError("no such field")


def nothing(_: pl.DataFrame) -> Any:
    return None


def shorter(records: pl.DataFrame) -> pl.DataFrame:
    return semicolons(records)[1:]


def without_amount(records: pl.DataFrame) -> pl.DataFrame:
    return semicolons(records).drop("amount")


def with_more(records: pl.DataFrame) -> pl.DataFrame:
    return semicolons(records).with_columns(more=1)


def of_text(records: pl.DataFrame) -> pl.DataFrame:
    return semicolons(records).with_columns(pl.col("id").cast(pl.String))


def of_finer_decimals(records: pl.DataFrame) -> pl.DataFrame:
    return semicolons(records).with_columns(pl.col("amount").cast(pl.Decimal(10, 3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing, r"test_custom.failing failed with LookupError: no such field. Mend it"),
        (nothing, r"test_custom.nothing: received a NoneType, expected a polars DataFrame"),
        (shorter, "received 1 rows for 2 records, expected a row for each"),
        (without_amount, "received no column 'amount', expected _op, id, amount"),
        (with_more, "received a column 'more', expected _op, id, amount"),
        (of_text, "received column 'id' of type String, expected int32"),
        (of_finer_decimals, "received column 'amount' of type Decimal"),
    ],
)
def test_a_function_that_gives_back_something_else_stops_the_run(function: Any, message: str) -> None:
    with pytest.raises(CustomDecodeError, match=message):
        decode(function, b"7;1.0", b"8;1.0")


def far(records: pl.DataFrame) -> pl.DataFrame:
    """Decode to values beyond what the types of a table mean."""
    count = records.height
    return pl.DataFrame(
        {
            "_op": ["upsert"] * count,
            "id": [1] * count,
            "amount": pl.Series([None] * count, dtype=pl.Decimal(6, 2)),
            "day": pl.Series([2932897, 2**31 - 1, 0, 0, 0], dtype=pl.Int32).cast(pl.Date),
            "at": pl.Series([0, 0, 2**61, -(2**63), 0], dtype=pl.Int64).cast(pl.Datetime("us")),
            "weight": [1.0, 1.0, 1.0, 1.0, 1e300],
            "tags": [["a"]] * count,
        }
    )


def test_values_that_mean_nothing_are_refused() -> None:
    decoded = decode(far, *[b""] * 5)
    assert [reason.partition(",")[0] for reason in decoded.rejects["reason"]] == [
        "column 'day': received 2932897",
        "column 'day': received 2147483647",
        f"column 'at': received {2**61}",
        f"column 'at': received {-(2**63)}",
        "column 'weight': received 1e+300",
    ]


@pytest.mark.parametrize("function", [lambda records: records, 7, Path("x")])
def test_a_function_that_has_no_lasting_name_is_refused(function: Any) -> None:
    with pytest.raises(DeclarationError, match="expected a function defined at the top of a module"):
        Custom(function)


def test_a_function_feeds_a_silver_table_and_its_name_is_part_of_the_declaration(tmp_path: Path) -> None:
    things = Silver("things", source=EventLog("things", format=Custom(semicolons)), schema=COLUMNS, keys=["id"])
    chain = Chain(tmp_path, kpi=Kpi("kinds", source=things, group_by=["day"], measures={"things": Count()}))
    chain.advance(b"1;1.0", b"2;2.0", b"3")
    chain.advance(b"1;5.0")
    silver = pl.read_delta(str(tmp_path / "silver/things")).sort("id")
    assert silver.select("id", "amount").rows() == [(1, Decimal("5.00")), (2, Decimal("2.00"))]
    assert pl.read_delta(str(tmp_path / "quarantine/things")).select("value", "reason").rows() == [
        (b"3", "expected two parts")
    ]
    assert staging_table(things, "demo").definition == (
        f"topic things, Custom({__name__}.semicolons), keys ['id'], sequence_by None"
    )


def test_no_function_is_called_for_no_records() -> None:
    things = Silver("things", source=EventLog("things", format=Custom(failing)), schema=COLUMNS, keys=["id"])
    batch = decode_records(Records.empty("things", 0, 5), things.decoder(), things.schema)
    assert (batch.start, batch.end, batch.events.height) == (5, 5, 0)
