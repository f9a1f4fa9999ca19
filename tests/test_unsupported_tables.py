"""Tables that ask more of a writer than we can do are refused and left as they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, Field, Schema, write_deltalake
from deltalake.schema import PrimitiveType

from storage.delta.owned_table import OwnedTable
from storage.errors import UnsupportedTableError
from tests.rooms import declared
from tests.test_bad_tables import SCHEMA, contents, entry, frame, opened


def mapped(path: Path) -> None:
    configuration = {"delta.columnMapping.mode": "name", "delta.minReaderVersion": "2", "delta.minWriterVersion": "5"}
    made(path)
    rewrite(path, lambda metadata: metadata["configuration"].update(configuration))


def with_rule(path: Path) -> None:
    made(path)
    rewrite(path, lambda metadata: ruled(metadata, {"delta.generationExpression": "id + 1"}))


def made(path: Path) -> None:
    DeltaTable.create(path, Schema([Field("id", PrimitiveType("long")), Field("n", PrimitiveType("long"))]))


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the metadata of a new table."""
    lines = [json.loads(line) for line in entry(path, 0).read_text().splitlines()]
    for line in lines:
        if "metaData" in line:
            change(line["metaData"])
    entry(path, 0).write_text("\n".join(json.dumps(line) for line in lines))


def ruled(metadata: dict[str, Any], rule: dict[str, str]) -> None:
    schema = json.loads(metadata["schemaString"])
    schema["fields"][1]["metadata"] = rule
    metadata["schemaString"] = json.dumps(schema)


def constrained(path: Path) -> None:
    made(path)
    DeltaTable(path).alter.add_constraint({"positive": "n > 0"})


def not_null(path: Path) -> None:
    fields = [Field("id", PrimitiveType("long"), nullable=False), Field("n", PrimitiveType("long"))]
    DeltaTable.create(path, Schema(fields))


def featured(path: Path) -> None:
    made(path)
    lines = [json.loads(line) for line in entry(path, 0).read_text().splitlines()]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [], "writerFeatures": ["rowTracking"]}
    lines = [{"protocol": protocol} if "protocol" in line else line for line in lines]
    entry(path, 0).write_text("\n".join(json.dumps(line) for line in lines))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "column mapping": (mapped, "column mapping"),
    "an unknown feature": (featured, "writer feature 'rowTracking'"),
    "partition columns": (
        lambda path: write_deltalake(path, frame([(1, 1)]), partition_by=["n"]),
        "partition columns",
    ),
    "a CHECK constraint": (constrained, "constraint 'delta.constraints.positive'"),
    "a NOT NULL column": (not_null, "NOT NULL on 'id'"),
    "a generated column": (with_rule, "a rule on 'n'"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_table_that_asks_for_more_is_refused_and_left_as_it_is(tmp_path: Path, kind: str) -> None:
    make, need = FOREIGN[kind]
    make(tmp_path / "rooms")
    before = contents(tmp_path / "rooms")
    message = rf"rooms: the table needs .*{need}.*, which goldwax cannot write. Use the table's own engine, or point"
    with pytest.raises(UnsupportedTableError, match=message):
        OwnedTable(str(tmp_path / "rooms"), declared(SCHEMA, vectors=True))
    assert contents(tmp_path / "rooms") == before


def test_a_table_that_comes_to_ask_for_more_is_written_no_more(tmp_path: Path) -> None:
    path = tmp_path / "rooms"
    owner = opened(path)
    owner.merge([(1, 0)], [], {"desk/0": 1})
    DeltaTable(path).alter.add_constraint({"small": "n < 100000"})
    before = contents(path)
    with pytest.raises(UnsupportedTableError, match=r"constraint 'delta\.constraints\.small'"):
        owner.merge([(1, 1)], [], {"desk/0": 2})
    assert {name: content for name, content in contents(path).items() if name.startswith("_delta_log")} == {
        name: content for name, content in before.items() if name.startswith("_delta_log")
    }
