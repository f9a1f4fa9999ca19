"""Decodes nasty decimals and compares each with Python's own arithmetic; a process of its own, as it may crash.

Run as ``python -m tests.decimal_texts SEED COUNT``; prints what differs, and "done" as its last line.
"""

import json
import random
import re
import sys
from decimal import Decimal
from fractions import Fraction

from operators.decoding.decode import Decoder
from operators.decoding.formats import Debezium, Format, Json
from operators.schema import parse_schema

_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_TEXT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+))?")
_LENGTHS = [0, 1, 1, 2, 3, 6, 12, 20, 37, 38, 39, 60, 300]
_EXPONENTS = [0, 1, 2, 5, 9, 29, *range(34, 48), 60, 61, *range(75, 79), 128, 2**31 - 1, 2**31, 2**63, 10**20]
_FORMATS: list[tuple[Format, list[str]]] = [
    (Json(), ["%s"]),
    (Debezium(decimals="string"), ['{"op": "c", "after": %s}', '{"payload": {"op": "r", "after": %s}}']),
]


def nasty(rng: random.Random) -> str:
    """Return the text of a decimal, seldom something else."""
    text = rng.choice(["", "", "-", "+"]) + "".join(rng.choices("0000123456789", k=rng.choice(_LENGTHS)))
    if rng.random() < 0.5:
        text += "." + "".join(rng.choices("0000123456789", k=rng.choice(_LENGTHS)))
    if rng.random() < 0.7:
        zeros = "0" * rng.choice([0, 0, 0, 1, 9, 30])
        text += rng.choice("eE") + rng.choice(["", "+", "-", "-", "-"]) + zeros + str(rng.choice(_EXPONENTS))
    return text + (rng.choice([" ", "e", "-", ".", "x", "_1"]) if rng.random() < 0.03 else "")


def as_json(rng: random.Random, text: str) -> str:
    """Return the decimal as a JSON number, a string, or a string with escapes."""
    if _JSON_NUMBER.fullmatch(text) and rng.random() < 0.5:
        return text
    if rng.random() < 0.8:
        return json.dumps(text)
    return '"%s"' % "".join(f"\\u{ord(each):04x}" if rng.random() < 0.5 else each for each in text)  # noqa: UP031  # braces


def exact(text: str, precision: int, scale: int) -> Fraction | None:
    """Return the number if a decimal(precision, scale) can hold it."""
    if not (found := _TEXT.fullmatch(text)):
        return None
    mantissa, exponent = Fraction(Decimal(re.split("[eE]", text)[0])), int(found[1] or 0)
    if not mantissa or abs(exponent) > 2000:
        return None if mantissa else mantissa
    unscaled = mantissa * Fraction(10) ** (exponent + scale)
    return unscaled / 10**scale if unscaled.denominator == 1 and abs(unscaled) < 10**precision else None


def differing(rng: random.Random, count: int) -> list[object]:
    """Decode one batch of `count` records; return what is not as it should be."""
    precision = rng.choice([1, 6, 12, 20, 38, 38])
    scale = min(precision, rng.choice([0, 2, 10, 38]))
    fmt, envelopes = rng.choice(_FORMATS)
    schema = parse_schema({"id": "int64", "d": f"decimal({precision}, {scale})", "text": "string"})
    texts = [nasty(rng) for _ in range(count)]
    rows = [f'{{"id": {i}, "d": {as_json(rng, text)}}}' for i, text in enumerate(texts)]
    elsewhere = [f'{{"id": {count}, "text": {json.dumps(text)}, "x": [{as_json(rng, text)}]}}' for text in texts]
    values = [(envelopes[-1 if i % 2 else 0] % row).encode() for i, row in enumerate(rows + elsewhere)]
    decoded = Decoder(schema, ["id"], None, fmt).decode([None] * len(values), values)
    got: dict[int, Fraction | None] = {
        row: None if value is None else Fraction(value) for row, value in decoded.events.select("_row", "d").rows()
    }
    wanted: dict[int, Fraction | None] = {
        row: value for row, text in enumerate(texts) if (value := exact(text, precision, scale)) is not None
    }
    wanted |= dict.fromkeys(range(count, 2 * count))
    return [
        (precision, scale, values[row], row in got and got[row]) for row in {*got, *wanted} if _differ(got, wanted, row)
    ]


def _differ(got: dict[int, Fraction | None], wanted: dict[int, Fraction | None], row: int) -> bool:
    return (row in got) != (row in wanted) or got.get(row) != wanted.get(row)


if __name__ == "__main__":
    seed, total = map(int, sys.argv[1:])
    generator = random.Random(seed)
    for _ in range(total // 25):
        for size in (1, 1, 1, 2, 20):  # among many there is always one that the parser refuses before it may crash
            for each in differing(generator, size):
                print(each)  # noqa: T201  # its output
    print("done")  # noqa: T201  # its output
