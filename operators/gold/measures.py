"""Measures of a KPI and the accumulators they are kept as.

An accumulator is a column that adds up: the change a batch makes to it is the sum over the rows that came minus the
sum over the rows that went. Integers and decimals add up exactly as decimals of 38 digits, floats as exact sums
(see `exact`), so a measure never depends on the order or the batching of the changes that led to it.
"""

from dataclasses import dataclass

import polars as pl

from operators.declared import check_fields
from operators.gold import exact
from operators.schema import DeclarationError, Schema, did_you_mean, type_name

_DIGITS = 38
_MEAN_EXTRA_SCALE = 4
_ADDED_DIGITS = 10  # room for ten billion rows of the largest value
_INT64 = 2**63


class MeasureOverflowError(ArithmeticError):
    """A measure left the range of its type; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Count:
    """The number of rows, or of rows where `column` is not NULL."""

    column: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of the values of a numeric column that are not NULL; NULL when there are none.

    int64 for integers (an error past its range), decimal(38, s) for decimals, float64 for floats.
    """

    column: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of the values of a numeric column that are not NULL; NULL when there are none.

    float64 for integers and floats, decimal(38, s + 4) for decimals.
    """

    column: str

    def __post_init__(self) -> None:
        check_fields(self)


Measure = Count | Sum | Mean


@dataclass(frozen=True, slots=True)
class Accumulators:
    """How one measure is accumulated: its accumulator columns, and its value made from them."""

    name: str
    measure: Measure
    source: pl.DataType

    @classmethod
    def of(cls, name: str, measure: Measure, schema: Schema) -> "Accumulators":
        """Check a measure against the columns it is taken from."""
        column = measure.column
        if column is None:
            return cls(name, measure, pl.Int64())
        if column not in schema:
            raise DeclarationError(
                f"measure {name!r}: unknown column {column!r}; the table has: {', '.join(schema)}."
                f"{did_you_mean(column, schema)}"
            )
        if not isinstance(measure, Count) and not schema[column].is_numeric():
            raise DeclarationError(
                f"measure {name!r}: {type(measure).__name__} needs a numeric column, received {column!r} of type "
                f"{type_name(schema[column])}; count it instead, or pick another column"
            )
        accumulators = cls(name, measure, schema[column])
        accumulators._check_room()
        return accumulators

    @property
    def is_float(self) -> bool:
        """Tell whether the sum is kept as an exact float sum."""
        return not isinstance(self.measure, Count) and self.source.is_float()

    @property
    def columns(self) -> Schema:
        """Technical accumulator columns beside the measure itself; a count is its own accumulator."""
        if isinstance(self.measure, Count):
            return {}
        kept = pl.String() if self.is_float else pl.Decimal(_DIGITS, self._scale)
        return {self._sum: kept, self._count: pl.Int64()}

    @property
    def dtype(self) -> pl.DataType:
        """Type of the measure."""
        match self.measure:
            case Count():
                return pl.Int64()
            case Sum():
                return pl.Float64() if self.is_float else self._sum_type
            case Mean():
                scale = min(self._scale + _MEAN_EXTRA_SCALE, _DIGITS)
                return pl.Decimal(_DIGITS, scale) if self.source.is_decimal() else pl.Float64()

    def contributions(self) -> list[pl.Expr]:
        """Return aggregations over signed rows (`_sign` is 1 or -1); float sums are left to `add_floats`."""
        column, sign = self.measure.column, pl.col("_sign")
        if isinstance(self.measure, Count):
            counted = sign if column is None else sign.filter(pl.col(column).is_not_null())
            return [counted.sum().alias(self.name)]
        value = pl.col(self.measure.column)
        counts = sign.filter(value.is_not_null()).sum().alias(self._count)
        if self.is_float:
            return [counts]
        if self.source.is_integer():
            total = (value.cast(pl.Int128) * sign.cast(pl.Int128)).sum().cast(pl.Decimal(_DIGITS, 0))
        else:
            wide = value.cast(pl.Decimal(_DIGITS, self._scale))
            total = pl.when(sign > 0).then(wide).otherwise(-wide).sum()
        return [total.alias(self._sum), counts]

    def add_floats(self, deltas: pl.DataFrame, signed: pl.DataFrame, groups: pl.Series) -> pl.DataFrame:
        """Add the encoded exact sums to `deltas`; `groups` numbers the row of `deltas` each signed row belongs to."""
        if not self.is_float:
            return deltas
        known = signed[str(self.measure.column)].is_not_null()
        rows = signed.filter(known)
        values = (rows[str(self.measure.column)].cast(pl.Float64) * rows["_sign"]).to_numpy()
        totals = exact.sum_by_group(values, groups.filter(known).cast(pl.Int64).to_numpy(), deltas.height)
        return deltas.with_columns(pl.Series(self._sum, [exact.encode(total) for total in totals], pl.String))

    def combined(self, held: pl.DataFrame, deltas: pl.DataFrame) -> list[pl.Series]:
        """Add deltas to held accumulators, row by row."""
        if isinstance(self.measure, Count):
            return [held[self.name] + deltas[self.name]]
        counts = held[self._count] + deltas[self._count]
        if not self.is_float:
            return [held[self._sum] + deltas[self._sum], counts]
        pairs = zip(held[self._sum], deltas[self._sum], strict=True)
        totals = [exact.encode(exact.decode(one) + exact.decode(other)) for one, other in pairs]
        return [pl.Series(self._sum, totals, pl.String), counts]

    def moved(self) -> pl.Expr:
        """Tell which deltas are not zero."""
        if isinstance(self.measure, Count):
            return pl.col(self.name) != 0
        zero = pl.lit(exact.encode(0)) if self.is_float else pl.lit(0)
        return (pl.col(self._sum) != zero) | (pl.col(self._count) != 0)

    def value(self, rows: pl.DataFrame) -> pl.Series:
        """Return the measure of rows that hold its accumulators."""
        if isinstance(self.measure, Count):
            return rows[self.name]
        if self.is_float:
            return pl.Series(self.name, self._float_values(rows), pl.Float64)
        total, count = pl.col(self._sum), pl.col(self._count)
        if isinstance(self.measure, Sum):
            self._check_range(rows)
            result = total.cast(self.dtype)
        elif self.source.is_decimal():
            result = total.cast(self.dtype) / count.cast(pl.Decimal(_DIGITS, 0))
        else:
            result = total.cast(pl.Float64) / count
        return rows.select(pl.when(count > 0).then(result).alias(self.name)).to_series().cast(self.dtype)

    def _check_room(self) -> None:
        """Refuse decimals so wide that their sum, or the sum at the scale of the mean, may not fit 38 digits."""
        if isinstance(self.measure, Count) or not isinstance(self.source, pl.Decimal):
            return
        most = _DIGITS - _ADDED_DIGITS - (_MEAN_EXTRA_SCALE if isinstance(self.measure, Mean) else 0)
        if self.source.precision > most:
            raise DeclarationError(
                f"measure {self.name!r}: {type(self.measure).__name__} of a decimal({self.source.precision}, "
                f"{self.source.scale}) leaves no room to add up; expected at most {most} digits. Declare the column so"
            )

    def _check_range(self, rows: pl.DataFrame) -> None:
        if not self.source.is_integer():
            return
        beyond = rows.filter(~pl.col(self._sum).cast(pl.Int128).is_between(-_INT64, _INT64 - 1))
        if beyond.height:
            raise MeasureOverflowError(
                f"measure {self.name!r}: a sum is {beyond[self._sum][0]}, expected one that fits 64 bits. "
                f"Declare column {self.measure.column!r} decimal(19, 0): its tables follow at the next start"
            )

    def _float_values(self, rows: pl.DataFrame) -> list[float | None]:
        totals = (exact.decode(text) for text in rows[self._sum])
        by = rows[self._count].to_list()
        mean = isinstance(self.measure, Mean)
        pairs = zip(totals, by, strict=True)
        return [exact.rounded(total, count if mean else 1) if count else None for total, count in pairs]

    @property
    def _scale(self) -> int:
        return self.source.scale if isinstance(self.source, pl.Decimal) else 0

    @property
    def _sum_type(self) -> pl.DataType:
        return pl.Decimal(_DIGITS, self._scale) if self.source.is_decimal() else pl.Int64()

    @property
    def _sum(self) -> str:
        return f"_{self.name}_sum"

    @property
    def _count(self) -> str:
        return f"_{self.name}_count"
