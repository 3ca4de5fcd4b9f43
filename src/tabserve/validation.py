"""Whether the values of a feature keep to it: a whole column at once, whoever brought it.

Records of JSON, golden rows and columns of a file all come here, so that they meet the same rules.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from tabserve.errors import InputProblem
from tabserve.feature import EXACT_INTEGER_LIMIT, MOMENTS, Feature
from tabserve.types import Array, Columns

ISO_DATE = "Input should be a date or a date and time in ISO 8601, such as 2026-03-29T13:45:00Z"

# A pattern for pydantic-core as well. Which days a month has is seen later.
ISO_PATTERN = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?([Zz]|[+-][0-9]{2}:?[0-9]{2})?)?$"
)
_ISO = re.compile(ISO_PATTERN)

_NOT_EXACT = "Input is an integer beyond 2**53, which a float cannot hold exactly"


@dataclass
class Checked:
    """Columns of all rows, and what is wrong or unusual in them.

    columns: as an engine takes them; a row with a problem has a stand-in for the value.
    problems, warnings: their `loc` is (row, feature name).
    """

    columns: Columns
    problems: list[InputProblem]
    warnings: list[InputProblem]
    n_rows: int

    @cached_property
    def is_good(self) -> Array:
        """Shape (n_rows,), boolean: the rows without a problem."""
        good = np.ones(self.n_rows, dtype=bool)
        good[[found["loc"][0] for found in self.problems]] = False
        return good

    def good_columns(self) -> Columns:
        """Of the rows without a problem, in their order."""
        if not self.problems:
            return self.columns
        return {name: column[self.is_good] for name, column in self.columns.items()}


def check(feature: Feature, values: Sequence[Any] | Array, found: Checked) -> None:
    """Adds the feature's column to `found`, with what is wrong or unusual in it.

    values: Python values, None where missing; or an array, in which NaN, NaT and what it masks are
    missing too.
    """
    if not isinstance(values, np.ndarray) and all(map(feature.admits, values)):
        found.columns[feature.name] = feature.array(values)
        return
    column = _typed(feature, values, found)
    if feature.categories is not None and feature.unknown != "allow":
        column.meet_unknown()
    column.meet_missing()
    if feature.type in ("integer", "number", "datetime"):
        column.meet_bounds()
        if feature.range != "inform":
            column.meet_range()
    found.columns[feature.name] = column.as_taken()


def plain(value: Any) -> Any:
    """An enum's member as its value; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def inexact_as_float(value: Any) -> bool:
    """Whether an integer of the JSON text would lose digits in a float feature."""
    return type(value) is int and abs(value) > EXACT_INTEGER_LIMIT


def problem(row: int, name: str, kind: str, message: str) -> InputProblem:
    return {"loc": (row, name), "msg": message, "type": kind}


def texts_of_moments(moments: Array) -> list[str | None]:
    """Dates as JSON has them, in UTC; None where missing."""
    return [
        None if moment is None else f"{moment.isoformat()}Z"
        for moment in moments.astype(MOMENTS).tolist()
    ]


