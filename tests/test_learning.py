"""Columns learned from records: types, names and limits, and that it never matters how records are cut into batches."""

import json
from functools import partial
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.decoding import learning, refusals
from operators.decoding.decode import Decoder
from operators.decoding.formats import PLACEHOLDER, Debezium, Json, JsonSchema
from operators.decoding.known_fields import KnownFields
from operators.decoding.learning import MOST_COLUMNS, Learner, Settled
from operators.decoding.watching import WatchingDecoder
from operators.schema import Schema, parse_schema

DECLARED = parse_schema({"id": "int64", "name": "string", "price": "decimal(9, 2)", "tags": "list<string>"})
FORMATS: dict[str, Json | JsonSchema | Debezium] = {
    "json": Json(operation="op", absent="null"),
    "framed": JsonSchema(operation="op", absent="null"),
    "kept": Json(operation="op"),
    "bare": Debezium(),
    "wrapped": Debezium(),
    "framed wrapped": Debezium(encoding="json_schema"),
}
HEADER = b"\0\0\0\0\7"
TYPES = {"i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64"}
EVERY_FORMAT = pytest.mark.parametrize("kind", FORMATS)
ALL_BUT_KEPT = pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "kept"])


def document(row: dict[str, Any], kind: str = "json") -> bytes:
    """Return a record's value; in the `schema` of a wrapped one, fields named for an integer type have that type."""
    if kind.startswith("framed"):
        return HEADER + document(row, kind.removeprefix("framed").strip() or "json")
    if kind in ("json", "kept"):
        return json.dumps({"op": "upsert", **row}).encode()
    envelope = {"before": {"old": 1}, "after": row, "source": {"lsn": 7, "name": "shop"}, "op": "u"}
    if kind == "bare":
        return json.dumps(envelope).encode()
    fields = [{"type": TYPES.get(name.split("_")[0], "string"), "field": name} for name in row]
    blocks = [{"type": "struct", "fields": fields, "field": field} for field in ("before", "after")]
    return json.dumps({"schema": {"type": "struct", "fields": blocks}, "payload": envelope}).encode()


def learner(kind: str = "json", *, may_learn: bool = True) -> Learner:
    return Learner(DECLARED, FORMATS[kind], ["valid_from", "_offset"], may_learn=may_learn)


def settle_all(ours: Learner, documents: list[bytes], columns: Schema | None = None) -> Settled:
    """Decide about documents as staging does: up to one that teaches, then on, with what it taught."""
    at, columns, rows, refused = 0, columns or {}, pl.DataFrame(), dict[int, str]()
    while True:
        part = ours.settle(documents[at:], columns)
        assert part.rows.columns == ["_row", "_unavailable", *columns]
        rows = pl.concat([rows, part.rows.with_columns(pl.col("_row") + at)], how="diagonal_relaxed")
        refused |= {at + row: reason for row, reason in part.refused.items()}
        at += part.reached
        if at == len(documents):
            return Settled(at, columns, rows, refused)
        assert part.columns != columns
        columns = part.columns


def learned(*rows: dict[str, Any], kind: str = "json") -> tuple[Schema, list[tuple[Any, ...]], dict[int, str]]:
    settled = settle_all(learner(kind), [document(row, kind) for row in rows])
    return settled.columns, settled.rows.rows(), settled.refused


@ALL_BUT_KEPT
def test_the_first_value_of_a_field_types_its_column_and_later_ones_must_fit(kind: str) -> None:
    columns, rows, refused = learned(
        {"id": 1, "new": None},
        {"id": 2, "new": 5, "on": True, "x": 1.5, "text": "a", "list": ["a", None], "big": 2**64, "empty": []},
        {"id": 3, "new": -(2**63), "x": 2, "text": None, "big": 0.5},
        {"id": 4, "new": 2.5},
        {"id": 5, "new": "5"},
        {"id": 6, "on": 1},
        {"id": 7, "text": ["a"]},
        {"id": 8, "new": 2**63},
        kind=kind,
    )
    assert columns == {
        "new": pl.Int64(),
        "on": pl.Boolean(),
        "x": pl.Float64(),
        "text": pl.String(),
        "list": pl.List(pl.String()),
        "big": pl.Float64(),
        "empty": pl.List(pl.String()),
    }
    assert rows == [
        (0, None, *[None] * 7),
        (1, None, 5, True, 1.5, "a", ["a", None], 2.0**64, []),
        (2, None, -(2**63), None, 2.0, None, None, 0.5, None),
    ]
    assert refused == {
        3: "column 'new': received 2.5, expected an int64",
        4: "column 'new': received \"5\", expected an int64",
        5: "column 'on': received 1, expected true or false",
        6: "column 'text': received [\"a\"], expected a string",
        7: "column 'new': received 9223372036854775808, expected an int64",
    }


