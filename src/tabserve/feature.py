"""One input of the model: its type, its ends, and what becomes of a value that is unusual."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tabserve.moments import MOMENTS
from tabserve.types import Array, Moment

Scalar = bool | int | float | str
Type = Literal["integer", "number", "boolean", "string", "datetime"]
Unknown = Literal["refuse", "warn", "allow", "missing"]

# Of values that may go to the model as they are; dates come as text.
PYTHON_TYPES = {"integer": int, "number": float, "boolean": bool, "string": str}

# The largest integer up to which every integer is a float64: IEEE 754, 53 bits of significand.
EXACT_INTEGER_LIMIT = 2**53

# No number that is admitted at a glance is larger, see Feature.admits.
LARGEST_ADMITTED = 2**63

# Of a feature: a schema with more would be too large to read.
MAX_CATEGORIES = 100_000


class Feature(BaseModel):
    """One input of the model.

    nullable: whether the model takes a missing value.
    required: whether the field must be sent; where it need not be, leaving it out means null.
    default: stands in for null; with one, the field need not be sent.
    imputed: "warn" tells the caller that a null was replaced, or left to the model's own imputer.
    dtype: the pandas dtype of the training data, which the native engine gives back to the model.
    missing: what stands for a missing value in an object column of the training data.
    categories: the values that the fitted encoder knows.
    unknown: what becomes of a value that is none of the categories; "allow" hands it to the model,
    "warn" too and tells the caller, "missing" replaces it by a missing value and tells the caller.
    minimum, maximum (of dates earliest, latest), typical: seen in the training data, or declared.
    range: what becomes of a value outside of them; "inform" keeps them as information.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Type
    nullable: bool = False
    required: bool = True
    default: Scalar | None = None
    imputed: Literal["silent", "warn"] = "silent"
    dtype: str
    missing: Literal["none", "nan"] = "nan"
    categories: tuple[Scalar, ...] | None = Field(default=None, max_length=MAX_CATEGORIES)
    unknown: Unknown = "refuse"
    minimum: float | None = None
    maximum: float | None = None
    earliest: Moment | None = None
    latest: Moment | None = None
    range: Literal["inform", "warn", "refuse"] = "inform"
    typical: tuple[Scalar, ...] = ()

    @property
    def takes_null(self) -> bool:
        """Whether a client may send null."""
        return self.nullable or self.default is not None

    @property
    def must_be_sent(self) -> bool:
        return self.required and self.default is None

    @property
    def hands_on_unknown(self) -> bool:
        return self.categories is None or self.unknown in ("allow", "warn")

    @property
    def takes_any_number(self) -> bool:
        """Whether numbers that are none of the categories reach the model as they are."""
        is_number = self.type in ("integer", "number") and self.dtype != "category"
        return is_number and self.hands_on_unknown

    @property
    def stranger(self) -> Scalar | None:
        """A value that is none of the categories; None where there are no others."""
        if self.type == "string":
            return "a category that nobody has"
        if not self.categories:
            return None
        others: tuple[Scalar, ...] = (False, True)
        if self.type != "boolean":
            numbers, (least, largest) = [float(value) for value in self.categories], self.bounds
            ends = (max(numbers) + 1, min(numbers) - 1)
            others = tuple(value for value in ends if least <= value <= largest)
        if self.type == "integer":
            others = tuple(map(int, others))
        return next((value for value in others if value not in self.categories), None)

    @property
    def takes_null_silently(self) -> bool:
        """Whether null goes to the model as it is, and nobody is told."""
        return self.nullable and self.default is None and self.imputed == "silent"

    @property
    def may_warn(self) -> bool:
        told_unknown = self.categories is not None and self.unknown in ("warn", "missing")
        told_null = self.imputed == "warn" and self.takes_null
        return told_unknown or told_null or self.range == "warn"

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number that reaches the model unchanged, by the dtype."""
        try:
            dtype = np.dtype(self.dtype.lower())  # "Int64" of pandas holds what "int64" does
        except TypeError:  # a category, or an extension's dtype
            dtype = np.dtype(object)
        if self.type == "integer":
            integers = np.iinfo(dtype if dtype.kind in "iu" else np.int64)
            largest = 2**63 - 1
            least = -largest  # beyond it is one that numpy has no opposite of: -x and |x| are x
            if self.nullable or dtype.kind == "f":  # a float64 on the way
                least, largest = -EXACT_INTEGER_LIMIT, EXACT_INTEGER_LIMIT
            return max(integers.min, least), min(integers.max, largest)
        floats = np.finfo(dtype if dtype.kind == "f" else np.float64)
        return float(floats.min), float(floats.max)

    @cached_property
    def moments(self) -> tuple[np.datetime64, np.datetime64]:
        """The first and the last moment that the dtype of the training data holds."""
        if "[ns" not in self.dtype:
            return np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31T23:59:59", "us")
        last = np.datetime64(2**63 - 1, "ns").astype(MOMENTS)  # in the year 2262
        return -(last - np.datetime64(0, "us")) + np.datetime64(0, "us"), last

    @cached_property
    def limits(self) -> tuple[Any, Any]:
        """The ends of what is usual, None where there is none."""
        if self.type == "datetime":
            return _moment(self.earliest), _moment(self.latest)
        return self.minimum, self.maximum

    @property
    def observed(self) -> tuple[Any, Any]:
        """The same, as JSON has it."""
        if self.type != "datetime":
            return self.minimum, self.maximum
        ends = (self.earliest, self.latest)
        return ends[0] and ends[0].isoformat(), ends[1] and ends[1].isoformat()

    @cached_property
    def admits(self) -> Callable[[Any], bool]:
        """Whether a value may go to the model as it is, at a glance; what may not is looked at in
        full.
        """
        wanted: Any = PYTHON_TYPES.get(self.type)
        null = self.takes_null_silently

        def is_known(value: Any) -> bool:
            return type(value) is wanted and value in known if value is not None else null

        def is_within(value: Any) -> bool:
            if value is None:
                return null
            return type(value) is wanted and least <= value <= largest

        def is_typed(value: Any) -> bool:
            return type(value) is wanted if value is not None else null

        if self.type == "datetime":
            return lambda value: False  # text has to become a date first
        if self.categories is not None and self.unknown != "allow":
            known = frozenset(self.categories)
            if self.type in ("integer", "number"):
                least, largest = self._admitted_ends
                known = frozenset(value for value in self.categories if least <= value <= largest)  # type: ignore[operator]
            return is_known
        if self.type in ("integer", "number"):
            least, largest = self._admitted_ends
            return is_within
        return is_typed

    @property
    def _admitted_ends(self) -> tuple[float, float]:
        least, largest = self.bounds
        if self.type == "number":  # beyond, it may have been an integer that lost digits
            least = max(least, 1 - EXACT_INTEGER_LIMIT)
            largest = min(largest, EXACT_INTEGER_LIMIT - 1)
        if self.range != "inform":
            least = least if self.minimum is None else max(least, self.minimum)
            largest = largest if self.maximum is None else min(largest, self.maximum)
        return least, largest

    def array(self, values: Sequence[Any]) -> Array:
        """values of the feature's type, None where missing -> shape (n_rows,): int64, float64,
        bool, datetime64 (missing: NaT) or object.
        """
        if self.type == "integer" and not self.nullable:
            return np.array(values, dtype=np.int64)
        if self.type in ("integer", "number"):
            return np.array(values, dtype=np.float64)  # None becomes NaN
        if self.type == "datetime":
            return np.array(values, dtype=MOMENTS)  # None becomes NaT
        if self.type == "boolean" and not self.nullable:
            return np.array(values, dtype=np.bool_)
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array


def _moment(moment: Any) -> np.datetime64 | None:
    return None if moment is None else np.datetime64(moment.replace(tzinfo=None), "us")
