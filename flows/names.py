"""Names of pipelines and tables: they become folders, step ids and transaction ids."""

import re

from flows.lake import RETRY, SHADOW, SIDE
from operators.schema import DeclarationError

_KEPT = {
    SIDE: "what is remembered beside a Silver table",
    SHADOW: "rebuilds",
    RETRY: "records that are sent in again",
}


def checked_name(what: str, name: object) -> str:
    """Return `name`. Raises DeclarationError unless it is lower-case letters, digits and underscores."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise DeclarationError(
            f"{what} name {name!r}: expected a lower-case letter, then at most 62 lower-case letters, digits or "
            "underscores; it names folders and steps"
        )
    return name


def checked_silver_name(name: object) -> str:
    """Return the name of a Silver table. Raises DeclarationError also for one that we make folders with ourselves."""
    for word, kept in _KEPT.items():
        if f"{word}_" in f"{name}_":
            raise DeclarationError(
                f"Silver {name!r}: names that end with {word!r}, or have '{word}_' in them, are kept for {kept}"
            )
    return checked_name("Silver", name)
