"""Whole columns keep to the rules of JSON records, and say the same of each row."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from tabserve.feature import Feature
from tabserve.signature import Signature
from tabserve.validation import Checked


def feature(kind: Any, **about: Any) -> Feature:
    dtype = "datetime64[us]" if kind == "datetime" else "object"
    return Feature(name="x", type=kind, **({"dtype": dtype} | about))


def checked(given_feature: Feature, values: Any) -> Checked:
    return Signature(features=(given_feature,)).checked({"x": values})


def told(found: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(problem["loc"][0], problem["type"]) for problem in found]


@pytest.mark.parametrize(
    ("given_feature", "array", "values"),
    [
        (feature("integer"), np.array([1, 300], np.int16), [1, 300]),
        (feature("integer", dtype="int8"), np.array([1, 300]), [1, 300]),
        (feature("integer"), np.array([1.0, 1.5, 2**63, math.inf]), [1.0, 1.5, 2**63, math.inf]),
        (feature("integer"), np.array([2**63, 2**63 - 1], np.uint64), [2**63, 2**63 - 1]),
        (feature("integer", nullable=True), np.array([1.0, math.nan, 1e17]), [1, None, 10**17]),
        (
            feature("integer", nullable=True),
            np.ma.MaskedArray([7, 8], mask=[False, True]),
            [7, None],
        ),
        (feature("integer", categories=(1, 2)), np.array([2, 3]), [2, 3]),
        (feature("number"), np.array([0.5, math.nan, math.inf]), [0.5, None, math.inf]),
        (feature("number"), np.array([2**53, 2**53 + 1]), [2**53, 2**53 + 1]),
        (feature("number", dtype="float32"), np.array([1.0, 1e39]), [1.0, 1e39]),
        (feature("number"), np.array(["1", "2"]), ["1", "2"]),
        (feature("boolean"), np.array([True, False]), [True, False]),
        (feature("boolean"), np.array([0, 1]), [0, 1]),
        (feature("boolean", nullable=True), np.array([True, None], object), [True, None]),
        (feature("string", categories=("a", "b")), np.array(["a", "c"]), ["a", "c"]),
        (
            feature("string", nullable=True, categories=("a",), unknown="missing"),
            np.array(["a", None, math.nan, "z"], object),
            ["a", None, None, "z"],
        ),
        (
            feature("datetime", nullable=True),
            np.array(["2026-03-29T13:45", "NaT"], "datetime64[ns]"),
            ["2026-03-29T13:45Z", None],
        ),
        (feature("number", default=1.5), np.array([math.nan, 2.0]), [None, 2.0]),
        (
            feature("number", minimum=0, maximum=1, range="warn"),
            np.array([-1.0, 0.5]),
            [-1.0, 0.5],
        ),
        (feature("integer", maximum=3, range="refuse"), np.array([3, 4]), [3, 4]),
    ],
)
def test_an_array_is_worth_what_its_values_are(
    given_feature: Feature, array: Any, values: list[Any]
) -> None:
    whole, single = checked(given_feature, array), checked(given_feature, values)

    assert (whole.problems, whole.warnings) == (single.problems, single.warnings)
    columns = [found.columns["x"][found.is_good] for found in (whole, single)]
    np.testing.assert_array_equal(*columns, strict=True)


def test_booleans_of_an_array_are_no_numbers() -> None:
    assert told(checked(feature("number"), np.array([True])).problems) == [(0, "number_type")]


def test_rows_without_a_problem_in_any_column_are_good() -> None:
    signature = Signature(
        features=(feature("integer"), feature("string").model_copy(update={"name": "y"}))
    )
    found = signature.checked({"x": np.array([1.0, 2.5, 3.0]), "y": ["a", "b", None]})

    assert found.is_good.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("policy", "expected", "told_problems", "told_warnings"),
    [
        ("inform", [1.0, 9.0], [], []),
        ("warn", [1.0, 9.0], [], [(1, "out_of_range")]),
        ("refuse", [1.0, 9.0], [(1, "out_of_range")], []),
    ],
)
def test_what_is_out_of_range_follows_the_features_policy(
    policy: Any, expected: list[float], told_problems: Any, told_warnings: Any
) -> None:
    found = checked(feature("number", minimum=0.0, maximum=5.0, range=policy), [1.0, 9.0])

    assert (told(found.problems), told(found.warnings)) == (told_problems, told_warnings)
    assert found.columns["x"].tolist() == expected
    messages = [problem["msg"] for problem in found.problems + found.warnings]
    assert all("from 0 to 5" in message and "9" not in message for message in messages)


@pytest.mark.parametrize(
    ("about", "expected", "warnings"),
    [
        ({"default": "a"}, ["a", "b"], []),
        ({"default": "a", "imputed": "warn"}, ["a", "b"], [(0, "imputed")]),
        ({"nullable": True}, [None, "b"], []),
        ({"nullable": True, "imputed": "warn"}, [None, "b"], [(0, "imputed")]),
    ],
)
def test_null_becomes_the_default_or_is_left_to_the_model(
    about: dict[str, Any], expected: list[Any], warnings: Any
) -> None:
    found = checked(feature("string", **about), [None, "b"])

    assert (found.columns["x"].tolist(), told(found.problems)) == (expected, [])
    assert told(found.warnings) == warnings


@pytest.mark.parametrize(
    ("policy", "expected"), [("warn", ["a", "z"]), ("allow", ["a", "z"]), ("missing", ["a", None])]
)
def test_an_unknown_category_is_told_where_it_is_not_just_allowed(
    policy: Any, expected: list[Any]
) -> None:
    given_feature = feature("string", categories=("a",), nullable=True, unknown=policy)
    found = checked(given_feature, ["a", "z"])

    assert found.columns["x"].tolist() == expected
    assert told(found.warnings) == ([] if policy == "allow" else [(1, "unknown_category")])


def test_an_unknown_category_that_becomes_missing_takes_the_default() -> None:
    given_feature = feature("string", categories=("a",), default="a", unknown="missing")
    assert checked(given_feature, ["z"]).columns["x"].tolist() == ["a"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-29", "2026-03-29T00:00:00"),
        ("2026-03-29T13:45", "2026-03-29T13:45:00"),
        ("2026-03-29 13:45:01.5z", "2026-03-29T13:45:01.5"),
        ("2026-03-29T13:45:00+02:00", "2026-03-29T11:45:00"),
        ("2026-03-29T13:45:00.123456789Z", "2026-03-29T13:45:00.123456"),
        (date(2026, 3, 29), "2026-03-29T00:00:00"),
        (datetime(2026, 3, 29, tzinfo=timezone(timedelta(hours=1))), "2026-03-28T23:00:00"),
    ],
)
def test_a_date_is_held_in_utc(value: Any, expected: str) -> None:
    column = checked(feature("datetime"), [value]).columns["x"]
    assert column.tolist() == [datetime.fromisoformat(expected)]
    assert column.dtype == "datetime64[us]"


@pytest.mark.parametrize(
    "value",
    ["", "29.03.2026", "2026-02-30", "2026-03-29T25:00", "20260329", "1774791900", 1774791900, 1.5,
     True, "0000-01-01", "0001-01-01T00:00+14:00", "２０２６-03-29"],
)  # fmt: skip
def test_what_is_no_date_is_refused(value: Any) -> None:
    found = checked(feature("datetime"), [value])
    assert told(found.problems) == [(0, "iso_date")]
    assert "ISO 8601" in found.problems[0]["msg"]


def test_a_date_that_the_training_data_could_not_hold_is_refused() -> None:
    found = checked(feature("datetime", dtype="datetime64[ns]"), ["1600-01-01", "2262-04-11"])
    assert told(found.problems) == [(0, "out_of_range")]


def test_a_range_of_dates_is_kept() -> None:
    given_feature = feature(
        "datetime", earliest=datetime(2026, 1, 1, tzinfo=UTC), range="warn", nullable=True
    )
    found = checked(given_feature, ["2025-12-31", "2026-01-01", None])
    assert [problem["msg"] for problem in found.warnings] == [
        "Input is not at least 2026-01-01T00:00:00, as is usual"
    ]
