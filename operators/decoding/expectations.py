"""Checking events against the expectations of their table, and what becomes of those that do not meet them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from operators.decoding.decode import Decoded
from operators.decoding.expect import Expect, Otherwise, checked
from operators.eager import rows_where
from operators.schema import Schema
from operators.wording import clip

_DROP, _QUARANTINE, _FAIL = map(get_args(Otherwise).index, ("drop", "quarantine", "fail"))
_SHOWN = 100  # characters of a value

Places = npt.NDArray[np.int64]


class ExpectationError(Exception):
    """A record does not meet an expectation that stops the run; the message says which record, and its values."""


@dataclass(frozen=True, slots=True)
class _Unmet:
    """Rows that do not meet expectations, one entry a row and expectation; `errors` are of those that raised."""

    rows: Places
    which: Places
    ranks: Places
    errors: Mapping[tuple[int, int], str]


class Expectations:
    """The expectations of one table. Raises DeclarationError for a condition that is none."""

    def __init__(self, schema: Schema, expectations: Sequence[Expect]) -> None:
        self._all = checked(expectations, schema)
        self._ranks = np.array([get_args(Otherwise).index(each.otherwise) for each in self._all])
        self._conditions = [each.condition.alias(each.name) for each in self._all]
        self._read = [each.condition.meta.root_names() for each in self._all]

    def check(self, decoded: Decoded) -> Decoded:
        """Return `decoded` with upserts moved to `rejects` and `dropped`, and with what was not met in `unmet`."""
        upserts = rows_where(decoded.events, (decoded.events["_op"] == "upsert").to_numpy())
        unmet = self._unmet(upserts) if upserts.height else None
        return decoded if unmet is None else self._judged(decoded, upserts, unmet)

    def _unmet(self, upserts: pl.DataFrame) -> _Unmet | None:
        try:
            found = upserts.select(self._conditions).get_columns()
        except PolarsError:
            return self._searched(upserts)
        if all(met.all() for met in found):
            return None
        return self._collected([(_false(met), {}) for met in found])

    def _searched(self, upserts: pl.DataFrame) -> _Unmet:
        """Return the same where a condition raises: row by row, as far as it must be."""
        return self._collected([_search(upserts, condition) for condition in self._conditions])

    def _collected(self, found: Sequence[tuple[Places, Mapping[int, str]]]) -> _Unmet:
        rows = np.concatenate([rows for rows, _ in found])
        which = np.repeat(np.arange(len(found)), [len(rows) for rows, _ in found])
        errors = {(row, number): error for number, (_, raised) in enumerate(found) for row, error in raised.items()}
        order = np.lexsort((which, rows))
        rows, which = rows[order], which[order]
        ranks = self._ranks[which]
        if errors:
            raised = [pair in errors for pair in zip(rows.tolist(), which.tolist(), strict=True)]
            ranks[raised] = np.maximum(ranks[raised], _QUARANTINE)
        return _Unmet(rows, which, ranks, errors)

    def _judged(self, decoded: Decoded, upserts: pl.DataFrame, unmet: _Unmet) -> Decoded:
        strictest = np.full(upserts.height, -1)
        np.maximum.at(strictest, unmet.rows, unmet.ranks)
        quarantined, dropped = (np.flatnonzero(strictest == rank) for rank in (_QUARANTINE, _DROP))
        index = upserts["_row"]
        gone = decoded.events["_row"].is_in(index.gather(np.concatenate([quarantined, dropped])).implode())
        reasons = self._reasons(upserts, unmet, quarantined, _QUARANTINE)
        return replace(
            decoded,
            events=rows_where(decoded.events, ~gone.to_numpy()),
            rejects=_with_rejects(decoded.rejects, index.gather(quarantined), reasons),
            dropped=pl.concat([decoded.dropped, index.gather(dropped)]).sort(),
            unmet=self._counted(upserts, unmet, np.flatnonzero(strictest == _FAIL)),
        )

    def _counted(self, upserts: pl.DataFrame, unmet: _Unmet, failed: Places) -> pl.DataFrame:
        stops = self._reasons(upserts, unmet, failed, _FAIL)
        names = pl.Series("expectation", [each.name for each in self._all])
        columns = [upserts["_row"].gather(unmet.rows), names.gather(unmet.which)]
        return pl.DataFrame([*columns, pl.Series("stops", list(map(stops.get, unmet.rows.tolist())), pl.String)])

    def _reasons(self, upserts: pl.DataFrame, unmet: _Unmet, rows: Places, rank: int) -> dict[int, str]:
        """Say of each of these rows which expectations of this rank it does not meet, and with what values."""
        wanted = np.flatnonzero(np.isin(unmet.rows, rows) & (unmet.ranks == rank))
        said: dict[int, list[str]] = {}
        for row, number in zip(unmet.rows[wanted].tolist(), unmet.which[wanted].tolist(), strict=True):
            values = _values(upserts.row(row, named=True), self._read[number])
            error = unmet.errors.get((row, number))
            problem = f"expected values it can be evaluated on: {error}" if error else "expected it to be met"
            said.setdefault(row, []).append(f"expectation {self._all[number].name!r}: received {values}, {problem}")
        return {row: "; ".join(each) for row, each in said.items()}


def _with_rejects(rejects: pl.DataFrame, index: pl.Series, reasons: Mapping[int, str]) -> pl.DataFrame:
    rows = [(row, "expectation", reason) for row, reason in zip(index, reasons.values(), strict=True)]
    return pl.concat([rejects, pl.DataFrame(rows, rejects.schema, orient="row")]).sort("_row")


def _false(met: pl.Series) -> Places:
    return np.flatnonzero(~met.fill_null(value=True).to_numpy())


def _search(rows: pl.DataFrame, condition: pl.Expr, start: int = 0) -> tuple[Places, dict[int, str]]:
    """Return where a condition is false or raises, and what it raised there, by halves down to single rows."""
    try:
        return start + _false(rows.select(condition).to_series()), {}
    except PolarsError as error:
        if rows.height == 1:
            return np.array([start]), {start: clip(str(error).partition("\n")[0])}
    half = rows.height // 2
    before, raised_before = _search(rows[:half], condition, start)
    after, raised_after = _search(rows[half:], condition, start + half)
    return np.concatenate([before, after]), raised_before | raised_after


def _values(row: Mapping[str, Any], names: Iterable[str]) -> str:
    absent = row["_unavailable"] or ()
    return ", ".join(f"{name}={'not sent' if name in absent else _shown(row[name])}" for name in names)


def _shown(value: object) -> str:
    if value is None:
        return "NULL"
    is_json = isinstance(value, str | list | bool)
    return clip(json.dumps(value, ensure_ascii=False) if is_json else str(value), _SHOWN)
