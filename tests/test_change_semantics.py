"""The page on change semantics: every example of it makes the tables that it shows, however its events come."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows import Count, EventLog, Expect, Json, Kpi, Silver
from tests.test_stages import Chain

_PAGE = (Path(__file__).parents[1] / "docs/change-semantics.md").read_text()
_TYPES = {"id": "int64", "tx": "int64", "seq": "int64", "name": "string", "people": "int64"}
_EXAMPLE = re.compile(r"^### (.+)$|```json *(.*)\n((?:.*\n)*?)```\n\n((?:(?:\|.*\n)+|`.+`:\n|\n)+)", re.MULTILINE)
_TABLE = re.compile(r"(?:`(.+)`:\n\n)?((?:\|.*\n)+)")


@dataclass(frozen=True)
class Example:
    """Events in batches, what they are declared with, and the tables that they make."""

    title: str
    options: dict[str, Any]
    batches: list[list[dict[str, Any]]]
    tables: dict[str, list[list[str]]]


def _examples() -> list[Example]:
    found, title = [], ""
    for heading, options, events, tables in _EXAMPLE.findall(_PAGE):
        title = heading or title
        if not heading:
            batches = [[json.loads(line) for line in batch.splitlines()] for batch in events.split("\n\n")]
            found.append(Example(title, _options(options), batches, _tables(tables)))
    return found


def _options(text: str) -> dict[str, Any]:
    """Read what a block names besides its language: arguments of a declaration."""
    call = re.sub(r" (\w+)=", r", \1=", text)
    return dict(eval(f"dict({call})", {"Expect": Expect, "pl": pl, "dict": dict}))  # noqa: S307 - our own page


def _tables(text: str) -> dict[str, list[list[str]]]:
    return {name or "silver/cities": _cells(table) for name, table in _TABLE.findall(text)}


def _cells(table: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def _made(lake: Path, example: Example, batches: list[list[dict[str, Any]]]) -> dict[str, list[list[str]]]:
    options = {name: value for name, value in example.options.items() if name != "order"}
    fields = {name for batch in batches for event in batch for name in event}
    schema = {name: dtype for name, dtype in _TYPES.items() if name in fields or name in ("id", "seq")}
    cities = Silver(
        "cities",
        source=EventLog("cities", format=Json(operation="op")),
        **{"schema": schema, "keys": ["id"], "sequence_by": "seq", **options},
    )
    chain = Chain(lake, kpi=Kpi("count", source=cities, group_by=["id"], measures={"cities": Count()}))
    for batch in batches:
        chain.advance(*(json.dumps(event).encode() for event in batch))
    return {name: _shown(lake / name, header) for name, (header, *_) in example.tables.items()}


def _shown(table: Path, header: list[str]) -> list[list[str]]:
    rows = pl.read_delta(str(table)).select(header)
    return [header, *sorted([_text(value) for value in row] for row in rows.iter_rows())]


def _text(value: object) -> str:
    return "NULL" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("example", [pytest.param(each, id=f"{n} {each.title}") for n, each in enumerate(_examples())])
def test_an_example_makes_the_tables_that_the_page_shows(tmp_path: Path, example: Example) -> None:
    expected = {name: [header, *sorted(rows)] for name, (header, *rows) in example.tables.items()}
    events = [event for batch in example.batches for event in batch]
    orders = {"as given": example.batches, "at once": [events], "one by one": [[event] for event in events]}
    if example.options.get("order") != "given":
        orders["reversed"] = [[event] for event in reversed(events)]
    for name, batches in orders.items():
        assert _made(tmp_path / name.replace(" ", "_"), example, batches) == expected, name


def test_the_page_has_an_example_for_each_of_its_rules() -> None:
    titles = re.findall(r"^### (.+)$", _PAGE, re.MULTILINE)
    assert len(titles) > 15
    assert {each.title for each in _examples()} == set(titles)
