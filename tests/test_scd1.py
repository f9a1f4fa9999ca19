"""SCD1 against a dull oracle: the greatest event of a key is its row, however the events arrive."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.keys.changes import Changes
from operators.keys.held_rows import Flags
from operators.keys.slot_rows import SlotRows
from operators.order import Order
from operators.schema import parse_schema
from operators.sequences import NEVER, from_values, to_column
from operators.silver.outcomes import Counts
from operators.silver.scd1 import Scd1
from operators.silver.technical import technical
from tests.side import Side

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

    def rank(self, first_stands: bool) -> tuple[int, bool, int, int]:  # noqa: FBT001 - as a sort key
        sign = -1 if first_stands else 1
        return self.sequence, self.op == "delete", sign * self.partition, sign * self.offset


NUMBER, PAIR = pl.Int64(), pl.Struct({"high": pl.Int16(), "low": pl.Int64()})


def frame(events: Iterable[Event], schema: dict[str, pl.DataType], sequence: pl.DataType = NUMBER) -> pl.DataFrame:
    rows = [(e.op, e.sequence, "cities", e.partition, e.offset, None, [*e.absent] or None, *e.row) for e in events]
    names = ("_sequence", "_topic", "_partition", "_offset", "_changed_at")
    columns = {"_op": pl.String(), **{name: technical(NUMBER)[name] for name in names}}
    made = pl.DataFrame(rows, {**columns, "_unavailable": pl.List(pl.String()), **schema}, orient="row")
    return made.with_columns(stored(made["_sequence"], sequence))


def stored(numbers: pl.Series, sequence: pl.DataType) -> pl.Series:
    """Return numbers as sequences; as pairs they have the same order."""
    if sequence == NUMBER:
        return numbers
    pairs = pl.DataFrame({"high": numbers // 4, "low": numbers % 4}).cast({"high": pl.Int16})
    return to_column(from_values(pairs.to_struct().cast(PAIR)))


class Silver:
    """A table of rows by key, kept by `Scd1`; checks every before-image against what the table holds."""

    def __init__(self, schema: dict[str, pl.DataType], keys: Sequence[str], order: Order = Order()) -> None:
        self.schema, self.keys, self.order = schema, keys, order
        self.table: dict[Row, Row] = {}
        self.merged: set[tuple[int, int]] = set()
        self.pairs: list[Row] = []
        self.side = Side(frame([], schema, order.sequence).schema)
        self.restart()

    def restart(self) -> None:
        """Forget everything but the table and what is remembered, as a process that starts again does."""
        columns = pl.Schema({**self.schema, **technical(self.order.sequence)})
        self.held = SlotRows(columns)
        load_side = self.side.restart(self._is_merged, seed=len(self.merged))
        self.state = Scd1(pl.Schema(self.schema), self.keys, self.held, self.side.held, self.order)
        rows = pl.DataFrame([*self.table.values()], columns, orient="row")
        self.held.put(self.state.load(rows.select(self.state.loaded_columns)), rows)
        load_side(self.state.load_remembered)

    def _is_merged(self, events: pl.DataFrame) -> Flags:
        return np.array([row in self.merged for row in events.select("_partition", "_offset").iter_rows()], bool)

    def merge(self, events: Sequence[Event], *, crash: bool = False) -> Counts:
        """Merge events; with a `crash`, what is remembered is committed and the rows are not."""
        plan = self.state.plan(frame(events, self.schema, self.order.sequence))
        self.side.commit(plan.memory)
        if crash:
            self.restart()
            return Counts()
        gone = [*self._keyed(plan.changes.updated_from), *self._keyed(plan.changes.deleted)]
        for key, row in gone:
            assert self.table.pop(key) == row, "a before-image is not what the table held"
        came = [*self._keyed(plan.changes.updated_to), *self._keyed(plan.changes.inserted)]
        for key, row in came:
            assert key not in self.table, "inserted, but already there"
            self.table[key] = row
        self.state.apply(plan)
        self._commit(plan.changes)
        self.merged |= {(event.partition, event.offset) for event in events}
        self.pairs += plan.outcome.pairs.rows()
        counts = plan.outcome.counts
        assert len(self.held) == len(self.table)
        assert sum(astuple(counts)) == len(events)
        assert plan.outcome.pairs.height == counts.ambiguous
        return counts

    def _commit(self, changes: Changes) -> None:
        self.held.remove(changes.deleted_slots)
        self.held.put(changes.inserted_slots, changes.inserted)
        self.held.put(changes.updated_slots, changes.updated_to)

    def rows(self) -> set[Row]:
        return {row[: len(self.schema)] for row in self.table.values()}

    def _keyed(self, rows: pl.DataFrame) -> list[tuple[Row, Row]]:
        return list(zip(rows.select(self.keys).rows(), rows.rows(), strict=True))


def current(events: Iterable[Event], *, first_stands: bool = False) -> set[Row]:
    """Compute the rows from all events at once, one event after the other in order of rank."""
    events = list(events)
    floor = max((event.sequence for event in events if event.op == "truncate"), default=NEVER)
    names = list(CITIES)
    rows: dict[Row, Row] = {}
    for event in sorted(events, key=lambda event: event.rank(first_stands)):
        key = event.row[:2]
        if event.op == "truncate" or event.sequence < floor:
            continue
        if event.op == "delete":
            rows.pop(key, None)
        else:
            held = rows.get(key, (None,) * len(names))
            parts = zip(names, held, event.row, strict=True)
            rows[key] = tuple(old if name in event.absent else new for name, old, new in parts)
    return set(rows.values())


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
_ABSENT = st.sampled_from([(), (), (), ("mayor",), ("name",), ("name", "mayor")])
_DRAWN = st.tuples(_OP, st.integers(-3, 12), st.integers(0, 2), _KEY, _VALUE, _VALUE, _ABSENT, st.integers(0, 9))


def _history(drawn: list[tuple[str, int, int, Row, str | None, str | None, tuple[str, ...], int]]) -> list[Event]:
    """Give every event its own offset; one in ten is a copy of an earlier one, at a position of its own or not."""
    events: list[Event] = []
    for offset, (op, sequence, partition, key, name, mayor, absent, copy) in enumerate(drawn):
        if copy == 0 and events:
            earlier = events[sequence % len(events)]
            events.append(earlier if partition else replace(earlier, offset=offset))
        else:
            events.append(_carried(Event(op, sequence, partition, offset, (*key, name, mayor), absent)))
    return events


def _carried(event: Event) -> Event:
    """Return an event with nothing in it that its operation has not."""
    match event.op:
        case "truncate":
            return replace(event, row=(None,) * 4, absent=())
        case "delete":
            return replace(event, row=(*event.row[:2], None, None), absent=())
        case _:
            sent = (None if name in event.absent else value for name, value in zip(CITIES, event.row, strict=True))
            return replace(event, row=tuple(sent))


HISTORIES = (st.lists(_DRAWN, max_size=20) | st.lists(_DRAWN, min_size=40, max_size=80)).map(_history)
ROW = ("CH", 8001, "Zürich", "Mauch")
OLD, YOUNG = Event("upsert", 1, 0, 0, ROW), Event("upsert", 7, 0, 1, ("CH", 8002, "Zürich", None))
WIPE = Event("truncate", 5, 0, 2, (None,) * 4)


@settings(deadline=None, max_examples=200)
@given(
    events=HISTORIES,
    seed=st.integers(0, 2**32),
    order=st.builds(Order, st.sampled_from([NUMBER, NUMBER, PAIR]), st.booleans()),
    restarts=st.booleans(),
    crashes=st.booleans(),
)
def test_whatever_the_arrival_the_batching_the_restarts_and_the_crashes_the_rows_are_those_of_all_events_in_order(
    events: list[Event], seed: int, order: Order, *, restarts: bool, crashes: bool
) -> None:
    chance = random.Random(seed)
    arrival = chance.sample(events, len(events))
    silver = Silver(CITIES, KEYS, order)
    for batch in batches(arrival, chance):
        if crashes and chance.random() < 0.3:
            silver.merge(batch[: chance.randrange(len(batch) + 1)], crash=True)
        silver.merge(batch)
        if restarts and chance.random() < 0.3:
            silver.restart()
    assert silver.rows() == current(events, first_stands=order.first_stands)
    silver.merge([Event("truncate", 99, 0, 10**6, (None,) * 4)])
    silver.merge([Event("delete", 99, 0, 10**6 + 1, ("CH", 8001, None, None))])
    assert len(silver.side) == 2, "a truncate leaves nothing to be remembered but itself, and the tombstone after it"


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
    assert first.outcome.counts == again.outcome.counts == Counts(applied=2)
    assert first.changes.deleted.rows() == again.changes.deleted.rows()
    assert sorted(row[1] for row in first.changes.deleted.rows()) == [8001, 8002]
    assert silver.merge([replace(OLD, sequence=2, offset=10)]) == Counts(no_op=1)


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
