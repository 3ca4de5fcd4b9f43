"""The signature: what the model's input features are, and the check that values keep to it."""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tabserve.errors import InputProblem, InvalidInput
from tabserve.types import Array, Columns, Values

Scalar = bool | int | float | str

# The largest integer up to which every integer is a float64: IEEE 754, 53 bits of significand.
EXACT_INTEGER_LIMIT = 2**53

# No number that is admitted at a glance is larger, see Feature.admits.
LARGEST_ADMITTED = 2**63


class Feature(BaseModel):
    """One input of the model.

    dtype: the pandas dtype of the training data, which the native engine gives back to the model.
    missing: what stands for a missing value in an object column of the training data.
    categories: the values that the fitted encoder knows.
    unknown: what becomes of a value that is none of the categories; "allow" hands it to the model,
    "missing" replaces it by a missing value.
    minimum, maximum, typical: seen in the training data; information, never a constraint.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Literal["integer", "number", "boolean", "string"]
    nullable: bool = False
    dtype: str
    missing: Literal["none", "nan"] = "nan"
    categories: tuple[Scalar, ...] | None = None
    unknown: Literal["refuse", "allow", "missing"] = "refuse"
    minimum: float | None = None
    maximum: float | None = None
    typical: tuple[Scalar, ...] = ()

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number that reaches the model unchanged, by the dtype."""
        if self.type == "integer" and self.nullable:  # handed on as float64
            return -EXACT_INTEGER_LIMIT, EXACT_INTEGER_LIMIT
        try:
            dtype = np.dtype(self.dtype.lower())  # "Int64" of pandas holds what "int64" does
        except TypeError:  # a category, or an extension's dtype
            dtype = np.dtype(object)
        if self.type == "integer":
            integers = np.iinfo(dtype if dtype.kind in "iu" else np.int64)
            return max(integers.min, -(2**63)), min(integers.max, 2**63 - 1)
        floats = np.finfo(dtype if dtype.kind == "f" else np.float64)
        return float(floats.min), float(floats.max)

    @cached_property
    def admits(self) -> Callable[[Any], bool]:
        """Whether a value may go to the model as it is, at a glance; what may not is looked at in
        full.
        """
        wanted: Any = _PYTHON_TYPES[self.type]
        nullable = self.nullable

        def is_known(value: Any) -> bool:
            return type(value) is wanted and value in known if value is not None else nullable

        def is_within(value: Any) -> bool:
            return (
                type(value) is wanted and least <= value <= largest
                if value is not None
                else nullable
            )

        def is_typed(value: Any) -> bool:
            return type(value) is wanted if value is not None else nullable

        if self.categories is not None and self.unknown != "allow":
            known = frozenset(self.categories)
            return is_known
        if self.type in ("integer", "number"):
            least, largest = self.bounds
            if self.type == "number":  # beyond, it may have been an integer that lost digits
                least = max(least, 1 - EXACT_INTEGER_LIMIT)
                largest = min(largest, EXACT_INTEGER_LIMIT - 1)
            return is_within
        return is_typed

    def array(self, values: Sequence[Any]) -> Array:
        """values of the feature's type, None where missing -> shape (n_rows,): int64, float64, bool
        or object.
        """
        if self.type == "integer" and not self.nullable:
            return np.array(values, dtype=np.int64)
        if self.type in ("integer", "number"):
            return np.array(values, dtype=np.float64)  # None becomes NaN
        if self.type == "boolean" and not self.nullable:
            return np.array(values, dtype=np.bool_)
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array


