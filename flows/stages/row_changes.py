"""Handing the changes that `operators` worked out to the writers of `storage`; the two do not know each other."""

from operators.keys.changes import Changes
from storage.delta.merge_writer import RowChanges


def row_changes(changes: Changes) -> RowChanges:
    """Return `changes` as a merge writer takes them."""
    return RowChanges(
        changes.inserted,
        changes.inserted_slots,
        changes.updated_from,
        changes.updated_to,
        changes.updated_slots,
        changes.deleted,
        changes.deleted_slots,
    )
