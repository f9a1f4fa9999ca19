"""Full snapshots of a table, as files or as versions of a Delta table."""
