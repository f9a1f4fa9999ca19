"""A Delta table with one owner: commits that carry positions, a ledger and the owner's epoch.

1. *Open.* Create the table, or check that the one there is ours and make it what is declared (`table_declaration`).
   Read the owner epoch it holds; ours is the next one.
2. *Commit.* Files, positions (`txn` actions) and ledger (`commitInfo`) are one Delta commit (`table`).
3. *Fence.* Every commit of rows carries the epoch. Whoever loses a race and finds a newer owner stops; who finds a
   commit of an older one opens the table again.

Sources: Delta protocol, "Transaction Identifiers" and "Commit Provenance Information".
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import polars as pl

from storage.delta.compaction import compact
from storage.delta.delta_actions import Action, transaction
from storage.delta.positions import Positions, partition_id
from storage.delta.snapshot import Snapshot
from storage.delta.table import Edit, Table, polars_schema, provenance
from storage.delta.table_declaration import Declaration, check_snapshot, check_writable, is_current, read_snapshot
from storage.delta.table_evolution import evolution
from storage.errors import CommitRaceError, FencedError

_PARTITION = re.compile(r".+/-?\d+")

LEDGER = "goldwax.ledger"
"""Key of `commitInfo` that holds the ledger of a commit, as JSON."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit says besides its rows.

    `positions` are the positions after it. `ledger` says what was read and what became of it, for `commitInfo`.
    """

    positions: Positions
    ledger: Mapping[str, Any] = field(default_factory=dict)


class OwnedTable(Table):
    """One Delta table as its owner sees it. Used by one thread at a time.

    Raises TableMismatchError, UnwritableError, UnreadableTableError, UnsupportedTableError.
    """

    def __init__(self, uri: str, declaration: Declaration) -> None:
        check_writable(uri)
        self._declaration = declaration
        self._claimed = False
        super().__init__(uri)
        check_snapshot(uri, self._snapshot, declaration)
        self._epoch = self._snapshot.transactions.get(self._app_id("owner"), 0) + 1
        if declaration.derived and not self.is_current:
            self.schema = polars_schema(declaration.schema_text)  # of the rows to come, see `replace`
        elif not declaration.is_met_by(self._snapshot):
            self._evolve()

    @property
    def change_feed(self) -> bool:
        """Tell whether commits say row by row what they change."""
        return self._declaration.change_feed

    @property
    def vectors(self) -> bool:
        """Tell whether rows go by deletion vectors."""
        return self._declaration.vectors

    @property
    def is_current(self) -> bool:
        """Tell whether the rows were made by our definition; of a derived table that were not, `replace` them.

        A table that nobody has written to has no definition.
        """
        return is_current(self._snapshot, self._declaration)

    def positions(self, names: Iterable[str]) -> dict[str, int]:
        """Return the positions the table holds of these inputs; an input never read is left out."""
        held = {name: self._snapshot.transactions.get(self._app_id(name)) for name in names}
        return {name: position for name, position in held.items() if position is not None}

    def every_position(self) -> dict[str, int]:
        """Return the positions of all partitions that the table was ever read from, also of those that are gone."""
        mine = self._app_id("")
        names = [name.removeprefix(mine) for name in self._snapshot.transactions if name.startswith(mine)]
        return self.positions(name for name in names if _PARTITION.fullmatch(name))

    def evolve(self, declaration: Declaration) -> None:
        """Make this the table of a declaration with more or wider columns. Raises as `commit` does."""
        self._declaration = declaration
        if not declaration.is_met_by(self._snapshot):
            self._evolve()

    def append(self, rows: pl.DataFrame, commit: Commit) -> None:
        """Commit new rows (or none, to advance positions only). Raises as `commit` does."""
        edit = Edit("WRITE", self.write(rows))
        self.commit(lambda: edit, commit)

    def replace(self, rows: pl.DataFrame, commit: Commit) -> None:
        """Commit `rows` in the place of all that the table has, and make it what is declared. Raises as `commit`."""
        files, changed = self.write(rows), list[Action]()

        def edit() -> Edit:
            nonlocal changed
            is_met = self._declaration.is_met_by(self._snapshot)
            changed = [] if is_met else self._declaration.changes(self._snapshot)
            return Edit("REBUILD", files, self.data_files, changed)

        self.commit(edit, commit)
        self._snapshot.take(self.version, changed)

    def commit(self, edit: Callable[[], Edit], commit: Commit) -> None:
        """Commit what `edit` returns, with positions, ledger and epoch; see `Table.commit_edit`.

        Raises FencedError when a newer owner has committed, CommitRaceError and TransientError.
        """
        ours = {"owner": self._epoch, "definition": self._declaration.digest}
        transactions = {self._app_id(name): version for name, version in {**commit.positions, **ours}.items()}
        self.commit_edit(edit, transactions, {LEDGER: json.dumps(commit.ledger, separators=(",", ":"))})
        self._claimed = True  # from now on nobody else commits with our epoch

    def _check_foreign(self, version: int, actions: Sequence[Action]) -> None:
        owner = self._app_id("owner")
        for action in actions:
            if action.get("txn", {}).get("appId") != owner:
                continue
            epoch = action["txn"]["version"]
            if epoch < self._epoch:
                raise CommitRaceError(f"{self.uri}: an older owner, {epoch}, committed version {version} before us")
            now = self.snapshot()
            now.take(version, actions)
            self._stop(epoch, now)

    def _check_outrun(self, snapshot: Snapshot) -> None:
        epoch = snapshot.transactions.get(self._app_id("owner"), 0)
        if epoch > self._epoch or (epoch == self._epoch and not self._claimed):
            self._stop(epoch, snapshot)

    def _stop(self, epoch: int, now: Snapshot) -> NoReturn:
        ours = f"ours is {self._epoch}" + " and has not" * (epoch == self._epoch)
        pipeline = f"pipeline {self._declaration.pipeline!r}"
        is_same = now.metadata["id"] == self._snapshot.metadata["id"] and is_current(now, self._declaration)
        what = (
            f"another process of {pipeline} has taken this table over. Keep one of them running; this one stops"
            if is_same
            else "the table was made anew, by `goldwax rebuild` or a pipeline that is declared otherwise. This process "
            f"stops. Start {pipeline} again, as it is declared now"
        )
        raise FencedError(f"{self.uri}: owner epoch {epoch} has committed up to version {now.version}, {ours}: {what}")

    def _check_state(self, snapshot: Snapshot) -> None:
        super()._check_state(snapshot)
        check_snapshot(self.uri, snapshot, self._declaration)

    def _opened(self) -> Snapshot:
        snapshot = self.log.read()
        if snapshot is None:
            with suppress(CommitRaceError):  # someone else has just made it
                ours = {"owner": 0, "definition": self._declaration.digest}
                claims = [transaction(self._app_id(name), version) for name, version in ours.items()]
                actions = [self._declaration.protocol(), self._declaration.metadata(), *claims]
                self.log.commit(0, actions, provenance("CREATE TABLE"))
        return snapshot or super()._opened()

    def _evolve(self) -> None:
        """Make the table what is declared: its columns, properties and protocol; its id stays."""
        self.schema = polars_schema(self._declaration.schema_text)
        changed: list[Action] = []

        def edit() -> Edit:
            nonlocal changed
            changed = self._declaration.changes(self._snapshot)
            widened = evolution(self._snapshot.metadata["schemaString"], self._declaration.schema_text).widened
            sources = self.data_files if widened else []
            added = [file for source in sources for file in compact(self.files, [source], self.read).written]
            return Edit("CHANGE COLUMNS", added, sources, changed, data_change=False)

        self.commit_edit(edit)
        self._snapshot.take(self.version, changed)

    def _app_id(self, name: str) -> str:
        return self._declaration.transaction_id(name)


def read_positions(uri: str, pipeline: str, names: Iterable[str]) -> dict[str, int]:
    """Return the positions that a table holds without opening it for writing; none when there is no table."""
    snapshot = read_snapshot(uri)
    held = {name: snapshot.transactions.get(f"{pipeline}/{name}") for name in names} if snapshot else {}
    return {name: position for name, position in held.items() if position is not None}


def topic_positions(uri: str, pipeline: str, topic: str) -> dict[str, int]:
    """Return the positions that a table holds of the partitions of a topic, in their order; none without a table."""
    snapshot = read_snapshot(uri)
    held = snapshot.transactions if snapshot else {}
    prefix = f"{pipeline}/{topic}/"
    partitions = sorted(
        int(name.removeprefix(prefix)) for name in held if re.fullmatch(re.escape(prefix) + r"-?\d+", name)
    )
    return {partition_id(topic, partition): held[f"{prefix}{partition}"] for partition in partitions}


def table_id(uri: str) -> str:
    """Return the id that a table got when it was made; a table made anew at the same path has another."""
    snapshot = read_snapshot(uri)
    return str(snapshot.metadata["id"]) if snapshot else ""
