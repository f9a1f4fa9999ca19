"""Two events of a key at one sequence with different rows: which of them stands, and where both are listed."""

from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from flows import Count, EventLog, Json, Kpi, Silver
from flows.history import History
from flows.ties import Ties
from operators.schema import DeclarationError
from storage.errors import AmbiguousError, TransientError
from tests.faults import fault
from tests.test_stages import Chain


def kinds(ties: Ties, history: History = "scd1") -> Kpi:
    things = Silver(
        "things",
        source=EventLog("things", format=Json(operation="op")),
        schema={"id": "int64", "version": "int64", "kind": "string"},
        keys=["id"],
        sequence_by="version",
        history=history,
        ties=ties,
    )
    return Kpi("kinds", source=things, group_by=["kind"], measures={"things": Count()})


def thing(number: int, version: int, kind: str) -> bytes:
    return f'{{"op": "upsert", "id": {number}, "version": {version}, "kind": "{kind}"}}'.encode()


def kinds_of(lake: Path) -> dict[int, str]:
    return dict(pl.read_delta(str(lake / "silver/things")).select("id", "kind").iter_rows())


def listed(lake: Path) -> list[tuple[object, ...]]:
    """Return key, sequence, and of both events the kind and the offset, first the one that stands."""
    columns = ["id", "_sequence", "kind", "_offset", "_other_kind", "_other_offset"]
    return pl.read_delta(str(lake / "ambiguous/things")).select(columns).sort(columns).rows()


def total(lake: Path, fate: str) -> int:
    return sum(
        int(pl.Series([entry["goldwax.ledger"]]).str.json_path_match(f"$.{fate}").cast(pl.Int64)[0] or 0)
        for entry in DeltaTable(lake / "silver/things").history()
        if "goldwax.ledger" in entry
    )


@pytest.mark.parametrize("history", ["scd1", "scd2"])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("ties", ["last_position", "quarantine"])
def test_both_events_are_listed_and_the_policy_says_which_one_stands(
    tmp_path: Path, ties: Ties, history: History, *, at_once: bool
) -> None:
    stands, yields, fate = ("b", "a", "ambiguous") if ties == "last_position" else ("a", "b", "quarantined")
    chain = Chain(tmp_path, kpi=kinds(ties, history))
    events = [thing(1, 5, "a"), thing(2, 5, "c"), thing(1, 5, "b"), thing(2, 5, "c")]
    for batch in [events] if at_once else [[event] for event in events]:
        chain.advance(*batch)
    assert kinds_of(tmp_path) == {1: stands, 2: "c"}
    offsets = {"a": 0, "b": 2}
    assert listed(tmp_path) == [(1, 5, stands, offsets[stands], yields, offsets[yields])]
    assert {name: total(tmp_path, name) for name in ("applied", "duplicate", fate)} == {
        "applied": 2,
        "duplicate": 1,
        fate: 1,
    }
    assert pl.read_delta(str(tmp_path / "quarantine/things")).is_empty()


@pytest.mark.parametrize("history", ["scd1", "scd2"])
def test_each_of_several_events_at_one_sequence_is_counted_and_listed_with_its_neighbour(
    tmp_path: Path, history: History
) -> None:
    chain = Chain(tmp_path, kpi=kinds("last_position", history))
    chain.advance(thing(1, 5, "a"), thing(2, 5, "a"))
    chain.advance(thing(1, 5, "b"), thing(1, 5, "b"), thing(2, 5, "b"), thing(2, 5, "c"))
    assert kinds_of(tmp_path) == {1: "b", 2: "c"}
    assert {name: total(tmp_path, name) for name in ("applied", "duplicate", "ambiguous")} == {
        "applied": 2,
        "duplicate": 1,
        "ambiguous": 3,
    }
    with_known = {  # SCD1 compares the last of a batch with what it had, SCD2 the first
        "scd1": [(1, 5, "b", 3, "a", 0), (2, 5, "c", 5, "a", 1)],
        "scd2": [(1, 5, "b", 2, "a", 0), (2, 5, "b", 4, "a", 1)],
    }
    assert listed(tmp_path) == sorted([*with_known[history], (2, 5, "c", 5, "b", 4)])


@pytest.mark.parametrize("history", ["scd1", "scd2"])
def test_a_pair_is_listed_once_though_the_merge_that_met_it_failed(tmp_path: Path, history: History) -> None:
    chain = Chain(tmp_path, kpi=kinds("last_position", history))
    chain.advance(thing(1, 5, "a"))
    with fault("lost", tmp_path / "silver/things", times=2):
        chain.advance(thing(1, 5, "b"), thing(2, 5, "c"))
    assert listed(tmp_path) == [(1, 5, "b", 1, "a", 0)]
    with pytest.raises(TransientError), fault("lost", tmp_path / "silver/things"):
        chain.advance(thing(1, 5, "d"))
    chain = Chain(tmp_path, 4, kpi=kinds("last_position", history))
    chain.advance()
    assert listed(tmp_path) == [(1, 5, "b", 1, "a", 0), (1, 5, "d", 3, "b", 1)]
    assert kinds_of(tmp_path) == {1: "d", 2: "c"}


def test_the_policy_fail_stops_before_anything_of_the_batch_is_merged(tmp_path: Path) -> None:
    chain = Chain(tmp_path, kpi=kinds("fail"))
    chain.advance(thing(1, 5, "a"))
    message = (
        r"silver/things: 1 ambiguous pairs, the first of id=1 at sequence 5: \{.*'kind': 'b'\} at things/0 offset 2, "
        r"\{.*'kind': 'a'\} at things/0 offset 0.*declare ties='last_position' or 'quarantine'"
    )
    for start in (None, 3):  # again after a restart
        chain = Chain(tmp_path, start, kpi=kinds("fail")) if start else chain
        with pytest.raises(AmbiguousError, match=message):
            chain.advance(*([thing(2, 5, "c"), thing(1, 5, "b")] if start is None else []))
        assert kinds_of(tmp_path) == {1: "a"}
        assert listed(tmp_path) == []
    Chain(tmp_path, 3, kpi=kinds("last_position")).advance()
    assert kinds_of(tmp_path) == {1: "b", 2: "c"}


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(DeclarationError, match="ties: received 'last', expected 'last_position', 'quarantine' or"):
        kinds("last")  # type: ignore[arg-type]
