"""The history that events make, against a dull oracle."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from operators.silver.rank import Rank
from operators.silver.timeline import Timeline, timeline
from tests.histories import Event, Version, history

COLUMNS = ["a", "b", "c"]
KEYS = 5
VALUES = st.sampled_from([None, 1, 2])


@st.composite
def histories(draw: st.DrawFn) -> dict[int, list[Event]]:
    """Give events of some keys, in an order of arrival that says nothing; ties included."""
    found: dict[int, list[Event]] = {}
    for position in range(draw(st.integers(0, 60))):
        op = draw(st.sampled_from(["upsert"] * 4 + ["delete"]))
        row = tuple(draw(VALUES) for _ in COLUMNS) if op == "upsert" else (None,) * len(COLUMNS)
        absent = draw(st.sampled_from([(), (), (), (0,), (1, 2)])) if op == "upsert" else ()
        event = Event(op, draw(st.integers(0, 12)), position, row, frozenset(absent))
        found.setdefault(draw(st.integers(0, KEYS - 1)), []).append(event)
    return found


def timeline_of(found: dict[int, list[Event]], tracked: list[str]) -> Timeline:
    rows = [(key, event) for key, events in found.items() for event in events]
    frame = pl.DataFrame(
        [(e.op, e.sequence, 0, e.position, [COLUMNS[i] for i in sorted(e.absent)] or None, *e.row) for _, e in rows],
        {
            "_op": pl.String,
            "_sequence": pl.Int64,
            "_partition": pl.Int32,
            "_offset": pl.Int64,
            "_unavailable": pl.List(pl.String),
            **dict.fromkeys(COLUMNS, pl.Int64()),
        },
        orient="row",
    )
    slots = np.array([key for key, _ in rows], np.int64)
    ranks = Rank.of(frame, (frame["_op"] == "delete").to_numpy())
    order = ranks.order(slots)
    ranks = ranks.at(order)
    return timeline(frame[order], slots[order], ranks, ranks.sequence, COLUMNS, tracked)


def versions_of(found: Timeline) -> dict[int, list[Version]]:
    versions: dict[int, list[Version]] = {}
    values = found.events[COLUMNS][found.row].rows()
    parts = zip(found.slots, values, found.valid_from, found.valid_to, found.is_open, strict=True)
    for slot, row, start, end, is_open in parts:
        versions.setdefault(int(slot), []).append(Version(row, int(start), None if is_open else int(end)))
    return versions


@given(found=histories(), tracked=st.sets(st.sampled_from(COLUMNS)))
def test_versions_are_those_of_one_event_after_the_other(found: dict[int, list[Event]], tracked: set[str]) -> None:
    names = [name for name in COLUMNS if name in tracked]
    places = [COLUMNS.index(name) for name in names]
    expected = {key: history(events, len(COLUMNS), places) for key, events in sorted(found.items())}
    got = versions_of(timeline_of(found, names))
    assert got == {key: versions for key, versions in expected.items() if versions}


@given(found=histories(), tracked=st.sets(st.sampled_from(COLUMNS)))
def test_what_is_shown_or_remembered_is_all_there_is_to_know(found: dict[int, list[Event]], tracked: set[str]) -> None:
    """Without the events that are neither, the history is the same."""
    names = [name for name in COLUMNS if name in tracked]
    made = timeline_of(found, names)
    kept = made.hidden.copy()
    kept[made.row] = True
    positions = set(made.events["_offset"].to_numpy()[kept].tolist())
    less = {key: [e for e in events if e.position in positions] for key, events in found.items()}
    assert versions_of(timeline_of({k: v for k, v in less.items() if v}, names)) == versions_of(made)
