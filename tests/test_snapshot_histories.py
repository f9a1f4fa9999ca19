"""Histories of full snapshots, alone and beside a stream, with commits that fail and processes that end anywhere."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import Silver, Snapshots
from flows.history import History
from storage.errors import TransientError
from tests.faults import Outcome, fault
from tests.histories import Event, history
from tests.snapshot_feed import (
    SCHEMA,
    STREAM,
    A,
    B,
    C,
    CrashError,
    Feed,
    State,
    assert_each_offset_once,
    current,
    quarantined,
    table,
    take,
    things,
    value,
    versions,
    write,
)


def events_between(before: State, after: State, version: int) -> Iterator[tuple[int, Event]]:
    """Yield what makes one snapshot into the next, as dull Python."""
    for key in sorted({*before, *after}):
        if key not in after:
            yield key, Event("delete", version, 0)
        elif before.get(key) != after[key]:
            yield key, Event("upsert", version, 0, after[key])


_states = st.dictionaries(st.integers(0, 9), st.sampled_from([A, B, C]))
_crashes = st.none() | st.tuples(st.integers(1, 6), st.booleans())


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(_states, st.booleans(), _crashes), min_size=1, max_size=6), st.sampled_from(["scd1", "scd2"]))
def test_any_snapshots_and_any_crashes_give_the_newest_snapshot_and_its_history(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[State, bool, tuple[int, bool] | None]],
    kind: History,
) -> None:
    """A snapshot is older than one that was taken in, or newer; an older one is refused, and said so once."""
    root = tmp_path_factory.mktemp("snapshots")
    silver, newest, held = things(root, history=kind), 0, dict[int, Any]()
    events: dict[int, list[Event]] = {}
    late: list[int] = []
    crashed = True
    for state, is_late, crash in steps:
        if is_late and not crashed:
            late.append(newest - 1 - len(late) % 10)
        else:
            newest += 100
            for key, event in events_between(held, state, newest):
                events.setdefault(key, []).append(event)
            held = {**state}
        write(root, late[-1] if is_late and not crashed else newest, state)
        try:
            Feed(silver, root).take(*([crash[0]] if crash else []), merge_last=not crash or crash[1])
            crashed = False
        except CrashError:
            crashed = True
    Feed(silver, root).take()
    assert_each_offset_once(table(root, "staging/things"))
    if kind == "scd1":
        assert current(root, "kind", "note") == held
    else:
        made = {key: history(own, 2, [0, 1]) for key, own in events.items()}
        assert versions(root, "kind", "note") == made
    refused = [(json.loads(row["headers"]), row["value"]) for row in table(root, "quarantine/things").to_dicts()]
    names = {f"v={version}.parquet" for version in late}
    assert sorted(value.decode() for _, value in refused) == sorted(names)
    assert all(headers == [["snapshot", value.decode()]] for headers, value in refused)


_streamed = st.tuples(
    st.just("stream"), st.integers(0, 4), st.sampled_from(["upsert", "upsert", "delete"]), st.sampled_from([A, B, C])
)
_taken = st.tuples(st.just("snapshot"), _states, st.integers(-1, 12), st.none() | st.integers(1, 3))


@settings(deadline=None, max_examples=15)
@given(st.lists(_streamed | _taken, min_size=2, max_size=14), st.sampled_from(["scd1", "scd2"]))
def test_snapshots_beside_a_stream_in_any_order_are_events_like_any_other(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], kind: History
) -> None:
    """The stream's sequence is its position, and a snapshot says with its version up to which it knows the stream."""
    root = tmp_path_factory.mktemp("beside")
    initial = Snapshots(str(root / "exports"), versions="v={integer}.parquet")
    silver = Silver("things", source=STREAM, initial=initial, schema=SCHEMA, keys=["id"], history=kind)
    (root / "exports").mkdir()
    events: dict[int, list[Event]] = {}
    streamed, newest, held = 0, -1, dict[int, Any]()
    for step in steps:
        if step[0] == "stream":
            _, key, op, row = step
            event = Event(op, streamed, 1_000 + streamed, row if op == "upsert" else ())
            Feed(silver, root).stream([value(event, key)])
            events.setdefault(key, []).append(event)
            streamed += 1
            continue
        _, state, more, crash = step
        newest = max(newest + 1, more)
        for key, event in events_between(held, state, newest):
            events.setdefault(key, []).append(event)
        held = {**state}
        write(root, newest, state)
        with suppress(CrashError):
            Feed(silver, root).take(*([crash] if crash else []))
        Feed(silver, root).take()
    assert_each_offset_once(table(root, "staging/things"))
    made = {key: found for key, own in events.items() if (found := history(own, 2, [0, 1]))}
    if kind == "scd2":
        assert versions(root, "kind", "note") == made
    else:
        open_rows = {key: own[-1].row for key, own in made.items() if own[-1].valid_to is None}
        assert current(root, "kind", "note") == open_rows


@pytest.mark.parametrize("outcome", ["lost", "unanswered", "unsure"])
@pytest.mark.parametrize("broken", ["staging/things", "silver/things", "silver/things__side", "quarantine/things"])
def test_a_commit_that_raised_changes_no_row(tmp_path: Path, broken: str, outcome: Outcome) -> None:
    silver = things(tmp_path, history="scd2", track=["kind"])
    states: list[State] = [{1: A, 2: A, 3: A, 4: A}, {1: B, 2: ("a", "z"), 4: A}, {1: B, 3: C}, {1: A, 2: C}]
    for version, state in enumerate(states):
        write(tmp_path, version, state)
        if not version:
            take(silver, tmp_path)
            continue
        pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "exports/v=99.parquet")
        with suppress(TransientError), fault(outcome, tmp_path / "lake" / broken, times=1 + version % 2):
            take(silver, tmp_path)
        (tmp_path / "exports/v=99.parquet").unlink()
    take(silver, tmp_path)
    events: dict[int, list[Event]] = {}
    for version, (before, after) in enumerate(zip([{}, *states], states, strict=False)):
        for key, event in events_between(before, after, version):
            events.setdefault(key, []).append(event)
    assert versions(tmp_path, "kind", "note") == {key: history(own, 2, [0]) for key, own in events.items()}
    assert_each_offset_once(table(tmp_path, "staging/things"))
    assert [value for value, _ in quarantined(tmp_path)] == ["v=99.parquet"]
