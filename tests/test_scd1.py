"""SCD1 against a dull oracle: the greatest event of a key is its row, however the events arrive."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.changes import Changes
from operators.rank import NEVER
from operators.scd1 import TECHNICAL, Counts, Scd1
from operators.schema import parse_schema
from operators.slot_rows import SlotRows

CASES = Path(__file__).parents[2] / "shared" / "cases" / "silver.json"
CITIES = parse_schema({"country": "string", "zip": "int64", "name": "string", "mayor": "string"})
KEYS = ["country", "zip"]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Event:
    """A change event; `row` has the declared columns, `absent` names those it did not carry."""

    op: str
    sequence: int
    partition: int
    offset: int
    row: Row
    absent: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, bool, int, int]:
        return self.sequence, self.op == "delete", self.partition, self.offset


def frame(events: Iterable[Event], schema: dict[str, pl.DataType]) -> pl.DataFrame:
    rows = [(e.op, e.sequence, "cities", e.partition, e.offset, None, [*e.absent] or None, *e.row) for e in events]
    technical = {name: TECHNICAL[name] for name in ("_sequence", "_topic", "_partition", "_offset", "_changed_at")}
    columns = {"_op": pl.String(), **technical, "_unavailable": pl.List(pl.String()), **schema}
    return pl.DataFrame(rows, columns, orient="row")


class Silver:
    """A table of rows by key, kept by `Scd1`; checks every before-image against what the table holds."""

    def __init__(self, schema: dict[str, pl.DataType], keys: Sequence[str]) -> None:
        self.schema, self.keys = schema, keys
        self.table: dict[Row, Row] = {}
        self.seen: list[Event] = []
        self.restart()

    def restart(self) -> None:
        """Forget everything but the table and the staged deletes, as a process that starts again does."""
        columns = pl.Schema({**self.schema, **TECHNICAL})
        self.held = SlotRows(columns)
        self.state = Scd1(pl.Schema(self.schema), self.keys, self.held)
        rows = pl.DataFrame([*self.table.values()], columns, orient="row")
        self.held.put(self.state.load(rows.select(self.state.loaded_columns)), rows)
        deletes = [event for event in self.seen if event.op == "delete"]
        truncates = [event.sequence for event in self.seen if event.op == "truncate"]
        self.state.load_deletes(frame(deletes, self.schema), max(truncates, default=None))

    def merge(self, events: Sequence[Event]) -> Counts:
        plan = self.state.plan(frame(events, self.schema))
        gone = [*self._keyed(plan.changes.updated_from), *self._keyed(plan.changes.deleted)]
        for key, row in gone:
            assert self.table.pop(key) == row, "a before-image is not what the table held"
        came = [*self._keyed(plan.changes.updated_to), *self._keyed(plan.changes.inserted)]
        for key, row in came:
            assert key not in self.table, "inserted, but already there"
            self.table[key] = row
        self.state.apply(plan)
        self._commit(plan.changes)
        self.seen += events
        assert len(self.held) == len(self.table)
        assert sum(astuple(plan.counts)) == len(events)
        return plan.counts

    def _commit(self, changes: Changes) -> None:
        self.held.remove(changes.deleted_slots)
        self.held.put(changes.inserted_slots, changes.inserted)
        self.held.put(changes.updated_slots, changes.updated_to)

    def rows(self) -> set[Row]:
        return {row[: len(self.schema)] for row in self.table.values()}

    def rows_and_origins(self) -> set[Row]:
        """Return the declared columns, `_sequence`, `_partition` and `_offset` of every row."""
        width = len(self.schema)
        return {(*row[:width], row[width], row[width + 3], row[width + 4]) for row in self.table.values()}

    def _keyed(self, rows: pl.DataFrame) -> list[tuple[Row, Row]]:
        return list(zip(rows.select(self.keys).rows(), rows.rows(), strict=True))


def greatest(events: Iterable[Event]) -> set[Row]:
    """Compute `rows_and_origins` from all events at once."""
    events = list(events)
    floor = max((event.sequence for event in events if event.op == "truncate"), default=NEVER)
    best: dict[Row, Event] = {}
    for event in events:
        if event.op == "truncate" or event.sequence < floor:
            continue
        held = best.get(event.row[:2])
        if held is None or event.rank > held.rank:
            best[event.row[:2]] = event
    return {(*e.row, e.sequence, e.partition, e.offset) for e in best.values() if e.op == "upsert"}


def batches(events: Sequence[Event], chance: random.Random) -> Iterable[Sequence[Event]]:
    """Cut events into batches of random size, some of them empty."""
    start = 0
    while start < len(events):
        size = chance.choice([0, 1, 2, 5, 40])
        yield events[start : start + size]
        start += size


_KEY = st.sampled_from([("CH", 8001), ("CH", None), (None, 8001), ("", 8001), ("CH", 8002)])
_VALUE = st.sampled_from([None, "", "A", "B"])
_OP = st.sampled_from(["upsert"] * 15 + ["delete"] * 4 + ["truncate"])
_DRAWN = st.tuples(_OP, st.integers(-3, 12), st.integers(0, 2), _KEY, _VALUE, _VALUE, st.integers(0, 9))


def _history(drawn: list[tuple[str, int, int, Row, str | None, str | None, int]]) -> list[Event]:
    """Give every event its own offset; one in ten is a copy of an earlier one, at a position of its own or not."""
    events: list[Event] = []
    for offset, (op, sequence, partition, key, name, mayor, copy) in enumerate(drawn):
        if copy == 0 and events:
            earlier = events[sequence % len(events)]
            events.append(earlier if partition else replace(earlier, offset=offset))
        else:
            row = (None,) * 4 if op == "truncate" else (*key, name, mayor)
            events.append(Event(op, sequence, partition, offset, row))
    return events


HISTORIES = (st.lists(_DRAWN, max_size=20) | st.lists(_DRAWN, min_size=40, max_size=80)).map(_history)
ROW = ("CH", 8001, "Zürich", "Mauch")
OLD, YOUNG = Event("upsert", 1, 0, 0, ROW), Event("upsert", 7, 0, 1, ("CH", 8002, "Zürich", None))
WIPE = Event("truncate", 5, 0, 2, (None,) * 4)


@settings(deadline=None, max_examples=100)
@given(events=HISTORIES, seed=st.integers(0, 2**32), restarts=st.booleans())
def test_whatever_the_arrival_the_batching_and_the_restarts_the_greatest_event_of_a_key_is_its_row(
    events: list[Event], seed: int, *, restarts: bool
) -> None:
    chance = random.Random(seed)
    arrival = chance.sample(events, len(events))
    silver = Silver(CITIES, KEYS)
    for batch in batches(arrival, chance):
        silver.merge(batch)
        if restarts and chance.random() < 0.3:
            silver.restart()
    assert silver.rows_and_origins() == greatest(events)


def test_every_event_is_counted_once_for_what_became_of_it() -> None:
    silver = Silver(CITIES, KEYS)

    def counts(*events: tuple[str, int, int, str | None]) -> Row:
        """Merge (operation, sequence, offset, mayor) of one city; a truncate has no mayor."""
        city = ("CH", 8001, "Zürich")
        return astuple(silver.merge([Event(op, at, 0, offset, (*city, mayor)) for op, at, offset, mayor in events]))

    told = {
        "a row, and the same row again": counts(("upsert", 3, 0, "A"), ("upsert", 4, 1, "A")),
        "nothing changes": counts(("upsert", 5, 2, "A")),
        "behind": counts(("upsert", 1, 3, "B"), ("delete", 2, 4, None)),
        "the newest again": counts(("upsert", 5, 5, "A")),
        "the newest, but another row": counts(("upsert", 5, 6, "B")),
        "two rows at one sequence": counts(("upsert", 6, 7, "C"), ("upsert", 6, 8, "D")),
        "a delete wins over a third row": counts(("delete", 6, 9, None), ("upsert", 6, 10, "E")),
        "deleted again, later, then once more": counts(
            ("delete", 6, 11, None), ("delete", 7, 12, None), ("delete", 7, 12, None)
        ),
        "it comes back": counts(("upsert", 8, 13, "F")),
        "truncated, and so an event that was older": counts(("truncate", 9, 14, None), ("upsert", 8, 15, "G")),
        "a copy of what was truncated": counts(("upsert", 8, 16, "F")),
    }
    assert told == {
        #                                            applied, no_op, superseded, duplicate, ambiguous
        "a row, and the same row again": (1, 0, 1, 0, 0),
        "nothing changes": (0, 1, 0, 0, 0),
        "behind": (0, 0, 2, 0, 0),
        "the newest again": (0, 0, 0, 1, 0),
        "the newest, but another row": (0, 0, 0, 0, 1),
        "two rows at one sequence": (1, 0, 0, 0, 1),
        "a delete wins over a third row": (1, 0, 0, 0, 1),
        "deleted again, later, then once more": (0, 1, 0, 2, 0),
        "it comes back": (1, 0, 0, 0, 0),
        "truncated, and so an event that was older": (1, 0, 1, 0, 0),
        "a copy of what was truncated": (0, 0, 1, 0, 0),
    }
    assert silver.table == {}


def test_a_plan_that_is_never_applied_changes_nothing() -> None:
    silver = Silver(CITIES, KEYS)
    silver.merge([OLD, YOUNG])
    events = frame([replace(OLD, op="delete", sequence=9, offset=9), replace(WIPE, sequence=8)], CITIES)
    first, again = silver.state.plan(events), silver.state.plan(events)
    assert first.counts == again.counts == Counts(applied=2)
    assert first.changes.deleted.rows() == again.changes.deleted.rows()
    assert sorted(row[1] for row in first.changes.deleted.rows()) == [8001, 8002]
    assert silver.merge([replace(OLD, sequence=2, offset=10)]) == Counts(no_op=1)


_STEP = st.tuples(
    st.sampled_from(["upsert"] * 12 + ["delete"] * 2 + ["truncate"]),
    st.sampled_from([("CH", 8001), ("CH", None)]),
    _VALUE,
    _VALUE,
    st.sampled_from([(), ("mayor",), ("name",), ("name", "mayor")]),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(_STEP, max_size=10) | st.lists(_STEP, min_size=10, max_size=30), st.integers(0, 2**32))
def test_a_value_that_an_event_did_not_carry_stays_whatever_the_batching(
    steps: list[tuple[str, Row, str | None, str | None, tuple[str, ...]]], seed: int
) -> None:
    chance, silver = random.Random(seed), Silver(CITIES, KEYS)
    events: list[Event] = []
    expected: dict[Row, dict[str, Any]] = {}
    for at, (op, key, name, mayor, absent) in enumerate(steps):
        if op == "truncate":
            expected.clear()
            events.append(Event(op, at, 0, at, (None,) * 4))
        elif op == "delete":
            expected.pop(key, None)
            events.append(Event(op, at, 0, at, (*key, None, None)))
        else:
            sent = {"name": name, "mayor": mayor}
            held = expected.get(key, {})
            expected[key] = {column: held.get(column) if column in absent else sent[column] for column in sent}
            row = (None if column in absent else sent[column] for column in sent)
            events.append(Event(op, at, 0, at, (*key, *row), absent))
    for batch in batches(events, chance):
        silver.merge(chance.sample(batch, len(batch)))
        if chance.random() < 0.2:
            silver.restart()
    assert silver.rows() == {(*key, *values.values()) for key, values in expected.items()}


def _cases() -> list[Any]:
    if not CASES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"the acceptance cases are not at {CASES}"))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(CASES.read_text()) if case["scd"] == 1]


@pytest.mark.parametrize("case", _cases())
def test_acceptance_case_as_given_and_in_any_order_and_batching(case: dict[str, Any]) -> None:
    schema = parse_schema(case["columns"])
    given_batches: list[list[Event]] = []
    offset = 0
    for batch in case["batches"]:
        rows = [(each, tuple(each.get(name) for name in schema)) for each in batch]
        given_batches.append([Event(e["op"], e["seq"], 0, offset + at, row) for at, (e, row) in enumerate(rows)])
        offset += len(batch)
    expected = {tuple(row[name] for name in schema) for row in case["expected"]}
    as_given = Silver(schema, case["keys"])
    for batch in given_batches:
        as_given.merge(batch)
    assert as_given.rows() == expected
    for seed in range(20):
        chance, silver = random.Random(seed), Silver(schema, case["keys"])
        every = [event for batch in given_batches for event in batch]
        for cut in batches(chance.sample(every, len(every)), chance):
            silver.merge(cut)
        assert silver.rows() == expected, f"seed {seed}"
