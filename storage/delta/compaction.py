"""Compaction: several small files become one, and rows that are gone are left behind.

1. Files of a similar number of live rows, within a factor of four, are a tier. When a tier has four files they become
   one, the smallest tier first: every row is written again once a tier, and few files are ever left.
2. Where no tier is full, files of which more than a fifth of the rows is gone are written anew.

Like the tiers of a log-structured merge tree (O'Neil and others, "The log-structured merge-tree", 1996).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from storage.delta.delta_actions import DataFile
from storage.delta.places import alive_rows
from storage.delta.table_files import MAX_ROWS, TableFiles

_FAN_IN = 4
_SMALLEST = 2_000  # live rows; files below are one tier
_GONE_SHARE = 0.2


class StaleCompactionError(Exception):
    """The files that were compacted are no longer what they were; nothing is lost, it is done again."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What became of some files: `written` holds their live rows, `rows`, in the order of `sources`.

    `alive` has the numbers of the live rows of each source, ascending.
    """

    sources: Sequence[DataFile]
    alive: Sequence[npt.NDArray[np.int64]]
    written: Sequence[DataFile]
    rows: pl.DataFrame


def live_rows(file: DataFile) -> int:
    """Return how many rows of a data file are part of the table."""
    return file.rows - (file.vector.cardinality if file.vector else 0)


def choose(files: Iterable[DataFile], enough: int) -> list[DataFile]:
    """Return the files to compact next, none when the table is in shape; files of `enough` live rows stay as they are.

    What is enough depends on how the table is used: a merge costs something for every file of its table, a scan hardly.
    """
    known = [file for file in files if file.rows >= 0]
    tiers: dict[int, list[DataFile]] = {}
    for file in known:
        if live_rows(file) < enough:
            tiers.setdefault(_tier(live_rows(file)), []).append(file)
    full = [tier for tier, members in tiers.items() if len(members) >= _FAN_IN]
    if full:
        return _up_to_limit(tiers[min(full)])
    return _up_to_limit([file for file in known if file.rows - live_rows(file) > _GONE_SHARE * file.rows])


def compact(files: TableFiles, sources: Sequence[DataFile], read: Callable[[DataFile], pl.DataFrame]) -> Compacted:
    """Write the live rows of some files, all of whose rows `read` returns, to a new one.

    Raises UnreadableTableError, TransientError.
    """
    alive, parts = [], []
    for source in sources:
        rows = read(source)
        live = alive_rows(rows.height, files.vector(source))
        alive.append(np.flatnonzero(live))
        parts.append(rows.filter(live))
    rows = pl.concat(parts, how="diagonal_relaxed")  # the table may have got more columns between two reads
    return Compacted(sources, alive, files.write_beside(rows), rows)


def _tier(live: int) -> int:
    return max(0, int(np.log(max(live, 1) / _SMALLEST) / np.log(_FAN_IN)) + 1) if live >= _SMALLEST else 0


def _up_to_limit(files: Sequence[DataFile]) -> list[DataFile]:
    """Return the first files that together stay below the largest size, and at least one where there is one."""
    totals = np.cumsum([live_rows(file) for file in files])
    return [file for file, total in zip(files, totals, strict=True) if total <= MAX_ROWS] or [*files[:1]]
