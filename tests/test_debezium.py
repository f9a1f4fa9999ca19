"""Debezium change events: real captures from PostgreSQL, and what the envelope's corners mean."""

import base64
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from operators.decoding.decode import Decoded, Decoder
from operators.decoding.formats import PLACEHOLDER, Debezium
from operators.schema import parse_schema

CASES = Path(__file__).parents[2] / "shared" / "cases"

CUSTOMERS = parse_schema(
    {
        "id": "int32",
        "name": "string",
        "email": "string",
        "city": "string",
        "vip": "bool",
        "bio": "string",
        "updated_at": "timestamp",
        "loyalty": "int32",
    }
)
ORDERS = parse_schema(
    {
        "id": "int64",
        "customer_id": "int32",
        "status": "string",
        "amount": "decimal(12, 2)",
        "currency": "string",
        "placed_at": "timestamp",
        "day": "date",
        "paid_at": "timestamp",
        "tags": "list<string>",
        "attrs": "string",
        "token": "string",
        "ratio": "float64",
        "qty": "int16",
    }
)
SHOP = parse_schema(
    {"id": "int64", "name": "string", "price": "decimal(12, 2)", "at": "timestamp", "tags": "list<string>"}
)
INSTANT = "an ISO 8601 timestamp or microseconds of an instant in years 1 to 9999"


def event(op: str = "u", *, wrapped: bool = False, **blocks: object) -> bytes:
    envelope = {"before": None, "after": None, "source": {"lsn": 7}, "op": op, **blocks}
    return json.dumps({"schema": {"type": "struct"}, "payload": envelope} if wrapped else envelope).encode()


def decode(*values: bytes | None, keys: list[bytes | None] | None = None, fmt: Debezium | None = None) -> Decoded:
    decoder = Decoder(SHOP, ["id"], "source.lsn", fmt or Debezium(decimals="string"))
    return decoder.decode(keys or [b'{"id": 1}'] * len(values), values)


def remembering(*values: bytes) -> Decoded:
    """Decode with a decoder that has seen many documents which all lacked `before`."""
    decoder = Decoder(SHOP, ["id"], "source.lsn", Debezium(decimals="string"))
    for _ in range(2):  # seen once, made use of once
        decoder.decode([None] * 1000, [event("c", after={"id": i}) for i in range(1000)])
    return decoder.decode([None] * len(values), values)


def scd1(decoded: Decoded, key: str) -> dict[Any, dict[str, Any]]:
    """Apply events the dull way: per key the greatest (sequence, row) wins, the placeholder keeps the old value."""
    rows: dict[Any, dict[str, Any]] = {}
    for found in decoded.events.sort("_sequence", "_row").to_dicts():
        row = {name: value for name, value in found.items() if not name.startswith("_")}
        if found["_op"] == "delete":
            rows.pop(row[key], None)
            continue
        kept = found["_unavailable"] or []
        rows[row[key]] = row | {name: rows[row[key]][name] for name in kept}
    return rows


def as_declared(value: Any, dtype: pl.DataType) -> Any:
    """Return a value of PostgreSQL's `row_to_json` as the declared type has it."""
    if value is None:
        return None
    match dtype:
        case pl.Decimal():
            return Decimal(str(value)).quantize(Decimal("0.01"))
        case pl.Datetime():
            found = datetime.fromisoformat(value)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        case pl.Date():
            return date.fromisoformat(value)
    return value


def parsed_attrs(row: dict[str, Any]) -> dict[str, Any]:
    attrs = row.get("attrs")
    return row | {"attrs": json.loads(attrs)} if isinstance(attrs, str) else row


