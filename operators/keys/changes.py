"""What a batch does to a table of keyed rows: the form in which one layer hands its work to the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from operators.keys.key_index import Slots


@dataclass(frozen=True, slots=True)
class Changes:
    """Whole rows that come, change and go, each with its slot; a slot is in at most one of the three.

    The slot of a row is that of its key, or in a history, where a key has several rows, one of its own.
    `updated_from` and `updated_to` have the same slots in the same order. All frames have the same columns.
    """

    inserted: pl.DataFrame
    inserted_slots: Slots
    updated_from: pl.DataFrame
    updated_to: pl.DataFrame
    updated_slots: Slots
    deleted: pl.DataFrame
    deleted_slots: Slots

    @property
    def before(self) -> pl.DataFrame:
        """The rows that are replaced or deleted."""
        return pl.concat([self.updated_from, self.deleted])

    @property
    def after(self) -> pl.DataFrame:
        """The rows that are new or take the place of others."""
        return pl.concat([self.inserted, self.updated_to])


def joined(parts: Sequence[Changes]) -> Changes:
    """Return the changes of all parts, no two of which have a slot in common."""
    if len(parts) == 1:
        return parts[0]
    return Changes(
        pl.concat([part.inserted for part in parts]),
        np.concatenate([part.inserted_slots for part in parts]),
        pl.concat([part.updated_from for part in parts]),
        pl.concat([part.updated_to for part in parts]),
        np.concatenate([part.updated_slots for part in parts]),
        pl.concat([part.deleted for part in parts]),
        np.concatenate([part.deleted_slots for part in parts]),
    )
