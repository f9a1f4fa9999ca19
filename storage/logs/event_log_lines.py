r"""The envelope: one record of the embedded event log as one line of JSON.

    {"key": "{\"id\":1}", "value": "{\"op\":\"c\"}", "timestamp": 1700000000000, "headers": {"trace": "7f"}}

Every field may be missing or null. ``key`` and ``value`` are the record's bytes as UTF-8 text; bytes that are not UTF-8
stand in ``key_base64`` and ``value_base64``. ``timestamp`` is milliseconds since the epoch. ``headers`` maps names to
text or null, ``headers_base64`` to Base64 or null; a name may come twice, as in Kafka. Other fields are ignored, so a
capture that also carries topic, partition and offset is readable.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from storage.logs.records import Headers

_TEXT_FIELDS = ("key", "value", "key_base64", "value_base64")
_SCHEMA = pa.schema([*((field, pa.string()) for field in _TEXT_FIELDS), ("timestamp", pa.int64())])

# On a null between rows pyarrow's JSON reader crashes the process instead of raising an error.
_CRASHES_ARROW = re.compile(rb"\}[ \t\r]*null")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NEWLINE, _OPENING, _CLOSING = b"\n{}"

NO_TIMESTAMP = -1


class Columns(NamedTuple):
    """Lines as columns of equal length; NO_TIMESTAMP and None where a line has none."""

    timestamps: npt.NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    headers: Sequence[Headers | None] | None


class MalformedLineError(ValueError):
    """Line number `line` (from 0, within the lines given) is not an envelope; `problem` says why."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem


def encode_line(key: bytes | None, value: bytes | None, timestamp: int | None, headers: Headers) -> bytes:
    """Return the line of one record, newline included."""
    fields: dict[str, Any] = _text_or_base64("key", key) | _text_or_base64("value", value)
    if timestamp is not None:
        fields["timestamp"] = timestamp
    line = json.dumps(fields, ensure_ascii=False)
    if headers:
        line = f"{line[:-1]}, {_encode_headers(headers)}}}"
    return line.encode() + b"\n"


def decode_lines(lines: bytes) -> Columns:
    """Parse whole lines, each with its newline, into columns. Raises MalformedLineError for the first bad one."""
    table = _parse(lines)
    return Columns(
        timestamps=_timestamps(table),
        keys=_bytes(table, "key"),
        values=_bytes(table, "value"),
        headers=_headers(lines) if b'"headers' in lines else None,
    )


def newline_positions(lines: bytes) -> npt.NDArray[np.int64]:
    """Return where each newline stands."""
    return np.flatnonzero(np.frombuffer(lines, np.uint8) == _NEWLINE)