class _Column:
    """values: int64, float64, bool, datetime64 or object, with a stand-in where missing or bad."""

    def __init__(self, feature: Feature, values: Array, missing: Array, found: Checked) -> None:
        self.feature = feature
        self.values = values
        self.missing = missing
        self.bad = np.zeros(len(values), dtype=bool)
        self._found = found

    def refuse(self, where: Array, kind: str, message: str) -> None:
        rows = np.flatnonzero(where & ~self.bad)
        self.bad[rows] = True
        name = self.feature.name
        self._found.problems.extend([problem(row, name, kind, message) for row in rows.tolist()])

    def warn(self, where: Array, kind: str, message: str) -> None:
        name = self.feature.name
        rows = np.flatnonzero(where & ~self.bad).tolist()
        self._found.warnings.extend([problem(row, name, kind, message) for row in rows])

    def meet_unknown(self) -> None:
        categories = self.feature.categories or ()
        if self.values.dtype == object:
            listed, known = self.values.tolist(), frozenset(categories)
            if known.issuperset(listed):
                return
            is_known = np.fromiter(map(known.__contains__, listed), dtype=bool, count=len(listed))
        else:
            is_known = np.isin(self.values, np.array(categories or [], dtype=self.values.dtype))
        unknown = ~is_known & ~self.missing
        if self.feature.unknown == "refuse":
            message = "Input should be one of the categories that the model knows"
            self.refuse(unknown, "unknown_category", message)
            return
        self.warn(unknown, "unknown_category", "Input is none of the categories of the training")
        if self.feature.unknown == "missing":
            self.missing = self.missing | (unknown & ~self.bad)

    def meet_missing(self) -> None:
        feature = self.feature
        if not self.missing.any():
            return
        if not feature.takes_null:
            self.refuse(self.missing, "missing_value", "Input should not be null")
            return
        if feature.imputed == "warn":
            message = "Input was null, and was replaced by "
            message += "an estimate of the model" if feature.default is None else "the default"
            self.warn(self.missing, "imputed", message)
        if feature.default is not None:
            default: Any = feature.default
            if feature.type == "datetime":
                default = moment_of(default)
            self.values = self.values.copy()
            self.values[self.missing] = default
            self.missing = np.zeros_like(self.missing)

    def meet_bounds(self) -> None:
        """What the dtype of the training data cannot hold."""
        if self.values.dtype.kind == "f":
            infinite = ~np.isfinite(self.values) & ~self.missing
            self.refuse(infinite, "finite_number", "Input should be a finite number")
        least, largest = _ends(self.feature)
        # Doubles round the ends of int64, so integers are compared as what they are.
        with np.errstate(invalid="ignore"):
            outside = ((self.values < least) | (self.values > largest)) & ~self.missing
        self.refuse(outside, "out_of_range", f"Input should be from {least} to {largest}")

    def meet_range(self) -> None:
        least, largest = self.feature.limits
        outside = np.zeros(len(self.values), dtype=bool)
        with np.errstate(invalid="ignore"):
            if least is not None:
                outside |= self.values < least
            if largest is not None:
                outside |= self.values > largest
        outside &= ~self.missing
        usual = range_text(self.feature)
        if self.feature.range == "refuse":
            self.refuse(outside, "out_of_range", f"Input should be {usual}")
        else:
            self.warn(outside, "out_of_range", f"Input is not {usual}, as is usual")

    def as_taken(self) -> Array:
        """The array that an engine takes."""
        feature, values, missing = self.feature, self.values, self.missing
        if feature.type == "integer" and feature.nullable:
            values = values.astype(np.float64)
        if not feature.nullable:
            return values
        if feature.type == "boolean":
            values = values.astype(object)
        if missing.any():
            values = values.copy()
            values[missing] = _MISSING[feature.type]
        return values


_MISSING: dict[str, Any] = {
    "integer": np.nan,
    "number": np.nan,
    "boolean": None,
    "string": None,
    "datetime": np.datetime64("NaT"),
}


def range_text(feature: Feature) -> str:
    least, largest = map(_end_text, feature.limits)
    if least is None:
        return f"at most {largest}"
    return f"at least {least}" if largest is None else f"from {least} to {largest}"


def _end_text(end: Any) -> str | None:
    if end is None:
        return None
    return str(end).removesuffix(".000000") if isinstance(end, np.datetime64) else f"{end:.15g}"


def _ends(feature: Feature) -> tuple[Any, Any]:
    return feature.moments if feature.type == "datetime" else feature.bounds


# From values of any type to the one array of the feature's.


def _typed(feature: Feature, values: Sequence[Any] | Array, found: Checked) -> _Column:
    if isinstance(values, np.ndarray):
        masked = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        array = np.asarray(values)
        column = _typed_array(feature, array, masked, found)
        if column is not None:
            return column
        values = _python_values(array, masked)
    return _typed_values(feature, values, found)


def _typed_array(
    feature: Feature, array: Array, masked: Array | None, found: Checked
) -> _Column | None:
    """None where its values have to be looked at one by one."""
    kind = array.dtype.kind
    missing = np.zeros(len(array), dtype=bool) if masked is None else masked
    if kind == "f":
        missing = missing | np.isnan(array)
    elif kind == "M":
        missing = missing | np.isnat(array)
    if feature.type == "number" and kind in "iuf":
        column = _Column(feature, array.astype(np.float64), missing, found)
        if kind != "f":
            limit = EXACT_INTEGER_LIMIT
            large = array > limit if kind == "u" else (array > limit) | (array < -limit)
            column.refuse(large & ~missing, "number_type", _NOT_EXACT)
        return column
    if feature.type == "integer" and kind in "iuf":
        return _integers(feature, array, missing, found)
    if feature.type == "boolean" and kind == "b":
        return _Column(feature, array, missing, found)
    if feature.type == "datetime" and kind == "M":
        return _Column(feature, array.astype(MOMENTS), missing, found)
    if feature.type == "string" and kind == "U":
        return _Column(feature, array.astype(object), missing, found)
    if feature.type in ("integer", "number") and kind == "b":  # JSON's true is no number either
        column = _Column(feature, np.zeros(len(array), _DTYPES[feature.type]), missing, found)
        column.refuse(~missing, f"{feature.type}_type", f"Input should be a valid {feature.type}")
        return column
    return None


