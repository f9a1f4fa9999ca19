"""Records to change events: strict typing, one verdict per record, and no say for the neighbours."""

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.decoding.decimal_text import perilous
from operators.decoding.decode import Decoded, Decoder
from operators.decoding.formats import PLACEHOLDER, Debezium, Format, Json, JsonSchema
from operators.decoding.json_batch import tidy
from operators.decoding.refusals import DEEP
from operators.schema import DeclarationError, parse_schema

COLUMNS = {
    "flight": "int32",
    "carrier": "string",
    "fare": "decimal(8, 2)",
    "delay": "float64",
    "diverted": "bool",
    "day": "date",
    "landed_at": "timestamp",
    "stops": "list<string>",
}
FLIGHTS = parse_schema(COLUMNS)


def decode(*values: bytes | None, keys: list[bytes | None] | None = None, fmt: Json | None = None) -> Decoded:
    return Decoder(FLIGHTS, ["flight"], None, fmt or Json()).decode(keys or [None] * len(values), values)


def test_a_value_is_the_row_and_a_tombstone_deletes_the_key_of_its_record() -> None:
    decoded = decode(
        b'{"flight": 1, "carrier": "UA", "fare": "12.5", "delay": -3, "diverted": false, "day": "2013-01-01",'
        b' "landed_at": "2013-01-01T05:17:00-05:00", "stops": ["EWR", "IAH"], "gate": {"no": 1}}',
        b'{"flight": 2, "fare": 12.50, "delay": 0.5, "day": 15706, "landed_at": 1357035420000, "gate": "7"}',
        b'\r\n{\n  "flight": 3,\n  "carrier": "} null"\n}\n',
        None,
        None,
        keys=[None, None, None, b'{"flight": 1}', b" 2 "],
    )
    landed = datetime(2013, 1, 1, 10, 17, tzinfo=UTC)
    day = date(2013, 1, 1)
    lacking = [["carrier", "diverted", "stops"], ["fare", "delay", "diverted", "day", "landed_at", "stops"]]
    assert decoded.rejects.rows() == []
    assert decoded.dropped.to_list() == []
    assert decoded.events.rows() == [
        (0, "upsert", None, None, 1, "UA", Decimal("12.50"), -3.0, False, day, landed, ["EWR", "IAH"]),
        (1, "upsert", None, lacking[0], 2, None, Decimal("12.50"), 0.5, None, day, landed, None),
        (2, "upsert", None, lacking[1], 3, "} null", None, None, None, None, None, None),
        (3, "delete", None, None, 1, *[None] * 7),
        (4, "delete", None, None, 2, *[None] * 7),
    ]


def test_a_field_can_name_the_operation() -> None:
    fmt = Json(operation="op", deletes=("gone",))
    decoded = decode(
        b'{"op": "c", "flight": 1, "carrier": "UA"}',
        b'{"op": "gone", "flight": 1, "carrier": "UA"}',
        b'{"op": "d", "flight": 1}',
        b'{"flight": 1}',
        fmt=fmt,
    )
    assert decoded.events.select("_row", "_op", "flight", "carrier").rows() == [
        (0, "upsert", 1, "UA"),
        (1, "delete", 1, None),
    ]
    expected = "expected one of upsert, insert, update, c, u, r, gone, truncate"
    assert decoded.rejects["reason"].to_list() == [
        f"operation 'op': received d, {expected}",
        f"operation 'op': received NULL or nothing, {expected}",
    ]


@pytest.mark.parametrize(
    ("unit", "arrived"),
    [("s", 1357035420), ("ms", 1357035420000), ("us", 1357035420000000), ("ns", 1357035420 * 10**9)],
)
def test_integer_timestamps_are_in_the_declared_unit(unit: Any, arrived: int) -> None:
    decoded = decode(b'{"flight": 1, "landed_at": %d}' % arrived, fmt=Json(timestamps=unit))
    assert decoded.events["landed_at"].to_list() == [datetime(2013, 1, 1, 10, 17, tzinfo=UTC)]


def wrong(column: str, received: str, expected: str) -> tuple[bytes, str]:
    document = b'{"flight": 1, "%s": %s}' % (column.encode(), received.encode())
    return document, f"column '{column}': received {received}, expected {expected}"


