"""Avro in Confluent's wire format: the same rules as JSON, one verdict a record, and no say for the neighbours."""

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.decoding.decode import Decoded, Decoder
from operators.decoding.formats import PLACEHOLDER, Avro, Debezium
from operators.schema import DeclarationError, parse_schema
from tests.avro_records import datum, framed, known, record
from tests.test_decode import COLUMNS, FLIGHTS

URL = "http://127.0.0.1:8081"
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
DAY = {"type": "int", "logicalType": "date"}
FARE = {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}
LANDED = datetime(2013, 1, 1, 10, 17, tzinfo=UTC)


def decode(schemas: Mapping[int, object], *values: bytes | None, **how: Any) -> Decoded:
    declared = {"schema": FLIGHTS, "keys": ["flight"], "sequence_by": None, "format": Avro(registry=URL), **how}
    keys = declared.pop("record_keys", [None] * len(values))
    return Decoder(**declared, schemas=known(schemas)).decode(keys, values)


def test_every_type_comes_back_as_it_was() -> None:
    schema = record(
        "Flight",
        flight="int",
        gate={"type": "map", "values": {"type": "array", "items": "long"}},
        carrier=["null", "string"],
        fare=["null", FARE],
        crew={"type": "array", "items": record("Person", name="string", age=["null", "int"])},
        delay=["double", "null"],
        diverted=["null", "boolean"],
        day=["null", DAY],
        seat={"type": "fixed", "name": "Seat", "size": 3},
        landed_at=["null", MICROS],
        stops=["null", {"type": "array", "items": ["null", "string"]}],
        status={"type": "enum", "name": "Status", "symbols": ["IN", "OUT"]},
    )
    rest: dict[str, object] = {
        "crew": [{"name": "Ada", "age": None}, {"name": "Bob", "age": 7}],
        "seat": b"12A",
        "status": "OUT",
    }
    rest["gate"] = {"a": [1, 2**40], "b": []}
    full = {
        "flight": -1,
        "carrier": "Ü",
        "fare": Decimal("-12.50"),
        "delay": -3.5,
        "diverted": False,
        "day": date(2013, 1, 1),
        "landed_at": LANDED + timedelta(microseconds=1),
        "stops": ["EWR", None, "", "IAH" * 50],
        **rest,
    }
    bare = dict.fromkeys(FLIGHTS) | {"flight": 2**31 - 1, **rest, "gate": {}, "crew": []}
    decoded = decode({7: schema}, *(framed(7, datum(schema, row)) for row in (full, bare)))
    assert decoded.rejects.rows() == []
    assert decoded.events.rows() == [
        (0, "upsert", None, None, *(full[name] for name in FLIGHTS)),
        (1, "upsert", None, None, 2**31 - 1, *[None] * 7),
    ]


def test_the_example_of_the_specification_is_read_as_it_says() -> None:
    """Section "Binary Encoding" of the specification: {"a": 27, "b": "foo"} is 36 06 66 6f 6f."""
    schema = record("test", a="long", b="string")
    columns = parse_schema({"a": "int64", "b": "string"})
    value = framed(1, bytes.fromhex("36 06 66 6f 6f"))
    assert decode({1: schema}, value, schema=columns, keys=["a"]).events.select("a", "b").rows() == [(27, "foo")]


@pytest.mark.parametrize("size", [1, 3, 200])
def test_integers_of_every_length_are_read(size: int) -> None:
    edges = [0, -1, 1, *(sign * 2**bits + off for bits in range(6, 63) for sign in (1, -1) for off in (-1, 0, 1))]
    edges += [2**63 - 1, -(2**63), 2**63 - 2]
    schema = record("N", n="long")
    values = [framed(1, datum(schema, {"n": n})) for n in edges]
    columns = parse_schema({"n": "int64"})
    read = []
    for at in range(0, len(values), size):
        read += decode({1: schema}, *values[at : at + size], schema=columns, keys=["n"]).events["n"].to_list()
    assert read == edges


