"""Keys against a plain dict, whatever they are and however badly they hash; and a hash that never changes."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.keys import key_index, slot_rows
from operators.keys.hashing import Hashes, hash_columns, hash_rows
from operators.keys.key_index import KeyIndex
from operators.keys.key_store import _Stored
from operators.keys.slot_rows import SlotRows

SCHEMA = pl.Schema({"n": pl.Int64(), "text": pl.String(), "day": pl.Date()})
ROWS = pl.Schema({**SCHEMA, "value": pl.Int64()})
Key = tuple[Any, ...]

_KEYS = st.tuples(
    st.sampled_from([None, 0, 1, -1, 2**63 - 1, -(2**63)]) | st.integers(0, 9),
    st.sampled_from([None, "", "0", "a", "\0", "ä", "a" * 8, "a" * 9, "a" * 16, "x" * 1000]) | st.text(max_size=3),
    st.sampled_from([None, date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31)]),
)
_BATCHES = st.lists(st.lists(_KEYS, max_size=30), max_size=6)


def keys_frame(keys: list[Key]) -> pl.DataFrame:
    return pl.DataFrame(keys, SCHEMA, orient="row")


@pytest.mark.parametrize(
    "weaken",
    [
        lambda hashes: hashes,
        lambda hashes: hashes & np.uint64(3),
        lambda hashes: hashes & np.uint64(0),
        lambda hashes: hashes | np.uint64(2**32 - 1),  # all begin at the last place
    ],
    ids=["full", "two bits", "none", "last place"],
)
@settings(deadline=None, max_examples=60)
@given(batches=_BATCHES)
def test_every_key_has_one_slot_however_many_share_a_hash(
    weaken: Callable[[Hashes], Hashes], batches: list[list[Key]]
) -> None:
    slots: dict[Key, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "hash_columns", lambda columns: weaken(hash_columns(columns)))
        index = KeyIndex(SCHEMA.names())
        for batch in batches:
            for key, slot in zip(batch, index.admit(keys_frame(batch)).tolist(), strict=True):
                assert slots.setdefault(key, slot) == slot
        assert index.admit(keys_frame([*slots])).tolist() == [*slots.values()]
    assert sorted(slots.values()) == list(range(len(index)))


@pytest.mark.parametrize("shared", [1, 50])
def test_the_index_grows_over_many_capacities_and_stays_exact(shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `shared` 50, every 50th key has its hash in common with others."""

    def crowded(columns: Sequence[pl.Series]) -> Hashes:
        hashes, numbers = hash_columns(columns), columns[0].to_numpy()
        return np.where((shared > 1) & (numbers % shared == 0), np.uint64(7), hashes)

    monkeypatch.setattr(key_index, "hash_columns", crowded)
    index = KeyIndex(["n"])
    order = np.random.default_rng(1).permutation(20_000)
    for start, end in [(0, 1), (1, 600), (600, 700), (700, 15_000), (15_000, 20_000)]:
        assert sorted(index.admit(pl.DataFrame({"n": order[start:end]}))) == list(range(start, end))
    slots = index.admit(pl.DataFrame({"n": order}))
    assert sorted(slots) == list(range(20_000))
    assert index.admit(pl.DataFrame({"n": order[::-1]})).tolist() == slots[::-1].tolist()