INSTANT = "an ISO 8601 timestamp or milliseconds of an instant in years 1 to 9999"
DAY = "days since the epoch, in years 1 to 9999 or a date YYYY-MM-DD"
FARE = "a number that fits decimal(8, 2)"
REFUSED = [
    (b"", "received an empty value, expected a JSON object"),
    (b"[1]", "received [1], expected a JSON object"),
    (b"null", "received null, expected a JSON object"),
    (b'{"flight": 1} null', 'invalid JSON: received {"flight": 1} null, expected one JSON object'),
    (b'{"flight": 1} null {}', 'invalid JSON: received {"flight": 1} null {}, expected one JSON object'),
    (b'{"carrier": "a\nb"}', 'invalid JSON: received {"carrier": "a\nb"}, expected one JSON object'),
    (b'{"carrier": "\xff"}', 'received invalid UTF-8, expected a JSON object: {"carrier": "\\xff"}'),
    (b'{"flight": 1}\x00}', 'received a NUL byte, expected a JSON object: {"flight": 1}\x00}'),
    (b'{"flight":}', 'invalid JSON: Expecting value: line 1 column 11 (char 10): received {"flight":}'),
    (
        b'{"flight": 1} {"flight": 2}',
        'invalid JSON: Extra data: line 1 column 15 (char 14): received {"flight": 1} {"flight": 2}',
    ),
    (b'{"flight": 1, "flight": 1}', "invalid JSON: Column(/flight) was specified twice"),
    (b'{"carrier": "UA"}', "key column 'flight': received NULL or nothing, expected a value"),
    (b'{"flight": 5, "flight": "%s"}' % (b"x" * 500), f"column 'flight': received \"{'x' * 99}…, expected an int32"),
    (b'{"flight": "5"}', "column 'flight': received \"5\", expected an int32"),
    (b'{"flight": "\\ud800"}', "column 'flight': received \"\\ud800\", expected an int32"),
    (b'{"flight": true}', "column 'flight': received true, expected an int32"),
    (b'{"flight": 1.0}', "column 'flight': received 1.0, expected an int32"),
    (b'{"flight": 2147483648}', "column 'flight': received 2147483648, expected an int32"),
    wrong("carrier", "5", "a string"),
    wrong("delay", "NaN", "a finite float64"),
    wrong("delay", "-Infinity", "a finite float64"),
    wrong("delay", '"1.5"', "a finite float64"),
    wrong("diverted", "1", "true or false"),
    wrong("fare", "12.505", FARE),
    wrong("fare", '"1234567.00"', FARE),
    wrong("fare", '"NaN"', FARE),
    wrong("day", '"2013-02-30"', DAY),
    wrong("day", '"01/02/2013"', DAY),
    wrong("day", "2932897", DAY),
    wrong("landed_at", '"yesterday"', INSTANT),
    wrong("landed_at", "9223372036854775807", INSTANT),
    wrong("stops", '"EWR"', "a list of strings"),
    wrong("stops", "[1]", "a list of strings"),
    wrong("stops", '[1.50, {"a": [], "b": null, "é": [true, "\\"x"]}]', "a list of strings"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED)
def test_a_record_that_cannot_become_a_row_is_rejected_with_its_reason(value: bytes, reason: str) -> None:
    decoded = decode(b'{"flight": 1}', value, b'{"flight": 3}')
    assert decoded.rejects.rows() == [(1, "decode", reason)]
    assert decoded.events["flight"].to_list() == [1, 3]


def test_a_tombstone_that_names_no_key_is_rejected() -> None:
    keys = [None, b'{"flight": null}', b'"UA1"', b"[1]", b"UA1", b'1, "x": 2']
    decoded = decode(*[None] * 6, keys=keys)
    assert decoded.events.rows() == []
    assert decoded.rejects["reason"].to_list() == [
        "tombstone: received no Kafka key, expected one with flight",
        "tombstone: key column 'flight': received NULL or nothing, expected a value",
        "tombstone: Kafka key: column 'flight': received \"UA1\", expected an int32",
        "tombstone: Kafka key: received [1], expected a JSON object",
        "tombstone: Kafka key: received UA1, expected a JSON object",
        'tombstone: Kafka key: received 1, "x": 2, expected a JSON object',
    ]


def test_a_declared_sequence_is_never_null() -> None:
    decoder = Decoder(FLIGHTS, ["flight"], "day", Json())
    decoded = decoder.decode([None, None, b"1"], [b'{"flight": 1, "day": "1970-01-11"}', b'{"flight": 2}', None])
    assert decoded.events["_sequence"].to_list() == [10]
    missing = "sequence 'day': received NULL or nothing, expected a value"
    assert decoded.rejects.rows() == [(1, "decode", missing), (2, "decode", f"tombstone: {missing}")]


def test_a_deep_document_is_read_whatever_its_neighbours_look_like() -> None:
    deep = b'{"flight": 2, "landed_at": 5, "x": %s%s}' % (b"[" * 50_000, b"]" * 50_000)
    by_text = b'{"flight": 1, "landed_at": "1970-01-01T00:00:00Z"}'
    for values in ([deep], [by_text, deep], [deep, by_text]):
        assert decode(*values).events.filter(flight=2)["landed_at"].to_list() == [
            datetime(1970, 1, 1, 0, 0, 0, 5000, tzinfo=UTC)
        ]


@pytest.mark.parametrize("fmt", [Json(), Debezium()])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a": ', b"}")])
def test_a_value_that_is_nested_to_any_depth_costs_its_own_record_only(
    fmt: Format, opening: bytes, closing: bytes
) -> None:
    depths = [*range(100, 1100, 50), 5000]
    rows = [b'{"flight": %d, "carrier": %s1%s}' % (n, opening * n, closing * n) for n in depths]
    good = b'{"flight": 1}'
    envelope = b'{"op": "c", "after": %s}' if isinstance(fmt, Debezium) else b"%s"
    decoded = Decoder(FLIGHTS, ["flight"], None, fmt).decode(
        [None] * (len(rows) + 1), [envelope % row for row in [*rows, good]]
    )
    assert decoded.events["flight"].to_list() == [1]
    shown = (opening * 100).decode()[:100]
    assert {*decoded.rejects["reason"]} == {DEEP, f"column 'carrier': received {shown}…, expected a string"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Decoder(FLIGHTS, [], None, Json()), r"keys=\[\]: expected at least one column"),
        (lambda: Decoder(FLIGHTS, ["fligt"], None, Json()), "key 'fligt'.*Did you mean 'flight'"),
        (
            lambda: Decoder(FLIGHTS, ["stops"], None, Json()),
            r"key 'stops' is a list<string>; .* floats and lists cannot identify a row",
        ),
        (lambda: Decoder(FLIGHTS, ["flight", "delay"], None, Json()), "key 'delay' is a float64"),
        (lambda: Decoder(FLIGHTS, ["flight"], "carrier", Json()), "'carrier' is a string; expected an integer"),
        (lambda: Decoder(FLIGHTS, ["flight"], "source.lsn", Json()), "expected one of flight"),
        (lambda: Decoder(FLIGHTS, ["flight"], "sorce.lsn", Debezium()), "Did you mean 'source.lsn'"),
        (lambda: Decoder(FLIGHTS, ["flight"], None, Json(operation="delay")), "'delay' is declared as float64"),
        (lambda: Json(upserts=("x",), deletes=("x",)), "'x' is in upserts and in deletes"),
        (lambda: Debezium(decimals="presice"), "Did you mean 'precise'"),  # type: ignore[arg-type]
        (lambda: Json(timestamps="min"), "timestamps: received 'min', expected 's', 'ms', 'us' or 'ns'"),  # type: ignore[arg-type]
    ],
)
def test_a_declaration_that_cannot_work_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        build()