@ALL_BUT_KEPT
@pytest.mark.parametrize("value", [{"a": 1}, {}, [1], [["a"]], ["a", 1]])
def test_a_value_that_no_column_can_hold_is_refused_and_its_record_teaches_nothing(kind: str, value: object) -> None:
    columns, rows, refused = learned({"id": 1, "fine": 1, "odd": value}, {"id": 2, "fine": "text"}, kind=kind)
    assert (columns, rows) == ({"fine": pl.String()}, [(1, None, "text")])
    expected = "expected a number, text, true or false, or an array of texts"
    assert refused == {0: f"field 'odd': received {json.dumps(value)}, {expected}"}


@ALL_BUT_KEPT
def test_a_value_of_an_unknown_field_may_be_nested_to_any_depth(kind: str) -> None:
    plain = document({"id": 1, "odd": [[]]}, kind)
    documents = [plain.replace(b"[[]]", b"[" * n + b"]" * n) for n in (2, 600, 5000)]
    expected = "expected a number, text, true or false, or an array of texts"
    assert [*settle_all(learner(kind), documents).refused.values()] == [
        "field 'odd': received [[]], " + expected,
        f"field 'odd': received {'[' * 100}…, {expected}",
        refusals.DEEP,
    ]


@pytest.mark.parametrize(
    "name", ["", "_row", "^a$", "*", "a b", "a,b", "a;b", "{a}", "(a)", "a\nb", "a=b", "x" * 256, "中" * 86]
)
def test_a_name_that_no_column_can_have_is_refused(name: str) -> None:
    columns, rows, refused = learned({"id": 1, name: 1}, {"id": 2, name: None})
    assert (columns, rows) == ({}, [(1, None)])
    assert "expected a name that a column can have, of at most 255 bytes; rename it in the source" in refused[0]


@ALL_BUT_KEPT
def test_a_column_may_be_named_like_a_part_of_an_envelope(kind: str) -> None:
    names = ["payload", "schema", "before", "after", "source"]
    columns, rows, refused = learned({"id": 1, **dict.fromkeys(names, "x")}, {"id": 2, "payload": "y"}, kind=kind)
    assert (columns, refused) == (dict.fromkeys(names, pl.String()), {})
    assert rows == [(0, None, *["x"] * 5), (1, None, "y", *[None] * 4)]


def test_names_that_delta_does_not_tell_apart_are_refused() -> None:
    columns, _, refused = learned({"Name": 1}, {"VALID_FROM": 1}, {"new": 1}, {"New": 1}, {"a": 1, "A": 1}, {"OP": "x"})
    assert columns == {"new": pl.Int64()}
    other = "expected another name, as Delta does not tell it from column"
    assert [reason.partition(", ")[2].partition(";")[0] for _, reason in sorted(refused.items())] == [
        f"{other} {name!r}" for name in ("name", "valid_from", "new", "a", "op")
    ]


def test_the_longest_names_can_all_be_learned() -> None:
    row = {f"{'中' * 84}{n:03}": n for n in range(MOST_COLUMNS)}
    columns, rows, _ = learned(row, {"id": 2}, row)
    assert [*columns] == [*row]
    assert rows == [(0, None, *row.values()), (1, None, *[None] * MOST_COLUMNS), (2, None, *row.values())]


@EVERY_FORMAT
def test_more_declared_names_than_one_pattern_takes_change_nothing_but_the_time(kind: str) -> None:
    ours = Learner({**DECLARED, **{f"{'x' * 250}{n}": pl.Int64() for n in range(400)}}, FORMATS[kind], may_learn=True)
    settled = settle_all(ours, [document(row, kind) for row in ({"id": 1}, {"id": 2, "new": 5}, {"id": 3, "new": "x"})])
    assert (settled.columns, settled.rows["new"].to_list(), [*settled.refused]) == ({"new": pl.Int64()}, [None, 5], [2])


