"""How exactly a fitted scikit-learn model can be computed anew: to the bits, or close."""

from typing import Any

import numpy as np

from tabserve import boosters
from tabserve.artifact import Exactness
from tabserve.estimators import estimators, is_sklearns

# Those that only compare, or add and multiply value by value in a fixed order. All else may rest on
# BLAS, exp, log or pow. Names, since importing all of scikit-learn would take seconds.
BITS = frozenset(
    {
        "ColumnTransformer", "FeatureUnion", "Pipeline",
        "GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "RandomizedSearchCV",
        "SimpleImputer", "MissingIndicator",
        "Binarizer", "MaxAbsScaler", "MinMaxScaler", "RobustScaler", "StandardScaler",
        "OneHotEncoder", "OrdinalEncoder", "TargetEncoder",
        "KBinsDiscretizer", "PolynomialFeatures",
        "GenericUnivariateSelect", "RFE", "RFECV", "SelectFdr", "SelectFpr", "SelectFromModel",
        "SelectFwe", "SelectKBest", "SelectPercentile", "SequentialFeatureSelector",
        "VarianceThreshold",
        "DecisionTreeClassifier", "DecisionTreeRegressor",
        "ExtraTreeClassifier", "ExtraTreeRegressor",
        "ExtraTreesClassifier", "ExtraTreesRegressor",
        "RandomForestClassifier", "RandomForestRegressor",
        "AdaBoostRegressor", "BaggingClassifier", "BaggingRegressor",
        "FixedThresholdClassifier", "FrozenEstimator",
        "MultiOutputClassifier", "MultiOutputRegressor",
        "DummyClassifier", "DummyRegressor",
        "_BinMapper",  # of histogram boosting
        "LabelEncoder",  # of LightGBM's classifier
    }
)  # fmt: skip

# These only select, by what an estimator inside them said in training.
_SELECTORS = frozenset({"SelectFromModel", "SequentialFeatureSelector"})
# numpy's functions that IEEE 754 defines to the last bit.
_EXACT_FUNCTIONS = frozenset(
    {
        "abs", "absolute", "ceil", "fabs", "floor", "negative", "reciprocal", "rint", "sign",
        "sqrt", "square",
    }
)  # fmt: skip

# With these losses a boosted regressor's answer is its raw score, and has no exp.
_IDENTITY_LINKS = frozenset({"squared_error", "absolute_error", "quantile", "huber"})


def exactness_of(model: Any) -> Exactness:
    for estimator in estimators(model, closed=_SELECTORS):
        name = type(estimator).__name__
        if boosters.is_booster(estimator):
            # One that is not fitted is the pattern of others, which are.
            if boosters.is_fitted(estimator) and boosters.exactness_of(estimator) == "close":
                return "close"
            continue
        if not (name in BITS or _is_exact(estimator)) or not is_sklearns(type(estimator)):
            return "close"
    return "bits"


def _is_exact(estimator: Any) -> bool:
    """Of those that are, with some of their parameters."""
    match type(estimator).__name__:
        case "GradientBoostingRegressor" | "HistGradientBoostingRegressor":
            return estimator.loss in _IDENTITY_LINKS
        case "FunctionTransformer":
            name = getattr(estimator.func, "__name__", "")
            # None is what "passthrough" becomes.
            return estimator.func is None or (
                name in _EXACT_FUNCTIONS and estimator.func is getattr(np, name)
            )
        case "Normalizer":
            return bool(estimator.norm == "max")
        case "QuantileTransformer":
            return bool(estimator.output_distribution == "uniform")
    return False
