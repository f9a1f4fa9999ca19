"""Full snapshots of a table that someone else writes, and the protocol of all places that hold them.

A *full snapshot* is everything that a table had in it at one version. Which kind of number a version is, the place
says; the later snapshot has the greater one.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl


@dataclass(frozen=True, slots=True)
class FullSnapshot:
    """A full snapshot that is complete: its version, its name where it was found, and when it was written, in ms."""

    version: int
    name: str
    written_at: int


class FullSnapshots(Protocol):
    """A place with full snapshots. Used by one thread at a time; holds nothing open in between."""

    def complete(self, done: Collection[int]) -> Sequence[FullSnapshot]:
        """Return the complete snapshots whose versions are not among those `done`, by version.

        Raises SourceError when there is no such place or two snapshots say the same version, TransientError.
        """
        ...

    def parts(self, snapshot: FullSnapshot, columns: Collection[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows of a snapshot, file by file, in those of `columns` that are there; see `to_read`.

        Raises UnreadableSnapshotError, at any part: what came before it then is no snapshot. Raises TransientError.
        """
        ...


def to_read(found: Collection[str], wanted: Collection[str]) -> list[pl.Expr]:
    """Return what to read of the columns that are `found`: those that are `wanted`.

    Where one of these is missing, all: NULL stands for the others, so that a refusal can name them.
    """
    others = [] if {*wanted} <= {*found} else found
    names = dict.fromkeys(name for name in found if name in wanted or name in others)
    return [pl.col(name) if name in wanted else pl.lit(None).alias(name) for name in names]
