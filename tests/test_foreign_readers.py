"""Whatever happened to a table, every engine reads exactly its rows, now and before, and the changes of each commit."""

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from tests.keyed_table import KeyedTable, Row
from tests.readers import CHANGES, ChangeReader, Reader, comparable

SCHEMA = pl.Schema(
    {
        "id": pl.Int32(),
        "region": pl.String(),
        "amount": pl.Decimal(28, 4),
        "share": pl.Float64(),
        "paid": pl.Boolean(),
        "due": pl.Date(),
        "paid_at": pl.Datetime("us", "UTC"),
        "note": pl.String(),
    }
)
CHANGED = pl.Schema({**SCHEMA, **dict(zip(CHANGES, (pl.String(), pl.Int64()), strict=True))})
KEYS = ["id", "region"]
STEPS, FIRST_ROWS, HOUR = 25, 2500, timedelta(hours=1)
BOTH = pytest.mark.parametrize("vectors", [True, False], ids=["vectors", "rewrite"])


class History:
    """A table to which at every step something else happens, and what it was at every version that can be read.

    Rows can be read from version `first` on, changes from the one after it on.
    """

    def __init__(self, uri: str, *, vectors: bool) -> None:
        self.uri = uri
        self.chance = random.Random(f"readers {vectors}")
        self.owner = KeyedTable(uri, SCHEMA, KEYS, vectors=vectors)
        self.model: dict[Row, Row] = {}
        self.first, self.version, self.steps = 0, 0, 0
        self.states: dict[int, list[Row]] = {0: []}
        self.changes: dict[int, list[Row]] = {}
        self._merge({(number, "CH"): self._row((number, "CH")) for number in range(FIRST_ROWS)}, set())

    def step(self) -> None:
        """Merge three times, then do one thing that leaves the rows as they are."""
        others = [self._compact, self._optimize, self._sweep, self._checkpoint, self._reopen, self._compact]
        self.steps += 1
        if self.steps % 4:
            self._merge(*self._drawn())
        else:
            others[self.steps // 4 % len(others) - 1]()
        self._note_moves()

    def _drawn(self) -> tuple[dict[Row, Row], set[Row]]:
        chance = self.chance
        few = chance.choice([3, 30, 600])
        known = [*self.model]
        deletes = {*chance.sample(known, min(len(known), chance.randrange(few)))}
        upserts = {*chance.sample(known, min(len(known), chance.randrange(few)))} - deletes
        new = {(chance.randrange(5000), chance.choice(["CH", "FR", None, ""])) for _ in range(few)} - deletes
        return {key: self._row(key) for key in upserts | new}, deletes

    def _merge(self, upserts: dict[Row, Row], deletes: set[Row]) -> None:
        self.owner.merge(upserts.values(), deletes, {"desk/0": self.version + 1})
        self.version += 1
        replaced = [key for key in upserts if key in self.model]
        self.changes[self.version] = [
            *((*self.model[key], "update_preimage", self.version) for key in replaced),
            *((*upserts[key], "update_postimage", self.version) for key in replaced),
            *((*row, "insert", self.version) for key, row in upserts.items() if key not in self.model),
            *((*self.model[key], "delete", self.version) for key in deletes),
        ]
        self.model = {key: row for key, row in self.model.items() if key not in deletes} | upserts
        self.states[self.version] = [*self.model.values()]

    def _compact(self) -> None:
        self.owner.maintain(HOUR)

    def _sweep(self) -> None:
        self.owner.maintain(timedelta(0))
        self.first = self.owner.table.version

    def _checkpoint(self) -> None:
        DeltaTable(self.uri).create_checkpoint()

    def _optimize(self) -> None:
        DeltaTable(self.uri).optimize.compact()

    def _reopen(self) -> None:
        self.owner = KeyedTable(self.uri, SCHEMA, KEYS, vectors=self.owner.table.vectors)

    def _note_moves(self) -> None:
        """Note the versions that maintenance has made: rows are elsewhere, and no others."""
        while self.version < DeltaTable(self.uri).version():
            self.version += 1
            self.changes[self.version], self.states[self.version] = [], [*self.model.values()]

    def _row(self, key: Row) -> Row:
        chance = self.chance
        values: list[Any] = [
            Decimal(chance.randrange(-(10**27), 10**27)).scaleb(-4) if chance.random() < 0.1 else Decimal("0.0001"),
            chance.choice([0.5, -1e300, 3.25, chance.random()]),
            chance.random() < 0.5,
            date(2024, 1, 1) + timedelta(days=chance.randrange(-90_000, 90_000)),
            datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(10**15)),
            chance.choice(["", "🙂", "it's", "long " * 20, f"{chance.random()}"]),
        ]
        return (*key, *(None if chance.random() < 0.1 else value for value in values))


def frame(rows: list[Row], schema: pl.Schema) -> pl.DataFrame:
    return comparable(pl.DataFrame(rows, schema, orient="row"))


@BOTH
def test_every_engine_reads_the_rows_after_every_step(tmp_path: Path, reader: Reader, vectors: bool) -> None:  # noqa: FBT001
    history = History(str(tmp_path / "payments"), vectors=vectors)
    for step in range(STEPS):
        history.step()
        older = history.chance.randint(history.first, history.version)
        for version in (None, older):
            rows = history.states[history.version if version is None else version]
            assert_same(reader.rows(history.uri, version), frame(rows, SCHEMA), step, history)


@BOTH
def test_every_engine_reads_the_changes_of_every_commit(
    tmp_path: Path,
    change_reader: ChangeReader,
    vectors: bool,  # noqa: FBT001
) -> None:
    history, told = History(str(tmp_path / "payments"), vectors=vectors), 0
    for step in range(STEPS):
        history.step()
        told = max(told, history.first)
        if history.version > told:
            changes = [row for version in range(told + 1, history.version + 1) for row in history.changes[version]]
            feed = change_reader.changes(history.uri, told + 1, history.version)
            assert_same(feed, frame(changes, CHANGED), step, history)
        told = history.version
    changes = [row for version, rows in history.changes.items() if version > history.first for row in rows]
    if history.version > history.first:
        feed = change_reader.changes(history.uri, history.first + 1, history.version)
        assert_same(feed, frame(changes, CHANGED), STEPS, history)


def assert_same(found: pl.DataFrame, expected: pl.DataFrame, step: int, history: History) -> None:
    try:
        assert_frame_equal(found, expected)
    except AssertionError as error:
        error.add_note(f"at step {step}, version {history.version}; readable from {history.first} on")
        raise