def test_a_flood_of_new_fields_is_bounded() -> None:
    columns, rows, refused = learned(*({"id": n, f"f{n}": n} for n in range(MOST_COLUMNS + 50)), {"id": 1, "f0": 7})
    assert [*columns] == [f"f{n}" for n in range(MOST_COLUMNS)]
    assert [row[0] for row in rows] == [*range(MOST_COLUMNS), MOST_COLUMNS + 50]
    assert (
        refused[MOST_COLUMNS] == "field 'f200': received 200, expected one of at most 200 learned columns; declare it"
    )


def test_integers_have_the_length_of_the_schema_beside_them_and_grow_to_a_longer_one() -> None:
    columns, rows, refused = learned(
        {"i8": 5, "i16_a": 5, "i32_b": 5, "i64_c": 5},
        {"i8": 128, "i16_a": 2**40, "i32_b": None},
        {"i32_b": 2.5, "i8": 2**40},
        {"i8": -129, "i64_c": 2**63},
        kind="wrapped",
    )
    assert columns == {"i8": pl.Int64(), "i16_a": pl.Int64(), "i32_b": pl.Int32(), "i64_c": pl.Int64()}
    assert rows == [(0, None, 5, 5, 5, 5), (1, None, 128, 2**40, None, None)]
    assert sorted(refused) == [2, 3]


def test_a_column_grows_no_longer_than_the_schema_says() -> None:
    told = {"schema": {"fields": [{"field": "after", "fields": [{"field": "n", "type": "int32"}]}]}}
    wide = json.dumps({**told, "payload": {"after": {"n": 40_000}, "op": "u"}}).encode()
    settled = settle_all(learner("wrapped"), [wide], {"n": pl.Int16()})
    assert (settled.columns, settled.rows.rows()) == ({"n": pl.Int32()}, [(0, None, 40_000)])


def test_a_value_that_postgres_did_not_send_makes_a_column_and_is_unavailable() -> None:
    columns, rows, _ = learned({"bio": PLACEHOLDER, "many": [PLACEHOLDER]}, {"bio": "x", "many": ["y"]}, kind="bare")
    assert columns == {"bio": pl.String(), "many": pl.List(pl.String())}
    assert rows == [(0, ["bio", "many"], None, None), (1, None, "x", ["y"])]


@ALL_BUT_KEPT
def test_who_may_not_learn_refuses_every_unknown_field_with_a_value(kind: str) -> None:
    documents = [document(row, kind) for row in ({"id": 1, "new": 5}, {"id": 2, "new": None}, {"id": 3, "kept": 1})]
    documents.append(document({"id": 4, "kept": 128}, kind))
    settled = settle_all(learner(kind, may_learn=False), documents, {"kept": pl.Int8()})
    assert settled.rows.rows() == [(1, None, None), (2, None, 1)]
    assert settled.refused == {
        0: "field 'new': received 5, expected declared fields only; declare it, or new_fields='add'",
        3: "column 'kept': received 128, expected an int8",
    }


@pytest.mark.parametrize(
    ("kind", "documents", "unlike"),
    [
        (
            "json",
            [
                b"{}",
                b' { "id" : 1 , "name" : "a \\" , } x" , "op":"u", "tags" : [ "]", null ], "price":-1.5e3 }\n',
                b'{"price": {"scale": 2, "value": "}"}, "any \\" name": null}',
                b'{"id": 1, "new": 0}',
                b'{"id": 1, "name": "x", "na": "\\\\"}',
                b'{"id": 1, "tags": [[]]}',
                b'{"\\u0069d": 1}',
                b'{"id": 1, "name": "\\"new\\": 1"}',
            ],
            [3, 4, 5, 6],
        ),
        (
            "bare",
            [
                b'{"op":"u","before":{"new":1},"after":{"id":1},"source":{"x":{}}}',
                b'{"after" :  { } ,"op":"u"}',
                b'{"schema":{"field":"after"},"payload":{"after":{"id":1,"name":"\\"after\\":{"}}}',
                b'{"op":"u","after":{"id":1,"new":"x"}}',
                b'{"op":"u","source":{"after":{"id":1}},"after":{"id":1,"new":"x"}}',
                b'{"op":"u","x\\"after":{"id":1},"after":{"id":1,"new":"x"}}',
            ],
            [3, 4, 5],
        ),
    ],
)
def test_documents_with_known_fields_only_are_told_without_a_parse(
    kind: str, documents: list[bytes], unlike: list[int]
) -> None:
    known = KnownFields([*DECLARED, *(["op"] if kind == "json" else [])], FORMATS[kind])
    assert known.unlike(documents).nonzero()[0].tolist() == unlike