@pytest.mark.parametrize("compact_from", [1, 30, 10**6])
@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3).map(lambda die: die == 0), st.sets(st.integers(0, 15))), max_size=15))
def test_the_row_of_a_slot_is_the_last_one_put_through_every_compaction(
    compact_from: int, steps: list[tuple[bool, set[int]]]
) -> None:
    rows: dict[int, tuple[str, int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot_rows, "_COMPACT_FROM", compact_from)
        held = SlotRows(pl.Schema({"text": pl.String(), "value": pl.Int64()}))
        for number, (removes, drawn) in enumerate(steps):
            slots = np.array([*drawn], np.int64)
            assert held.present(slots).tolist() == [slot in rows for slot in drawn]
            if removes:
                held.remove(slots)
                rows = {slot: row for slot, row in rows.items() if slot not in drawn}
            else:
                new = [(f"row of {slot}", number) for slot in drawn]
                held.put(slots, pl.DataFrame(new, ["text", "value"], orient="row"))
                rows |= dict(zip(drawn, new, strict=True))
            assert len(held._rows) <= max(compact_from, 2 * len(rows)), "replaced rows are dropped"
            assert held.rows(np.array([*rows], np.int64)).rows() == [*rows.values()]
            assert held.slots().tolist() == sorted(rows)
            assert len(held) == len(rows)


GOLDEN = pl.DataFrame(
    {
        "n": pl.Series([0, 1, -1, None, 42], dtype=pl.Int32),
        "text": ["", "a", "Zürich", None, "more than eight bytes"],
        "x": [0.0, -1.5, 1e300, None, 0.1],
        "on": [False, True, None, None, True],
        "day": [date(1970, 1, 1), date(2013, 1, 1), date(1969, 12, 31), None, date(9999, 12, 31)],
        "tags": [[], ["a", None], [None], None, ["a,b", "c"]],
    },
    schema_overrides={"tags": pl.List(pl.String())},
)


def hashes(**columns: list[Any]) -> list[int]:
    return [int(value) for value in hash_rows(pl.DataFrame(columns))]


def test_hashes_never_change_from_one_release_to_the_next() -> None:
    """Silver tables keep them (`_row_hash`): other values here would make every row look changed."""
    money = GOLDEN.select(pl.Series("m", ["0.00", "12.50", "-1.05", None, "7"]).cast(pl.Decimal(12, 2)))
    instant = GOLDEN.select(pl.col("day").cast(pl.Datetime("us", "UTC")))
    told = {name: hash_rows(GOLDEN.select(name))[1] for name in GOLDEN.columns}
    told |= {"money": hash_rows(money)[1], "instant": hash_rows(instant)[1]}
    assert {name: f"{value:016x}" for name, value in told.items()} == {
        "n": "e99ff867dbf682c9",
        "text": "7cb742f9a7ce5bf1",
        "x": "fa7dd954663813af",
        "on": "e99ff867dbf682c9",
        "day": "cc8ecc8c6537d055",
        "tags": "cb01412f1a82ceb3",
        "money": "3eb403ea48f8ba53",
        "instant": "8ec61a1a79bbbd7c",
    }
    assert [f"{value:016x}" for value in hash_rows(GOLDEN)] == [
        "fa70bf04bf9368b1",
        "ae7e4e420c436f48",
        "47b46cb5d3a3d887",
        "9e3779b97f4a7c15",
        "1e2e89f84a858e3d",
    ]


def test_a_column_that_is_added_changes_no_hash_of_rows_that_have_nothing_in_it() -> None:
    added = GOLDEN.with_columns(new=pl.Series([None, None, 1, 0, None]), newer=pl.Series([None, "", None, None, None]))
    changed = (hash_rows(added) != hash_rows(GOLDEN)).tolist()
    assert changed == [False, True, True, True, False]


def test_null_nothing_and_zero_are_three_things_and_so_are_shifted_columns() -> None:
    keys: list[Key] = [(None, None), ("", None), (None, ""), ("", ""), ("0", ""), ("", "0"), ("\0", ""), ("\0\0", "")]
    texts = [(one, other, hashes(a=[one], b=[other])[0]) for one, other in keys]
    assert len({value for *_, value in texts}) == len(keys)
    numbers = pl.Series("a", [None, 0, 1, -1])
    for column in (numbers, numbers.cast(pl.Float64), numbers.cast(pl.Date), numbers.cast(pl.Boolean).head(3)):
        assert len({*hash_rows(column.to_frame()).tolist()}) == len(column)
    lists = pl.Series("a", [None, [], [None], [""], ["", ""], ["a", "b"], ["ab"], ["a,b"], ["a", None], [None, "a"]])
    assert len({*hash_rows(lists.to_frame()).tolist()}) == len(lists)


def test_minus_zero_is_zero_and_a_row_is_itself_at_any_width() -> None:
    assert hashes(x=[-0.0]) == hashes(x=[0.0])
    assert hash_rows(GOLDEN.cast({"n": pl.Int64()})).tolist() == hash_rows(GOLDEN).tolist()


@settings(deadline=None)
@given(st.lists(st.integers(0, GOLDEN.height - 1), max_size=12), st.integers(0, 12), st.integers(0, 12))
def test_a_hash_depends_on_the_row_and_not_on_chunks_slices_or_encodings(
    places: list[int], start: int, cut: int
) -> None:
    alone = [hash_rows(GOLDEN[place : place + 1])[0] for place in range(GOLDEN.height)]
    rows = GOLDEN[places]
    chunked = pl.concat([rows[:cut], rows[cut:]], rechunk=False)
    for frame in (rows, chunked, chunked.with_columns(pl.col("text").cast(pl.Categorical()))):
        expected = [alone[place] for place in places[start:]]
        assert hash_rows(frame[start:]).tolist() == expected


@given(st.lists(st.none() | st.text(max_size=4), min_size=1))
def test_the_hash_of_a_text_is_the_same_beside_long_and_short_ones(texts: list[str | None]) -> None:
    alone = hash_columns([pl.Series(texts, dtype=pl.String)])
    beside = hash_columns([pl.Series([*texts, "x" * 40], dtype=pl.String)])
    assert alone.tolist() == beside.tolist()[:-1]


def test_batches_without_a_new_key_leave_nothing_behind() -> None:
    """Texts stand in arrays, each at least twice as long as the next; known keys add none."""
    index = KeyIndex(["text"])
    for first in range(0, 300, 3):
        index.admit(pl.DataFrame({"text": [str(number) for number in range(first, first + 3)]}))
    for _ in range(50):
        index.admit(pl.DataFrame({"text": ["0", "1", "2"]}))
    (column,) = index._keys
    assert isinstance(column, _Stored)
    assert sum(map(len, column._runs)) == 300
    assert len(column._runs) < 10
