"""How the columns of a table may change while it stays the same table.

A column may be added, and a type may be widened: to a longer integer, from float to double, from an integer or a
decimal to a decimal with at least as many digits before and after the point. Rows from before an added column have NULL
there. A widened column is written anew in all data files, since not every reader reads a narrow file under a wide
schema; that costs what the table has. Anything else makes another table.

Source: Delta protocol, "Schema Serialization Format"; the list of widenings is that of "Type Widening" without integers
that become doubles, and with as many digits for integers as they have.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

_DIGITS = {"byte": 3, "short": 5, "integer": 10, "long": 19}
"""Most digits of an integer; shorter types come first."""

_DECLARED = {
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
    '{"type": "array", "elementType": "string", "containsNull": true}': "list<string>",
}
"""Types that are declared by other names than Delta's."""

_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")


@dataclass(frozen=True, slots=True)
class Evolution:
    """What must change for a table to have the declared columns; `problems` are changes that no table can make."""

    added: tuple[str, ...]
    widened: tuple[str, ...]
    problems: tuple[str, ...]
    reordered: bool


def evolution(found: str, declared: str) -> Evolution:
    """Compare two schemas in Delta's JSON form.

    >>> def schema(**types):
    ...     return json.dumps({"fields": [{"name": name, "type": found} for name, found in types.items()]})
    >>> evolution(schema(id="integer", at="date"), schema(id="long", at="string", note="string"))
    Evolution(added=('note',), widened=('id',), problems=('at: found date, declared string',), reordered=False)
    """
    actual, expected = _columns(found), _columns(declared)
    changed = [name for name in expected if name in actual and actual[name] != expected[name]]
    widened = tuple(name for name in changed if _widens(actual[name], expected[name]))
    wrong = [name for name in changed if name not in widened] + [name for name in actual if name not in expected]
    return Evolution(
        tuple(name for name in expected if name not in actual),
        widened,
        tuple(
            f"{name}: found {_shown(actual[name])}, declared {_shown(expected.get(name, 'nothing'))}" for name in wrong
        ),
        [name for name in actual if name in expected] != [name for name in expected if name in actual],
    )


def _columns(schema: str) -> Mapping[str, str]:
    return {each["name"]: json.dumps(each["type"]).strip('"') for each in json.loads(schema)["fields"]}


def _shown(type_: str) -> str:
    """Return the name that a type is declared by; one that cannot be declared is named as Delta does."""
    decimal = _DECIMAL.fullmatch(type_)
    return f"decimal({decimal[1]}, {decimal[2]})" if decimal else _DECLARED.get(type_, type_)


def _widens(found: str, declared: str) -> bool:
    if found in _DIGITS and declared in _DIGITS:
        return _DIGITS[found] < _DIGITS[declared]
    narrow, wide = _digits(found), _digits(declared)
    if narrow and wide and declared not in _DIGITS:
        return all(more >= few for few, more in zip(narrow, wide, strict=True))
    return (found, declared) == ("float", "double")


def _digits(type_: str) -> tuple[int, int] | None:
    """Return the digits before and after the point of an integer or a decimal."""
    if type_ in _DIGITS:
        return _DIGITS[type_], 0
    decimal = _DECIMAL.fullmatch(type_)
    return (int(decimal[1]) - int(decimal[2]), int(decimal[2])) if decimal else None