def test_blocks_of_arrays_may_say_their_size() -> None:
    """Section "Arrays" of the specification: a negative count is followed by the block's size in bytes."""
    schema = record(
        "R", flight="int", skipped={"type": "array", "items": "long"}, stops={"type": "array", "items": "string"}
    )
    blocks = "03 04 02 04 02 06 00"  # two items in 2 bytes, then one without a size
    texts = "03 08 02 61 02 62 02 02 63 00"  # "a", "b" in 4 bytes, then "c"
    decoded = decode({1: schema}, framed(1, bytes.fromhex(f"02 {blocks} {texts}")))
    assert decoded.events.select("flight", "stops").rows() == [(1, ["a", "b", "c"])]


FITTING: list[tuple[str, object, object, object]] = [
    ("flight", "long", 5, 5),
    ("flight", DAY, date(1970, 1, 6), 5),
    ("carrier", {"type": "enum", "name": "C", "symbols": ["UA", "AA"]}, "AA", "AA"),
    ("carrier", {"type": "string", "logicalType": "uuid"}, "not checked", "not checked"),
    (
        "fare",
        {"type": "fixed", "name": "F", "size": 20, "logicalType": "decimal", "precision": 40, "scale": 4},
        Decimal("-1.25"),
        Decimal("-1.25"),
    ),
    (
        "fare",
        {"type": "bytes", "logicalType": "decimal", "precision": 44, "scale": 40},
        Decimal("1.25"),
        Decimal("1.25"),
    ),
    ("fare", {"type": "bytes", "logicalType": "decimal", "precision": 9}, Decimal(999999), Decimal(999999)),
    ("fare", "string", "125e-2", Decimal("1.25")),
    ("fare", "double", 0.07, Decimal("0.07")),
    ("fare", "float", 0.1, Decimal("0.1")),
    ("fare", "long", -7, Decimal(-7)),
    ("delay", "float", 0.5, 0.5),
    ("delay", "int", 3, 3.0),
    ("day", "int", 15706, date(2013, 1, 1)),
    ("day", "string", "2013-01-01", date(2013, 1, 1)),
    ("day", {"type": "int", "connect.name": "io.debezium.time.Date"}, 15706, date(2013, 1, 1)),
    ("landed_at", "long", 1357035420000, LANDED),
    ("landed_at", MILLIS, LANDED, LANDED),
    ("landed_at", {"type": "long", "logicalType": "timestamp-nanos"}, 1357035420000000999, LANDED),
    ("landed_at", {"type": "long", "logicalType": "local-timestamp-micros"}, 1357035420000000, LANDED),
    ("landed_at", {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}, 1357035420000000, LANDED),
    ("landed_at", {"type": "long", "connect.name": "io.debezium.time.NanoTimestamp"}, 1357035420000000000, LANDED),
    ("landed_at", "string", "2013-01-01T05:17:00-05:00", LANDED),
    ("landed_at", ["string", "null", "long"], "2013-01-01T10:17:00Z", LANDED),
]


@pytest.mark.parametrize(("column", "written", "value", "expected"), FITTING)
def test_a_value_fits_whatever_type_its_writer_gave_it(
    column: str, written: object, value: object, expected: object
) -> None:
    schema = record("R", **({"flight": "int"} | {column: written}))
    rows = [framed(1, datum(schema, {"flight": 1} | {column: value}))] * 3
    decoded = decode({1: schema}, *rows)
    assert decoded.rejects.rows() == []
    assert decoded.events[column].to_list() == [expected] * 3


