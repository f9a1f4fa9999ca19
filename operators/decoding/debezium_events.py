"""Change events from Debezium's envelope: `before`, `after`, `source` and `op`.

`op` is c (create), u (update), r (snapshot read): upsert of `after`; d (delete): delete of the key in `before`;
t (truncate): refused without a declared sequence; m (logical decoding message): no event. See "Data change events" in
the Debezium documentation.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_

import polars as pl

from operators.decoding.avro_reader import Schemas
from operators.decoding.formats import Debezium
from operators.decoding.look import Field
from operators.decoding.readers import envelope_reader
from operators.decoding.wire import wires_for
from operators.eager import constant
from operators.events import UNORDERED, Columns, Judged, judge

_OPERATIONS = {"c": "upsert", "u": "upsert", "r": "upsert", "d": "delete", "t": "truncate", "m": "message"}
_UPSERTS = [code for code, operation in _OPERATIONS.items() if operation == "upsert"]
_SOURCE = "source."


class DebeziumEvents:
    """Reads the values of a topic in `Debezium` format, and its keys where `before` is NULL."""

    def __init__(self, columns: Columns, fmt: Debezium, schemas: Schemas) -> None:
        self._columns = columns
        forms = {name: wires_for(dtype, fmt) for name, dtype in columns.schema.items()}
        of_sequence = [name for name in columns.sequence_parts if name in columns.schema]
        of_before = dict.fromkeys([*columns.keys, *of_sequence])
        fields = [Field("op", ("op",), pl.String(), wires_for(pl.String(), fmt))]
        fields += [Field(f"after.{c}", ("after", c), t, forms[c], c) for c, t in columns.schema.items()]
        fields += [Field(f"before.{c}", ("before", c), columns.schema[c], forms[c]) for c in of_before]
        number = wires_for(pl.Int64(), fmt)[:1]
        of_source = [name for name in columns.sequence_parts if name not in columns.schema]
        fields += [Field(name, ("source", name.removeprefix(_SOURCE)), pl.Int64(), number) for name in of_source]
        self._values = envelope_reader(fields, {"after": ("after",), "before": ("before",)}, fmt, schemas)
        of_key = [Field(k, (k,), columns.schema[k], forms[k]) for k in columns.keys]
        self._keys = envelope_reader(of_key, {}, fmt, schemas)

    def read(self, documents: Sequence[bytes], keys: Sequence[bytes | None]) -> Judged:
        """Return the events of `documents`, whose records have the Kafka keys `keys`."""
        frame, refused = self._values.read(documents)
        if (upserts := self._only_upserts(frame)) is not None:
            judged = judge(upserts, self._columns)
            return Judged(judged.events, [*judged.rejects, *refused.items()], [])
        named = frame.with_columns(_op=pl.col("op").replace_strict(_OPERATIONS, default=None, return_dtype=pl.String))
        messages = named["_op"] == "message"
        dropped: list[int] = named["_row"].filter(messages).to_list()
        candidates = self._candidates(named.filter(~messages.fill_null(value=False)) if dropped else named)
        nameless = (pl.col("_op") == "delete") & ~pl.col("_has_before")
        lost = candidates.filter(nameless)
        if len(lost):
            candidates = self._with_kafka_keys(candidates, lost, keys)
        judged = judge(candidates, self._columns)
        return Judged(judged.events, [*judged.rejects, *refused.items()], dropped)

    def _only_upserts(self, frame: pl.DataFrame) -> pl.DataFrame | None:
        """Return what `_candidates` does for a batch of nothing but upserts with their row, the usual one."""
        op, height = frame["op"], len(frame)
        upserts = reduce(or_, (op == code for code in _UPSERTS))
        if op.null_count() or not upserts.all() or not frame["after"].all():
            return None
        rows = {name: frame[f"after.{name}"].alias(name) for name in self._columns.schema}
        parts = [
            rows[name].to_physical().cast(pl.Int64) if name in rows else frame[name]
            for name in self._columns.sequence_parts
        ] or [constant("", None, pl.Int64(), height)]
        sequences = parts[0] if len(parts) == 1 else pl.DataFrame(parts).to_struct()
        return pl.DataFrame(
            [
                frame["_row"],
                constant("_op", "upsert", pl.String(), height),
                sequences.alias("_sequence"),
                frame["_unavailable"],
                *rows.values(),
                constant("_reason", None, pl.String(), height),
            ]
        )

    def _candidates(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the columns of events, `_has_before` and `_reason`."""
        upsert, delete = pl.col("_op") == "upsert", pl.col("_op") == "delete"

        def row(name: str) -> pl.Expr:
            chosen = pl.when(upsert).then(pl.col(f"after.{name}"))
            return chosen.when(delete).then(pl.col(f"before.{name}")) if name in self._columns.keys else chosen

        return frame.select(
            "_row",
            "_op",
            pl.when(upsert).then("_unavailable").alias("_unavailable"),
            self._columns.sequence(self._part).alias("_sequence"),
            *(row(name).alias(name) for name in self._columns.schema),
            pl.col("before").alias("_has_before"),
            _reason(is_ordered=bool(self._columns.sequence_parts)).alias("_reason"),
        )

    def _part(self, name: str) -> pl.Expr:
        """Return a part of the sequence as Int64."""
        if name not in self._columns.schema:
            return pl.col(name)
        delete = pl.col("_op") == "delete"
        chosen = pl.when(delete).then(pl.col(f"before.{name}")).otherwise(pl.col(f"after.{name}"))
        return chosen.to_physical().cast(pl.Int64)

    def _with_kafka_keys(
        self, candidates: pl.DataFrame, lost: pl.DataFrame, keys: Sequence[bytes | None]
    ) -> pl.DataFrame:
        """Return `candidates` with the business keys of deletes without `before` (REPLICA IDENTITY NOTHING)."""
        rows: list[int] = lost["_row"].to_list()
        frame, refused = self._keys.read([keys[row] or b"" for row in rows])
        found = frame.select(lost["_row"].gather(frame["_row"]), *self._columns.keys)
        told = [(rows[i], f"delete without `before`; Kafka key: {reason}") for i, reason in refused.items()]
        why = pl.DataFrame(told, {"_row": pl.UInt32, "_reason": pl.String}, orient="row")
        return candidates.update(found, on="_row", how="left").update(why, on="_row", how="left").sort("_row")


def _reason(*, is_ordered: bool) -> pl.Expr:
    op = pl.col("_op")
    unknown = pl.format(
        "operation 'op': received {}, expected one of {}",
        pl.col("op").str.slice(0, 100).fill_null("NULL or nothing"),
        pl.lit(", ".join(_OPERATIONS)),
    )
    no_after = pl.format("op {}: received no `after`, expected the row", pl.col("op"))
    known = pl.when(op.is_null()).then(unknown).when((op == "upsert") & ~pl.col("after")).then(no_after)
    return known if is_ordered else known.when(op == "truncate").then(pl.lit(f"op t: {UNORDERED}"))
