"""What change events make of a Silver table, whatever order they come in."""
