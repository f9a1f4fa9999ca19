"""What is remembered beside a Silver table, kept as the side table is, without one."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from operators.keys.held_rows import Flags
from operators.keys.slot_rows import SlotRows
from operators.silver.remembered import Memory

Load = Callable[[pl.DataFrame, Flags], npt.NDArray[np.int64]]


class Side:
    """Remembered events by slot; `held` is what change detection looks into."""

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema
        self.held = SlotRows(schema)

    def __len__(self) -> int:
        return len(self.held)

    def commit(self, memory: Memory) -> None:
        assert self.held.present(memory.forgotten).all()
        self.held.remove(memory.forgotten)
        assert not self.held.present(memory.slots).any()
        self.held.put(memory.slots, memory.events)

    def restart(self, merged: Callable[[pl.DataFrame], Flags], seed: int = 1) -> Callable[[Load], None]:
        """Forget the slots, and return what gives the events others when they are loaded, in some order."""
        events = self.held.rows(self.held.slots()).sample(fraction=1, shuffle=True, seed=seed)
        self.held = SlotRows(self._schema)
        return lambda load: self.held.put(load(events, merged(events)), events)