@pytest.mark.parametrize("table", ["customers", "orders"])
@pytest.mark.parametrize(
    ("capture", "decimals"), [("debezium_postgres", "string"), ("debezium_postgres_schema", "precise")]
)
def test_a_real_capture_becomes_the_table_that_postgres_had(table: str, capture: str, decimals: Any) -> None:
    if not (CASES / f"{capture}.jsonl").exists():
        pytest.skip("the acceptance cases are not beside this checkout")
    lines = (CASES / f"{capture}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["topic"].endswith(f".{table}")]
    schema = {"customers": CUSTOMERS, "orders": ORDERS}[table]

    decoded = Decoder(schema, ["id"], "source.lsn", Debezium(decimals=decimals)).decode(
        [record["key"].encode() for record in records],
        [record["value"] and record["value"].encode() for record in records],
    )

    assert decoded.rejects.rows() == []
    assert decoded.dropped.to_list() == [i for i, record in enumerate(records) if record["value"] is None]
    assert decoded.events.schema == {
        "_row": pl.UInt32,
        "_op": pl.String,
        "_sequence": pl.Int64,
        "_unavailable": pl.List(pl.String),
        **schema,
    }
    unavailable = set(decoded.events["_unavailable"].drop_nulls().explode())
    assert unavailable == ({"bio"} if table == "customers" else set())
    expected = json.loads((CASES / f"{capture}.expected.json").read_text(encoding="utf-8"))[table]
    assert {row["id"]: parsed_attrs(row) for row in scd1(decoded, "id").values()} == {
        row["id"]: parsed_attrs({name: as_declared(row[name], dtype) for name, dtype in schema.items()})
        for row in expected
    }


def test_a_history_with_and_without_wrapper_in_one_batch() -> None:
    decoded = decode(
        event("r", after={"id": 1, "name": "Ada", "price": "1.50", "at": 1_000_000, "tags": ["a", None]}),
        event("u", after={"id": 1, "name": PLACEHOLDER, "tags": [PLACEHOLDER], "price": PLACEHOLDER}, wrapped=True),
        event("m"),
        event("d", before={"id": 1, "name": ""}),
        None,
        event("t", wrapped=True),
        event("c", after={"id": 2, "at": "1970-01-01T01:00:00.123456789+01:00"}),
    )

    assert decoded.rejects.rows() == []
    assert decoded.dropped.to_list() == [2, 4]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert decoded.events.rows() == [
        (0, "upsert", 7, None, 1, "Ada", Decimal("1.50"), epoch.replace(second=1), ["a", None]),
        (1, "upsert", 7, ["name", "price", "tags"], 1, None, None, None, None),
        (3, "delete", 7, None, 1, None, None, None, None),
        (5, "truncate", 7, None, None, None, None, None, None),
        (6, "upsert", 7, None, 2, None, None, epoch.replace(microsecond=123456), None),
    ]


def base64_of(unscaled: int, length: int | None = None) -> str:
    size = length or (unscaled.bit_length() // 8 + 1)
    return base64.b64encode(unscaled.to_bytes(size, "big", signed=True)).decode()


@pytest.mark.parametrize("unscaled", [0, 1, -1, 127, 128, -128, -129, 90548, 10**12 - 1, 1 - 10**12])
def test_precise_decimals_are_twos_complement_with_the_declared_scale(unscaled: int) -> None:
    rows = [
        {"id": 1, "price": base64_of(unscaled)},
        {"id": 2, "price": base64_of(unscaled, length=16)},
        {"id": 3, "price": {"scale": 2, "value": base64_of(unscaled)}},
        {"id": 4, "price": {"scale": 4, "value": base64_of(unscaled * 100)}},
        {"id": 5, "price": None},
    ]
    decoded = decode(*(event(after=row) for row in rows), fmt=Debezium())
    assert decoded.rejects.rows() == []
    exact = Decimal(unscaled).scaleb(-2)
    assert decoded.events["price"].to_list() == [exact, exact, exact, exact, None]


@pytest.mark.parametrize(
    "price",
    [
        *(base64_of(10**12), base64_of(-(10**12)), base64_of(1, length=17), "", "905.48", 905.48),
        *({"scale": 3, "value": base64_of(1)}, {"scale": 2}, {"scale": 99, "value": "AQ=="}),
        {"scale": 99, "value": ""},
    ],
)
def test_a_precise_decimal_that_does_not_fit_is_rejected(price: object) -> None:
    decoded = decode(event(after={"id": 1, "price": price}), event(after={"id": 2}), fmt=Debezium())
    assert decoded.events["id"].to_list() == [2]
    [(row, stage, reason)] = decoded.rejects.rows()
    assert (row, stage) == (0, "decode")
    assert reason == (
        f"column 'price': received {json.dumps(price)}, "
        "expected Base64 of the unscaled integer of a decimal(12, 2) (decimals='precise')"
    )


@pytest.mark.parametrize(("decimals", "price"), [("string", "12.30"), ("double", 12.3)])
def test_decimals_of_the_other_modes_are_exact(decimals: Any, price: object) -> None:
    decoded = decode(event(after={"id": 1, "price": price}), fmt=Debezium(decimals=decimals))
    assert decoded.events["price"].to_list() == [Decimal("12.30")]


def test_a_delete_without_before_takes_the_key_of_the_record() -> None:
    decoded = decode(
        *(event("d"), event("d"), event("d"), event("d"), event("d", before={"name": "Ada"})),
        keys=[b'{"id": 1}', b'{"schema": {}, "payload": {"id": 2}}', None, b'{"id": "x"}', b'{"id": 5}'],
    )
    assert decoded.events.select("_row", "_op", "id").rows() == [(0, "delete", 1), (1, "delete", 2)]
    without = "delete without `before`; Kafka key: "
    assert decoded.rejects["reason"].to_list() == [
        f"{without}received an empty value, expected a JSON object",
        f"{without}column 'id': received \"x\", expected an int64",
        "key column 'id': received NULL or nothing, expected a value",
    ]


def test_a_key_column_may_be_named_like_the_wrapper() -> None:
    decoder = Decoder(parse_schema({"payload": "int64"}), ["payload"], None, Debezium())
    keys = [b'{"payload": 1}', b'{"schema": {}, "payload": {"payload": 2}}', b'{"payload": "x"}', b'{"payload": {}}']
    decoded = decoder.decode([*keys, *keys], [event("d")] * 4 + [event("d", wrapped=True)] * 4)
    assert decoded.events["payload"].to_list() == [1, 2] * 2
    assert decoded.rejects["_row"].to_list() == [2, 3, 6, 7]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (event("x", after={"id": 1}), "operation 'op': received x, expected one of c, u, r, d, t, m"),
        (b'{"id": 1}', "operation 'op': received NULL or nothing, expected one of c, u, r, d, t, m"),
        (event("c"), "op c: received no `after`, expected the row"),
        (event("c", after=[1]), "field 'after': received [1], expected an object"),
        (event("c", after={"id": 1}, source={}), "sequence 'source.lsn': received NULL or nothing, expected a value"),
        (event("c", after={"id": 1}, source={"lsn": "1"}), "column 'lsn': received \"1\", expected an int64"),
        (event("c", after={"name": "x"}), "key column 'id': received NULL or nothing, expected a value"),
        (event("c", after={"id": PLACEHOLDER}), "key column 'id': received NULL or nothing, expected a value"),
        (
            event("c", after={"id": 1, "at": 9223372036825200000}),
            f"column 'at': received 9223372036825200000, expected {INSTANT}",
        ),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_event_that_cannot_be_used_is_rejected_with_its_reason(value: bytes, reason: str, wrapped: bool) -> None:  # noqa: FBT001  # pytest passes it by name
    if wrapped:
        value = b'{"schema": null, "payload": %s}' % value
    decoded = decode(event(after={"id": 1}), value)
    assert decoded.rejects.rows() == [(1, "decode", reason)]
    assert decoded.events["_row"].to_list() == [0]


def test_a_column_can_be_the_sequence_of_upserts_and_deletes() -> None:
    decoder = Decoder(SHOP, ["id"], "at", Debezium())
    values = [
        event("u", after={"id": 1, "at": 5}),
        event("d", before={"id": 1, "at": "1970-01-01T00:00:01Z"}),
        event("d"),
        event("t"),
    ]
    decoded = decoder.decode([b'{"id": 1}'] * 4, values)
    assert decoded.events["_sequence"].to_list() == [5, 1_000_000]
    missing = "sequence 'at': received NULL or nothing, expected a value"
    assert decoded.rejects.rows() == [(2, "decode", missing), (3, "decode", missing)]


def test_a_truncate_without_a_declared_sequence_is_rejected() -> None:
    decoded = Decoder(SHOP, ["id"], None, Debezium()).decode([None] * 2, [event("c", after={"id": 1}), event("t")])
    assert decoded.events["_op"].to_list() == ["upsert"]
    reason = "op t: truncate needs sequence_by, as positions of different partitions cannot be compared"
    assert decoded.rejects.rows() == [(1, "decode", reason)]


def test_a_scaled_decimal_that_overflows_costs_no_neighbour() -> None:
    wide = Decoder(parse_schema({"id": "int64", "d": "decimal(38, 20)"}), ["id"], None, Debezium())
    amounts = [(0, 10**37), (0, 10**18 - 1), (21, 10), (21, 1), (38, 10**20), (0, 2**127 - 1)]
    rows = [{"id": i, "d": {"scale": scale, "value": base64_of(n)}} for i, (scale, n) in enumerate(amounts)]
    decoded = wide.decode([None] * len(rows), [event("c", after=row) for row in rows])
    assert decoded.events.select("id", "d").rows() == [
        (1, Decimal(10**18 - 1)),
        (2, Decimal(10).scaleb(-21)),
        (4, Decimal(10**20).scaleb(-38)),
    ]


def test_a_scaled_decimal_is_the_same_beside_a_longer_one() -> None:
    wide = Decoder(parse_schema({"id": "int64", "d": "decimal(38, 0)"}), ["id"], None, Debezium())
    amounts = [(5, base64_of(10**38)), (5, base64_of(10**6, length=17)), (5, ""), (5, base64_of(10**6, length=65))]
    events = [event(after={"id": i, "d": {"scale": s, "value": value}}) for i, (s, value) in enumerate(amounts)]
    for some in (events, events[:1]):
        assert wide.decode([None] * len(some), some).events["d"].to_list() == [10**33, 10][: len(some)]


@pytest.mark.parametrize(
    "unusual",
    [
        event("d", before={"id": 5}),
        event("d", before={"id": None}),
        event("d", before=[]),
        event("c", before={"id": "x"}, after={"id": 5}),
        event("c", before={}, after={"id": 5}),
        event("c", after={"id": 5}, wrapped=True),
        event("c", after={"id": 5}, payload=5),
        event("t"),
    ],
)
def test_what_many_documents_lacked_is_seen_in_the_first_that_has_it(unusual: bytes) -> None:
    usual = [event("c", after={"id": i}) for i in range(1000)]
    for values in ([unusual], [unusual, *usual], [*usual, unusual]):
        found, fresh = remembering(*values), decode(*values, keys=[None] * len(values))
        assert_frame_equal(found.events, fresh.events)
        assert_frame_equal(found.rejects, fresh.rejects)
        assert found.dropped.equals(fresh.dropped)
