"""SCD2 against a dull oracle: the history of every key, however its events arrive and whoever forgets what."""

import json
import random
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.keys.slot_rows import SlotRows
from operators.order import Order
from operators.schema import parse_schema
from operators.silver.outcomes import Counts
from operators.silver.scd1 import Scd1
from operators.silver.scd2 import Scd2, history_columns
from operators.silver.technical import technical
from tests.histories import Event, Row, Version, history
from tests.side import Side
from tests.test_scd1 import NUMBER, PAIR, stored

CASES = Path(__file__).parents[2] / "shared" / "cases" / "silver.json"
SCHEMA = parse_schema({"key": "int64", "a": "int64", "b": "int64", "c": "string"})
VALUES = ["a", "b", "c"]
Keyed = tuple[Row, Event]


def frame(
    events: Sequence[Keyed], schema: dict[str, pl.DataType], keys: Sequence[str], sequence: pl.DataType = NUMBER
) -> pl.DataFrame:
    others = [name for name in schema if name not in keys]
    rows = []
    for key, e in events:
        values = dict(zip(keys, key, strict=True)) | dict(zip(others, e.row or (None,) * len(others), strict=True))
        absent = [others[i] for i in sorted(e.absent)] or None
        rows.append((e.op, e.sequence, "t", 0, e.position, None, absent, *(values[name] for name in schema)))
    names = ("_sequence", "_topic", "_partition", "_offset", "_changed_at")
    columns = {"_op": pl.String(), **{name: technical(NUMBER)[name] for name in names}}
    made = pl.DataFrame(rows, {**columns, "_unavailable": pl.List(pl.String()), **schema}, orient="row")
    return made.with_columns(stored(made["_sequence"], sequence))


class Silver:
    """A history table and what is remembered beside it, kept by `Scd2`."""

    def __init__(
        self,
        schema: dict[str, pl.DataType],
        keys: Sequence[str] = ("key",),
        tracked: Sequence[str] | None = None,
        sequence: pl.DataType = NUMBER,
    ) -> None:
        self.schema, self.keys, self.tracked, self.sequence = schema, list(keys), tracked, sequence
        self.columns = pl.Schema({**schema, **history_columns(sequence), **technical(sequence)})
        self.rows = pl.DataFrame(schema=self.columns)
        self.side = Side(frame([], schema, self.keys, sequence).schema)
        self.restart()

    def restart(self) -> None:
        """Forget everything but the two tables, whose rows may stand in any order."""
        self.held, load_side = (
            SlotRows(self.columns),
            self.side.restart(lambda events: np.ones(events.height, bool), len(self.side)),
        )
        order = Order(self.sequence)
        self.state = Scd2(pl.Schema(self.schema), self.keys, self.held, self.side.held, order, tracked=self.tracked)
        for part in self.rows.sample(fraction=1, shuffle=True, seed=1).iter_slices(7):
            self.held.put(self.state.load(part.select(self.state.loaded_columns)), part)
        load_side(self.state.load_remembered)

    def merge(self, events: Sequence[Keyed]) -> Counts:
        plan = self.state.plan(frame(events, self.schema, self.keys, self.sequence))
        changes = plan.changes
        gone = pl.concat([changes.updated_from, changes.deleted])
        left = self.rows.join(gone, on=self.rows.columns, how="anti", nulls_equal=True)
        assert left.height == self.rows.height - gone.height, "a before-image is not what the table held"
        self.rows = pl.concat([left, changes.updated_to, changes.inserted])
        self.side.commit(plan.memory)
        self.state.apply(plan)
        self.held.remove(changes.deleted_slots)
        self.held.put(changes.inserted_slots, changes.inserted)
        self.held.put(changes.updated_slots, changes.updated_to)
        counts = plan.outcome.counts
        assert sum(astuple(counts)) == len(events)
        assert plan.outcome.pairs.height == counts.ambiguous
        return counts

    def versions(self) -> dict[Row, list[Version]]:
        """Return the versions of each key, its own columns left out."""
        others = [name for name in self.schema if name not in self.keys]
        found: dict[Row, list[Version]] = {}
        for row in self.rows.sort("valid_from").iter_rows(named=True):
            assert row["is_current"] == (row["valid_to"] is None)
            ends = None if row["is_current"] else number(row["valid_to"])
            version = Version(tuple(row[name] for name in others), number(row["valid_from"]), ends)
            found.setdefault(tuple(row[name] for name in self.keys), []).append(version)
        return found


