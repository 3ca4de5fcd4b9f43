"""Whether the values of a feature keep to it: a whole column at once, whoever brought it.

Records of JSON, golden rows and columns of a file all come here, so that they meet the same rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tabserve.coercion import Coerced, coerced
from tabserve.errors import InputProblem
from tabserve.feature import Feature
from tabserve.moments import moment_of
from tabserve.types import Array, Columns


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


def check(feature: Feature, values: Sequence[Any] | Array, found: Checked) -> None:
    """Adds the feature's column to `found`, with what is wrong or unusual in it.

    values: Python values, None where missing; or an array, in which NaN, NaT and what it masks are
    missing too.
    """
    if not isinstance(values, np.ndarray) and all(map(feature.admits, values)):
        found.columns[feature.name] = feature.array(values)
        return
    column = _Column(feature, coerced(feature, values), found)
    if feature.categories is not None and feature.unknown != "allow":
        column.meet_unknown()
    column.meet_missing()
    if feature.type in ("integer", "number", "datetime"):
        column.meet_bounds()
        if feature.range != "inform":
            column.meet_range()
    found.columns[feature.name] = column.as_taken()


def problem(row: int, name: str, kind: str, message: str) -> InputProblem:
    return {"loc": (row, name), "msg": message, "type": kind}


class _Column:
    def __init__(self, feature: Feature, given: Coerced, found: Checked) -> None:
        self.feature = feature
        self.values, self.missing, refused = given
        self.bad = np.zeros(len(self.values), dtype=bool)
        self._found = found
        for row, kind, message in refused:
            self.bad[row] = True
            found.problems.append(problem(row, feature.name, kind, message))

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
