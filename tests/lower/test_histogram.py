"""Lowered histogram gradient boosting gives scikit-learn's numbers, of native categories too."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from tests.lower.predicting import assert_served_as_predicted

random = np.random.default_rng(0)
N_ROWS = 400
CITIES = [f"city {i}" for i in range(90)]
ROWS = pd.DataFrame(
    {
        "a": np.where(random.random(N_ROWS) < 0.1, np.nan, random.normal(3, 2, N_ROWS)),
        "size": pd.Series(random.choice(["S", "M", "L", None], N_ROWS), dtype="category"),
        "b": random.integers(-5, 5, N_ROWS),
        "grade": random.choice([1.0, 2.0, 7.0, np.nan], N_ROWS),
        "city": pd.Series(random.choice(CITIES, N_ROWS), dtype="category"),
    }
)
SCORE = (
    ROWS["a"].fillna(0)
    + ROWS["size"].isin(["S", "L"])
    + ROWS["city"].cat.codes % 3
    + ROWS["grade"].isna()
    + random.normal(0, 0.1, N_ROWS)
).to_numpy()
VALUE = SCORE - SCORE.min() + 1
TWO = np.median(SCORE) < SCORE
THREE = np.array(["low", "mid", "top"])[np.digitize(SCORE, np.quantile(SCORE, [0.3, 0.6]))]


@pytest.mark.parametrize("rows", [
    ROWS, ROWS[["a", "b"]], ROWS[["b", "city"]], ROWS[["size"]]
], ids=lambda rows: " ".join(rows.columns))  # fmt: skip
@pytest.mark.parametrize("target", [TWO, TWO.astype(int), THREE], ids=["two", "numbers", "three"])
def test_classes_of_native_categories_and_missing_values(rows: Any, target: Any) -> None:
    model = HistGradientBoostingClassifier(max_iter=8, min_samples_leaf=2).fit(rows, target)
    assert_served_as_predicted(model, rows)


@pytest.mark.parametrize("loss", [
    "squared_error", "absolute_error", "gamma", "poisson", "quantile"
])  # fmt: skip
def test_values_of_each_loss(loss: str) -> None:
    quantile = 0.3 if loss == "quantile" else None
    model = HistGradientBoostingRegressor(loss=loss, quantile=quantile, max_iter=8)
    assert_served_as_predicted(model.fit(ROWS, VALUE), ROWS)


def test_numbers_declared_as_categories() -> None:
    model = HistGradientBoostingRegressor(max_iter=8, categorical_features=["grade", "b"])
    rows = ROWS[["a", "grade", "b"]]
    assert_served_as_predicted(model.fit(rows, VALUE), rows)


def test_categories_out_of_an_encoder() -> None:
    encoder = make_column_transformer((OrdinalEncoder(), ["size", "city"]), remainder="passthrough")
    model = HistGradientBoostingClassifier(max_iter=8, categorical_features=[0, 1])
    assert_served_as_predicted(make_pipeline(encoder, model).fit(ROWS, THREE), ROWS)
