"""Random histories of a keyed table, its owner's and others', against a dictionary, in both strategies."""

import shutil
import tempfile
from concurrent.futures import wait
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder, write_deltalake
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage.delta import table
from storage.delta.change_feed import read_changes
from storage.delta.maintenance import Maintenance
from storage.delta.owned_table import read_positions
from storage.errors import FencedError, TransientError
from tests.faults import Outcome, fault, fault_of_reads
from tests.keyed_table import KeyedTable, Row

KEYS = ["id", "part"]
SCHEMAS = [
    pl.Schema({"id": pl.Int32(), "part": pl.String(), "n": pl.Int32()}),
    pl.Schema({"id": pl.Int32(), "part": pl.String(), "n": pl.Int32(), "note": pl.String()}),
    pl.Schema({"id": pl.Int64(), "part": pl.String(), "n": pl.Int64(), "note": pl.String()}),
]
"""A column comes, then two are widened, one of them a key."""

_KEY = st.tuples(st.integers(0, 12) | st.none(), st.sampled_from(["", "a", None]))
_FOREIGN_KEY = st.tuples(st.integers(100, 104), st.just("foreign"))
_VALUE = st.integers(-5, 5) | st.none()
_ROWS = st.dictionaries(_KEY | _FOREIGN_KEY, _VALUE, max_size=12)
_FAULT: st.SearchStrategy[Outcome | None] = st.sampled_from(
    [None, None, None, None, "lost", "unanswered", "unsure", "unknown"]
)


class Histories(RuleBasedStateMachine):
    """One table, one owner at a time, and whoever else writes to it. Rows are (id, part, n, note)."""

    vectors, switches = True, True

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.uri = str(Path(self.directory) / "rooms")
        self.model: dict[Row, Row] = {}
        self.evolved = 0
        self.position = 0
        self.zombie: KeyedTable | None = None
        self.table_id = ""
        self.patch = pytest.MonkeyPatch()

    @initialize()
    def begin(self) -> None:
        self.patch.setattr(table, "_SURE_FOR", 0.0)  # entries of the log may be removed at once
        self._open()

    @rule(upserts=_ROWS, deletes=st.sets(_KEY, max_size=4), broken=_FAULT)
    def merge(self, upserts: dict[Row, int | None], deletes: set[Row], broken: Outcome | None) -> None:
        note = f"note {self.position}"
        rows = {key: self._row(key, n, note) for key, n in upserts.items() if key not in deletes}
        wanted = {key: row for key, row in self.model.items() if key not in deletes} | rows
        self.position += 1
        before = {key: row for key, row in self.model.items() if key in deletes or key in rows}
        try:
            with fault(broken):
                done = self.owner.merge(rows.values(), deletes, {"desk/0": self.position})
        except TransientError:
            assert broken or any(part == "foreign" for _, part in rows), "or someone has just added what we insert"
            happened = read_positions(self.uri, "hotel", ["desk/0"]).get("desk/0") == self.position
            assert not (happened and broken == "lost")
            self._open()
        else:
            happened = True
            assert broken in (None, "unanswered")
            assert done.inserted == len(rows.keys() - before.keys())
            assert done.updated + done.deleted == len(before)
            images = read_changes(self.uri, done.version - 1, done.version, self.owner.schema)
            assert _sorted(images.before.rows()) == _sorted(before.values()), "before-images are what was there"
            assert _sorted(images.after.rows()) == _sorted(rows.values())
        self.model = wanted if happened else self.model

    @rule()
    def maintain(self) -> None:
        self.owner.maintain(timedelta(hours=1))

    @rule()
    def maintain_and_forget_the_past(self) -> None:
        self.owner.maintain(timedelta(0))

    @rule(failing=st.none() | st.integers(1, 3))
    def the_owner_ticks(self, failing: int | None) -> None:
        """Whatever is due is done beside the owner; of the data files read, one may not come."""
        maintenance = Maintenance(self.owner.table, self.owner.locator, timedelta(hours=1))
        maintenance._swept -= 3600
        with fault_of_reads(self.owner.table.files, failing):
            for _ in range(4):
                maintenance.tick()
                wait([maintenance._job] if maintenance._job else [])
        maintenance._beside.shutdown()

    @precondition(lambda self: self.switches)
    @rule()
    def change_strategy(self) -> None:
        self.vectors = not self.vectors
        self.zombie = None
        self._open()

    @rule()
    def restart(self) -> None:
        self.zombie = self.owner
        self._open()

    @precondition(lambda self: self.evolved < len(SCHEMAS) - 1)
    @rule()
    def evolve(self) -> None:
        names = SCHEMAS[self.evolved].names()
        self.evolved += 1
        added = len(SCHEMAS[self.evolved]) - len(names)
        self.model = {key: (*row, *[None] * added) for key, row in self.model.items()}
        self.zombie = None
        self._open()

    @rule()
    def a_zombie_wakes_up(self) -> None:
        if self.zombie is None:
            return
        self.position += 1
        self.owner.merge([], [], {"desk/0": self.position})
        with pytest.raises(FencedError, match="has taken this table over"):
            self.zombie.merge([self._row((1, "a"), 99, "zombie")], [], {"desk/0": 99})
        self.zombie = None

    @rule(number=st.integers(100, 104), n=_VALUE)
    def someone_appends(self, number: int, n: int | None) -> None:
        key = (number, "foreign")
        if key not in self.model:
            self.model[key] = self._row(key, n, "foreign")
            write_deltalake(self.uri, self.owner.frame([self.model[key]]), mode="append")

    @rule()
    def someone_optimizes(self) -> None:
        DeltaTable(self.uri).optimize.compact()

    @rule()
    def someone_checkpoints_and_vacuums(self) -> None:
        theirs = DeltaTable(self.uri)
        theirs.create_checkpoint()
        theirs.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)

    @invariant()
    def everyone_sees_the_same_rows(self) -> None:
        if not hasattr(self, "owner"):
            return
        expected = _sorted(self.model.values())
        assert _sorted(pl.read_delta(self.uri).select(self.owner.schema.names()).rows()) == expected
        asked = QueryBuilder().register("t", DeltaTable(self.uri)).execute("select * from t").read_all()
        assert _sorted(pl.DataFrame(asked).select(self.owner.schema.names()).rows()) == expected

    def teardown(self) -> None:
        assert str(DeltaTable(self.uri).metadata().id) == self.table_id
        self.patch.undo()
        shutil.rmtree(self.directory)

    def _open(self) -> None:
        self.owner = KeyedTable(self.uri, SCHEMAS[self.evolved], KEYS, vectors=self.vectors)
        self.table_id = self.table_id or str(DeltaTable(self.uri).metadata().id)

    def _row(self, key: Row, n: int | None, note: str) -> Row:
        return (*key, n, note)[: len(SCHEMAS[self.evolved])]


class RewrittenHistories(Histories):
    """The same, for readers without deletion vectors."""

    vectors, switches = False, False

    @invariant()
    def no_reader_needs_to_know_vectors(self) -> None:
        if hasattr(self, "owner"):
            assert DeltaTable(self.uri).protocol().min_reader_version == 1


def _sorted(rows: Any) -> list[Row]:
    return sorted(rows, key=repr)


_SETTINGS = settings(
    deadline=None,
    max_examples=12,
    stateful_step_count=25,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHistories = Histories.TestCase
TestHistories.settings = _SETTINGS
TestRewrittenHistories = RewrittenHistories.TestCase
TestRewrittenHistories.settings = _SETTINGS