SCALARS = [
    *("null", "1", "-7", "1.5", "1e3", "true", '"5"', '"UA"', "NaN", "[]", '["a"]', "{}", "99999999999", "[1]"),
    *('"2013-01-01"', '"2013-01-01T05:17:00.123456789Z"', '"1600-01-01T00:00:00Z"', '"} null"', '"\\ud800"', '"é"'),
    *('"2013-01-01T05:17:00Z"', "1357035420000", "12.505", '"1e-41"', "1e-999999999", "1e999999999", '"1\\u0065-77"'),
    *(
        "15706",
        '"yesterday"',
        "1250e-2",
        '"0e-99999999999999999999"',
        "Inf",
        '"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="',
    ),
    *(f'"{PLACEHOLDER}"', f'["{PLACEHOLDER}"]', '"AQ=="', '{"scale": 2, "value": "AQ=="}'),
]
FRAGMENTS = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    '"',
    "null",
    " ",
    "\t",
    "\r",
    "\n",
    "\\",
    "{}",
    '"flight":1',
    '{"flight":',
    "é",
]
ROW = st.lists(st.tuples(st.sampled_from([*FLIGHTS, "op", "x"]), st.sampled_from(SCALARS)), max_size=5)
ROWS = ROW.map(lambda pairs: '{"flight": 1%s}' % "".join(f', "{name}": {text}' for name, text in pairs))  # noqa: UP031  # braces
ENVELOPES = st.builds(
    '{{"op": {}, "after": {}, "before": {}, "source": {}}}'.format,
    st.sampled_from(['"c"', '"d"', '"t"', '"m"', '"x"', "null", "1"]),
    ROWS | st.just("null"),
    ROWS | st.just("null"),
    st.sampled_from(['{"lsn": 1}', '{"lsn": "1"}', "null", "{}"]),
)
WRAPPED = st.builds('{{"schema": {{}}, "payload": {}}}'.format, ENVELOPES | st.sampled_from(SCALARS))
JUNK = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)
SPLIT_ACROSS = st.sampled_from(
    ['{"flight": 1, "x":', '{"flight": 2}}', '{"flight": 1} {"flight": 2}', '{"x": [{}', "{}]}"]
)
TEXTS = ROWS | ENVELOPES | WRAPPED | JUNK | SPLIT_ACROSS
FRAMED = st.tuples(st.sampled_from([b"", b"\0\0\0\0\1", b"\0\0"]), TEXTS.map(str.encode)).map(b"".join)
VALUES = st.none() | FRAMED | st.binary(max_size=12) | JUNK.map(lambda text: b"{" + text.encode() + b"}")
KEYS = st.sampled_from(
    [None, b"", b"1", b"\0\0\0\0\1" + b"1", b'"1"', b'{"flight": 1}', b'{"payload": {"flight": 1}}', b"[", b"{} null"]
)
FORMATS: list[tuple[Format, str | None]] = [
    (Json(), None),
    (Json(operation="op"), "landed_at"),
    (Debezium(), "source.lsn"),
    (Debezium(decimals="string"), "landed_at"),
    (Json(operation="op", absent="null"), None),
    (JsonSchema(), None),
    (Debezium(encoding="json_schema"), None),
]