_VALUE = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(-9, 9) | st.text('aé"\\{', max_size=3)
_VALUES: st.SearchStrategy[Any] = (
    _VALUE | st.lists(st.none() | st.text("a]", max_size=2), max_size=2) | st.just({}) | st.just([1])
)
_NAMES = st.sampled_from(["a", "A", "b", "i8", "i16", "i32", "", "_c"])
_ROWS = st.lists(st.dictionaries(_NAMES, _VALUES, max_size=3), max_size=12)


@EVERY_FORMAT
@settings(deadline=None, max_examples=60)
@given(rows=_ROWS, data=st.data())
def test_no_batching_and_no_replay_changes_what_becomes_of_a_document(
    kind: str, rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    """One at a time; all at once; in small windows; and again, with the columns that were learned the first time."""
    documents = [document(row, kind) for row in rows]
    one_by_one: Schema = {}
    fates: list[str | None] = []
    for each in documents:
        settled = settle_all(learner(kind), [each], one_by_one)
        one_by_one = settled.columns
        fates.append(settled.refused.get(0))
    whole = settle_all(learner(kind), documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_WINDOW", data.draw(st.integers(1, 5)))
        in_windows = settle_all(learner(kind), documents)
    again = settle_all(learner(kind), documents, whole.columns)
    for other in (whole, in_windows, again):
        assert list(other.columns.items()) == list(one_by_one.items())
        assert [row in other.refused for row in range(len(rows))] == [fate is not None for fate in fates]
        told = [c for c in whole.rows.columns if other is not again or c != "_unavailable"]  # see `settling`
        assert_frame_equal(other.rows.select(told), whole.rows.select(told))
    for place, row in enumerate(rows):
        if fates[place] is None:
            found = whole.rows.filter(_row=place).row(0, named=True)
            sent: dict[str, Any] = {name: row.get(name) for name in whole.columns}
            floats = {n: float(sent[n]) for n, t in whole.columns.items() if t == pl.Float64() and sent[n] is not None}
            assert {**found, **sent, **floats} == found


@ALL_BUT_KEPT
def test_a_decoder_that_knows_learned_columns_changes_nothing_but_the_time(kind: str) -> None:
    """What it reads itself fits; what it cannot read it leaves undecided, as a decoder does that knows nothing."""
    columns: Schema = {"n": pl.Int8(), "text": pl.String()}
    rows: list[dict[str, Any]] = [
        {"id": 1},
        {"id": 2, "n": 5, "text": "a"},
        {"id": 3, "n": 500, "text": "a"},
        {"id": 4, "n": "x"},
        {"id": "x", "n": "x"},
        {"id": 5, "other": 1},
    ]
    documents = [document(row, kind) for row in rows]
    keys = [None] * len(documents)
    build = partial(Decoder, keys=["id"], sequence_by=None, format=FORMATS[kind])
    wise = WatchingDecoder(build, DECLARED, columns, FORMATS[kind]).decode(keys, documents)
    plain = WatchingDecoder(build, DECLARED, {}, FORMATS[kind]).decode(keys, documents)
    assert_frame_equal(wise.events.drop("n", "text"), plain.events)
    assert_frame_equal(wise.rejects, plain.rejects)
    assert wise.events.select("_row", "n", "text").rows() == [
        (0, None, None),
        (1, 5, "a"),
        *((row, None, None) for row in (2, 3)),
        (5, None, None),
    ]
    assert (wise.undecided, plain.undecided) == ([2, 3, 5], [1, 2, 3, 5])
