"""Whether the parts of a declaration are what their annotations say: types of Python alone, not what they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import polars as pl

from operators.schema import DeclarationError, did_you_mean
from operators.wording import clip

SECRET = {"secret": True}
"""Metadata of a field that may hold a secret: a refusal shows the type of its value alone."""

_SHOWN = 100  # characters of a value
_WORDS: Mapping[Any, str] = {
    str: "a text",
    int: "a whole number",
    timedelta: "a timedelta such as timedelta(hours=1)",
    pl.Expr: 'a polars expression such as pl.col("amount") >= 0',
    type(None): "None",
}


def check_fields(declared: Any) -> None:
    """Check the fields of a dataclass. Raises DeclarationError for the first that is not as it is annotated."""
    kind = type(declared)
    named = f" {declared.name!r}" if hasattr(declared, "name") else ""
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(declared):
        what, secret = f"{kind.__name__}{named}: {each.name}", each.metadata == SECRET
        expect_type(what, getattr(declared, each.name), hints[each.name], secret=secret)


def check_arguments(what: str, function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Check the arguments given to a function, by their names. Raises DeclarationError as `check_fields` does."""
    hints = get_type_hints(function, include_extras=True)
    for name in filter(given.__contains__, hints):
        expect_type(f"{what}: {name}", given[name], hints[name])


def expect_type(what: str, value: object, annotation: Any, *, secret: bool = False) -> None:
    """Raise DeclarationError unless `value` is as annotated; an example that is annotated, too, is part of the message.

    A text may stand for a list of texts, a whole number is no bool, and a set, which has no order, is no list.

    >>> expect_type("keys", {"id"}, Annotated[Sequence[str], "['id']"])
    Traceback (most recent call last):
    operators.schema.DeclarationError: keys: received {'id'}, expected a list of texts such as ['id']
    """
    if _fits(value, annotation):
        return
    shown = f"a {type(value).__name__}" if secret and value is not None else _shown(value)
    known = [each for part in _parts(annotation) if get_origin(part) is Literal for each in get_args(part)]
    meant = did_you_mean(value, known) if isinstance(value, str) else ""
    raise DeclarationError(f"{what}: received {shown}, expected {_expected(annotation)}{meant and f'.{meant}'}")


def _fits(value: object, annotation: Any) -> bool:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is Mapping:
        pairs = value.items() if isinstance(value, Mapping) else ()
        return isinstance(value, Mapping) and all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in pairs)
    if origin in (Sequence, tuple):
        each_fits = isinstance(value, Sequence) and all(_fits(each, arguments[0]) for each in value)
        return arguments[0] is str if isinstance(value, str) else each_fits
    return isinstance(value, annotation) and not (annotation is int and isinstance(value, bool))


def _parts(annotation: Any) -> Sequence[Any]:
    """Return the alternatives of a union, or what is none alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _expected(annotation: Any) -> str:
    *others, last = (words for part in _parts(annotation) for words in _words(part))
    return f"{', '.join(others)} or {last}" if others else last


def _words(annotation: Any) -> Sequence[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        (words,) = _words(arguments[0])
        return [f"{words} such as {arguments[1]}"]
    if origin is Literal:
        return [*map(repr, arguments)]
    if origin is Mapping:
        return [f"a dict of {_many(arguments[0])} to {_many(arguments[1])}"]
    if origin in (Sequence, tuple):
        return [f"a list of {_many(arguments[0])}"]
    return [_WORDS.get(annotation) or f"{annotation.__name__}(…)"]


def _many(annotation: Any) -> str:
    return "texts" if annotation is str else _expected(annotation)


def _shown(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else clip(repr(value), _SHOWN)
