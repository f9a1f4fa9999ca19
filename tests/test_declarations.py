"""Declarations that cannot work: refused where they are declared, with what was received and what is expected."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import (
    Avro,
    Count,
    DeclarationError,
    EventLog,
    Expect,
    Json,
    Kafka,
    Kpi,
    Pipeline,
    Silver,
    Snapshots,
    Sum,
    tumbling,
)
from flows.settings import Settings

SCHEMA = {"id": "int64", "seq": "int64", "name": "string", "people": "int64"}
SOURCE = EventLog("t", format=Json(operation="op"))


def silver(**declared: Any) -> Silver:
    return Silver(**{"name": "t", "source": SOURCE, "schema": SCHEMA, "keys": ["id"], **declared})


def pipeline(**declared: Any) -> Pipeline:
    return Pipeline(**{"name": "demo", "tables": [silver()], **declared})


def kpi(**declared: Any) -> Kpi:
    return Kpi(**{"name": "k", "source": silver(), "measures": {"n": Count()}, "group_by": ["name"], **declared})


@pytest.mark.parametrize("lake", ["/", "//", "s3://", "file:///"])
def test_a_lake_without_a_path_is_refused_wherever_it_is_named(lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the root of the file system or of a store."""
    expected = f"lake: received '{lake}', expected a directory or URL with a path of its own, as 'lake' or 's3://"
    with pytest.raises(DeclarationError, match=expected):
        pipeline(lake=lake)
    with pytest.raises(DeclarationError, match="lake: received ''"):
        pipeline(lake="")
    monkeypatch.setenv("GOLDWAX_LAKE", lake)
    with pytest.raises(SystemExit, match=f"goldwax: demo: {expected}"):
        pipeline().dataflow()
    assert pipeline(lake="a/lake//").lake_of(Settings()).silver("t") == "a/lake/silver/t"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"max_rows": 0}, "max_rows: received 0, expected at least 1"),
        ({"max_rows": -5}, "max_rows: received -5, expected at least 1"),
        ({"max_delay": timedelta(-1)}, "max_delay: received -1 day, 0:00:00, expected timedelta\\(0\\) or more"),
    ],
)
def test_a_pipeline_that_could_not_commit_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=f"Pipeline 'demo': {message}"):
        pipeline(**declared)


COLUMNS = "expected a dict of texts to texts such as {'id': 'int64'}"
KEYS = "expected a list of texts such as ['id']"
SOURCES = "expected Kafka(…), EventLog(…) or Snapshots(…)"
FORMATS = "expected Json(…), JsonSchema(…), Avro(…), Debezium(…) or Custom(…)"
TIME = "expected a timedelta such as timedelta(hours=1)"
EXPECTATIONS = "expected a list of Expect(…)"
MEASURES = "expected a dict of texts to Count(…), Sum(…) or Mean(…) such as {'orders': Count()}"
TABLES = "expected a list of Silver(…) or Kpi(…)"
POSITIVE = pl.col("id") > 0

