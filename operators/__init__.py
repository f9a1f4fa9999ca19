"""Pure columnar logic with explicit state: no IO, no clock, no engine."""
