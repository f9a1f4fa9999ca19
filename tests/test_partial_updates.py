"""Fields that a record leaves out, and NULLs that change nothing: the key keeps what it had."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import Count, Debezium, EventLog, Json, JsonSchema, Kpi, Silver
from flows.stages.tables import silver_table, staging_table
from operators.decoding.decode import Decoded, Decoder
from operators.decoding.formats import Format
from operators.schema import DeclarationError, parse_schema
from tests.test_stages import Chain

COLUMNS = {"id": "int64", "version": "int64", "name": "string", "bio": "string", "tags": "list<string>", "age": "int32"}
SCHEMA = parse_schema(COLUMNS)


def decode(*values: bytes, fmt: Format | None = None, ignored: tuple[str, ...] = ()) -> Decoded:
    decoder = Decoder(SCHEMA, ["id"], None, fmt or Json(), ignore_null_updates=ignored)
    return decoder.decode([None] * len(values), values)


def absent(*values: bytes, **how: Any) -> list[list[str] | None]:
    found: list[list[str] | None] = decode(*values, **how).events["_unavailable"].to_list()
    return found


WHOLE = b'{"id": 1, "version": 1, "name": "Ada", "bio": "x", "tags": [], "age": 1}'
LOOKS = [
    (b'{"id": 1, "version": 1, "bio": "x", "tags": [], "age": 1}', ["name"]),
    (b'{"id": 1, "version": 1, "name": null, "bio": "x", "tags": [], "age": 1}', None),
    (b'{"id": 1, "version": 1, "name" \t:null, "bio": "x", "tags": [], "age": 1}', None),
    (b'{"id": 1, "version": 1, "bio": "name", "tags": [], "age": 1}', ["name"]),
    (b'{"id": 1, "version": 1, "bio": "x", "tags": ["name", "name"], "age": 1}', ["name"]),
    (b'{"id": 1, "version": 1, "bio": "x", "tags": [], "age": 1, "x": {"name": null}}', ["name"]),
    (b'{"id": 1, "version": 1, "bio": "x", "tags": [], "age": 1, "x": [{"name": null}]}', ["name"]),
    (b'{"id": 1, "version": 1, "bio": "x", "tags": [], "age": 1, "x": {"name": 1}, "name": null}', None),
    (b'{"id": 1, "version": 1, "bio": "\\"name\\":", "tags": [], "age": 1}', ["name"]),
    (b'{"id": 1, "version": 1, "bio": "{\\"name\\": null}", "tags": [], "age": 1}', ["name"]),
    (b'{"id": 1, "version": 1, "n\\u0061me": null, "bio": "x", "tags": [], "age": 1}', None),
    (b'{"id": 1, "version": 1, "bio": "n\\u0061me", "tags": [], "age": 1}', ["name"]),
    (b'{"id": 1, "version": 1, "bio": "}", "name": null, "tags": [], "age": 1}', None),
    (b'{"id": 1}', ["version", "name", "bio", "tags", "age"]),
    (b'{"id": 1, "version": 1, "bio": "x", "tags": [], "age": 1, "x": %s%s}' % (b"[" * 9000, b"]" * 9000), ["name"]),
    (b'{"id": 1, "version": 1, "name": null, "bio": "", "tags": [], "age": 1, "x": %s}' % (b"[" * 9 + b"]" * 9), None),
    (b'{"id": 1, "version": 1, "name": null, "bio": "x", "tags": [], "age": 1, "x": 1e999999}', None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), LOOKS)
def test_a_field_that_is_not_there_is_told_from_a_null(value: bytes, expected: list[str] | None) -> None:
    for neighbours in ([], [WHOLE], [b'{"id": 2}', WHOLE], [each for each, _ in LOOKS]):
        assert absent(*neighbours, value, *neighbours)[len(neighbours)] == expected


def test_names_of_any_characters_are_no_trap() -> None:
    schema = parse_schema({"id": "int64", ",": "string", ":": "string", "a.b": "string", "größe": "string"})
    values = [
        b'{"id":1,"x":"y","z":"w"}',
        '{"id":1,",":null,"a.b":null,"größe":null}'.encode(),
        b'{"id":1,"axb":null,"x":":","gr\\u00f6\\u00dfe":null}',
    ]
    decoded = Decoder(schema, ["id"], None, Json()).decode([None] * 3, values)
    assert decoded.events["_unavailable"].to_list() == [[",", ":", "a.b", "größe"], [":"], [",", ":", "a.b"]]


NAMES = st.sampled_from([*COLUMNS, "x", "nam", "na\\u006de", "name "])
LEAVES = st.sampled_from(
    ["null", "1", '"name"', '"\\"name\\":null"', '"{"', "[]", '["bio"]', '{"name":null}', '[{"bio":1}]']
)
OBJECTS = st.lists(st.tuples(NAMES, LEAVES), max_size=6).map(
    lambda pairs: ('{"id":1%s}' % "".join(f',"{name}":{leaf}' for name, leaf in pairs)).encode()  # noqa: UP031 - braces
)


@settings(deadline=None)
@given(values=st.lists(OBJECTS, min_size=1, max_size=8))
def test_what_is_absent_is_what_a_plain_reading_does_not_find(values: list[bytes]) -> None:
    events = decode(*values).events
    for row, names in events.select("_row", "_unavailable").rows():
        found = json.loads(values[row])
        assert (names or []) == [name for name in COLUMNS if name not in found]


def test_producers_that_leave_nulls_out_say_so() -> None:
    assert absent(b'{"id": 1}', fmt=Json(absent="null")) == [None]
    assert absent(b"\0\0\0\0\1" + b'{"id": 1}', fmt=JsonSchema(absent="null")) == [None]
    assert absent(b"\0\0\0\0\1" + b'{"id": 1, "age": null, "tags": [], "bio": ""}', fmt=JsonSchema()) == [
        ["version", "name"]
    ]


def test_a_delete_carries_no_value_and_lacks_none() -> None:
    decoded = decode(b'{"id": 1, "name": "d"}', b'{"id": 1, "name": "u"}', fmt=Json(operation="name"))
    assert decoded.events.select("_op", "_unavailable").rows() == [
        ("delete", None),
        ("upsert", ["version", "bio", "tags", "age"]),
    ]


def test_a_key_is_never_absent() -> None:
    decoded = decode(b'{"name": "Ada"}')
    assert decoded.rejects["reason"].to_list() == ["key column 'id': received NULL or nothing, expected a value"]


def test_ignored_nulls_are_values_that_the_event_does_not_carry() -> None:
    values = [
        b'{"id": 1, "version": 1, "name": "Ada", "bio": null, "tags": null, "age": null}',
        b'{"id": 1, "version": 1, "bio": "x", "tags": []}',
        b'{"id": 1, "version": 1, "name": "Ada", "bio": "x", "tags": [], "age": 1}',
    ]
    assert absent(*values, ignored=("bio", "age")) == [["bio", "age"], ["age", "name"], None]
    assert absent(*values, ignored=("bio", "age"), fmt=Json(absent="null")) == [["bio", "age"], ["age"], None]
    after = b'{"op": "u", "after": {"id": 1, "name": "__debezium_unavailable_value", "bio": null, "age": 1}}'
    removed = b'{"op": "d", "before": {"id": 1}}'
    assert absent(after, removed, fmt=Debezium(), ignored=("bio",)) == [["bio", "name"], None]


def things(fmt: Json, history: str = "scd1", **more: Any) -> Kpi:
    silver = Silver(
        "things", source=EventLog("things", format=fmt), schema=COLUMNS, keys=["id"], sequence_by="version",
        history=history, **more,  # type: ignore[arg-type]
    )  # fmt: skip
    return Kpi("kinds", source=silver, group_by=["age"], measures={"things": Count()})


def rows(lake: Path) -> list[tuple[Any, ...]]:
    table = pl.read_delta(str(lake / "silver/things")).sort("id", "version")
    return table.select("id", "version", "name", "bio", "tags", "age").rows()


EVENTS = [
    {"op": "c", "id": 1, "version": 1, "name": "Ada", "bio": "long", "tags": ["a"], "age": 36},
    {"op": "u", "id": 1, "version": 2, "age": 37},
    {"op": "u", "id": 1, "version": 3, "name": None, "tags": None},
    {"op": "u", "id": 2, "version": 1, "name": "Bob"},
    {"op": "d", "id": 3, "version": 5},
    {"op": "u", "id": 3, "version": 6, "bio": "back"},
]


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("history", ["scd1", "scd2"])
def test_a_silver_table_keeps_what_updates_leave_out(tmp_path: Path, history: str, size: int) -> None:
    chain = Chain(tmp_path, kpi=things(Json(operation="op"), history))
    for at in range(0, len(EVENTS), size):
        chain.advance(*(json.dumps(event).encode() for event in EVENTS[at : at + size]))
        chain = Chain(tmp_path, at + len(EVENTS[at : at + size]), kpi=things(Json(operation="op"), history))
    current = [
        (1, 3, None, "long", None, 37),
        (2, 1, "Bob", None, None, None),
        (3, 6, None, "back", None, None),
    ]
    past = [(1, 1, "Ada", "long", ["a"], 36), (1, 2, "Ada", "long", ["a"], 37)]
    assert rows(tmp_path) == (current if history == "scd1" else [*past, *current])


def test_a_history_fills_absent_values_in_whatever_order_they_come(tmp_path: Path) -> None:
    for seed in range(3):
        shuffled = random.Random(seed).sample(EVENTS[:3], 3)
        chain = Chain(tmp_path / str(seed), kpi=things(Json(operation="op"), "scd2"))
        for event in shuffled:
            chain.advance(json.dumps(event).encode())
        assert rows(tmp_path / str(seed))[-1] == (1, 3, None, "long", None, 37)


def test_ignored_nulls_and_absent_nulls_in_a_silver_table(tmp_path: Path) -> None:
    fmt = Json(operation="op", absent="null")
    chain = Chain(tmp_path, kpi=things(fmt, ignore_null_updates=["bio", "tags"]))
    chain.advance(*(json.dumps(event).encode() for event in EVENTS[:3]))
    assert rows(tmp_path) == [(1, 3, None, "long", ["a"], None)]


def test_what_changes_no_row_that_is_there_changes_no_definition() -> None:
    def definitions(kpi: Kpi) -> tuple[str, str]:
        return staging_table(kpi.source, "demo").definition, silver_table(kpi.source, "demo").definition

    plain = definitions(things(Json(operation="op")))
    assert (
        plain
        == definitions(things(Json(operation="op", absent="null")))
        == definitions(things(Json(operation="op"), ignore_null_updates=[]))
    )
    assert plain[0] == (
        "topic things, Json(operation='op', upserts=('upsert', 'insert', 'update', 'c', 'u', 'r'), deletes=('delete', "
        "'d'), timestamps='ms'), keys ['id'], sequence_by version"
    )
    ignoring = definitions(things(Json(operation="op"), ignore_null_updates=["tags", "bio"]))
    assert ignoring == tuple(f"{each}, ignore_null_updates ['bio', 'tags']" for each in plain)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["boi"], "ignore_null_updates: unknown column 'boi'; the table has: id, .*Did you mean 'bio'"),
        (["id"], "ignore_null_updates: 'id' is of the key or the sequence, which is never NULL"),
        ("version", "ignore_null_updates: 'version' is of the key or the sequence"),
    ],
)
def test_nulls_that_cannot_be_ignored_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        things(Json(), ignore_null_updates=names)