@settings(deadline=None)  # the first call of a polars or pyarrow kernel is slow
@given(
    records=st.lists(st.tuples(KEYS, VALUES), max_size=12),
    cuts=st.sets(st.integers(0, 12), max_size=4),
    declared=st.sampled_from(FORMATS),
)
def test_a_batch_decodes_as_its_pieces_do_and_every_record_is_accounted_for(
    records: list[tuple[bytes | None, bytes | None]], cuts: set[int], declared: tuple[Format, str | None]
) -> None:
    fmt, sequence_by = declared
    keys, values = [key for key, _ in records], [value for _, value in records]
    whole = Decoder(FLIGHTS, ["flight"], sequence_by, fmt).decode(keys, values)

    ends = [0, *sorted(cut for cut in cuts if cut <= len(records)), len(records)]
    decoder = Decoder(FLIGHTS, ["flight"], sequence_by, fmt)
    pieces = [(start, decoder.decode(keys[start:stop], values[start:stop])) for start, stop in pairwise(ends)]

    def joined(part: Callable[[Decoded], pl.DataFrame]) -> pl.DataFrame:
        return pl.concat(part(piece).with_columns(pl.col("_row") + pl.lit(start, pl.UInt32)) for start, piece in pieces)

    assert_frame_equal(whole.events, joined(lambda piece: piece.events))
    assert_frame_equal(whole.rejects, joined(lambda piece: piece.rejects))
    assert whole.dropped.to_list() == [start + row for start, piece in pieces for row in piece.dropped]
    rows = [*whole.events["_row"], *whole.rejects["_row"], *whole.dropped]
    assert sorted(rows) == list(range(len(records)))
    assert all(len(reason) <= 400 for reason in whole.rejects["reason"])


