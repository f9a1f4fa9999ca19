"""Declaring a KPI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from flows.names import checked_name
from flows.silver import Silver
from flows.strategy import Strategy
from operators.declared import check_fields
from operators.events import names_of
from operators.gold.measures import Measure
from operators.gold.rollup import Rollup
from operators.gold.windows import Tumbling
from operators.schema import DeclarationError


@dataclass(frozen=True, slots=True)
class OnCommit:
    """Refresh a Gold table with every commit of the Silver table it comes from."""


@dataclass(frozen=True, eq=False)
class Kpi:
    """A Gold table of measures over a Silver table, one row for each group.

    A group is equal values of the `group_by` columns and, with a `window`, one window of event time; NULL is a value
    like others. Rows are retracted and added as Silver rows change, so late events and deletes are always counted
    right. A group without rows has no row. `strategy` is that of `Silver`.

    Raises DeclarationError.
    """

    name: str
    source: Silver
    measures: Annotated[Mapping[str, Measure], "{'orders': Count()}"]
    group_by: Sequence[str] = ()
    window: Annotated[Tumbling, "tumbling('1h', on='placed_at')"] | None = None
    refresh: OnCommit = OnCommit()
    strategy: Strategy = "deletion_vectors"

    def __post_init__(self) -> None:
        checked_name("Kpi", self.name)
        check_fields(self)
        object.__setattr__(self, "group_by", names_of(self.group_by))
        if not self.measures:
            raise DeclarationError(f"Kpi {self.name!r}: measures is empty; expected at least one, as Count()")
        try:
            self.rollup()
        except DeclarationError as error:
            raise DeclarationError(f"Kpi {self.name!r}: {error}") from None

    def rollup(self) -> Rollup:
        """Return the empty state of this KPI."""
        return Rollup(self.source.schema, self.group_by, self.window, self.measures)
