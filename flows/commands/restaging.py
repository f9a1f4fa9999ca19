"""Bringing a staging table to other keys or another sequence, before the Silver table above it is made anew.

1. *Look.* The table says what it was made by. Another topic or format would have staged other events; keys and
   sequence can change where every staged event has what they need, and where no record is in quarantine that would be
   an event now.
2. *Write* the staged rows anew, file by file, where the sequence is another one; keys change no staged row.
3. *Swap* rows and definition in one commit (`storage.delta.table_swap`), which fences whoever stages by the old
   declaration. Files that came meanwhile are looked at and written too, before the commit is tried again.
"""

from collections import Counter
from collections.abc import Sequence

import polars as pl

from flows.event_batch import POSITION
from flows.lake import Lake
from flows.silver import Silver
from flows.stages.stage import advance
from flows.stages.tables import MOVE_AWAY, beyond_rebuild, staging_table
from operators.decoding.avro_reader import Schemas
from operators.events import SequenceBy
from operators.silver.restaging import lacking, resequenced
from storage.delta.definition import Terms, made_by
from storage.delta.delta_actions import DataFile
from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.snapshot import Snapshot
from storage.delta.table import Edit, Table, polars_schema
from storage.delta.table_declaration import Declaration, check_columns, check_pipeline, is_current, read_snapshot
from storage.delta.table_evolution import evolution
from storage.delta.table_swap import Swap, read_live, swap

_RECORDS = 20_000  # of quarantine, looked at together


class CannotRebuildError(Exception):
    """Something stands in the way of a rebuild, as staging that has not what the rows need; Silver is as it was."""


def restage(silver: Silver, lake: Lake, pipeline: str, schemas: Schemas) -> None:
    """Make the staging table what the declaration would have staged. Raises CannotRebuildError, StorageError."""
    uri, declaration = lake.staging(silver.name), staging_table(silver, pipeline)
    snapshot = read_snapshot(uri)
    if snapshot is None:
        raise CannotRebuildError(
            f"{uri}: no staging table is here to make rows from. Where the pipeline has run before, restore it, or "
            "move the Silver and quarantine tables away too; then run the pipeline"
        )
    made = None if is_current(snapshot, declaration) else _made_by(uri, snapshot, declaration)
    check_columns(uri, snapshot, declaration)
    check_pipeline(uri, snapshot, declaration)
    if made is None:
        OwnedTable(uri, declaration)  # which adds columns that are declared now
        return
    restaging = _Restaging(silver, schemas, lake, declaration, made)
    restaging.look(Table(uri))
    new = Swap(declaration, restaging.edit, Commit({}))
    advance(lambda: swap(uri, new), lambda: None)


def _made_by(uri: str, snapshot: Snapshot, declaration: Declaration) -> Terms:
    """Return what the table was made by, if that differs in nothing but keys and sequence."""
    made = made_by(snapshot)
    if made is None:
        raise CannotRebuildError(
            f"{uri}: the table was made by another declaration, and does not say by which. Run the pipeline once "
            "declared as it was, then it says so"
        )
    if wrong := beyond_rebuild(made, declaration.terms):
        raise CannotRebuildError(f"{uri}: other events would be staged ({'; '.join(wrong)}). {MOVE_AWAY}")
    return made


class _Restaging:
    """Looks at the files of one staging table and writes them anew, each once, however often the commit is tried."""

    def __init__(self, silver: Silver, schemas: Schemas, lake: Lake, declaration: Declaration, made: Terms) -> None:
        self._uri, self._quarantine = lake.staging(silver.name), lake.quarantine(silver.name)
        self._silver, self._decoder = silver, silver.decoder(schemas)
        self._declaration, self._schema = declaration, polars_schema(declaration.schema_text)
        old = made.get("sequence_by")
        self._old: SequenceBy = old if old is None or isinstance(old, str) else tuple(old)
        self._resequenced = self._old != silver.sequence_by
        self._seen: set[str] = set()
        self._went_in = pl.DataFrame(schema=POSITION)
        self._written: dict[str, list[DataFile]] = {}

    def look(self, table: Table) -> None:
        """Check that nothing in files not seen before stands in the way. Raises CannotRebuildError.

        Whatever staging holds was in quarantine before, so that is looked at last.
        """
        self._look_at_events(self._unseen(table), table)
        if read_snapshot(self._quarantine):
            quarantine = Table(self._quarantine)
            for file in self._unseen(quarantine):
                rejects = read_live(quarantine, file)
                self._look_at_rejects(rejects.join(self._went_in, on=POSITION.names(), how="anti"))

    def _unseen(self, table: Table) -> list[DataFile]:
        unseen = [file for file in table.data_files if file.path not in self._seen]
        self._seen |= {file.path for file in unseen}
        return unseen

    def _look_at_events(self, files: Sequence[DataFile], table: Table) -> None:
        """Check that staged events have what they need."""
        keys, sequence, found = self._silver.keys, self._silver.sequence_by, Counter[str]()
        examples = []
        for file in files:
            rows = self._rows(table, file)
            again = rows.filter(pl.col("_retried").is_not_null(), pl.col("_op") != "quarantined")
            self._went_in = pl.concat([self._went_in, again.select(POSITION.names())])
            lacks = lacking(rows, keys, _one(self._old), _one(sequence))
            found.update(f"{op}s without {name}" for op, name in lacks.select("_op", "lacks").iter_rows())
            examples += [_place(lacks)] if lacks.height else []
        if found:
            told = "; ".join(f"{what}: {count}" for what, count in sorted(found.items()))
            raise CannotRebuildError(
                f"{self._uri}: staged events lack what they need now ({told}; the first: {examples[0]}). {MOVE_AWAY}"
            )

    def _look_at_rejects(self, rejects: pl.DataFrame) -> None:
        """Check that none of these records, which are in quarantine and did not go in since, would be an event now."""
        for records in rejects.filter(pl.col("stage") == "decode").iter_slices(_RECORDS):
            events = self._decoder.decode(records["key"].to_list(), records["value"].to_list()).events
            if events.height:
                first = _place(records[int(events["_row"][0]) :])
                raise CannotRebuildError(
                    f"{self._quarantine}: records are in quarantine that would be events now, and staging has none of "
                    f"them (the first: {first}). {MOVE_AWAY}"
                )

    def edit(self, table: Table) -> Edit:
        """Return what becomes of the files; see `Table.commit_edit`. Raises CannotRebuildError."""
        self.look(table)
        widened = evolution(table.snapshot().metadata["schemaString"], self._declaration.schema_text).widened
        if not self._resequenced and not widened:
            return Edit("REBUILD", data_change=False)
        written = [new for file in table.data_files for new in self._anew(table, file)]
        return Edit("REBUILD", written, table.data_files)

    def _anew(self, table: Table, file: DataFile) -> list[DataFile]:
        if file.path not in self._written:
            rows = self._rows(table, file)
            if self._resequenced:
                rows = resequenced(rows, _one(self._old), _one(self._silver.sequence_by))
            self._written[file.path] = table.files.write(rows)
        return self._written[file.path]

    def _rows(self, table: Table, file: DataFile) -> pl.DataFrame:
        """Return the live rows of a file in the columns that are declared now."""
        return read_live(table, file, self._schema)


def _place(records: pl.DataFrame) -> str:
    """Return where the first of these records is from."""
    topic, partition, offset = records.row(0)[:3]
    return f"{topic}/{partition} offset {offset}"


def _one(sequence: SequenceBy) -> str | None:
    """Return a sequence that is no more than one column; of several it is never another (`_made_by`)."""
    return sequence if isinstance(sequence, str) else None
