"""Errors of the storage layer, sorted by what the caller does next.

StorageError
├── TransientError          try again, after reading back where the table stands
│   ├── CommitRaceError       someone else committed first, or the outcome is unknown
│   └── UnreadableSnapshotError a full snapshot is not whole, or not yet: look again later
└── TerminalError           stop; a person must act first
    ├── SourceError           the record log cannot be read
    │   ├── UnknownTopicError
    │   ├── OffsetLostError     the next offset to read no longer exists
    │   └── RegistryError       the schema registry cannot be asked
    ├── TableMismatchError    a table at this path is not the declared one
    ├── UnreadableTableError  a table's log cannot be read
    │   └── CorruptVectorError    a deletion vector is missing or damaged
    ├── UnsupportedTableError the table needs a feature that we do not have
    ├── UnwritableError       the lake cannot be written
    ├── HoleError             a range of records is missing between position and batch
    ├── AmbiguousError        two events have no order, and the table's policy is to stop
    └── FencedError           a newer owner writes this table
"""


class StorageError(Exception):
    """Anything this layer raises on purpose; the message says received, expected, remedy."""


class TransientError(StorageError):
    """Trying again may help, after reading back where the table stands."""


class CommitRaceError(TransientError):
    """Another commit came first, or the outcome of ours is unknown."""


class UnreadableSnapshotError(TransientError):
    """A full snapshot of a source is not whole, or not yet; look for it again later."""


class TerminalError(StorageError):
    """Trying again cannot help; a person must act first."""


class SourceError(TerminalError):
    """The record log cannot be read."""


class UnknownTopicError(SourceError):
    """The topic does not exist where it was looked for."""


class OffsetLostError(SourceError):
    """The next offset to read is outside what the log still holds."""


class RegistryError(SourceError):
    """The schema registry cannot be asked, or answers what none does."""


class TableMismatchError(TerminalError):
    """A table exists at this path and is not the one that was declared."""


class HoleError(TerminalError):
    """Records between a table's position and the batch at hand are missing."""


class AmbiguousError(TerminalError):
    """Two events of a key have one sequence and different rows."""


class FencedError(TerminalError):
    """A newer owner has taken over this table."""


class UnwritableError(TerminalError):
    """The lake cannot be written."""


class UnreadableTableError(TerminalError):
    """A table's log cannot be read."""


class CorruptVectorError(UnreadableTableError):
    """A deletion vector is missing or damaged; the rows of its file are not known."""


class UnsupportedTableError(TerminalError):
    """The table needs a feature of the Delta protocol that we do not have."""
