"""Names of pipelines and tables: they become folders, step ids and transaction ids."""

import re

from operators.schema import DeclarationError


def checked_name(what: str, name: str) -> str:
    """Return `name`. Raises DeclarationError unless it is lower-case letters, digits and underscores."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise DeclarationError(
            f"{what} name {name!r}: expected a lower-case letter, then at most 62 lower-case letters, digits or "
            "underscores; it names folders and steps"
        )
    return name
