"""What becomes of two events of a key that have one sequence and different rows, and so no order of their own."""

from typing import Literal

Ties = Literal["last_position", "quarantine", "fail"]
"""The event at the later position stands; or the one at the earlier, and the other is set aside; or the run stops.

Whatever stands, both are listed in the table `ambiguous/<name>`."""
