"""Lowered steps that rest on exp, log or sums of products are scikit-learn's to the last digits."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    Normalizer,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
)

from tabserve.lower import CannotLower
from tests.lower.transforming import FULL, ROWS, dense, lowered

# Of the largest answer: BLAS, exp, log and pow give other last digits with the number of rows.
CLOSE = 1e-12

ALL = ["a", "b", "c", "d"]  # in which some are missing
EXTREMES = pd.DataFrame({
    name: [0.0, -0.0, 5e-324, -1e-300, 1e-20, -1e-7, 1e-7, 1e15, -1e15, 1e30] for name in FULL
})  # fmt: skip


def with_lambdas(*lambdas: float) -> Any:
    step = PowerTransformer(standardize=False).fit(ROWS[ALL[: len(lambdas)]])
    step.lambdas_ = np.array(lambdas)
    return step


@pytest.mark.parametrize(("step", "columns"), [
    (PCA(2), FULL),
    (PCA(whiten=True), FULL),
    (IncrementalPCA(2), FULL),
    (TruncatedSVD(2), FULL),
    (Normalizer("l1"), FULL),
    (Normalizer("l2"), FULL),
    (PowerTransformer(), ALL),
    (PowerTransformer(standardize=False), ALL),
    (PowerTransformer("box-cox"), ["c"]),
    (PowerTransformer("box-cox", standardize=False), ["c"]),
    (make_pipeline(StandardScaler(), PowerTransformer()), ALL),
    (QuantileTransformer(n_quantiles=50, output_distribution="normal"), ALL),
    *[(FunctionTransformer(function), ["c"]) for function in (np.log, np.log2, np.log10)],
    *[(FunctionTransformer(function), ["b", "d"]) for function in (np.exp, np.expm1, np.cbrt)],
    (FunctionTransformer(np.log1p), ["a", "c"]), (FunctionTransformer(np.tanh), ["b", "d"]),
], ids=repr)  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_lowered_step_is_close(step: Any, columns: list[str]) -> None:
    rows = ROWS[columns]
    expected = dense(step.fit(rows).transform(rows))

    found = lowered(step, rows)

    assert_close(found.value, expected)
    assert not found.refused.any()


@pytest.mark.parametrize("step", [
    QuantileTransformer(n_quantiles=50, output_distribution="normal"),
    FunctionTransformer(np.log1p), FunctionTransformer(np.cbrt),
    Normalizer("l1"), PowerTransformer(standardize=False), PCA(),
], ids=repr)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_lowered_step_is_close_far_from_what_it_was_fitted_on(step: Any) -> None:
    step.fit(ROWS[FULL])
    expected = dense(step.transform(EXTREMES))
    found = lowered(step, EXTREMES, ROWS[FULL].astype(float)).value
    for i in range(len(EXTREMES)):
        assert_close(found[i : i + 1], expected[i : i + 1])


@pytest.mark.parametrize("lambdas", [(0.0, 2.0), (1.0, 1e-3), (-3.0, 5.0), (1e-17, 2 - 1e-9)])
def test_a_yeo_johnson_transform_is_close_at_each_of_its_cases(
    lambdas: tuple[float, float],
) -> None:
    step = with_lambdas(*lambdas)
    rows = ROWS[ALL[: len(lambdas)]]
    assert_close(lowered(step, rows).value, step.transform(rows))


@pytest.mark.parametrize("extrapolation", ["constant", "linear", "continue", "periodic"])
@pytest.mark.parametrize("settings", [
    {}, {"degree": 4}, {"degree": 2, "include_bias": False},
    {"knots": "quantile", "n_knots": 9}, {"sparse_output": True}, {"handle_missing": "zeros"},
], ids=repr)  # fmt: skip
def test_splines_are_close_inside_and_outside_their_knots(
    settings: dict[str, Any], extrapolation: str
) -> None:
    columns = ["a", "c"] if "handle_missing" in settings else FULL
    rows = ROWS[columns]
    step = SplineTransformer(extrapolation=extrapolation, **settings)
    step.fit(rows.clip(rows.quantile(0.1), rows.quantile(0.9), axis=1))
    assert_close(lowered(step, rows).value, dense(step.transform(rows)))


@pytest.mark.parametrize("step", [
    SplineTransformer(degree=0), SplineTransformer(degree=1, extrapolation="linear")
], ids=repr)  # fmt: skip
def test_splines_that_scikit_learn_itself_computes_wrongly_are_not_lowered(step: Any) -> None:
    with pytest.raises(CannotLower, match="a SplineTransformer of degree"):
        lowered(step.fit(ROWS[FULL]), ROWS[FULL])


def test_what_is_beyond_the_knots_is_refused_where_splines_refuse_it() -> None:
    step = SplineTransformer(extrapolation="error").fit(pd.DataFrame({"d": [-1.0, 0.0, 1.0]}))
    found = lowered(step, pd.DataFrame({"d": [-1.1, -1.0, 0.3, 1.0, 1.1]}))
    assert found.refused.tolist() == [True, False, False, False, True]
    inside = step.transform(pd.DataFrame({"d": [-1.0, 0.3, 1.0]}))
    assert_close(found.value[1:4], inside)


def assert_close(found: Any, expected: Any) -> None:
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    scale = np.abs(expected[finite]).max(initial=0.0)
    assert np.abs(found[finite] - expected[finite]).max(initial=0.0) <= CLOSE * scale


@pytest.mark.parametrize(("function", "why"), [
    (np.nan_to_num, "of nan_to_num, which is not known"),
    (lambda rows: rows, "of <lambda>, which is not known"),
    (np.arctan, "of arctan, which is not known"),
])  # fmt: skip
def test_a_function_that_is_not_known_is_said(function: Any, why: str) -> None:
    step = FunctionTransformer(function).fit(ROWS[["b"]])
    with pytest.raises(CannotLower, match=why):
        lowered(step, ROWS[["b"]])


def test_a_function_with_arguments_is_not_lowered() -> None:
    step = FunctionTransformer(np.log1p, kw_args={"dtype": np.float64}).fit(ROWS[["b"]])
    with pytest.raises(CannotLower, match="of log1p with arguments"):
        lowered(step, ROWS[["b"]])