def number(sequence: int | dict[str, int]) -> int:
    """Return the number that a sequence was made of."""
    return sequence if isinstance(sequence, int) else 4 * sequence["high"] + sequence["low"]


def batches(events: Sequence[Keyed], chance: random.Random) -> list[Sequence[Keyed]]:
    parts, start = [], 0
    while start < len(events):
        size = chance.choice([1, 2, 5, 40])
        parts.append(events[start : start + size])
        start += size
    return parts


def expected(events: Sequence[Keyed], tracked: Sequence[str] | None) -> dict[Row, list[Version]]:
    truncates = [event for _, event in events if event.op == "truncate"]
    by_key: dict[Row, list[Event]] = {}
    for key, event in events:
        if event.op != "truncate":
            by_key.setdefault(key, [*truncates]).append(event)
    places = [VALUES.index(name) for name in tracked or VALUES]
    found = {key: history(own, len(VALUES), places) for key, own in by_key.items()}
    return {key: versions for key, versions in found.items() if versions}


@st.composite
def streams(draw: st.DrawFn) -> list[Keyed]:
    """Give events of 5 keys: a fifth deletes, some copies, some partial, a few truncates; sequences may be the same."""
    found: list[Keyed] = []
    for position in range(draw(st.integers(0, 25) | st.integers(60, 120))):
        if found and draw(st.integers(0, 6)) == 0:
            key, earlier = found[draw(st.integers(0, len(found) - 1))]
            found.append((key, Event(earlier.op, earlier.sequence, position, earlier.row, earlier.absent)))
            continue
        if draw(st.integers(0, 30)) == 0:
            found.append(((None,), Event("truncate", draw(st.integers(-3, 12)), position)))
            continue
        delete = draw(st.integers(0, 4)) == 0
        number = st.sampled_from([None, 1, 2])
        row = () if delete else (draw(number), draw(number), draw(st.sampled_from([None, "", "x"])))
        absent = frozenset[int]() if delete else frozenset(draw(st.sampled_from([(), (), (), (0,), (1, 2)])))
        event = Event("delete" if delete else "upsert", draw(st.integers(-3, 12)), position, row, absent)
        found.append(((draw(st.integers(0, 4)),), event))
    return found


TRACKED = st.sampled_from([None, ["a"], ["a", "c"]])


@settings(deadline=None, max_examples=150)
@given(
    events=streams(),
    tracked=TRACKED,
    sequence=st.sampled_from([NUMBER, NUMBER, PAIR]),
    seed=st.integers(0, 2**32),
    restarts=st.booleans(),
)
def test_whatever_the_arrival_the_batching_and_the_restarts_the_history_is_the_same(
    events: list[Keyed], tracked: list[str] | None, sequence: pl.DataType, seed: int, *, restarts: bool
) -> None:
    chance, silver = random.Random(seed), Silver(SCHEMA, tracked=tracked, sequence=sequence)
    for batch in batches(chance.sample(events, len(events)), chance):
        silver.merge(batch)
        if restarts and chance.random() < 0.3:
            silver.restart()
    assert silver.versions() == expected(events, tracked)


@settings(deadline=None, max_examples=100)
@given(events=streams(), seed=st.integers(0, 2**32))
def test_the_open_rows_are_those_of_scd1(events: list[Keyed], seed: int) -> None:
    chance, silver = random.Random(seed), Silver(SCHEMA)
    held, side = SlotRows(pl.Schema({**SCHEMA, **technical(NUMBER)})), Side(frame([], SCHEMA, ["key"]).schema)
    scd1 = Scd1(pl.Schema(SCHEMA), ["key"], held, side.held)
    for batch in batches(chance.sample(events, len(events)), chance):
        silver.merge(batch)
        plan = scd1.plan(frame(batch, SCHEMA, ["key"]))
        side.commit(plan.memory)
        scd1.apply(plan)
        held.remove(plan.changes.deleted_slots)
        held.put(np.concatenate([plan.changes.inserted_slots, plan.changes.updated_slots]), plan.changes.after)
    current = silver.rows.filter("is_current").select(*SCHEMA)
    assert sorted(current.rows(), key=str) == sorted(held.rows(held.slots()).select(*SCHEMA).rows(), key=str)


