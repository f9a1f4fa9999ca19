"""Staged events as another declaration would have staged them."""

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from flows.event_batch import staging_schema
from operators.silver.restaging import lacking, resequenced

SCHEMA = staging_schema(
    {
        "id": pl.Int64(),
        "country": pl.String(),
        "day": pl.Date(),
        "at": pl.Datetime("us", "UTC"),
        "small": pl.Int8(),
    }
)
FIRST = datetime(1970, 1, 1, 0, 0, 0, 7, tzinfo=UTC)


def staged(*rows: dict[str, Any]) -> pl.DataFrame:
    """Return staged rows at the offsets 0, 1 and so on."""
    known = {"_topic": "t", "_partition": 0, "_sequence": 3}
    return pl.DataFrame([{**known, "_offset": offset, **row} for offset, row in enumerate(rows)], SCHEMA)


UPSERT = {"_op": "upsert", "id": 1, "country": "DE", "day": date(1970, 1, 5), "at": FIRST, "small": -3}
DELETE = {"_op": "delete", "id": 1}
TRUNCATE = {"_op": "truncate"}
NOTHING = [{"_op": "quarantined"}, {"_op": "dropped"}]


@pytest.mark.parametrize(
    ("keys", "old", "new", "expected"),
    [
        (["id"], "at", "at", []),
        (["country"], "at", "at", [(1, "delete", "country")]),
        (["id"], "at", None, [(2, "truncate", "sequence_by")]),
        (["id"], "at", "day", [(1, "delete", "day"), (2, "truncate", "day")]),
        (["id"], "at", "id", [(2, "truncate", "id")]),
        (
            ["id"],
            "at",
            "source.lsn",
            [(row, op, "source.lsn") for row, op in enumerate(["upsert", "delete", "truncate"])],
        ),
    ],
)
def test_what_an_event_lacks_is_told_of_events_alone(
    keys: list[str], old: str | None, new: str | None, expected: list[tuple[int, str, str]]
) -> None:
    rows = staged({**UPSERT}, DELETE, TRUNCATE, *NOTHING)
    found = lacking(rows, keys, old, new)
    assert found.select("_offset", "_op", "lacks").rows() == expected


@pytest.mark.parametrize(("new", "sequence"), [(None, 0), ("day", 4), ("at", 7), ("small", -3), ("id", 1)])
def test_an_upsert_has_the_sequence_that_is_declared(new: str | None, sequence: int) -> None:
    (row,) = resequenced(staged(UPSERT), "source.lsn", new).to_dicts()
    assert row == staged({**UPSERT, "_sequence": sequence}).row(0, named=True)


@pytest.mark.parametrize(
    ("old", "kept"),
    [("day", date(1970, 1, 4)), ("at", FIRST.replace(microsecond=3)), ("small", 3), ("id", 1), (None, None)],
)
def test_what_only_the_old_sequence_of_a_delete_said_is_kept_in_its_column(old: str | None, kept: object) -> None:
    known = staged({**UPSERT}, DELETE, *NOTHING)
    made = resequenced(known, old, None)
    assert made["_sequence"].to_list() == [0, 1, 3, 3]
    others = [name for name in known.columns if name not in ("_sequence", old)]
    assert made.select(others).equals(known.select(others))
    if old:
        assert made[old].to_list() == [UPSERT[old], kept, None, None]
