"""Declarations that cannot work: refused where they are declared, with what was received and what is expected."""

from datetime import timedelta
from typing import Any

import pytest

from flows import DeclarationError, EventLog, Json, Pipeline, Silver
from flows.settings import Settings

SCHEMA = {"id": "int64", "seq": "int64", "name": "string", "people": "int64"}
SOURCE = EventLog("t", format=Json(operation="op"))


def silver(**declared: Any) -> Silver:
    return Silver(**{"name": "t", "source": SOURCE, "schema": SCHEMA, "keys": ["id"], **declared})


def pipeline(**declared: Any) -> Pipeline:
    return Pipeline(**{"name": "demo", "tables": [silver()], **declared})


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
        ({"max_delay": timedelta(-1)}, "max_delay: received -1 day, 0:00:00, expected no time or more"),
    ],
)
def test_a_pipeline_that_could_not_commit_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=f"Pipeline 'demo': {message}"):
        pipeline(**declared)
