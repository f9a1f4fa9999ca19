"""What the commits of a table say they read and did, added up."""

import json
from collections import Counter
from typing import Any

from storage.delta.delta_log import DeltaLog
from storage.delta.owned_table import LEDGER
from storage.delta.snapshot import Snapshot
from storage.object_store import open_store

REBUILT = "rebuilt"
"""In the ledger of a commit that put all rows anew: it counts for all commits before it too."""


class Ledgers:
    """The ledgers of the table at `uri`, from its first version on."""

    def __init__(self, uri: str) -> None:
        self._log = DeltaLog(open_store(uri), uri)
        self._known = Snapshot()
        self._counts: Counter[str] = Counter()
        self._ranges: dict[str, list[int]] = {}

    def follow(self) -> None:
        """Add up what was committed since the last time. Call it before the log of that is cleaned up."""
        for version, actions in self._log.follow(self._known):
            self._known.version = version
            for action in actions:
                self._add(json.loads(action.get("commitInfo", {}).get(LEDGER, "{}")))

    def total(self) -> dict[str, Any]:
        """Return one ledger of all of them."""
        return {"ranges": self._ranges, **self._counts}

    def _add(self, ledger: dict[str, Any]) -> None:
        for name, content in ledger.items():
            if isinstance(content, int):
                self._counts[name] += content
        for partition, (start, end) in ledger.get("ranges", {}).items():
            self._ranges[partition] = [self._ranges.get(partition, [start])[0], end]
