"""How a merge takes replaced and deleted rows out of the data files of a table."""

from typing import Literal

Strategy = Literal["deletion_vectors", "rewrite"]
"""Marked in deletion vectors, which every merge can afford; or written anew without them, for old readers."""