def test_every_event_is_counted_once_for_what_became_of_it() -> None:
    silver = Silver(SCHEMA)

    def counts(*events: tuple[str, int, int, str | None]) -> Row:
        """Merge (operation, sequence, position, c) of one key."""
        return astuple(silver.merge([((7,), Event(op, at, place, (1, 2, c))) for op, at, place, c in events]))

    told = {
        "two rows of history": counts(("upsert", 3, 0, "A"), ("upsert", 5, 1, "B")),
        "late, between them": counts(("upsert", 4, 2, "C")),
        "late, before all": counts(("upsert", 1, 3, "D")),
        "nothing changes": counts(("upsert", 6, 4, "B")),
        "late, in a run, which it splits": counts(("upsert", 5, 5, "B"), ("delete", 5, 6, None)),
        "a copy, and another row": counts(("upsert", 3, 7, "A"), ("upsert", 1, 8, "E")),
        "deleted again": counts(("delete", 5, 9, None)),
        "a delete of what is not there": counts(("delete", 0, 10, None)),
        "behind a delete at its sequence": counts(("upsert", 5, 11, "F")),
        "truncated": counts(("truncate", 9, 12, None), ("upsert", 8, 13, "G")),
    }
    assert told == {
        #                                    applied, no_op, superseded, duplicate, ambiguous
        "two rows of history": (2, 0, 0, 0, 0),
        "late, between them": (1, 0, 0, 0, 0),
        "late, before all": (1, 0, 0, 0, 0),
        "nothing changes": (0, 1, 0, 0, 0),
        "late, in a run, which it splits": (1, 0, 0, 1, 0),
        "a copy, and another row": (0, 0, 0, 1, 1),
        "deleted again": (0, 0, 0, 1, 0),
        "a delete of what is not there": (0, 1, 0, 0, 0),
        "behind a delete at its sequence": (0, 0, 1, 0, 0),
        "truncated": (2, 0, 0, 0, 0),
    }
    assert [(v.row[2], v.valid_from, v.valid_to) for v in silver.versions()[(7,)]] == [
        ("E", 1, 3),
        ("A", 3, 4),
        ("C", 4, 5),
        ("B", 6, 8),
        ("G", 8, 9),
    ]


def test_a_plan_that_is_never_applied_changes_nothing() -> None:
    silver = Silver(SCHEMA)
    silver.merge([((1,), Event("upsert", 3, 0, (1, 1, "A"))), ((2,), Event("upsert", 3, 1, (1, 1, "B")))])
    late = frame([((1,), Event("upsert", 2, 2, (1, 1, "C"))), ((None,), Event("truncate", 9, 3))], SCHEMA, ["key"])
    first, again = silver.state.plan(late), silver.state.plan(late)
    assert first.outcome.counts == again.outcome.counts == Counts(applied=2)
    assert first.changes.updated_to.rows() == again.changes.updated_to.rows()
    assert silver.merge([((1,), Event("upsert", 3, 0, (1, 1, "A")))]) == Counts(duplicate=1)


def _cases() -> list[Any]:
    if not CASES.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"the acceptance cases are not at {CASES}"))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(CASES.read_text()) if case["scd"] == 2]


@pytest.mark.parametrize("case", _cases())
def test_acceptance_case_as_given_and_in_any_order_and_batching(case: dict[str, Any]) -> None:
    schema = parse_schema(case["columns"])
    others = [name for name in schema if name not in case["keys"]]
    given_batches: list[list[Keyed]] = []
    position = 0
    for batch in case["batches"]:
        given_batches.append([])
        for each in batch:
            row = tuple(each.get(name) for name in others) if each["op"] == "upsert" else ()
            key = tuple(each[name] for name in case["keys"])
            given_batches[-1].append((key, Event(each["op"], each["seq"], position, row)))
            position += 1
    wanted: dict[Row, list[Version]] = {}
    for row in sorted(case["expected"], key=lambda row: row["valid_from"]):
        version = Version(tuple(row[name] for name in others), row["valid_from"], row["valid_to"])
        wanted.setdefault(tuple(row[name] for name in case["keys"]), []).append(version)
    as_given = Silver(schema, case["keys"], case["track"])
    for batch in given_batches:
        as_given.merge(batch)
    assert as_given.versions() == wanted
    for seed in range(20):
        chance, silver = random.Random(seed), Silver(schema, case["keys"], case["track"])
        every = [event for batch in given_batches for event in batch]
        for cut in batches(chance.sample(every, len(every)), chance):
            silver.merge(cut)
        assert silver.versions() == wanted, f"seed {seed}"