def _integers(feature: Feature, array: Array, missing: Array, found: Checked) -> _Column:
    # The first double and unsigned integer that no int64 holds is 2**63.
    if array.dtype.kind == "i":
        return _Column(feature, array.astype(np.int64), missing, found)
    whole = np.ones(len(array), dtype=bool)
    large = array >= 2**63
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(array) & (np.floor(array) == array)
            large = (np.abs(array) >= 2.0**63) & (array != -(2.0**63)) & whole
    held = whole & ~large & ~missing
    column = _Column(feature, np.where(held, array, 0).astype(np.int64), missing, found)
    column.refuse(~whole & ~missing, "integer_type", "Input should be a valid integer")
    least, largest = feature.bounds
    column.refuse(large & ~missing, "out_of_range", f"Input should be from {least} to {largest}")
    return column


def _python_values(array: Array, masked: Array | None) -> list[Any]:
    listed = array.astype(MOMENTS).tolist() if array.dtype.kind == "M" else array.tolist()
    if masked is not None:
        return [None if hidden else x for x, hidden in zip(listed, masked.tolist(), strict=True)]
    return [None if value is None or value != value else value for value in listed]


def _typed_values(feature: Feature, values: Sequence[Any], found: Checked) -> _Column:
    """One by one, where they are not all of the type that stands for the feature's: pydantic may
    have made of JSON, and a user's class of that, anything.
    """
    if set(map(type, values)) <= {_PLAIN.get(feature.type), type(None)}:
        missing_values = np.fromiter((value is None for value in values), bool, len(values))
        array = np.empty(len(values), dtype=_DTYPES[feature.type])
        with suppress(OverflowError):  # more than int64 holds
            array[:] = (
                [_STAND_INS[feature.type] if value is None else value for value in values]
                if missing_values.any()
                else values
            )
            return _Column(feature, array, missing_values, found)
    typed: list[Any] = []
    missing: list[int] = []
    problems: list[tuple[int, str, str]] = []
    to_type, stand_in = _TYPED[feature.type], _STAND_INS[feature.type]
    kind = "iso_date" if feature.type == "datetime" else f"{feature.type}_type"
    for row, value in enumerate(values):
        if value is None:
            missing.append(row)
            typed.append(stand_in)
            continue
        try:
            typed.append(to_type(plain(value)))
        except (TypeError, ValueError, OverflowError) as error:
            problems.append((row, kind, str(error)))
            typed.append(stand_in)
    if feature.type == "integer":
        least, largest = feature.bounds
        for row, value in enumerate(typed):
            if not -(2**63) <= value < 2**63:  # more than the array can hold
                message = f"Input should be from {least} to {largest}"
                problems.append((row, "out_of_range", message))
                typed[row] = stand_in
    array = np.empty(len(typed), dtype=_DTYPES[feature.type])
    array[:] = typed
    is_missing = np.zeros(len(typed), dtype=bool)
    is_missing[missing] = True
    column = _Column(feature, array, is_missing, found)
    for row, kind, message in problems:
        column.bad[row] = True
        found.problems.append(problem(row, feature.name, kind, message))
    return column


def _integer(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    raise TypeError("Input should be a valid integer")


def _number(value: Any) -> float:
    if inexact_as_float(value):
        raise ValueError(_NOT_EXACT)
    if isinstance(value, int | float | Decimal):
        return float(value)
    raise TypeError("Input should be a valid number")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError("Input should be a valid boolean")


def _string(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    raise TypeError("Input should be a valid string")


def moment_of(value: Any) -> datetime:
    """In UTC, without saying so, as numpy has it; what names no offset is in UTC."""
    try:
        if isinstance(value, str) and _ISO.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime):
            return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day)
    except (ValueError, OverflowError):
        pass  # such as a 30th of February
    raise TypeError(ISO_DATE)


_PLAIN = {"integer": int, "number": float, "boolean": bool, "string": str}
_TYPED: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
    "datetime": moment_of,
}
_DTYPES: dict[str, Any] = {
    "integer": np.int64,
    "number": np.float64,
    "boolean": np.bool_,
    "string": object,
    "datetime": MOMENTS,
}
_STAND_INS: dict[str, Any] = {
    "integer": 0,
    "number": 0.0,
    "boolean": False,
    "string": "",
    "datetime": np.datetime64(0, "us"),
}