INSTANT = "an ISO 8601 timestamp or milliseconds of an instant in years 1 to 9999"
REFUSED: list[tuple[str, object, object, str]] = [
    ("flight", "long", 2**31, "received 2147483648, expected an int32"),
    ("flight", "string", "1", "received Avro's string, expected an int32"),
    ("flight", "double", 1.0, "received Avro's double, expected an int32"),
    ("carrier", "int", 5, "received Avro's int, expected a string"),
    ("carrier", "bytes", b"UA", "received Avro's bytes, expected a string"),
    ("carrier", {"type": "map", "values": "int"}, {}, "received Avro's map, expected a string"),
    ("carrier", record("Inner", x="int"), {"x": 1}, "received Avro's record, expected a string"),
    (
        "fare",
        FARE | {"scale": 3},
        Decimal("12.505"),
        "received 12.505, expected a number that fits decimal(8, 2)",
    ),
    (
        "fare",
        FARE | {"precision": 20},
        Decimal("1234567.00"),
        "received 1234567.00, expected a number that fits decimal(8, 2)",
    ),
    ("fare", "bytes", b"1", "received Avro's bytes, expected a number that fits decimal(8, 2)"),
    ("fare", "string", "x", 'received "x", expected a number that fits decimal(8, 2)'),
    ("fare", "double", float("nan"), "received nan, expected a number that fits decimal(8, 2)"),
    ("fare", "double", 1e300, "received 1e+300, expected a number that fits decimal(8, 2)"),
    ("delay", "double", float("inf"), "received inf, expected a finite float64"),
    ("diverted", "int", 1, "received Avro's int, expected true or false"),
    (
        "day",
        MILLIS,
        LANDED,
        "received Avro's long (ms), expected days since the epoch, in years 1 to 9999 or a date YYYY-MM-DD",
    ),
    ("day", "long", 2**40, f"received {2**40}, expected days since the epoch, in years 1 to 9999 or a date YYYY-MM-DD"),
    ("day", "int", 2932897, "received 2932897, expected days since the epoch, in years 1 to 9999 or a date YYYY-MM-DD"),
    ("landed_at", DAY, date(2013, 1, 1), f"received Avro's int (date), expected {INSTANT}"),
    ("landed_at", "long", 2**63 - 1, f"received {2**63 - 1}, expected {INSTANT}"),
    ("landed_at", "string", "yesterday", f'received "yesterday", expected {INSTANT}'),
    ("stops", {"type": "array", "items": "long"}, [1], "received Avro's array, expected a list of strings"),
    ("stops", "string", "EWR", "received Avro's string, expected a list of strings"),
]


