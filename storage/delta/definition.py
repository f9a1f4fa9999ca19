"""What the rows of a table were made by, in words, kept with the table as a property in its metadata.

The digest in its transactions (`table_declaration`) decides whether a declaration is the same; the words say what
differs.

Source: Delta protocol, "Change Metadata" (`configuration`).
"""

import json
from collections.abc import Mapping, Sequence

from storage.delta.snapshot import Snapshot

DEFINITION = "goldwax.definition"
"""Name of the property: a JSON object of the terms."""

Terms = Mapping[str, str | Sequence[str] | None]
"""The parts of a definition by the names that users declare them by."""


def property_of(terms: Terms) -> dict[str, str]:
    """Return the property that keeps `terms`; a table without terms has none."""
    return {DEFINITION: json.dumps(terms, separators=(",", ":"))} if terms else {}


def made_by(snapshot: Snapshot) -> Terms | None:
    """Return what a table says its rows were made by, None when it does not say."""
    found = snapshot.properties.get(DEFINITION)
    made: Terms | None = json.loads(found) if found else None
    return made


def differences(made: Terms, declared: Terms) -> dict[str, str]:
    """Return what of a definition is declared otherwise than a table was made by, by the names of its terms.

    >>> differences({"keys": ["id"], "history": "scd1"}, {"keys": ["id", "country"], "history": "scd1"})
    {'keys': "keys: made with ['id'], declared ['id', 'country']"}
    >>> differences({"ties": "quarantine"}, {})  # a term that says only what is not usual
    {'ties': 'ties: made with quarantine, declared otherwise'}
    """
    names = [*declared, *(name for name in made if name not in declared)]
    changed = [name for name in names if _plain(made.get(name)) != _plain(declared.get(name))]
    return {name: f"{name}: made {_said(made, name, 'with ')}, declared {_said(declared, name)}" for name in changed}


def _said(terms: Terms, name: str, before: str = "") -> str:
    return f"{before}{_plain(terms[name])}" if name in terms else "otherwise"


def _plain(value: str | Sequence[str] | None) -> str | list[str] | None:
    return value if value is None or isinstance(value, str) else [*value]
