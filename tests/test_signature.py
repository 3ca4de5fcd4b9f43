"""Which Python values a feature takes, and the arrays that they become."""

import math
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabserve.errors import InvalidInput
from tabserve.signature import Feature, Signature


class Plan(Enum):
    BASIC = "basic"


def columns(feature: Feature, values: list[Any]) -> Any:
    return Signature(features=(feature,)).columns({feature.name: values})[feature.name]


def problems(feature: Feature, values: list[Any]) -> list[dict[str, Any]]:
    with pytest.raises(InvalidInput) as caught:
        columns(feature, values)
    return caught.value.problems


def feature(kind: Any, **about: Any) -> Feature:
    return Feature(name="x", type=kind, **({"dtype": "object"} | about))


@pytest.mark.parametrize(
    ("given_feature", "values", "expected"),
    [
        (feature("integer"), [1, 1 - 2**63, 2**63 - 1], np.array([1, 1 - 2**63, 2**63 - 1])),
        (feature("integer"), [12.0, Decimal(3)], np.array([12, 3])),
        (feature("integer", nullable=True), [1, None], np.array([1.0, math.nan])),
        (feature("number"), [1, 2.5, Decimal("0.1")], np.array([1.0, 2.5, 0.1])),
        (feature("number", nullable=True), [None, -0.0], np.array([math.nan, -0.0])),
        (feature("boolean"), [True, False], np.array([True, False])),
        (feature("boolean", nullable=True), [True, None], np.array([True, None], object)),
        (feature("string"), ["a", Plan.BASIC], np.array(["a", "basic"], object)),
        (feature("string", nullable=True), [None, "a"], np.array([None, "a"], object)),
    ],
)
def test_values_become_the_array_of_the_features_type(
    given_feature: Feature, values: list[Any], expected: Any
) -> None:
    found = columns(given_feature, values)
    np.testing.assert_array_equal(found, expected, strict=True)


@pytest.mark.parametrize(
    ("given_feature", "value", "kind"),
    [
        (feature("integer"), 12.7, "integer_type"),
        (feature("integer"), "12", "integer_type"),
        (feature("integer"), 2**63, "out_of_range"),
        (feature("integer"), -(2**63), "out_of_range"),  # of which -x is x
        (feature("integer", nullable=True), 2**53 + 1, "out_of_range"),
        (feature("integer", dtype="int8"), 128, "out_of_range"),
        (feature("integer", nullable=True, dtype="int8"), 128, "out_of_range"),
        (feature("integer", dtype="UInt8"), -1, "out_of_range"),
        (feature("number"), 2**53 + 1, "number_type"),
        (feature("number"), "1.5", "number_type"),
        (feature("number"), math.nan, "finite_number"),
        (feature("number", nullable=True), math.inf, "finite_number"),
        (feature("number"), Decimal("1e400"), "finite_number"),
        (feature("number", dtype="float32"), 1e39, "out_of_range"),
        (feature("boolean"), 1, "boolean_type"),
        (feature("string"), 1, "string_type"),
        (feature("string"), None, "missing_value"),
        (feature("string", categories=("a",)), "b", "unknown_category"),
        (feature("string", categories=("a",)), 1.5, "string_type"),
        (feature("integer", categories=(1, 2)), 3, "unknown_category"),
        (feature("integer", categories=(1, 9), maximum=5, range="refuse"), 9, "out_of_range"),
    ],
)
def test_a_value_that_the_model_cannot_take_unchanged_is_refused(
    given_feature: Feature, value: Any, kind: str
) -> None:
    found = problems(given_feature, [value])
    assert [(problem["loc"], problem["type"]) for problem in found] == [((0, "x"), kind)]


def test_every_bad_row_of_every_feature_is_named() -> None:
    signature = Signature(
        features=(feature("integer"), feature("string").model_copy(update={"name": "y"}))
    )
    with pytest.raises(InvalidInput) as caught:
        signature.columns({"x": [1, None, 2.5], "y": ["a", "b", 3]})
    assert sorted(problem["loc"] for problem in caught.value.problems) == [
        (1, "x"), (2, "x"), (2, "y"),
    ]  # fmt: skip


@pytest.mark.parametrize(("policy", "expected"), [("allow", "b"), ("missing", None)])
def test_an_unknown_category_is_handed_on_or_becomes_missing_by_the_features_policy(
    policy: Any, expected: Any
) -> None:
    given_feature = feature("string", categories=("a",), nullable=True, unknown=policy)
    assert columns(given_feature, ["a", "b", None]).tolist() == ["a", expected, None]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_a_number_reaches_the_model_with_all_its_bits(values: list[float]) -> None:
    assert columns(feature("number"), values).tobytes() == np.array(values).tobytes()
