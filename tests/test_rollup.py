"""Incremental equals batch equals a dull group-by, whatever came and went before."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.gold.measures import Count, Mean, Measure, MeasureOverflowError, Sum
from operators.gold.rollup import ROWS, Rollup
from operators.gold.windows import tumbling
from operators.schema import DeclarationError, parse_schema

ORDERS = parse_schema(
    {"country": "string", "items": "int64", "amount": "decimal(12, 2)", "weight": "float64", "placed_at": "timestamp"}
)
MEASURES: dict[str, Measure] = {
    "orders": Count(),
    "weighed": Count("weight"),
    "items": Sum("items"),
    "items_mean": Mean("items"),
    "revenue": Sum("amount"),
    "revenue_mean": Mean("amount"),
    "load": Sum("weight"),
    "load_mean": Mean("weight"),
}
Row = tuple[Any, ...]
Table = dict[Row, Row]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def frame(rows: Iterable[Row]) -> pl.DataFrame:
    return pl.DataFrame([*rows], ORDERS, orient="row")


def rollup(*, window: bool = True) -> Rollup:
    return Rollup(ORDERS, ["country"], tumbling("1h", on="placed_at") if window else None, MEASURES)


class Gold:
    """A Gold table kept by a `Rollup`; checks every before-image against what the table holds."""

    def __init__(self, make: Callable[[], Rollup]) -> None:
        self.make, self.rollup = make, make()
        self.table: Table = {}

    def refresh(self, before: Sequence[Row], after: Sequence[Row]) -> None:
        changes = self.rollup.plan(frame(before), frame(after))
        for key, row in keyed(changes.before, self.rollup).items():
            assert self.table.pop(key) == row, "a before-image is not what the table held"
        for key, row in keyed(changes.after, self.rollup).items():
            assert key not in self.table, "inserted, but already there"
            self.table[key] = row
        self.rollup.apply(changes)

    def restart(self) -> None:
        self.rollup = self.make()
        self.rollup.load(pl.DataFrame([*self.table.values()], self.rollup.schema, orient="row"))


def keyed(rows: pl.DataFrame, kpi: Rollup) -> Table:
    table = dict(zip(rows.select(kpi.grain).rows(), rows.rows(), strict=True))
    assert len(table) == rows.height, "a group has one row"
    return table


@dataclass
class _Group:
    rows: int = 0
    values: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))


def by_hand(live: Iterable[Row], *, window: bool = True) -> Table:
    """Return the visible columns of every group: Python numbers, `math.fsum` and fractions."""
    groups: defaultdict[Row, _Group] = defaultdict(_Group)
    for country, items, amount, weight, placed_at in live:
        start = placed_at and EPOCH + (placed_at - EPOCH) // timedelta(hours=1) * timedelta(hours=1)
        group = groups[(country, start) if window else (country,)]
        group.rows += 1
        for name, value in {"items": items, "amount": amount, "weight": weight}.items():
            group.values[name] += [] if value is None else [value]
    return {key: (*_labels(key), *_measured(group)) for key, group in groups.items()}


def _labels(key: Row) -> Row:
    return (*key, key[1] and key[1] + timedelta(hours=1)) if len(key) > 1 else key


def _measured(group: _Group) -> Row:
    items, amounts, weights = (group.values[name] for name in ("items", "amount", "weight"))
    exact = Context(prec=60, rounding=ROUND_HALF_EVEN)
    revenue = sum(amounts, Decimal(0))
    revenue_mean = amounts and exact.quantize(exact.divide(revenue, len(amounts)), Decimal("0.000001"))
    load_mean = weights and float(sum(map(Fraction, weights)) / len(weights))
    return (
        group.rows,
        len(weights),
        sum(items) if items else None,
        sum(items) / len(items) if items else None,
        revenue if amounts else None,
        revenue_mean if amounts else None,
        math.fsum(weights) if weights else None,
        load_mean if weights else None,
        group.rows,
    )


def visible(table: Table, kpi: Rollup) -> Table:
    """Leave out the accumulators, which stand behind `_rows`."""
    width = kpi.schema.names().index(ROWS) + 1
    return {key: row[:width] for key, row in table.items()}


_FLOATS = st.sampled_from([None, 0.0, -0.0, 0.1, -0.3, 5e-324, -2.2e-308, 1e-300, 1e300, -1e300, 2.0**53, 1.0])
_ROW = st.tuples(
    st.sampled_from([None, "", "CH", "FR"]),
    st.sampled_from([None, 0, 1, -7, 2**40]),
    st.sampled_from([None, Decimal("0.00"), Decimal("0.01"), Decimal("-12.50"), Decimal("9999999999.99")]),
    _FLOATS | st.floats(-1e290, 1e290),
    st.sampled_from(
        [
            None,
            EPOCH,
            EPOCH - timedelta(microseconds=1),
            EPOCH - timedelta(hours=1),
            EPOCH - timedelta(days=300_000, minutes=1),
            datetime(2013, 3, 31, 1, 59, 59, 999_999, tzinfo=UTC),
            datetime(2013, 3, 31, 2, tzinfo=UTC),
        ]
    ),
)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(_ROW, max_size=8) | st.lists(_ROW, min_size=15, max_size=60),
    seed=st.integers(0, 2**32),
    window=st.booleans(),
)
def test_after_any_history_the_gold_rows_are_those_of_a_batch_and_of_a_group_by_made_by_hand(
    rows: list[Row], seed: int, *, window: bool
) -> None:
    chance, gold = random.Random(seed), Gold(lambda: rollup(window=window))
    live: list[Row] = []
    while rows:
        chance.shuffle(live)
        gone = chance.randrange(len(live) + 1) if chance.random() < 0.7 else 0
        came = chance.randrange(len(rows) + 1)
        before, after = live[:gone], rows[:came]
        in_between = rows[: chance.randrange(3)]  # came and went within one refresh
        gold.refresh([*before, *in_between], [*after, *in_between])
        live, rows = [*live[gone:], *after], rows[came:]
        if chance.random() < 0.2:
            gold.restart()
    assert gold.table == keyed(gold.rollup.batch(frame(live)), gold.rollup)
    assert visible(gold.table, gold.rollup) == by_hand(live, window=window)
    gold.refresh(live, [])
    assert gold.table == {}


def test_floats_600_orders_of_magnitude_apart_retract_to_exactly_what_is_left() -> None:
    gold = Gold(lambda: rollup(window=False))
    weights = [1e300, 1e-300, 0.1, 0.2, -1e300, 5e-324, 1e308]
    rows = [("CH", None, None, weight, None) for weight in weights]
    gold.refresh([], rows)
    told = [gold.table["CH",][7]]
    for gone in ([rows[6]], [rows[0]], [rows[4]], [rows[2]], [rows[3]], [rows[1]]):
        gold.refresh(gone, [])
        told.append(gold.table["CH",][7])
    assert told == [1e308, 0.1 + 0.2, -1e300, 0.1 + 0.2, 0.2, 1e-300, 5e-324]
    gold.refresh([], [("CH", None, None, 1.7e308, None)] * 2)
    assert gold.table["CH",][7:9] == (math.inf, 1.7e308 / 3 * 2), "the sum leaves the floats, the mean does not"


def test_an_update_that_moves_a_row_takes_it_from_one_group_to_the_other_and_empty_groups_vanish() -> None:
    gold = Gold(rollup)
    noon, one = (datetime(2013, 1, 1, hour, tzinfo=UTC) for hour in (12, 13))
    early, late = ("CH", 2, Decimal("5.00"), None, noon), ("CH", 2, Decimal("5.00"), None, one)
    gold.refresh([], [early, early])
    gold.refresh([early], [late])
    assert Counter({key: row[3] for key, row in gold.table.items()}) == {("CH", noon): 1, ("CH", one): 1}
    gold.refresh([early], [late])
    assert visible(gold.table, gold.rollup) == {
        ("CH", one): ("CH", one, one + timedelta(hours=1), 2, 0, 4, 2.0, Decimal(10), Decimal(5), None, None, 2)
    }
    nothing = gold.rollup.plan(frame([late, late]), frame([late, late]))
    assert not nothing.before.height + nothing.after.height, "what does not move is not written"


def test_a_sum_past_int64_stops_and_leaves_the_state_as_it_was() -> None:
    gold = Gold(lambda: rollup(window=False))
    most = ("CH", 2**63 - 1, None, None, None)
    gold.refresh([], [most])
    with pytest.raises(MeasureOverflowError, match="'items': a sum is 9223372036854775808"):
        gold.refresh([], [("CH", 1, None, None, None)])
    gold.refresh([most], [("CH", 1, None, None, None)])
    assert gold.table["CH",][3] == 1


@pytest.mark.parametrize(
    ("group_by", "on", "measures", "problem"),
    [
        (["contry"], None, {}, "group_by: unknown column 'contry'.*Did you mean 'country'"),
        (["weight"], None, {}, "column 'weight' is of type float64; floats and lists cannot identify a group"),
        (["tags"], None, {}, "column 'tags' is of type list<string>"),
        ([], None, {"orders": Count()}, "received neither group_by nor window"),
        (["country", "country"], None, {}, "expected each column once"),
        ([], "placed", {}, "window: unknown column 'placed'.*Did you mean 'placed_at'"),
        ([], "country", {}, "column 'country' is of type string, expected a timestamp or a date"),
        (["country"], None, {"revenue": Sum("amunt")}, "measure 'revenue': unknown column 'amunt'.*mean 'amount'"),
        (
            ["country"],
            None,
            {"revenue": Sum("country")},
            "Sum needs a numeric column, received 'country' of type string",
        ),
        (["country"], None, {"late": Mean("placed_at")}, "Mean needs a numeric column"),
        (["country"], None, {"sum": Sum("wide")}, r"decimal\(29, 2\) leaves no room to add up; expected at most 28"),
        (["country"], None, {"mean": Mean("wide")}, "expected at most 24 digits"),
        (["country"], None, {"country": Count()}, "measure 'country': the name is .*taken"),
        (["country"], None, {"_rows": Count()}, "measure '_rows': .*underscore"),
        (["country"], None, {"": Count()}, "measure '': the name is empty"),
        ([], "placed_at", {"window_end": Count()}, "measure 'window_end': the name is .*taken"),
        (["window_end"], "placed_at", {}, "'window_end' beside a window"),
        (["country"], "placed_at", {"starts": Sum("window_start")}, "'window_start' or"),
    ],
)
def test_a_declaration_that_cannot_work_says_received_expected_remedy(
    group_by: list[str], on: str | None, measures: dict[str, Any], problem: str
) -> None:
    schema = ORDERS | parse_schema({"tags": "list<string>", "window_start": "int64", "window_end": "int64"})
    schema |= parse_schema({"wide": "decimal(29, 2)"})
    with pytest.raises(DeclarationError, match=problem):
        Rollup(schema, group_by, tumbling("1h", on=on) if on else None, measures)


@pytest.mark.parametrize("text", ["", "1", "h", "0m", "-1h", "1.5h", "1 h", "1w"])
def test_a_window_length_is_a_whole_number_and_a_unit(text: str) -> None:
    with pytest.raises(DeclarationError, match="expected a whole number and a unit"):
        tumbling(text, on="placed_at")
