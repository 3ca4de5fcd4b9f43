"""The signature: what the model's input features are, and the check that values keep to it."""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from tabserve.errors import InputProblem, InvalidInput
from tabserve.types import Array, Columns

Scalar = bool | int | float | str

# The largest integer up to which every integer is a float64: IEEE 754, 53 bits of significand.
EXACT_INTEGER_LIMIT = 2**53


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

    def array(self, values: Sequence[Any]) -> Array:
        """values, None where missing -> shape (n_rows,): int64, float64, bool or object.

        Raises TypeError, ValueError or OverflowError where a value is not of the feature's type.
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


def plain(value: Any) -> Any:
    """An enum's member as its value; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def inexact_as_float(value: Any) -> bool:
    """Whether an integer of the JSON text would lose digits in a float feature."""
    return type(value) is int and abs(value) > EXACT_INTEGER_LIMIT


def problem(row: int, name: str, kind: str, message: str) -> InputProblem:
    return {"loc": (row, name), "msg": message, "type": kind}


def _checked(feature: Feature, values: Sequence[Any], problems: list[InputProblem]) -> Array | None:
    n_problems = len(problems)
    if feature.categories is not None and feature.unknown != "allow":
        values = _known_categories(feature, values, problems)
    if not feature.nullable:
        for row, value in enumerate(values):
            if value is None:
                problems.append(
                    problem(row, feature.name, "missing_value", "Input should not be null")
                )
    for row, value in enumerate(values):
        if type(value) is float and not math.isfinite(value):
            problems.append(
                problem(row, feature.name, "finite_number", "Input should be a finite number")
            )
    if len(problems) > n_problems:
        return None
    if feature.type == "string":
        values = [plain(value) for value in values]
        _refuse(feature, values, str, "string", problems)
    elif feature.type == "boolean":
        _refuse(feature, values, bool, "boolean", problems)
    if len(problems) > n_problems:
        return None
    try:
        return feature.array(values)
    except (TypeError, ValueError, OverflowError):
        problems.extend(_misfits(feature, values))
        return None


def _known_categories(
    feature: Feature, values: Sequence[Any], problems: list[InputProblem]
) -> list[Any]:
    known = set(feature.categories or ())
    checked: list[Any] = []
    for row, value in enumerate(values):
        value = plain(value)
        if value is not None and value not in known:
            if feature.unknown == "missing":
                value = None
            else:
                message = "Input should be one of the categories that the model knows"
                problems.append(problem(row, feature.name, "unknown_category", message))
        checked.append(value)
    return checked


def _refuse(
    feature: Feature, values: Sequence[Any], wanted: type, word: str, problems: list[InputProblem]
) -> None:
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, wanted):
            message = f"Input should be a valid {word}"
            problems.append(problem(row, feature.name, f"{word}_type", message))


def _misfits(feature: Feature, values: Sequence[Any]) -> list[InputProblem]:
    """The rows for which `Feature.array` failed, found one by one."""
    found = []
    for row, value in enumerate(values):
        try:
            feature.array([value])
        except (TypeError, ValueError, OverflowError):
            message = f"Input should be a valid {feature.type} of at most 64 bits"
            found.append(problem(row, feature.name, f"{feature.type}_type", message))
    return found
