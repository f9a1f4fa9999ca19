"""Where the tables of a pipeline are."""

from dataclasses import dataclass
from datetime import timedelta

from storage.delta.table_declaration import read_property

SIDE = "__side"
RETRY = "__retry"
"""How the name of the table beside a Silver table ends; a rebuild gives it another one, with more behind it."""

SHADOW = "__rebuild"
"""What follows the name of a Silver table in that of one which is on its way to take its place."""

SIDE_PROPERTY = "goldwax.side"
"""Property of a Silver table that was rebuilt: the name of the table beside it."""


@dataclass(frozen=True, slots=True)
class Lake:
    """A directory or URL with one folder a layer, one table a folder.

    Files and log entries that are no longer part of a table stay for `retention`.
    """

    root: str
    retention: timedelta = timedelta(hours=1)

    def staging(self, silver: str) -> str:
        """Return where the staging table of a Silver table is."""
        return f"{self.root}/staging/{silver}"

    def quarantine(self, silver: str) -> str:
        """Return where the records are that could not become rows of a Silver table."""
        return f"{self.root}/quarantine/{silver}"

    def retries(self, silver: str) -> str:
        """Return where the requests are to read quarantined records again."""
        return f"{self.root}/quarantine/{silver}{RETRY}"

    def silver(self, name: str) -> str:
        """Return where a Silver table is."""
        return f"{self.root}/silver/{name}"

    def side(self, silver: str) -> str:
        """Return where the events are that no row of a Silver table shows.

        A rebuilt table says so itself, so that one commit changes both. Raises UnreadableTableError.
        """
        return self.silver(read_property(self.silver(silver), SIDE_PROPERTY) or f"{silver}{SIDE}")

    def ambiguous(self, silver: str) -> str:
        """Return where the pairs of events of a Silver table are that have no order."""
        return f"{self.root}/ambiguous/{silver}"

    def gold(self, name: str) -> str:
        """Return where a Gold table is."""
        return f"{self.root}/gold/{name}"
