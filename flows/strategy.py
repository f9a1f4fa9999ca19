"""How a merge takes replaced and deleted rows out of the data files of a table."""

from typing import Literal, get_args

from operators.schema import DeclarationError, did_you_mean

Strategy = Literal["deletion_vectors", "rewrite"]
"""Marked in deletion vectors, which every merge can afford; or written anew without them, for old readers."""


def checked_strategy(kind: str, name: str, strategy: str) -> None:
    """Check the strategy of a declaration. Raises DeclarationError."""
    if strategy not in get_args(Strategy):
        known = get_args(Strategy)
        raise DeclarationError(
            f"{kind} {name!r}: unknown strategy {strategy!r}; expected one of: {', '.join(known)}."
            f"{did_you_mean(strategy, known)}"
        )
