"""Taking full snapshots in, one after the other: which comes next, and what it changes."""

import logging

import polars as pl

from flows.lake import Lake
from flows.reading.snapshot_step import REFUSED, TAKEN, Step, snapshot_partition
from flows.silver import Silver
from flows.snapshots import Snapshots
from operators.events import Columns, sequence_of
from operators.silver.snapshot_diff import Diff, diff
from operators.silver.snapshot_rows import MisfitError, snapshot_rows
from storage.errors import UnreadableSnapshotError
from storage.snapshots.full_snapshots import FullSnapshot
from storage.staged_state import read_fates, read_newest

_log = logging.getLogger("goldwax")


class Taking:
    """Makes the snapshots of one Silver table into steps. Used by one thread at a time.

    What a snapshot is compared with is read from staging: what the events of the snapshots before it amount to. So all
    steps that `look` has returned must be in staging when it is called again.

    Memory while a snapshot is compared: its declared columns and those of the one before; then, of what differs.
    """

    def __init__(self, silver: Silver, source: Snapshots, lake: Lake) -> None:
        self._source, self._place = source, source.open()
        self._columns = Columns(silver.declared, tuple(silver.keys), silver.sequence_by)
        self._staging = lake.staging(silver.name)
        self._partition_id = snapshot_partition(source.topic)
        self._done: set[int] | None = None  # versions that were taken in or refused
        self._newest: int | None = None  # of those taken in
        self._told: set[str] = set()

    def check(self) -> None:
        """Find out now what would stop the first look. Raises SourceError, TransientError."""
        self._place.complete(())

    def look(self) -> Step | None:
        """Return the step of the next snapshot, None when there is none that is complete and can be read.

        Versions go up. One that is lower than the newest taken in came too late: it is refused, and never applied.
        Raises SourceError, TransientError.
        """
        done = self._standing()
        if self._source.versions in done:
            return None  # the only one there is, which may be gone by now
        found = self._place.complete(done)
        if not found and not done:
            self._tell("%s: no complete snapshot is here yet", self._source.path)
        for snapshot in found:
            step = self._step(snapshot, is_last=snapshot is found[-1])
            if step:
                done.add(snapshot.version)
                self._newest = snapshot.version if step.taken else self._newest
                return step
        return None

    def _standing(self) -> set[int]:
        if self._done is None:
            fates = read_fates(self._staging, self._partition_id, [TAKEN, REFUSED])
            self._done = {*fates["_sequence"]}
            self._newest = fates.filter(pl.col("_op") == TAKEN)["_sequence"].max()  # type: ignore[assignment]
        return self._done

    def _step(self, snapshot: FullSnapshot, *, is_last: bool) -> Step | None:
        if self._newest is not None and snapshot.version < self._newest:
            late = f"version {self._shown(snapshot.version)} came after {self._shown(self._newest)} was taken in"
            return self._refusal(snapshot, late, is_last=is_last)
        try:
            return self._taken(snapshot, is_last=is_last)
        except UnreadableSnapshotError as error:
            self._tell("%s: not taken in; looked at again later, unless a later snapshot comes first", error)
            return None
        except MisfitError as error:
            return self._refusal(snapshot, f"{error}. Write it anew, as a later version", is_last=is_last)

    def _taken(self, snapshot: FullSnapshot, *, is_last: bool) -> Step:
        columns = self._columns
        read = snapshot_rows(self._place.parts(snapshot, columns.schema), columns)
        newest = read_newest(self._staging, self._partition_id, columns.keys, [*columns.schema, "_sequence"])
        held, gone = (newest.filter(_op=op).drop("_op") for op in ("upsert", "delete"))
        found = diff(read.rows, held, read.refused, columns.keys)
        emptied = not read.rows.height and found.deletes.height == held.height > 0
        self._say(snapshot, found, read.refused.height, emptied=emptied)
        upserts, deletes = found.upserts[[*columns.schema]], found.deletes[[*columns.keys]]
        if columns.sequence_column:  # a delete wins over the row it deletes, and over no newer one
            upserts = upserts.with_columns(_sequence=sequence_of(columns.sequence_column))
            deletes = found.deletes[[*columns.keys, "_sequence"]]
            deleted = gone[[*columns.keys, "_sequence"]]
            back = upserts.join(deleted, on=columns.keys, suffix="_gone", maintain_order="left")
            self._say_gone(snapshot, back)
        refused = read.refused[["raw", "reason"]]
        return Step(
            self._source.topic, columns.schema, snapshot, upserts, deletes, refused, taken=True, is_last=is_last
        )

    def _refusal(self, snapshot: FullSnapshot, reason: str, *, is_last: bool) -> Step:
        _log.error("%s: snapshot %s is not taken in: %s", self._source.path, snapshot.name, reason)
        return Step.refusal(self._source.topic, self._columns.schema, snapshot, reason, is_last=is_last)

    def _say(self, snapshot: FullSnapshot, found: Diff, refused: int, *, emptied: bool) -> None:
        _log.info(
            "%s: snapshot %s, version %s: %d rows new or changed, %d deleted, %d unchanged, %d refused",
            self._source.path,
            snapshot.name,
            self._shown(snapshot.version),
            found.upserts.height,
            found.deletes.height,
            found.unchanged,
            refused,
        )
        if emptied:
            what = "has no row that fits" if refused else "is empty"
            _log.warning("%s: snapshot %s %s: all its keys are deleted", self._source.path, snapshot.name, what)

    def _say_gone(self, snapshot: FullSnapshot, back: pl.DataFrame) -> None:
        """Tell of rows whose keys were deleted, with the sequence of the delete, those that it wins over."""
        late = back.filter(pl.col("_sequence") <= pl.col("_sequence_gone"))
        if late.height:
            _log.warning(
                "%s: snapshot %s: %d rows do not come back, the first of %s: their sequence is not above the one at "
                "which an earlier snapshot lost them, and at one sequence a delete wins. Give rows that come back a "
                "greater one",
                self._source.path,
                snapshot.name,
                late.height,
                ", ".join(f"{key}={late[key][0]!r}" for key in self._columns.keys),
            )

    def _shown(self, version: int) -> str:
        return self._source.shown(version)

    def _tell(self, message: str, about: object) -> None:
        """Log a warning, once."""
        if str(about) not in self._told:
            self._told.add(str(about))
            _log.warning(message, about)
