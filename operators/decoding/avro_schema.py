"""Avro schemas, parsed: what a datum is made of, and what its numbers mean.

Source: Apache Avro specification 1.12, "Schema Declaration" and "Logical Types". An annotation that does not fit its
type is ignored, as the specification says. Kafka Connect's converter writes what Avro has no logical type for into
``connect.name``; where the meaning of a number stands only there, it is taken from there.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
_LIMIT = 2**31  # of sizes and precisions, which are an int in Avro's own implementations
_MOST_VALUES = 10_000  # of a record; a table of MySQL has at most 4,096 columns
_MEANINGS = {
    "int": {"date": "date", "time-millis": "time of day"},
    "long": {
        "time-micros": "time of day",
        "timestamp-millis": "ms",
        "timestamp-micros": "us",
        "timestamp-nanos": "ns",
        "local-timestamp-millis": "ms",
        "local-timestamp-micros": "us",
        "local-timestamp-nanos": "ns",
    },
}
_OF_CONNECT = {
    "io.debezium.time.Date": "date",
    "io.debezium.time.Timestamp": "ms",
    "io.debezium.time.MicroTimestamp": "us",
    "io.debezium.time.NanoTimestamp": "ns",
    "io.debezium.time.Time": "time of day",
    "io.debezium.time.MicroTime": "time of day",
    "io.debezium.time.NanoTime": "time of day",
}


class AvroSchemaError(ValueError):
    """A text that is no Avro schema; the message says received, expected."""


@dataclass(eq=False, slots=True)
class Node:
    """A type in a schema.

    `meaning` of integers is "date", "time of day", "ms", "us" or "ns" (an instant, in this unit since the epoch), and
    "decimal" of bytes that are an unscaled integer; None says nothing. `size` is that of a fixed. `parts` are the
    branches of a union, what an array or a map holds, or the fields of a record, whose `names` stand beside.
    """

    kind: str
    meaning: str | None = None
    scale: int = 0
    size: int = 0
    names: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    parts: list["Node"] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The type as messages name it."""
        return f"{self.kind} ({self.meaning})" if self.meaning else self.kind

    def may_be_empty(self, depth: int = 64) -> bool:
        """Tell whether a value may take no byte at all; of records nested deeper this is not asked."""
        if self.kind == "record":
            return depth > 0 and all(part.may_be_empty(depth - 1) for part in self.parts)
        return self.kind == "null" or (self.kind == "fixed" and not self.size)


def parse_schema(texts: Sequence[str]) -> Node:
    """Return the type that the last of `texts` declares; those before it declare what it refers to.

    Raises AvroSchemaError.
    """
    parser = _Parser()
    try:
        node = [parser.node(json.loads(text), "") for text in texts][-1]
        parser.check()
    except RecursionError:
        raise AvroSchemaError("received a schema that is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise AvroSchemaError(f"received a schema that is no JSON ({error}), expected an Avro schema") from None
    except AvroSchemaError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AvroSchemaError(f"received no Avro schema ({type(error).__name__}: {error})") from None
    return node


class _Parser:
    """Remembers the named types of a schema."""

    def __init__(self) -> None:
        self._named: dict[str, Node] = {}
        self._records: list[Node] = []

    def check(self) -> None:
        """Check that no record takes long to read although it is short. Raises AvroSchemaError."""
        known: dict[int, float] = {}
        most = max((_values(node, known) for node in self._records), default=0)
        if most > _MOST_VALUES:
            raise AvroSchemaError(
                f"received a record of {'endless' if math.isinf(most) else int(most)} values, records in records "
                f"counted, expected at most {_MOST_VALUES}; let it hold some in an array, a map or a union"
            )

    def node(self, declared: Any, namespace: str) -> Node:
        if isinstance(declared, list):
            return Node("union", parts=[self.node(branch, namespace) for branch in declared])
        if isinstance(declared, str):
            return Node(declared) if declared in _PRIMITIVES else self._reference(declared, namespace)
        kind = declared["type"]
        if not isinstance(kind, str):
            return self.node(kind, namespace)
        if kind in ("record", "error", "enum", "fixed"):
            return self._of_name(declared, kind, namespace)
        if kind in ("array", "map"):
            return Node(kind, parts=[self.node(declared["items" if kind == "array" else "values"], namespace)])
        return _annotated(Node(kind), declared) if kind in _PRIMITIVES else self._reference(kind, namespace)

    def _reference(self, name: str, namespace: str) -> Node:
        for known in (name if "." in name or not namespace else f"{namespace}.{name}", name):
            if known in self._named:
                return self._named[known]
        raise AvroSchemaError(f"received a reference to {name!r}, expected a type that is declared before")

    def _of_name(self, declared: Any, kind: str, namespace: str) -> Node:
        name: str = declared["name"]
        if "." not in name and (own := declared.get("namespace", namespace)):
            name = f"{own}.{name}"
        node = self._named[name] = Node("record" if kind == "error" else kind)
        if kind == "enum":
            node.symbols = [str(symbol) for symbol in declared["symbols"]]
            if not node.symbols:
                raise AvroSchemaError(f"received enum {name!r} without symbols")
        elif kind == "fixed":
            node.size = declared["size"]
            if not isinstance(node.size, int) or not 0 <= node.size < _LIMIT:
                raise AvroSchemaError(
                    f"received fixed {name!r} of size {node.size}, expected bytes, less than {_LIMIT}"
                )
            _annotated(node, declared)
        else:
            self._records.append(node)
            inside = name.rpartition(".")[0]
            node.names = [str(each["name"]) for each in declared["fields"]]
            node.parts += [self.node(each["type"], inside) for each in declared["fields"]]
        return node


def _values(node: Node, known: dict[int, float]) -> float:
    """Return how many values are in a value, less those in unions, arrays and maps; endless where it holds itself."""
    if node.kind != "record":
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        known[id(node)] = 1 + sum(_values(part, known) for part in node.parts)
    return known[id(node)]


def _annotated(node: Node, declared: Any) -> Node:
    """Add what a type means beyond its bytes."""
    logical = declared.get("logicalType")
    if node.kind in _MEANINGS:
        node.meaning = _MEANINGS[node.kind].get(str(logical)) or _OF_CONNECT.get(str(declared.get("connect.name")))
    elif node.kind in ("bytes", "fixed") and logical == "decimal":
        precision, scale = declared.get("precision"), declared.get("scale", 0)
        if isinstance(precision, int) and isinstance(scale, int) and 0 <= scale <= precision < _LIMIT:
            node.meaning, node.scale = "decimal", scale
    return node
