"""Handing the changes that `operators` worked out to the writers of `storage`; the two do not know each other."""

from operators.changes import Changes
from storage.merge_writer import RowChanges


def row_changes(changes: Changes) -> RowChanges:
    """Return `changes` as a merge writer takes them."""
    return RowChanges(changes.inserted, changes.updated_from, changes.updated_to, changes.deleted)
