"""How exactly a model can be computed anew, said of each kind of estimator."""

from typing import Any

import numpy as np
import pytest
from catboost import CatBoostRegressor
from lightgbm import LGBMRegressor
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.feature_selection import RFE, SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    Normalizer,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from tabserve.exactness import exactness_of
from tests.few_rows import ROWS, TARGET, VALUES


@pytest.mark.parametrize(
    ("model", "exactness"),
    [
        (make_pipeline(StandardScaler(), RandomForestClassifier(2)), "bits"),
        (make_column_transformer(("passthrough", ["a"])), "bits"),
        (FunctionTransformer(np.log1p), "close"),
        (FunctionTransformer(np.square), "bits"),
        (make_pipeline(SelectFromModel(LogisticRegression()), DecisionTreeClassifier()), "bits"),
        (make_pipeline(RFE(LogisticRegression()), DecisionTreeClassifier()), "close"),
        (QuantileTransformer(n_quantiles=2), "bits"),
        (QuantileTransformer(n_quantiles=2, output_distribution="normal"), "close"),
        (Normalizer("max"), "bits"),
        (Normalizer(), "close"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "close"),
        (BaggingClassifier(LogisticRegression(), n_estimators=2), "close"),
        (HistGradientBoostingRegressor(max_iter=2), "bits"),
        (HistGradientBoostingRegressor(max_iter=2, loss="poisson"), "close"),
        (type("RandomForestClassifier", (RandomForestClassifier,), {})(2), "close"),
    ],
)
def test_bits_is_only_for_what_compares_and_adds_in_a_fixed_order(
    model: Any, exactness: str
) -> None:
    target = VALUES.sum(axis=1) if isinstance(model, HistGradientBoostingRegressor) else TARGET
    assert exactness_of(model.fit(ROWS, target)) == exactness


@pytest.mark.parametrize("booster", [
    CatBoostRegressor(n_estimators=2, verbose=0, allow_writing_files=False),
    LGBMRegressor(n_estimators=2, verbose=-1),
])  # fmt: skip
def test_a_booster_that_is_fitted_for_each_target_counts_as_it_was_fitted(booster: Any) -> None:
    assert exactness_of(MultiOutputRegressor(booster).fit(ROWS, VALUES)) == "bits"
