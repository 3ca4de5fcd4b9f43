"""Models of the Telco customers, each on all 19 features and as its users build it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from xgboost import XGBClassifier

from examples.churn import data, train

EXAMPLE = "churn example (4 features)"


@dataclass(frozen=True)
class Fitted:
    """features: as the model was fitted on, and positive: the label whose probability is asked."""

    model: Any
    features: pd.DataFrame
    target: Any
    positive: Any = "Yes"


def example(customers: pd.DataFrame) -> Fitted:
    features, target = data.features_and_target(customers)
    return Fitted(train.pipeline().fit(features, target), features, target)


def _one_hot(estimator: Any) -> Callable[[pd.DataFrame], Fitted]:
    """Behind the churn example's preprocessing, for all columns."""

    def fit(customers: pd.DataFrame) -> Fitted:
        features, target = _features(customers), customers[data.TARGET]
        preprocessing = make_column_transformer(
            (
                make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
                make_column_selector(dtype_include="number"),
            ),
            (
                OneHotEncoder(handle_unknown="ignore"),
                make_column_selector(dtype_exclude="number"),
            ),
        )
        return Fitted(
            make_pipeline(preprocessing, estimator).fit(features, target), features, target
        )

    return fit


def _native(estimator: Any, labels: tuple[Any, Any] = ("No", "Yes")) -> Callable[[Any], Fitted]:
    """On the text as pandas' categories, which the estimator itself decides on."""

    def fit(customers: pd.DataFrame) -> Fitted:
        features = _features(customers)
        features = features.astype(dict.fromkeys(_text(features), "category"))
        target = customers[data.TARGET].map(dict(zip(("No", "Yes"), labels, strict=True)))
        return Fitted(estimator.fit(features, target), features, target, labels[1])

    return fit


def _cat_boost(customers: pd.DataFrame) -> Fitted:
    features, target = _features(customers), customers[data.TARGET]
    model = CatBoostClassifier(verbose=0, random_seed=0, allow_writing_files=False)
    model.fit(features, target, cat_features=_text(features))
    return Fitted(model, features, target)


def _features(customers: pd.DataFrame) -> pd.DataFrame:
    return customers.drop(columns=["customerID", data.TARGET])


def _text(features: pd.DataFrame) -> list[str]:
    return list(features.select_dtypes(exclude="number"))


MODELS: dict[str, Callable[[pd.DataFrame], Fitted]] = {
    EXAMPLE: example,
    "RandomForest, 100 trees": _one_hot(
        RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
    ),
    "GradientBoosting": _one_hot(GradientBoostingClassifier(random_state=0)),
    "HistGradientBoosting": _native(HistGradientBoostingClassifier(random_state=0)),
    "LogisticRegression": _one_hot(LogisticRegression(max_iter=1000)),
    "XGBoost": _native(XGBClassifier(enable_categorical=True, n_jobs=1), labels=(0, 1)),
    "LightGBM": _native(LGBMClassifier(verbose=-1, n_jobs=1)),
    "CatBoost, its own categories": _cat_boost,
}
