"""The laws of histories: 5 keys, 80 events each, in any order, with everything that goes wrong.

Of the events a fifth are deletes, of the others a quarter of the values are NULL; one in seven comes a second time.
"""

import random
from itertools import pairwise

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.keys.slot_rows import SlotRows
from operators.order import Order
from operators.silver.scd1 import Scd1
from operators.silver.technical import technical
from tests.histories import Event
from tests.side import Side
from tests.test_scd1 import NUMBER
from tests.test_scd2 import SCHEMA, Keyed, Silver, batches, expected, frame

_KEYS, _EVENTS = 5, 80


def _stream(chance: random.Random) -> list[Keyed]:
    """Return events of all keys in the order of their positions; some sequences are taken twice."""
    found: list[Keyed] = []
    for position in range(_KEYS * _EVENTS):
        if found and chance.random() < 0.15:
            key, earlier = chance.choice(found)
            found.append((key, Event(earlier.op, earlier.sequence, position, earlier.row, earlier.absent)))
            continue
        values = (chance.randrange(3), chance.randrange(3), chance.choice("xyz"))
        row = tuple(None if chance.random() < 0.25 else value for value in values)
        absent = frozenset(chance.sample(range(3), chance.choice([0, 0, 0, 1, 2])))
        is_delete = chance.random() < 0.2
        event = Event("delete", 0, position) if is_delete else Event("upsert", 0, position, row, absent)
        found.append(
            ((chance.randrange(_KEYS),), Event(event.op, chance.randrange(300), position, event.row, event.absent))
        )
    return found


class _Current:
    """SCD1 of the same events."""

    def __init__(self) -> None:
        self._held = SlotRows(pl.Schema({**SCHEMA, **technical(NUMBER)}))
        self._side = Side(frame([], SCHEMA, ["key"]).schema)
        self._scd1 = Scd1(pl.Schema(SCHEMA), ["key"], self._held, self._side.held, Order())

    def merge(self, events: list[Keyed]) -> None:
        plan = self._scd1.plan(frame(events, SCHEMA, ["key"]))
        self._side.commit(plan.memory)
        self._scd1.apply(plan)
        self._held.remove(plan.changes.deleted_slots)
        slots = np.concatenate([plan.changes.inserted_slots, plan.changes.updated_slots])
        self._held.put(slots, plan.changes.after)

    def rows(self) -> pl.DataFrame:
        return self._held.rows(self._held.slots()).select(*SCHEMA).sort("key")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_long_histories_obey_the_laws_whatever_the_arrival_the_batching_and_the_restarts(seed: int) -> None:
    chance = random.Random(seed)
    events = _stream(chance)
    history, current = Silver(SCHEMA), _Current()
    for batch in batches(chance.sample(events, len(events)), chance):
        history.merge(batch)
        current.merge([*batch])
        if chance.random() < 0.05:
            history.restart()
    versions = history.versions()
    assert versions == expected(events, None)
    for key, own in versions.items():
        assert all(each.valid_to is None or each.valid_from < each.valid_to for each in own)
        assert [each.valid_to for each in own].count(None) <= 1, "one row is open at the most"
        deleted = {event.sequence for each, event in events if each == key and event.op == "delete"}
        for one, other in pairwise(own):
            assert one.valid_to is not None
            assert one.valid_to <= other.valid_from, "no two are valid at once"
            assert one.valid_to == other.valid_from or one.valid_to in deleted, "a gap begins with a delete"
            assert one.valid_to < other.valid_from or one.row != other.row, "equal states are one row"
    is_open = history.rows.filter("is_current").select(*SCHEMA).sort("key")
    assert is_open.equals(current.rows()), "SCD1 has the open rows"
