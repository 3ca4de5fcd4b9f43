"""The signature: what the model's input features are, and the check that values keep to it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tabserve.coercion import inexact_as_float, plain
from tabserve.errors import InvalidInput
from tabserve.feature import EXACT_INTEGER_LIMIT, LARGEST_ADMITTED, MAX_CATEGORIES, Feature, Scalar
from tabserve.types import Columns, Values, n_rows
from tabserve.validation import Checked, check, problem

__all__ = [
    "EXACT_INTEGER_LIMIT", "LARGEST_ADMITTED", "MAX_CATEGORIES", "MAX_FEATURES", "Checked",
    "Feature", "Scalar", "Signature", "inexact_as_float", "plain", "problem", "unusable",
]  # fmt: skip

# A request class with more would cost more than the model.
MAX_FEATURES = 10_000


class Signature(BaseModel):
    """The features in the order in which the model takes them.

    layout: "frame" where the model was fitted on named columns, "array" where on a bare array,
    "text" where on a series of texts.
    extra_fields: what becomes of a field that is no feature.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: tuple[Feature, ...] = Field(min_length=1, max_length=MAX_FEATURES)
    layout: Literal["frame", "array", "text"] = "frame"
    extra_fields: Literal["refuse", "ignore"] = "refuse"

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len({feature.name for feature in self.features}) < len(self.features):
            raise ValueError("two features have the same name")
        return self

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

    @cached_property
    def may_warn(self) -> bool:
        return any(feature.may_warn for feature in self.features)

    def arrays(self, values: Values) -> Columns:
        """values: what is admitted, or arrays already, which are kept."""
        columns = {}
        for feature in self.features:
            given = values[feature.name]
            columns[feature.name] = given if isinstance(given, np.ndarray) else feature.array(given)
        return columns

    def columns(self, values: Values) -> Columns:
        """The arrays that an engine takes. values: see `checked`.

        Raises InvalidInput; each problem's `loc` is (row, feature name).
        """
        checked = self.checked(values)
        if checked.problems:
            raise InvalidInput(checked.problems)
        return checked.columns

    def checked(self, values: Values) -> Checked:
        """The arrays that an engine takes, with what is wrong or unusual in each row.

        values: by feature name, all of one length: Python values, None where missing; or arrays, in
        which NaN, NaT and what a masked array hides are missing too, and which are checked as a
        whole, without a Python object for each number.
        """
        found = Checked({}, [], [], n_rows(values))
        for feature in self.features:
            check(feature, values[feature.name], found)
        return found


def unusable(columns: Columns, rows: Sequence[int] | None = None) -> InvalidInput:
    """What a model's answer is worth that comes to infinite or undefined numbers on the way: trees
    take float32, and a step may take a logarithm.

    rows: of which that is, where it is known.
    It names the numbers that a float32 cannot hold; where there are none, that there must be one.
    """
    largest = np.finfo(np.float32).max
    concerned = None if rows is None else frozenset(rows)
    found = [
        problem(int(row), name, "out_of_range", "Input is too large for the model")
        for name, column in columns.items()
        if column.dtype.kind == "f"
        for row in np.flatnonzero(np.abs(column) > largest)
        if concerned is None or row in concerned
    ]
    named = {one["loc"][0] for one in found}
    places: list[tuple[int, ...]] = [(row,) for row in rows or () if row not in named]
    message = "The model makes of a number one that is infinite or undefined"
    found += [
        {"loc": place, "msg": message, "type": "out_of_range"}
        for place in places or ([] if found else [()])
    ]
    return InvalidInput(found)
