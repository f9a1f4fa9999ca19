"""Arrow schemas of polars ones, as Delta tables are created with."""

import polars as pl
import pyarrow as pa


def arrow_schema(schema: pl.Schema) -> pa.Schema:
    """Return the Arrow schema of a table; every column may be NULL."""
    return pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