def _parse(lines: bytes) -> pa.Table:
    if not _is_safe(lines):
        _check_each_line(lines)
    try:
        table = arrow_json.read_json(
            pa.BufferReader(lines),
            # One block and one thread: rows come in order, and no line meets a block's edge.
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # the parser lets bytes pass that are not UTF-8
    except pa.ArrowInvalid as error:
        _check_each_line(lines)
        raise MalformedLineError(0, f"these or following lines cannot be parsed: {error}") from error
    if table.num_rows != len(newline_positions(lines)):
        _check_each_line(lines)
        raise MalformedLineError(0, "these or following lines do not hold one JSON object each")
    return table


def _is_safe(lines: bytes) -> bool:
    """Say whether every line is `{...}` with no null after a closing brace.

    A raw newline cannot stand inside a JSON string, so lines that open with a brace, close with one and parse to as
    many rows as there are lines hold one object each.
    """
    text = np.frombuffer(lines, np.uint8)
    newlines = newline_positions(lines)
    starts = np.concatenate(([0], newlines[:-1] + 1))
    framed = bool((text[starts] == _OPENING).all() and (text[newlines - 1] == _CLOSING).all())
    return framed and _CRASHES_ARROW.search(lines) is None


def _check_each_line(lines: bytes) -> None:
    """Raise MalformedLineError for the first line that is not an envelope: slow, and only run when in doubt."""
    for number, line in enumerate(_split(lines)):
        problem = _problem(line)
        if problem:
            raise MalformedLineError(number, problem)
        _line_headers(line, number)


def _split(lines: bytes) -> list[bytes]:
    return lines[:-1].split(b"\n")


def _problem(line: bytes) -> str | None:
    if not line.startswith(b"{"):
        return "it does not begin with '{'"
    try:
        envelope = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"it is not JSON ({error})"
    for field in _TEXT_FIELDS:
        text = envelope.get(field)
        if not isinstance(text, str | None):
            return f"{field!r} is {_json_type(text)}, not a string or null"
        if text and _SURROGATE.search(text):
            return f"{field!r} holds half a surrogate pair, which no UTF-8 has"
    timestamp = envelope.get("timestamp")
    if timestamp is not None and type(timestamp) is not int:
        return f"'timestamp' is {_json_type(timestamp)}, not an integer of milliseconds"
    return None


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")


def _timestamps(table: pa.Table) -> npt.NDArray[np.int64]:
    filled: npt.NDArray[np.int64] = pc.fill_null(table["timestamp"], NO_TIMESTAMP).to_numpy()
    return filled


def _bytes(table: pa.Table, field: str) -> list[bytes | None]:
    # numpy's tolist is the fastest way from Arrow to Python bytes (9 million a second against 7 for to_pylist).
    plain: list[bytes | None] = table[field].cast(pa.binary()).to_numpy().tolist()
    encoded = table[f"{field}_base64"]
    if encoded.null_count < len(encoded):
        for row in np.flatnonzero(encoded.is_valid().to_numpy()).tolist():
            plain[row] = _from_base64(encoded[row].as_py(), row, f"{field}_base64")
    return plain


def _from_base64(text: str, row: int, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedLineError(row, f"{field!r} is not Base64 ({error})") from error


def _headers(lines: bytes) -> list[Headers | None] | None:
    rows = [_line_headers(line, row) for row, line in enumerate(_split(lines))]
    return rows if any(rows) else None


def _line_headers(line: bytes, row: int) -> Headers | None:
    if b'"headers' not in line:
        return None
    # Pairs instead of a dict: a header name may come twice.
    try:
        fields = dict(json.loads(line, object_pairs_hook=list))
    except (ValueError, RecursionError) as error:
        raise MalformedLineError(row, f"it is not JSON ({error})") from error
    plain = _header_pairs(fields.get("headers"), "headers", row)
    encoded = _header_pairs(fields.get("headers_base64"), "headers_base64", row)
    if any(_SURROGATE.search(name + (text or "")) for name, text in (*plain, *encoded)):
        raise MalformedLineError(row, "a header holds half a surrogate pair, which no UTF-8 has")
    pairs = [(name, None if text is None else text.encode()) for name, text in plain]
    pairs += [(name, None if text is None else _from_base64(text, row, "headers_base64")) for name, text in encoded]
    return tuple(pairs) or None


def _header_pairs(pairs: Any, field: str, row: int) -> list[tuple[str, str | None]]:
    if pairs is None:
        return []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, tuple) and isinstance(pair[1], str | None) for pair in pairs
    ):
        raise MalformedLineError(row, f"{field!r} is not an object of strings and nulls")
    return pairs


def _text_or_base64(field: str, data: bytes | None) -> dict[str, str | None]:
    if data is None:
        return {field: None}
    try:
        return {field: data.decode()}
    except UnicodeDecodeError:
        return {f"{field}_base64": base64.b64encode(data).decode()}


def _encode_headers(headers: Headers) -> str:
    try:
        return (
            f'"headers": {_pairs_to_json([(name, None if data is None else data.decode()) for name, data in headers])}'
        )
    except UnicodeDecodeError:
        # All of them, so that their order survives.
        encoded = [(name, None if data is None else base64.b64encode(data).decode()) for name, data in headers]
        return f'"headers_base64": {_pairs_to_json(encoded)}'


def _pairs_to_json(pairs: Sequence[tuple[str, str | None]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(text, ensure_ascii=False)}" for name, text in pairs) + "}"