@pytest.mark.parametrize(("column", "written", "value", "reason"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_with_its_reason(
    column: str, written: object, value: object, reason: str
) -> None:
    plain, schema = record("P", flight="int"), record("R", **({"flight": "int"} | {column: written}))
    good = framed(2, datum(plain, {"flight": 1}))
    decoded = decode({1: schema, 2: plain}, good, framed(1, datum(schema, {"flight": 1, column: value})), good)
    assert decoded.rejects.rows() == [(1, "decode", f"column '{column}': {reason}")]
    assert decoded.events["flight"].to_list() == [1, 1]


PAIR = record("Pair", flight="int", carrier="string")
WHOLE = datum(PAIR, {"flight": 1, "carrier": "UA"})
DATUM = "expected one datum of schema id 1"
HEADER = "expected a schema header (a zero byte and an id of 4 bytes)"
DAMAGED = [
    (b"", f"received an empty value, {HEADER}"),
    (b"\0\0\0\0", f"received the bytes 00 00 00 00, {HEADER}"),
    (b"\1" + framed(1, WHOLE)[1:], f"received the bytes 01 00 00 00 01 02 04 55 41, {HEADER}"),
    (b'{"flight": 1}', f"received the bytes 7b 22 66 6c 69 67 68 74 22 3a 20 31 7d, {HEADER}"),
    (framed(9, WHOLE), "schema id 9: the registry does not know it"),
    (framed(2**32 - 1, WHOLE), "schema id 4294967295: the registry does not know it"),
    (framed(3, WHOLE), "schema id 3: received a reference to 'nowhere', expected a type that is declared before"),
    (framed(1, b""), f"invalid Avro: received no bytes, {DATUM}"),
    (framed(1, WHOLE[:-1]), f"invalid Avro: received the bytes 02 04 55, {DATUM}"),
    (framed(1, WHOLE + b"\0"), f"invalid Avro: received the bytes 02 04 55 41 00, {DATUM}"),
    (framed(1, b"\2\x08UA"), f"invalid Avro: received the bytes 02 08 55 41, {DATUM}"),
    (framed(1, b"\2\x03UA"), f"invalid Avro: received the bytes 02 03 55 41, {DATUM}"),
    (framed(1, b"\xff" * 9 + b"\1\0"), f"invalid Avro: received the bytes ff ff ff ff ff ff ff ff ff 01 00, {DATUM}"),
    (framed(1, b"\xff" * 12), f"invalid Avro: received the bytes {'ff ' * 12}".rstrip() + f", {DATUM}"),
    (framed(1, b"\2\4U\xff"), "column 'carrier': received invalid UTF-8, expected a string"),
]


@pytest.mark.parametrize(("value", "reason"), DAMAGED)
def test_a_damaged_record_is_refused_alone(value: bytes, reason: str) -> None:
    """The neighbours are such that a datum which took or left some bytes would still find a way through."""
    schemas = {1: PAIR, 3: record("Broken", flight="nowhere")}
    decoded = decode(
        schemas, framed(1, WHOLE), value, framed(1, WHOLE), framed(1, datum(PAIR, {"flight": 3, "carrier": ""}))
    )
    assert decoded.rejects.rows() == [(1, "decode", reason)]
    assert decoded.events.select("_row", "flight", "carrier").rows() == [(0, 1, "UA"), (2, 1, "UA"), (3, 3, "")]


def test_a_datum_that_ends_too_early_for_many_fields_is_refused() -> None:
    types = ["long", "double", "boolean", "float", "string", {"type": "fixed", "name": "Wide", "size": 99}]
    schema = record("Wide", flight="int", **{f"x{i}": types[min(i // 20, 5)] for i in range(101)})
    for cut in range(1, 8):
        decoded = decode({1: schema}, framed(1, b"\2" * cut))
        assert decoded.rejects["reason"].to_list() == [
            f"invalid Avro: received the bytes {('02 ' * cut).strip()}, expected one datum of schema id 1"
        ]


def test_datums_that_hold_themselves_are_read_up_to_a_depth() -> None:
    tree = record("Tree", flight="int", below=["null", "Tree"])

    def nested(depth: int) -> bytes:
        return framed(1, b"\2\2" * depth + b"\2\0")

    decoded = decode({1: tree}, nested(3), nested(5000), nested(0))
    assert decoded.events["_row"].to_list() == [0, 2]
    assert [row for row, *_ in decoded.rejects.rows()] == [1]


def doubling(levels: int) -> list[object]:
    """Return records without a byte, each of which holds the one before twice."""
    return [record("A0")] + [record(f"A{i}", a=f"A{i - 1}", b=f"A{i - 1}") for i in range(1, levels)]


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        (doubling(20), "received a record of 2097132 values, "),
        ([record("A", a="A", b="A")], "received a record of endless values, "),
        ([{"type": "fixed", "name": "F", "size": 10**20}], "received fixed 'F' of size 100000000000000000000, "),
        ([{"type": "fixed", "name": "F", "size": -1}], "received fixed 'F' of size -1, "),
    ],
)
def test_a_schema_that_cannot_be_read_in_time_costs_its_own_records_only(types: list[object], reason: str) -> None:
    schema = record("R", flight="int", **{f"x{i}": each for i, each in enumerate(types)})
    decoded = decode({1: schema, 2: PAIR}, framed(1, b"\2"), framed(2, WHOLE))
    assert decoded.events["_row"].to_list() == [1]
    assert decoded.rejects["reason"][0].startswith(f"schema id 1: {reason}")


def test_a_table_of_very_many_columns_is_read() -> None:
    wide = record("Wide", flight="int", **{f"c{i}": "int" for i in range(4095)}, more=["null", *doubling(3)])
    decoded = decode({1: wide}, framed(1, datum("int", 7) * 4096 + b"\0"))
    assert decoded.events["flight"].to_list() == [7]


def test_arrays_of_nothing_cannot_hold_up_the_others() -> None:
    schema = record(
        "R", flight="int", nothing={"type": "array", "items": "null"}, stops={"type": "array", "items": "string"}
    )
    endless = framed(1, b"\2" + b"\xfe" * 9 + b"\1" + b"\0\0")
    lying = framed(1, b"\2\0" + b"\xfe" * 8 + b"\1")
    decoded = decode({1: schema}, endless, lying, framed(1, b"\4\0\0"))
    assert decoded.events["_row"].to_list() == [0, 2]
    assert decoded.rejects["_row"].to_list() == [1]


def test_the_operation_is_a_field_and_the_tombstones_have_keys_of_their_own() -> None:
    schema = record("R", flight="int", op=["null", "string"], carrier="string")
    key, other = record("Key", flight="int", airline="string"), "long"
    rows = [("upsert", "UA"), ("delete", "UA"), ("merge", "UA"), (None, "UA")]
    values = [framed(1, datum(schema, {"flight": i, "op": op, "carrier": c})) for i, (op, c) in enumerate(rows)]
    keys = [
        framed(2, datum(key, {"flight": 7, "airline": "x"})),
        framed(3, datum(other, 8)),
        None,
        b"9",
        framed(5, b""),
    ]
    decoded = decode(
        {1: schema, 2: key, 3: other},
        *values,
        *[None] * 5,
        format=Avro(registry=URL, operation="op", absent="null"),
        record_keys=[None] * 4 + keys,
    )
    assert decoded.events.select("_row", "_op", "flight", "carrier").rows() == [
        (0, "upsert", 0, "UA"),
        (1, "delete", 1, None),
        (4, "delete", 7, None),
        (5, "delete", 8, None),
    ]
    known_operations = "expected one of upsert, insert, update, c, u, r, delete, d, truncate"
    assert decoded.rejects.select("_row", "reason").rows() == [
        (2, f"operation 'op': received merge, {known_operations}"),
        (3, f"operation 'op': received NULL or nothing, {known_operations}"),
        (6, "tombstone: received no Kafka key, expected one with flight"),
        (7, f"tombstone: Kafka key: received the bytes 39, {HEADER}"),
        (8, "tombstone: Kafka key: schema id 5: the registry does not know it"),
    ]


ROW = record(
    "Value",
    flight="int",
    carrier=["null", "string"],
    fare=["null", FARE],
    stops=["null", {"type": "array", "items": "string"}],
)
ENVELOPE = {
    "type": "record",
    "name": "Envelope",
    "namespace": "shop.public.flights",
    "fields": [
        {"name": "before", "type": ["null", ROW], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": record("Source", version="string", lsn=["null", "long"])},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": None},
    ],
}


def envelope(op: str, lsn: int | None, after: object = None, before: object = None) -> bytes:
    value = {"op": op, "before": before, "after": after, "source": {"version": "3", "lsn": lsn}, "ts_ms": None}
    return framed(1, datum(ENVELOPE, value))


def test_debezium_envelopes_come_in_avro_too() -> None:
    columns = parse_schema({name: COLUMNS[name] for name in ("flight", "carrier", "fare", "day", "stops")})
    row = {"flight": 1, "carrier": PLACEHOLDER, "fare": Decimal("1.50"), "stops": [PLACEHOLDER]}
    key = record("Key", flight="int")
    decoder = Decoder(
        columns, ["flight"], "source.lsn", Debezium(encoding="avro", registry=URL), schemas=known({1: ENVELOPE, 2: key})
    )
    values = [
        envelope("c", 1, row),
        envelope("u", 2, row | {"carrier": None, "fare": None, "stops": []}),
        envelope("d", 3, before=row),
        envelope("d", 4),
        envelope("m", 5),
        envelope("u", 6),
        envelope("c", None, row),
        envelope("t", 8),
        None,
    ]
    decoded = decoder.decode([framed(2, datum(key, {"flight": 4}))] * len(values), values)
    assert decoded.events.rows() == [
        (0, "upsert", 1, ["carrier", "stops"], 1, None, Decimal("1.50"), None, None),
        (1, "upsert", 2, None, 1, None, None, None, []),
        (2, "delete", 3, None, 1, *[None] * 4),
        (3, "delete", 4, None, 4, *[None] * 4),
        (7, "truncate", 8, None, *[None] * 5),
    ]
    assert decoded.rejects.select("_row", "reason").rows() == [
        (5, "op u: received no `after`, expected the row"),
        (6, "sequence 'source.lsn': received NULL or nothing, expected a value"),
    ]
    assert decoded.dropped.to_list() == [4, 8]


@pytest.mark.parametrize("scale", [2, 4, 40])
def test_a_decimal_of_any_length_costs_no_neighbour(scale: int) -> None:
    schema = record("R", flight="int", fare={**FARE, "precision": 60, "scale": scale})
    good = (125 * 10**scale // 100).to_bytes(20, "big")
    contents = [b"", b"\1" * 17, b"\1" * 65, good, b"\1" * 999]
    values = [framed(1, b"\2" + datum("bytes", each)) for each in contents]
    for some in (values, *([each] for each in values)):
        decoded = decode({1: schema}, *some)
        assert decoded.events["fare"].to_list() == ([Decimal("1.25")] if values[3] in some else [])
        assert decoded.rejects.height == len(some) - decoded.events.height
    shown = [
        "no bytes",
        str(Decimal(f"{int.from_bytes(contents[1])}e-{scale}")),
        f"the bytes {'01 ' * 20}".strip() + "…",
    ]
    assert decode({1: schema}, *values[:3]).rejects["reason"].to_list() == [
        f"column 'fare': received {each}, expected a number that fits decimal(8, 2)" for each in shown
    ]


def test_decimals_with_a_scale_of_their_own_are_exact() -> None:
    number = record("VariableScaleDecimal", scale="int", value="bytes") | {"namespace": "io.debezium.data"}
    row = record("Value", flight="int", fare=["null", number])
    envelope = record("Envelope", op="string", after=["null", row])
    parts = [
        (0, b"\x07"),
        (3, b"\x04\xe2"),
        (3, b"\x04\xe3"),
        (-1, b"\x01"),
        (2, b""),
        (50, b"\0"),
        None,
        (3, b"\x01" * 65),
    ]
    values = [
        datum(envelope, {"op": "c", "after": {"flight": 1, "fare": each and {"scale": each[0], "value": each[1]}}})
        for each in parts
    ]
    columns = parse_schema({"flight": "int32", "fare": "decimal(8, 2)"})
    decoder = Decoder(columns, ["flight"], None, Debezium(encoding="avro", registry=URL), schemas=known({1: envelope}))
    decoded = decoder.decode([None] * 8, [framed(1, value) for value in values])
    found = dict(decoded.events.select("_row", "fare").rows())
    assert found == {0: Decimal(7), 1: Decimal("1.25"), 5: Decimal(0), 6: None}
    assert decoded.rejects["_row"].to_list() == [2, 3, 4, 7]
    assert decoded.rejects["reason"][0] == ("column 'fare': received 1.251, expected a number that fits decimal(8, 2)")


TYPES: dict[str, list[tuple[object, st.SearchStrategy[Any]]]] = {
    "flight": [("int", st.integers(-3, 3)), ("long", st.integers(-(2**63), 2**63 - 1))],
    "carrier": [("string", st.text(max_size=12)), ({"type": "enum", "name": "C", "symbols": ["A"]}, st.just("A"))],
    "fare": [("string", st.sampled_from(["1.5", "x", "1e-999"])), ("double", st.floats())],
    "delay": [("double", st.floats()), ("float", st.floats(width=32)), ("bytes", st.binary(max_size=3))],
    "diverted": [("boolean", st.booleans())],
    "day": [("int", st.integers(-(2**31), 2**31 - 1)), ("string", st.sampled_from(["2013-01-01", "2013-02-30"]))],
    "landed_at": [
        ("long", st.integers(-(2**63), 2**63 - 1)),
        ("string", st.sampled_from(["2013-01-01T00:00:00Z", ""])),
    ],
    "stops": [({"type": "array", "items": "string"}, st.lists(st.text(max_size=3), max_size=4))],
    "extra": [
        ({"type": "map", "values": ["null", "double"]}, st.dictionaries(st.text(max_size=2), st.none() | st.floats()))
    ],
}


@st.composite
def writers(draw: st.DrawFn) -> tuple[object, st.SearchStrategy[bytes]]:
    """Return a schema, and datums of it, some of them damaged."""
    fields, rows = {}, {}
    for name, kinds in TYPES.items():
        kind, values = draw(st.sampled_from(kinds))
        nullable = draw(st.booleans())
        if draw(st.integers(0, 5)):
            fields[name], rows[name] = (["null", kind], st.none() | values) if nullable else (kind, values)
    schema = record("Flight", **fields)

    def damaged(whole: bytes, how: tuple[str, int, bytes]) -> bytes:
        kind, at, content = how
        at %= len(whole) + 1
        match kind:
            case "cut":
                return whole[:at]
            case "add":
                return whole[:at] + content + whole[at:]
            case "set":
                return whole[:at] + content + whole[at + len(content) :]
            case _:
                return whole

    hows = st.tuples(
        st.sampled_from(["whole", "whole", "cut", "add", "set"]), st.integers(0, 40), st.binary(max_size=3)
    )
    return schema, st.builds(damaged, st.fixed_dictionaries(rows).map(lambda row: datum(schema, row)), hows)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_batch_decodes_as_its_records_do_alone(data: st.DataObject) -> None:
    schemas, values = {}, []
    for number in range(1, data.draw(st.integers(1, 3)) + 1):
        schemas[number], datums = data.draw(writers())
        values += [framed(number, each) for each in data.draw(st.lists(datums, max_size=8))]
    random.Random(len(values)).shuffle(values)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(values)), max_size=3)))
    decoder = Decoder(FLIGHTS, ["flight"], None, Avro(registry=URL), schemas=known(schemas))

    def decoded(start: int, stop: int) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
        found = decoder.decode([None] * (stop - start), values[start:stop])
        shifted = found.events.with_columns(pl.col("_row") + pl.lit(start, pl.UInt32))
        assert sorted([*found.events["_row"], *found.rejects["_row"]]) == list(range(stop - start))
        return shifted, [(row + start, reason) for row, _, reason in found.rejects.rows()]

    if not values:
        return
    whole = decoded(0, len(values))
    for ends in ([0, *cuts, len(values)], range(len(values) + 1)):
        pieces = [decoded(start, stop) for start, stop in pairwise(ends) if stop > start]
        assert_frame_equal(whole[0], pl.concat([events for events, _ in pieces]))
        assert whole[1] == [reject for _, rejects in pieces for reject in rejects]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Avro(registry="127.0.0.1:8081"), "registry='127.0.0.1:8081': expected an URL like"),
        (lambda: Avro(registry="http://ada:s3cret@127.0.0.1"), "GOLDWAX_REGISTRY_PASSWORD"),
        (lambda: Avro(registry=URL, absent="nul"), "absent: received 'nul', .*Did you mean 'null'"),  # type: ignore[arg-type]
        (lambda: Debezium(encoding="avro"), "registry: expected an URL where encoding='avro', and only there"),
        (lambda: Debezium(registry=URL), "registry: expected an URL where encoding='avro', and only there"),
        (lambda: Debezium(encoding="arvo"), "Did you mean 'avro'"),  # type: ignore[arg-type]
    ],
)
def test_a_declaration_that_cannot_work_is_refused(build: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=message) as caught:
        build()
    assert "s3cret" not in str(caught.value)
