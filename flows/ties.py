"""What becomes of two events of a key that have one sequence and different rows, and so no order of their own."""

from typing import Literal, get_args

from operators.schema import DeclarationError, did_you_mean

Ties = Literal["last_position", "quarantine", "fail"]
"""The event at the later position stands; or the one at the earlier, and the other is set aside; or the run stops.

Whatever stands, both are listed in the table `ambiguous/<name>`."""


def checked_ties(ties: str) -> None:
    """Check the policy of a declaration. Raises DeclarationError."""
    if ties not in get_args(Ties):
        known = get_args(Ties)
        raise DeclarationError(
            f"unknown policy ties={ties!r}; expected one of: {', '.join(known)}.{did_you_mean(ties, known)}"
        )
