"""Every class that is lowered, on rows that hypothesis draws, for two shapes of data."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostClassifier, CatBoostRegressor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import is_classifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - makes the searches known
from sklearn.feature_selection import f_regression
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators
from xgboost import XGBClassifier, XGBRegressor, XGBRFClassifier, XGBRFRegressor

from tabserve.engines.onnx import OnnxEngine
from tabserve.exactness import exactness_of
from tabserve.lower import PREDICTORS, TRANSFORMERS
from tabserve.output import Target
from tabserve.parity import columns_of, compare, in_batches
from tabserve.signature import Signature
from tests.lower.families import SHAPES, classes_of, value_of, values_of
from tests.lower.predicting import predicted, served
from tests.lower.transforming import dense, lowered

FEW = {"n_estimators": 4, "random_state": 0}
QUIET = {"iterations": 4, "verbose": False, "allow_writing_files": False}
SEARCHED: dict[str, Any] = {"estimator": DecisionTreeClassifier(random_state=0), "cv": 2}
DEPTHS = {"max_depth": [2, 3]}
TREES = [("a", DecisionTreeClassifier(max_depth=2)), ("b", GaussianNB())]
VALUES = [("a", DecisionTreeRegressor(max_depth=2)), ("b", Ridge())]

# What a class needs beside its defaults, or to be quick. All others are made as they are.
OPTIONS: dict[str, dict[str, Any]] = {
    "AdaBoostClassifier": FEW,
    "AdaBoostRegressor": FEW,
    "BaggingClassifier": FEW,
    "BaggingRegressor": FEW,
    "CalibratedClassifierCV": {"estimator": GaussianNB(), "cv": 2},
    "CatBoostClassifier": QUIET,
    "CatBoostRegressor": QUIET,
    "ExtraTreesClassifier": FEW,
    "ExtraTreesRegressor": FEW,
    "FixedThresholdClassifier": {"estimator": GaussianNB()},
    "FunctionTransformer": {"func": np.square},
    "GenericUnivariateSelect": {"score_func": f_regression, "mode": "k_best", "param": 2},
    "GradientBoostingClassifier": FEW,
    "GradientBoostingRegressor": FEW,
    "GridSearchCV": SEARCHED | {"param_grid": DEPTHS},
    "HalvingGridSearchCV": SEARCHED | {"param_grid": DEPTHS},
    "HalvingRandomSearchCV": SEARCHED | {"param_distributions": DEPTHS, "n_candidates": 2},
    "HistGradientBoostingClassifier": {"max_iter": 4},
    "HistGradientBoostingRegressor": {"max_iter": 4},
    "IsolationForest": FEW,
    "KBinsDiscretizer": {"quantile_method": "averaged_inverted_cdf"},
    "KMeans": {"n_clusters": 3, "n_init": 1},
    "LGBMClassifier": FEW | {"verbose": -1},
    "LGBMRegressor": FEW | {"verbose": -1},
    "LogisticRegressionCV": {
        "Cs": [0.1], "cv": 2, "l1_ratios": (0,), "scoring": "accuracy",
        "use_legacy_attributes": False,
    },
    "MLPClassifier": {"hidden_layer_sizes": (4,), "max_iter": 5},
    "MLPRegressor": {"hidden_layer_sizes": (4,), "max_iter": 5},
    "MiniBatchKMeans": {"n_clusters": 3, "n_init": 1},
    "MissingIndicator": {"features": "all"},
    "MultiOutputClassifier": {"estimator": GaussianNB()},
    "MultiOutputRegressor": {"estimator": Ridge()},
    "OneVsOneClassifier": {"estimator": LogisticRegression()},
    "OneVsRestClassifier": {"estimator": LogisticRegression()},
    "PCA": {"n_components": 2},
    "QuantileTransformer": {"n_quantiles": 50},
    "RFE": {"estimator": Ridge()},
    "RFECV": {"estimator": Ridge(), "cv": 2},
    "RandomForestClassifier": FEW,
    "RandomForestRegressor": FEW,
    "RandomizedSearchCV": SEARCHED | {"param_distributions": DEPTHS, "n_iter": 2},
    "RegressorChain": {"estimator": Ridge()},
    "SelectFromModel": {"estimator": Ridge()},
    "SelectKBest": {"k": 2},
    "SequentialFeatureSelector": {"estimator": Ridge(), "n_features_to_select": 1, "cv": 2},
    "StackingClassifier": {"estimators": TREES, "cv": 2},
    "StackingRegressor": {"estimators": VALUES, "cv": 2},
    "TransformedTargetRegressor": {"regressor": Ridge(), "transformer": StandardScaler()},
    "TunedThresholdClassifierCV": {"estimator": GaussianNB(), "cv": 2},
    "VotingClassifier": {"estimators": TREES, "voting": "soft"},
    "VotingRegressor": {"estimators": VALUES},
    "XGBClassifier": FEW,
    "XGBRFClassifier": FEW,
    "XGBRFRegressor": FEW,
    "XGBRegressor": FEW,
}  # fmt: skip
BOOSTERS: list[type] = [
    CatBoostClassifier, CatBoostRegressor, LGBMClassifier, LGBMRegressor,
    XGBClassifier, XGBRFClassifier, XGBRFRegressor, XGBRegressor,
]  # fmt: skip
CLASSES = dict(all_estimators()) | {made.__name__: made for made in BOOSTERS}
# Made of others, and met in the tests of those: what holds steps, and what has one class only.
ELSEWHERE = {"_ConstantPredictor", "Pipeline", "ColumnTransformer", "FeatureUnion"}
# Take columns of categories.
OF_CATEGORIES = {"OneHotEncoder", "OrdinalEncoder", "TargetEncoder"}

EXTREMES = [0.0, -0.0, 5e-324, 1e-45, 2.0**24 + 1, 1e15, 3.4e38, -3.4e38]

# Of the fits: those that did not converge, and the like.
pytestmark = pytest.mark.filterwarnings("ignore")

drawn = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def rows_like(training: pd.DataFrame, exactness: str) -> st.SearchStrategy[pd.DataFrame]:
    """About the training data; in the class `bits` also as far from it as numbers go."""
    middle, spread = training.mean().to_numpy(), training.std().to_numpy()
    near = st.floats(-5, 5, width=32)
    shape = st.tuples(st.integers(1, 20), st.just(len(middle)))
    # Beside the mean: there a linear classifier's two scores are equal but for their last digits.
    beside = np.linspace(0.1, 0.7, len(middle))
    usual = arrays(np.float64, shape, elements=near).map(lambda x: middle + spread * (x + beside))
    anything = st.sampled_from(EXTREMES) | st.floats(-1e30, 1e30)
    wild = arrays(np.float64, shape, elements=anything)
    strategy = usual | wild if exactness == "bits" else usual
    return strategy.map(lambda x: pd.DataFrame(x, columns=list(training.columns)))


def fitted(name: str, rows: pd.DataFrame) -> Any:
    if name == "FrozenEstimator":
        return FrozenEstimator(GaussianNB().fit(rows, classes_of(rows, "text")))
    model = CLASSES[name](**OPTIONS.get(name, {}))
    if name.startswith("MultiTask") or name in ("MultiOutputRegressor", "RegressorChain"):
        return model.fit(rows, values_of(rows))
    if name == "MultiOutputClassifier":
        return model.fit(rows, np.stack([classes_of(rows, "text")] * 2, axis=1))
    if is_classifier(model):
        kind = "numbers" if name.startswith("XGB") else "text"
        classes = classes_of(rows, kind)
        return model.fit(rows, classes == 7 if kind == "numbers" else classes)
    return model.fit(rows, value_of(rows))


def assert_equal(
    model: Any, engine: OnnxEngine, targets: tuple[Target, ...], rows: pd.DataFrame
) -> None:
    signature: Signature = engine._signature
    columns = columns_of(signature, rows.to_dict("records"))
    expected = predicted(model, rows, targets)
    usual = predicted(model, SHAPES["narrow" if rows.shape[1] == 3 else "wide"], targets)
    expected = {part: np.asarray(expected[part]) for part in expected}
    for size in (1, 7, len(rows)):
        found = in_batches(engine, columns, size)
        comparison = compare(expected, found, exactness_of(model), usual)
        assert comparison.difference is None, (size, comparison)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(set(PREDICTORS) - ELSEWHERE))
def test_a_lowered_predictor_answers_any_row_as_the_library_does(name: str, shape: str) -> None:
    model = fitted(name, SHAPES[shape])
    engine, targets, _ = served(model, SHAPES[shape])

    @drawn
    @given(rows_like(SHAPES[shape], exactness_of(model)))
    def compared(rows: pd.DataFrame) -> None:
        assert_equal(model, engine, targets, rows)

    compared()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(set(TRANSFORMERS) - ELSEWHERE - OF_CATEGORIES))
def test_a_lowered_transformer_gives_any_row_as_the_library_does(name: str, shape: str) -> None:
    training = SHAPES[shape]
    step = CLASSES[name](**OPTIONS.get(name, {})).fit(training, value_of(training))
    exactness = exactness_of(make_pipeline(step, DecisionTreeRegressor()))

    @drawn
    @given(rows_like(training, "close"))
    def compared(rows: pd.DataFrame) -> None:
        expected = dense(step.transform(rows))
        found = lowered(step, rows, seen=training).value
        if exactness == "bits":
            np.testing.assert_array_equal(found, expected)
        else:
            scale = max(1.0, np.abs(dense(step.transform(training))).max())
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12 * scale)

    compared()


COLOURS = ["red", "green", "blue", "grey"]


@pytest.mark.parametrize("n_columns", [1, 4])
@pytest.mark.parametrize("name", sorted(OF_CATEGORIES))
def test_a_lowered_encoder_gives_any_categories_as_the_library_does(
    name: str, n_columns: int
) -> None:
    random = np.random.default_rng(n_columns)
    names = [f"c{i}" for i in range(n_columns)]
    training = pd.DataFrame(random.choice(COLOURS, (60, n_columns)), columns=names)
    step = CLASSES[name]().fit(training, random.normal(size=60))

    @drawn
    @given(st.lists(st.tuples(*[st.sampled_from(COLOURS)] * n_columns), min_size=1, max_size=30))
    def compared(records: list[tuple[str, ...]]) -> None:
        rows = pd.DataFrame(records, columns=names)
        expected = dense(step.transform(rows))
        np.testing.assert_array_equal(lowered(step, rows, seen=training).value, expected)

    compared()


def test_every_class_that_is_lowered_is_tried() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = set(CLASSES) | ELSEWHERE
    assert set(PREDICTORS) | set(TRANSFORMERS) <= known