class Signature(BaseModel):
    """The features in the order in which the model takes them.

    layout: "frame" where the model was fitted on named columns, "array" where on a bare array.
    extra_fields: what becomes of a field that is no feature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[Feature, ...]
    layout: Literal["frame", "array"] = "frame"
    extra_fields: Literal["refuse", "ignore"] = "refuse"

    def admits(self, values: Mapping[str, Sequence[Any]]) -> bool:
        """Whether every value may go to the model as it is."""
        for name, admits in self._checks:
            for value in values[name]:
                if not admits(value):
                    return False
        return True

    @cached_property
    def _checks(self) -> tuple[tuple[str, Callable[[Any], bool]], ...]:
        return tuple((feature.name, feature.admits) for feature in self.features)

    def arrays(self, values: Values) -> Columns:
        """values: what is admitted, or arrays already, which are kept."""
        columns = {}
        for feature in self.features:
            given = values[feature.name]
            columns[feature.name] = given if isinstance(given, np.ndarray) else feature.array(given)
        return columns

    def columns(self, values: Mapping[str, Sequence[Any]]) -> Columns:
        """Python values by feature name -> the arrays that an engine takes.

        values: one list per feature, all of one length, None where missing.
        Raises InvalidInput; each problem's `loc` is (row, feature name).
        """
        problems: list[InputProblem] = []
        columns = {}
        for feature in self.features:
            column = _checked(feature, values[feature.name], problems)
            if column is not None:
                columns[feature.name] = column
        if problems:
            raise InvalidInput(problems)
        return columns


def unusable(columns: Columns) -> InvalidInput:
    """What a model's answer is worth that comes to infinite or undefined numbers on the way: trees
    take float32, and a step may take a logarithm.

    It names the numbers that a float32 cannot hold; where there are none, that there must be one.
    """
    largest = np.finfo(np.float32).max
    found = [
        problem(int(row), name, "out_of_range", "Input is too large for the model")
        for name, column in columns.items()
        if column.dtype.kind == "f"
        for row in np.flatnonzero(np.abs(column) > largest)
    ]
    message = "The model makes of a number one that is infinite or undefined"
    return InvalidInput(found or [{"loc": (), "msg": message, "type": "out_of_range"}])


def plain(value: Any) -> Any:
    """An enum's member as its value; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def inexact_as_float(value: Any) -> bool:
    """Whether an integer of the JSON text would lose digits in a float feature."""
    return type(value) is int and abs(value) > EXACT_INTEGER_LIMIT


def problem(row: int, name: str, kind: str, message: str) -> InputProblem:
    return {"loc": (row, name), "msg": message, "type": kind}


def _checked(feature: Feature, values: Sequence[Any], problems: list[InputProblem]) -> Array | None:
    """The feature's array; None where a problem was found and added to `problems`."""
    if all(map(feature.admits, values)):
        return feature.array(values)
    n_problems = len(problems)
    values = _typed(feature, values, problems)
    if feature.categories is not None and feature.unknown != "allow":
        values = _known_categories(feature, values, problems)
    if not feature.nullable:
        _refuse_missing(feature, values, problems)
    if feature.type in ("integer", "number"):
        _refuse_out_of_bounds(feature, values, problems)
    return feature.array(values) if len(problems) == n_problems else None


def _typed(feature: Feature, values: Sequence[Any], problems: list[InputProblem]) -> Sequence[Any]:
    """The values as the one Python type that stands for the feature's."""
    wanted = _PYTHON_TYPES[feature.type]
    if set(map(type, values)) <= {wanted, type(None)}:
        return values
    typed: list[Any] = []
    for row, value in enumerate(values):
        try:
            typed.append(None if value is None else _TYPED[feature.type](plain(value)))
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(problem(row, feature.name, f"{feature.type}_type", str(error)))
    return typed


def _integer(value: Any) -> int:
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    raise TypeError("Input should be a valid integer")


def _number(value: Any) -> float:
    if inexact_as_float(value):
        raise ValueError("Input is an integer beyond 2**53, which a float cannot hold exactly")
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


_PYTHON_TYPES = {"integer": int, "number": float, "boolean": bool, "string": str}
_TYPED: dict[str, Callable[[Any], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "string": _string,
}


def _known_categories(
    feature: Feature, values: Sequence[Any], problems: list[InputProblem]
) -> list[Any]:
    known = {None, *(feature.categories or ())}
    if feature.unknown == "missing":
        return [value if value in known else None for value in values]
    message = "Input should be one of the categories that the model knows"
    problems.extend(
        problem(row, feature.name, "unknown_category", message)
        for row, value in enumerate(values)
        if value not in known
    )
    return list(values)


def _refuse_missing(feature: Feature, values: Sequence[Any], problems: list[InputProblem]) -> None:
    problems.extend(
        problem(row, feature.name, "missing_value", "Input should not be null")
        for row, value in enumerate(values)
        if value is None
    )


def _refuse_out_of_bounds(
    feature: Feature, values: Sequence[Any], problems: list[InputProblem]
) -> None:
    least, largest = feature.bounds
    for row, value in enumerate(values):
        if value is None or least <= value <= largest:
            continue
        if math.isfinite(value):
            message = f"Input should be from {least} to {largest}"
            problems.append(problem(row, feature.name, "out_of_range", message))
        else:
            message = "Input should be a finite number"
            problems.append(problem(row, feature.name, "finite_number", message))