WRONG: list[tuple[Callable[..., object], dict[str, Any], str, str]] = [
    (silver, {"schema": ["id"]}, "schema: received ['id']", COLUMNS),
    (silver, {"schema": [("id", "int64")]}, "schema: received [('id', 'int64')]", COLUMNS),
    (silver, {"schema": {"id": int}}, "schema: received {'id': <class 'int'>}", COLUMNS),
    (silver, {"schema": {"id": pl.Int64}}, "schema: received {'id': Int64}", COLUMNS),
    (silver, {"schema": None}, "schema: received None", COLUMNS),
    (silver, {"schema": {1: "int64"}}, "schema: received {1: 'int64'}", COLUMNS),
    (silver, {"keys": None}, "keys: received None", KEYS),
    (silver, {"keys": [1]}, "keys: received [1]", KEYS),
    (silver, {"keys": {"id"}}, "keys: received {'id'}", KEYS),
    (silver, {"sequence_by": 3}, "sequence_by: received 3", "expected a text, a list of texts or None"),
    (silver, {"name": 5}, "Silver 5: name: received 5", "expected a text"),
    (silver, {"ignore_null_updates": True}, "ignore_null_updates: received True", "expected a list of texts"),
    (silver, {"history": 2}, "history: received 2", "expected 'scd1' or 'scd2'"),
    (silver, {"ties": None}, "ties: received None", "expected 'last_position', 'quarantine' or 'fail'"),
    (silver, {"new_fields": True}, "new_fields: received True", "expected 'ignore', 'add' or 'quarantine'"),
    (silver, {"tombstone_retention": 30}, "tombstone_retention: received 30", f"{TIME} or None"),
    (silver, {"tombstone_retention": "30d"}, "tombstone_retention: received '30d'", f"{TIME} or None"),
    (silver, {"source": "t"}, "source: received 't'", SOURCES),
    (silver, {"source": None}, "source: received None", SOURCES),
    (silver, {"source": EventLog}, "source: received the class EventLog", SOURCES),
    (silver, {"initial": "a"}, "initial: received 'a'", "expected Snapshots(…) or None"),
    (silver, {"expectations": Expect("a", POSITIVE)}, "expectations: received Expect(name='a'", EXPECTATIONS),
    (silver, {"expectations": [("a", POSITIVE)]}, "expectations: received [('a', <Expr", EXPECTATIONS),
    (silver, {"expectations": [POSITIVE]}, "expectations: received [<Expr", EXPECTATIONS),
    (Expect, {"name": None, "condition": POSITIVE}, "Expect None: name: received None", "expected a text"),
    (Expect, {"name": "a", "condition": "id > 0"}, "condition: received 'id > 0'", "expected a polars expression"),
    (Expect, {"name": "a", "condition": POSITIVE, "otherwise": None}, "otherwise: received None", "expected 'warn', "),
    (Json, {"absent": None}, "Json: absent: received None", "expected 'keep' or 'null'"),
    (Json, {"timestamps": None}, "Json: timestamps: received None", "expected 's', 'ms', 'us' or 'ns'"),
    (Json, {"operation": 1}, "Json: operation: received 1", "expected a text or None"),
    (Avro, {"registry": None}, "Avro: registry: received None", "expected a text"),
    (EventLog, {"topic": 5}, "EventLog: topic: received 5", "expected a text"),
    (EventLog, {"topic": "t", "format": "json"}, "format: received 'json'", FORMATS),
    (EventLog, {"topic": "t", "format": Json}, "format: received the class Json", FORMATS),
    (EventLog, {"topic": "t", "format": None}, "format: received None", FORMATS),
    (
        EventLog,
        {"topic": "t", "start": True},
        "start: received True",
        "expected 'earliest', 'latest', datetime(…) or a",
    ),
    (
        Kafka,
        {"topic": "t", "client": "confluentt"},
        "received 'confluentt'",
        "'kafka-python'. Did you mean 'confluent'",
    ),
    (Kafka, {"topic": "t", "options": ["s3cret"]}, "options: received a list", "expected a dict of texts to texts"),
    (Snapshots, {"path": Path("x")}, f"path: received {Path('x')!r}", "expected a text"),
    (Snapshots, {"path": "x", "versions": None}, "versions: received None", "expected a text or a whole number"),
    (Snapshots, {"path": "x", "versions": True}, "versions: received True", "expected a text or a whole number"),
    (tumbling, {"length": timedelta(hours=1), "on": "at"}, "tumbling: length: received", "expected a text"),
    (Sum, {"column": None}, "Sum: column: received None", "expected a text"),
    (kpi, {"measures": [Count()]}, "Kpi 'k': measures: received [Count(column=None)]", MEASURES),
    (kpi, {"measures": {"n": "count"}}, "measures: received {'n': 'count'}", MEASURES),
    (kpi, {"measures": {"n": Count}}, "measures: received {'n': <class", MEASURES),
    (kpi, {"window": "1h"}, "window: received '1h'", "such as tumbling('1h', on='placed_at') or None"),
    (kpi, {"source": "t"}, "source: received 't'", "expected Silver(…)"),
    (kpi, {"refresh": "daily"}, "refresh: received 'daily'", "expected OnCommit(…)"),
    (pipeline, {"tables": silver()}, "Pipeline 'demo': tables: received Silver(name='t'", TABLES),
    (pipeline, {"tables": ["t"]}, "tables: received ['t']", TABLES),
    (pipeline, {"lake": None}, "lake: received None", "expected a text"),
    (pipeline, {"lake": Path("lake")}, f"lake: received {Path('lake')!r}", "expected a text"),
    (pipeline, {"retention": "1h"}, "retention: received '1h'", TIME),
    (pipeline, {"max_rows": "5"}, "max_rows: received '5'", "expected a whole number"),
    (pipeline, {"max_delay": 5}, "max_delay: received 5", TIME),
]


@pytest.mark.parametrize(("declare", "declared", "received", "expected"), WRONG)
def test_a_part_that_is_not_what_its_annotation_says_is_refused(
    declare: Callable[..., object], declared: dict[str, Any], received: str, expected: str
) -> None:
    with pytest.raises(DeclarationError) as refused:
        declare(**declared)
    assert received in str(refused.value)
    assert expected in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_text_is_taken_for_a_list_of_one_wherever_names_are_listed() -> None:
    assert silver(keys="id", ignore_null_updates="name").keys == ("id",)
    assert kpi(group_by="name").group_by == ("name",)
    one: Any = "upsert"
    several: Any = ["upsert", "c"]
    assert Json(operation="op", upserts=one) == Json(operation="op", upserts=("upsert",))
    assert repr(Json(operation="op", upserts=several)) == repr(Json(operation="op", upserts=("upsert", "c")))
    with pytest.raises(DeclarationError, match="'upsert' is in upserts and in deletes"):
        Json(operation="op", deletes=one)


@pytest.mark.parametrize(
    ("declare", "declared", "message"),
    [
        (silver, {"keys": ["id", "id"]}, r"keys: received \['id', 'id'\], expected each column once"),
        (kpi, {"measures": {"n": Count(), "N": Count()}}, "measure 'N': the name is .*taken"),
        (kpi, {"measures": {"Name": Count()}}, "measure 'Name': the name is .*taken"),
        (Avro, {"registry": "ada:s3cret@h"}, "registry: received an URL with credentials"),
        (Avro, {"registry": "http://h:port"}, "registry='http://h:port': expected an URL like"),
        (Avro, {"registry": "http://h:123456"}, "registry='http://h:123456': expected an URL like"),
        (Avro, {"registry": "http://[h"}, r"registry='http://\[h': expected an URL like"),
    ],
)
def test_what_could_not_run_is_refused_where_it_is_declared(
    declare: Callable[..., object], declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(**declared)


def test_a_schema_without_columns_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Silver 't': schema: received \{\}, expected at least one column"):
        silver(schema={})
