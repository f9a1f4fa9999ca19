"""Merges, maintenance and owners on real object stores, against a dictionary; and writers that race there."""

import random
import threading
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from deltalake import DeltaTable

from storage.delta.owned_table import Commit, OwnedTable
from storage.delta.table import Edit, Table
from storage.errors import CommitRaceError, FencedError
from tests.keyed_table import KeyedTable
from tests.object_stores import Bucket
from tests.readers import ON_OBJECT_STORES, DataFusion, assert_all_read
from tests.rooms import declared

SCHEMA = pl.Schema({"id": pl.Int64(), "n": pl.Int64()})
WIDER = pl.Schema({**SCHEMA, "note": pl.String()})
BOTH = pytest.mark.parametrize("vectors", [True, False], ids=["vectors", "rewrite"])


@BOTH
def test_a_history_ends_with_the_rows_of_a_dictionary(bucket: Bucket, vectors: bool) -> None:  # noqa: FBT001
    """Merges, compaction, checkpoints, a column that comes, and owners that take over, step by step."""
    uri, chance = f"{bucket.uri}/lake/orders", random.Random(7)
    owner, model = KeyedTable(uri, SCHEMA, ["id"], vectors=vectors), dict.fromkeys(range(4000), 0)
    owner.merge(model.items(), [], {"desk/0": 0})
    for step in range(1, 9):
        upserts = {chance.randrange(5000): step for _ in range(500)}
        deletes = {chance.randrange(5000) for _ in range(400)} - upserts.keys()
        done = owner.merge(upserts.items(), [(key,) for key in deletes], {"desk/0": step})
        assert done.updated == len(model.keys() & upserts.keys())
        assert done.deleted == len(model.keys() & deletes)
        model = {key: n for key, n in model.items() if key not in deletes} | upserts
        kinds = dict(DataFusion().changes(uri, done.version, done.version)["_change_type"].value_counts().rows())
        assert kinds.get("delete", 0) == done.deleted
        if step in (3, 6):
            owner.maintain(timedelta(hours=1))
        if step in (4, 6):
            owner = KeyedTable(uri, SCHEMA, ["id"], vectors=vectors)
    assert_all_read(ON_OBJECT_STORES, uri, pl.DataFrame([*model.items()], SCHEMA, orient="row"))
    before = owner.table.version
    wider = KeyedTable(uri, WIDER, ["id"], vectors=vectors)
    assert wider.table.positions(["desk/0"]) == {"desk/0": 8}
    assert wider.merge([(-1, 1, "new")], [], {"desk/0": 9}).inserted == 1
    rows = [(-1, 1, "new"), *((*item, None) for item in model.items())]
    assert_all_read(ON_OBJECT_STORES, uri, pl.DataFrame(rows, WIDER, orient="row"))
    assert_all_read(ON_OBJECT_STORES, uri, pl.DataFrame([*model.items()], SCHEMA, orient="row"), before)


def test_writers_that_race_lose_nothing_and_share_the_versions(bucket: Bucket) -> None:
    uri, writers, commits = f"{bucket.uri}/orders", 4, 6
    OwnedTable(uri, declared(SCHEMA))
    start, errors = threading.Barrier(writers), []

    def race(number: int) -> None:
        try:
            table = Table(uri)
            start.wait()
            for turn in range(commits):
                edit = Edit("WRITE", table.write(pl.DataFrame([(number, turn)], SCHEMA, orient="row")))
                table.commit_edit(lambda edit=edit: edit, {f"writer/{number}": turn})  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    run(race, writers)
    assert errors == []
    rows = [(number, turn) for number in range(writers) for turn in range(commits)]
    assert_all_read(ON_OBJECT_STORES, uri, pl.DataFrame(rows, SCHEMA, orient="row"))
    table = DeltaTable(uri)
    assert table.version() == writers * commits
    assert [table.transaction_version(f"writer/{number}") for number in range(writers)] == [commits - 1] * writers


def test_of_owners_that_race_exactly_one_goes_on(bucket: Bucket) -> None:
    uri, owners = f"{bucket.uri}/orders", 4
    OwnedTable(uri, declared(SCHEMA)).append(pl.DataFrame([(-1, -1)], SCHEMA, orient="row"), Commit({"desk/0": 0}))
    twins = [OwnedTable(uri, declared(SCHEMA)) for _ in range(owners)]
    start, went_on, stopped = threading.Barrier(owners), [], []

    def race(number: int) -> None:
        start.wait()
        try:
            for turn in range(3):
                rows = pl.DataFrame([(number, turn)], SCHEMA, orient="row")
                twins[number].append(rows, Commit({"desk/0": turn}))
            went_on.append(number)
        except (FencedError, CommitRaceError) as error:
            stopped.append(type(error))

    run(race, owners)
    assert (len(went_on), stopped) == (1, [FencedError] * (owners - 1))
    rows = [(-1, -1), *((went_on[0], turn) for turn in range(3))]
    assert_all_read(ON_OBJECT_STORES, uri, pl.DataFrame(rows, SCHEMA, orient="row"))
    assert DeltaTable(uri).version() == 4


def run(race: Callable[[int], None], threads: int) -> None:
    racers = [threading.Thread(target=race, args=(number,)) for number in range(threads)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
