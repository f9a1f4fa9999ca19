"""Reading what changed in a table between two versions, from Delta's change data feed.

Source: Delta protocol, "Add CDC File" and "Change Data Files".
"""

from dataclasses import dataclass

import polars as pl
from deltalake import DeltaTable

from storage.delta.delta_log import DeltaLog
from storage.errors import HoleError
from storage.object_store import open_store


@dataclass(frozen=True, slots=True)
class FeedImages:
    """Rows that were replaced or deleted, and rows that are new or took the place of others."""

    before: pl.DataFrame
    after: pl.DataFrame


def read_changes(uri: str, after_version: int, version: int, schema: pl.Schema) -> FeedImages:
    """Return the images of all commits of ``after_version < commit <= version``, in the columns of `schema`.

    Raises HoleError when the table no longer holds these versions, TransientError when the store fails.
    """
    try:
        changes = _read(uri, after_version, version)
    except HoleError:  # deltalake does not tell a file that is gone from a store that fails
        DeltaLog(open_store(uri), uri).holds(version)  # a store that still fails says so here
        changes = _read(uri, after_version, version)
    if not changes.height:
        return FeedImages(pl.DataFrame(schema=schema), pl.DataFrame(schema=schema))
    kind = pl.col("_change_type")
    rows = [pl.col(name).cast(dtype) for name, dtype in schema.items()]
    return FeedImages(
        changes.filter(kind.is_in(["update_preimage", "delete"])).select(rows),
        changes.filter(kind.is_in(["update_postimage", "insert"])).select(rows),
    )


def _read(uri: str, after_version: int, version: int) -> pl.DataFrame:
    try:
        feed = DeltaTable(uri).load_cdf(starting_version=after_version + 1, ending_version=version)
        return pl.DataFrame(feed.read_all())
    except Exception as error:
        raise HoleError(
            f"{uri}: the changes of versions {after_version + 1} to {version} cannot be read ({error}). They may "
            "have been removed by retention; move the Gold table away and it is rebuilt from all of Silver"
        ) from error
