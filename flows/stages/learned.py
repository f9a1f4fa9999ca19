"""The columns that a Silver table has learned; the staging table is the memory of them.

They are the columns of staging that are neither technical nor declared. Silver has them once it has read a record that
does.
"""

from flows.event_batch import staging_schema
from flows.lake import Lake
from flows.silver import Silver
from operators.decoding.learning import LEARNABLE
from storage.delta.table import polars_schema
from storage.delta.table_declaration import read_snapshot


def as_learned(silver: Silver, lake: Lake) -> Silver:
    """Return the table with the columns it has learned so far. Raises UnreadableTableError, UnsupportedTableError.

    A table that ignores new fields has none: a column of its staging table that is not declared is a mistake there.
    """
    if silver.new_fields == "ignore":
        return silver
    snapshot = read_snapshot(lake.staging(silver.name))
    found = polars_schema(snapshot.metadata["schemaString"]) if snapshot else {}
    staged = staging_schema(silver.having_learned({}).schema)
    return silver.having_learned(
        {name: dtype for name, dtype in found.items() if name not in staged and dtype in LEARNABLE}
    )
