"""How a table orders the events of a key."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True, slots=True)
class Order:
    """The declared type of the sequence: a column's own, or a struct of several.

    Of two upserts at one sequence the one at the later position stands, or with `first_stands` the one at the earlier.
    """

    sequence: pl.DataType = pl.Int64()  # noqa: RUF009 - types are immutable
    first_stands: bool = False
