"""What a Delta table is at one version, out of the actions of its log.

Sources: Delta protocol, "Action Reconciliation", "Protocol Evolution", "Valid Feature Names in Table Features".
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from storage.delta.checkpoints import tombstone
from storage.delta.deletion_vectors import Descriptor
from storage.delta.delta_actions import Action, DataFile, transaction
from storage.errors import UnsupportedTableError

READER_FEATURES = frozenset({"deletionVectors"})
WRITER_FEATURES = frozenset({"deletionVectors", "changeDataFeed", "appendOnly", "invariants"})

_READER_VERSION, _WRITER_VERSION = 3, 7


@dataclass(slots=True)
class Snapshot:
    """What a table is at `version`: its files by path, and how far each application is.

    `checkpointed` is the version of the checkpoint it was read from. `tombstones` says when, in milliseconds, a data
    file or vector file was last taken out; it may still be in use.
    """

    version: int = -1
    protocol: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    files: dict[str, DataFile] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    tombstones: dict[str, int] = field(default_factory=dict)
    checkpointed: int = -1

    def apply(self, action: Action) -> None:
        """Take in one action; the removes of a version come before its adds."""
        for kind, content in action.items():
            match kind:
                case "add":
                    file = DataFile.from_add(content)
                    self.files[file.path] = file
                case "remove":
                    self.files.pop(content["path"], None)
                    self._bury(content["path"], content.get("deletionVector"), content.get("deletionTimestamp", 0))
                case "txn":
                    self.transactions[content["appId"]] = content["version"]
                case "protocol":
                    self.protocol = content
                case "metaData":
                    self.metadata = content
                case _:
                    pass  # commitInfo, cdc and what later versions add carry no state of ours

    def take(self, version: int, actions: Sequence[Action]) -> None:
        """Become a later version by these actions; of a file in a remove and an add, the add counts."""
        for action in sorted(actions, key=lambda action: "add" in action):
            self.apply(action)
        self.version = version

    def edit(
        self, added: Iterable[DataFile], removed: Iterable[DataFile], transactions: Mapping[str, int], now: int
    ) -> None:
        """Become the next version, which has these files and transactions; `now` in milliseconds."""
        for file in removed:
            del self.files[file.path]
            self.tombstones[file.path] = now
            if file.vector and file.vector.path:
                self.tombstones[file.vector.path] = now
        self.files |= {file.path: file for file in added}
        self.transactions |= transactions
        self.version += 1

    @property
    def has_vectors(self) -> bool:
        """Tell whether the protocol of the table allows deletion vectors."""
        return "deletionVectors" in (self.protocol.get("writerFeatures") or ())

    @property
    def properties(self) -> Mapping[str, str]:
        """What the metadata configures."""
        found: Mapping[str, str] = self.metadata.get("configuration") or {}
        return found

    def live_paths(self) -> set[str]:
        """Return the paths of all data files and vector files that the table consists of."""
        vectors = {file.vector.path for file in self.files.values() if file.vector and file.vector.path}
        return vectors | self.files.keys()

    def forget_tombstones(self, before: int) -> None:
        """Drop what was taken out before this time, in milliseconds."""
        self.tombstones = {path: at for path, at in self.tombstones.items() if at >= before}

    def copy(self) -> "Snapshot":
        """Return a snapshot that later changes of this one leave alone."""
        return replace(self, files={**self.files}, transactions={**self.transactions}, tombstones={**self.tombstones})

    def actions(self) -> list[Action]:
        """Return the actions that make up this state."""
        live = self.live_paths()
        return [
            {"protocol": dict(self.protocol)},
            {"metaData": dict(self.metadata)},
            *(transaction(application, version) for application, version in self.transactions.items()),
            *(file.add(data_change=False) for file in self.files.values()),
            *(tombstone(path, at) for path, at in self.tombstones.items() if path not in live),
        ]

    def _bury(self, path: str, vector: Mapping[str, Any] | None, now: int) -> None:
        self.tombstones[path] = now
        place = Descriptor.from_action(vector).path if vector else None
        if place:
            self.tombstones[place] = now


def check_supported(snapshot: Snapshot, place: str) -> None:
    """Refuse a table that asks more of its readers or writers than we can do. Raises UnsupportedTableError."""
    protocol, metadata = snapshot.protocol, snapshot.metadata
    unknown_to_reader = {*(protocol.get("readerFeatures") or ())} - READER_FEATURES
    unknown_to_writer = {*(protocol.get("writerFeatures") or ())} - WRITER_FEATURES
    problems = [
        f"reader version {protocol['minReaderVersion']}" * (protocol["minReaderVersion"] > _READER_VERSION),
        f"writer version {protocol['minWriterVersion']}" * (protocol["minWriterVersion"] > _WRITER_VERSION),
        *(f"reader feature {name!r}" for name in sorted(unknown_to_reader)),
        *(f"writer feature {name!r}" for name in sorted(unknown_to_writer)),
        "partition columns" * bool(metadata.get("partitionColumns")),
        *_constraints(metadata),
        "column mapping" * (_configured(metadata, "delta.columnMapping.mode") not in (None, "none")),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise UnsupportedTableError(
            f"{place}: the table needs {', '.join(found)}, which goldwax cannot write. Use the table's own engine, or "
            "point the pipeline at a table of its own"
        )


def _constraints(metadata: Mapping[str, Any]) -> list[str]:
    """Return the rules about rows that the metadata sets; we check none."""
    fields = json.loads(metadata["schemaString"])["fields"] if metadata else []
    ruled = ("delta.invariants", "delta.generationExpression", "delta.identity.start")
    return [
        *(f"constraint {name!r}" for name in metadata.get("configuration") or () if "delta.constraints." in name),
        *(f"NOT NULL on {field['name']!r}" for field in fields if not field["nullable"]),
        *(f"a rule on {field['name']!r}" for field in fields if any(rule in field["metadata"] for rule in ruled)),
    ]


def _configured(metadata: Mapping[str, Any], name: str) -> str | None:
    configuration = metadata.get("configuration") or {}
    value: str | None = configuration.get(name)
    return value
