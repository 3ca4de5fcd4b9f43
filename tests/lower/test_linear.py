"""Lowered weighted sums give scikit-learn's numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import linear_model
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    RidgeClassifierCV,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

from tabserve.lower import CannotLower
from tests.lower.families import KINDS, NARROW, WIDE, classes_of, value_of, values_of
from tests.lower.predicting import assert_served_as_predicted, served

REGRESSORS = [
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars",
    "LarsCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression",
    "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "QuantileRegressor", "Ridge",
    "RANSACRegressor", "RidgeCV", "TheilSenRegressor",
]  # fmt: skip


@pytest.mark.parametrize("rows", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("name", [*REGRESSORS, "LinearSVR", "SGDRegressor"])
def test_values(name: str, rows: pd.DataFrame) -> None:
    others = {
        "LinearSVR": lambda: LinearSVR(max_iter=100_000, tol=0.01),
        "SGDRegressor": SGDRegressor,
    }
    model = others.get(name) or getattr(linear_model, name)
    assert_served_as_predicted(
        make_pipeline(StandardScaler(), model()).fit(rows, value_of(rows)), rows
    )


@pytest.mark.parametrize("name", ["Lars", "LinearRegression", "MultiTaskLasso", "RidgeCV"])
def test_several_values(name: str) -> None:
    model = getattr(linear_model, name)().fit(NARROW, values_of(NARROW))
    assert_served_as_predicted(model, NARROW)


@pytest.mark.parametrize("rows", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("model", [
    PoissonRegressor(), linear_model.GammaRegressor(), TweedieRegressor(power=1.5),
    TweedieRegressor(power=0), TweedieRegressor(power=2, link="identity", alpha=0.01),
], ids=repr)  # fmt: skip
def test_values_behind_a_link(model: Any, rows: pd.DataFrame) -> None:
    assert_served_as_predicted(
        make_pipeline(StandardScaler(), model).fit(rows, value_of(rows)), rows
    )


@pytest.mark.parametrize("rows", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [
    LogisticRegression(),
    LogisticRegressionCV(
        Cs=[0.1], cv=2, l1_ratios=(0,), scoring="accuracy", use_legacy_attributes=False
    ),
    LinearDiscriminantAnalysis(), RidgeClassifierCV(), LinearSVC(), linear_model.Perceptron(),
    SGDClassifier(), SGDClassifier(loss="log_loss"), SGDClassifier(loss="modified_huber"),
], ids=repr)  # fmt: skip
def test_classes(model: Any, kind: str, rows: pd.DataFrame) -> None:
    assert_served_as_predicted(
        make_pipeline(StandardScaler(), model).fit(rows, classes_of(rows, kind)), rows
    )


def test_what_was_fitted_in_float32_is_not_lowered() -> None:
    rows = NARROW.astype(np.float32)
    model = LogisticRegression(tol=0.1).fit(rows, classes_of(rows, "three"))
    with pytest.raises(CannotLower, match="a LogisticRegression fitted on float32"):
        served(model, rows)