def test_bad_records_are_found_among_thousands_of_good_ones() -> None:
    rows: list[dict[str, Any]] = [{"flight": i, "carrier": "UA", "landed_at": i} for i in range(3000)]
    for i in range(0, 3000, 100):
        rows[i]["carrier"] = 5
        rows[i + 1]["flight"] = 2**40
        rows[i + 2]["landed_at"] = "1970-01-01T00:00:00Z"
        rows[i + 3]["delay"] = float("nan")
    decoded = decode(*(json.dumps(row).encode() for row in rows))
    bad = {i + j for i in range(0, 3000, 100) for j in (0, 1, 3)}
    assert {*decoded.rejects["_row"]} == bad
    assert decoded.events["flight"].to_list() == [i for i in range(3000) if i not in bad]


def test_mixed_forms_and_bad_records_in_any_order_are_what_each_is_alone() -> None:
    days = ["15706", '"2013-01-01"', "null", '"2013-02-30"', "true"]
    fares = ["1.5", '"1e-41"', "1e-999999999", "125e-2", '"0e99999999999"', "12.505", '"x"']
    instants = ["5", '"1970-01-01T00:00:00Z"', '"1970-01-01T00:00:00.123456789Z"', '"1970-13-01T00:00:00Z"', "1e5"]
    extras = ["1", "1e-999999999", "1e999999999", "Inf", '"\\ud800"']
    values = [
        '{{"flight": {}, "day": {}, "fare": {}, "landed_at": {}, "x": {}}}'.format(i, *parts).encode()
        for i, parts in enumerate(itertools.product(days, fares, instants, extras))
    ]
    random.Random(7).shuffle(values)
    decoder = Decoder(FLIGHTS, ["flight"], None, Json())
    whole = decoder.decode([None] * len(values), values)
    alone = [decode(value) for value in values]
    assert_frame_equal(whole.events.drop("_row"), pl.concat(each.events for each in alone).drop("_row"))
    assert whole.rejects["reason"].to_list() == [reason for each in alone for reason in each.rejects["reason"]]


@pytest.mark.parametrize("stray", [b" null", b"null", b"\tnull", b"\n", b"\n{}", b"\n\n{}", b"\0", b"\xff", b"}\n"])
def test_stray_bytes_are_found_wherever_they_stand(stray: bytes) -> None:
    """Documents are looked at in stretches of 2**18 bytes: at the end of one, and at the begin of the next."""
    for end in range(2**18 - 8, 2**18 + 8):
        strange = b'{"x":"%s"}%s' % (b"a" * (end - 8), stray)
        together, alone = tidy([strange, b"{}"]), tidy([strange])
        assert together.rejects == alone.rejects
        assert together.documents == [*alone.documents, b"{}"]


@pytest.mark.parametrize("exponent", ["e-39", "E-100", "e-999999999"])
def test_perilous_exponents_are_found_wherever_they_stand(exponent: str) -> None:
    for start in range(2**18 - 8, 2**18 + 8):
        document = b'{"x":"%s","d":1%s}' % (b"a" * (start - 13), exponent.encode())
        assert perilous([b"{}", document]) == [1]


@pytest.mark.parametrize("seed", [1, 2])
def test_no_text_of_a_decimal_crashes_or_is_read_as_another_number(seed: int) -> None:
    """In a process of its own: pyarrow 26.0.1 crashes where a text of 1e-999999999 reaches its decimals."""
    command = [sys.executable, "-m", "tests.decimal_texts", str(seed), "3000"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert (found.returncode, found.stdout.splitlines()) == (0, ["done"]), found.stderr
