"""Declarations of snapshots: which cannot be, and what they say."""

from typing import Any

import pytest

from flows import Silver, Snapshots
from operators.schema import DeclarationError
from tests.snapshot_feed import SCHEMA, STREAM

SOURCE = Snapshots("exports")
BY_LSN = Snapshots("exports", versions="lsn={integer}")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"source": SOURCE, "initial": BY_LSN}, "initial is for a source of change events"),
        ({"source": SOURCE, "sequence_by": "note"}, "sequence_by='note': the sequence of snapshots is their version"),
        (
            {"initial": SOURCE},
            "its versions cannot be compared with the sequence of the stream, the position. Expected",
        ),
        ({"initial": Snapshots("exports", versions="delta")}, "its versions cannot be compared"),
        ({"initial": Snapshots("exports", versions="{date}")}, "its versions cannot be compared"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: dict[str, Any], message: str) -> None:
    whole = {"source": STREAM, "schema": SCHEMA, "keys": ["id"], **declared}
    with pytest.raises(DeclarationError, match=message):
        Silver("things", **whole)


def test_snapshots_that_cannot_be_are_refused() -> None:
    with pytest.raises(DeclarationError, match="expected a path that ends with a name"):
        Snapshots("/")
    with pytest.raises(DeclarationError, match="expected a pattern of names with one of"):
        Snapshots("exports", versions="newest")
    with pytest.raises(DeclarationError, match="versions of a Delta table are always whole"):
        Snapshots("exports", versions="delta", marker=None)


def test_versions_that_are_comparable_are_taken_beside_a_stream() -> None:
    for initial, sequence_by in ((BY_LSN, None), (Snapshots("exports", versions=0), None), (SOURCE, "id")):
        Silver("things", source=STREAM, initial=initial, schema=SCHEMA, keys=["id"], sequence_by=sequence_by)
