"""Lowered estimators that hold others give scikit-learn's numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabserve.lower import CannotLower
from tests.lower.families import KINDS, NARROW, SHAPES, classes_of, value_of, values_of
from tests.lower.predicting import assert_served_as_predicted, served

by_shape = pytest.mark.parametrize("shape", SHAPES)
by_kind = pytest.mark.parametrize("kind", KINDS)


def tree() -> Any:
    return DecisionTreeClassifier(max_depth=3)


def logistic() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression())


def three() -> list[tuple[str, Any]]:
    return [("logistic", logistic()), ("tree", tree()), ("bayes", GaussianNB())]


@by_shape
@by_kind
@pytest.mark.parametrize("model", [
    CalibratedClassifierCV(tree(), cv=2),
    CalibratedClassifierCV(LinearSVC(), cv=2, ensemble=False),
    CalibratedClassifierCV(logistic(), cv=2, method="isotonic"),
    CalibratedClassifierCV(GaussianNB(), cv=2, method="isotonic", ensemble=False),
    VotingClassifier(three(), voting="soft"),
    VotingClassifier(three(), voting="soft", weights=[0.1, 0.7, 3]),
    VotingClassifier(three()),
    VotingClassifier([*three(), ("none", "drop")], weights=[2, 1.5, 1, 9]),
    StackingClassifier(three(), cv=2),
    StackingClassifier(three(), tree(), cv=2, passthrough=True, stack_method="predict_proba"),
    StackingClassifier([("ridge", RidgeClassifier()), ("none", "drop"), ("tree", tree())], cv=2),
    StackingClassifier(three(), cv=2, stack_method="predict"),
    OneVsRestClassifier(logistic()),
    OneVsRestClassifier(tree()),
    OneVsRestClassifier(LinearSVC()),
    OneVsOneClassifier(LogisticRegression()),
    OneVsOneClassifier(tree()),
    BaggingClassifier(VotingClassifier(three(), voting="soft"), n_estimators=2),
    GridSearchCV(tree(), {"max_depth": [2, 3]}, cv=2),
    make_pipeline(StandardScaler(), RandomizedSearchCV(tree(), {"max_depth": [2]}, n_iter=1, cv=2)),
], ids=repr)  # fmt: skip
def test_classes(model: Any, kind: str, shape: str) -> None:
    rows = SHAPES[shape]
    assert_served_as_predicted(model.fit(rows, classes_of(rows, kind)), rows)


@by_shape
@pytest.mark.parametrize("kind", ["text", "booleans", "three"])
@pytest.mark.parametrize("inner", [logistic(), tree()], ids=repr)
def test_classes_calibrated_by_a_temperature(inner: Any, kind: str, shape: str) -> None:
    # Not of the numbers 3 and 7: scikit-learn 1.9 takes them for indices, and reads past the end.
    rows = SHAPES[shape]
    model = CalibratedClassifierCV(inner, cv=2, method="temperature")
    assert_served_as_predicted(model.fit(rows, classes_of(rows, kind)), rows)


@by_kind
@pytest.mark.parametrize("inner", [
    AdaBoostClassifier(n_estimators=3), BaggingClassifier(n_estimators=3),
    CalibratedClassifierCV(tree(), cv=2), GradientBoostingClassifier(n_estimators=3),
    HistGradientBoostingClassifier(max_iter=3), RandomForestClassifier(3),
    make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss")),
    make_pipeline(StandardScaler(), SGDClassifier(loss="modified_huber")),
    MLPClassifier((3,), solver="lbfgs", max_iter=10, tol=1e9), OneVsRestClassifier(tree()),
    StackingClassifier(three(), cv=2),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("voting", ["soft", "hard"])
def test_each_classifier_may_be_held(voting: str, inner: Any, kind: str) -> None:
    model = VotingClassifier([("inner", inner), ("tree", tree())], voting=voting)
    assert_served_as_predicted(model.fit(NARROW, classes_of(NARROW, kind)), NARROW)


@by_shape
@pytest.mark.parametrize("model", [
    VotingRegressor([("line", LinearRegression()), ("tree", DecisionTreeRegressor(max_depth=3))]),
    VotingRegressor([("a", Ridge()), ("b", ExtraTreesRegressor(3))], weights=[1, 0.3]),
    VotingRegressor([("a", PoissonRegressor()), ("b", ExtraTreesRegressor(3))]),
    StackingRegressor([("ridge", Ridge()), ("tree", ExtraTreesRegressor(3))], cv=2),
    StackingRegressor([("ridge", Ridge())], ExtraTreesRegressor(3), cv=2, passthrough=True),
], ids=repr)  # fmt: skip
def test_values(model: Any, shape: str) -> None:
    rows = SHAPES[shape]
    model = make_pipeline(StandardScaler(), model)
    assert_served_as_predicted(model.fit(rows, value_of(rows)), rows)


@by_shape
@pytest.mark.parametrize("how", [
    {"func": np.log, "inverse_func": np.exp}, {"func": np.log1p, "inverse_func": np.expm1},
    {},
    {"transformer": StandardScaler()}, {"transformer": MinMaxScaler()},
    {"transformer": RobustScaler()}, {"transformer": MaxAbsScaler()},
], ids=repr)  # fmt: skip
def test_values_of_a_transformed_target(how: Any, shape: str) -> None:
    rows = SHAPES[shape]
    model = TransformedTargetRegressor(make_pipeline(StandardScaler(), Ridge()), **how)
    model.fit(rows, value_of(rows))
    assert_served_as_predicted(model, rows)
    assert_served_as_predicted(VotingRegressor([("a", model)]).fit(rows, value_of(rows)), rows)


def test_a_target_transformed_by_a_function_of_ones_own_is_not_lowered() -> None:
    model = TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=lambda x: np.exp(x))
    with pytest.raises(CannotLower, match="a target transformed back by <lambda>"):
        served(model.fit(NARROW, value_of(NARROW)), NARROW)


@pytest.mark.parametrize("model", [
    MultiOutputRegressor(DecisionTreeRegressor(max_depth=3)), MultiOutputRegressor(Ridge()),
    RegressorChain(Ridge()), RegressorChain(DecisionTreeRegressor(max_depth=3), order=[2, 0, 1]),
    TransformedTargetRegressor(Ridge(), transformer=StandardScaler()),
], ids=repr)  # fmt: skip
def test_several_values(model: Any) -> None:
    assert_served_as_predicted(model.fit(NARROW, values_of(NARROW)), NARROW)


@pytest.mark.parametrize("model", [tree(), logistic(), GaussianNB()], ids=repr)
def test_several_classes(model: Any) -> None:
    targets = np.stack([classes_of(NARROW, "text"), classes_of(NARROW, "three")], axis=1)
    assert_served_as_predicted(MultiOutputClassifier(model).fit(NARROW, targets), NARROW)


def test_a_row_that_no_class_claims_has_no_probability_of_any() -> None:
    model = OneVsRestClassifier(DecisionTreeClassifier()).fit(NARROW, classes_of(NARROW, "three"))
    random = np.random.default_rng(1)
    rows = pd.DataFrame({name: random.permutation(NARROW[name]) for name in NARROW})
    assert (model.predict_proba(rows) == 0).all(axis=1).any()
    assert_served_as_predicted(model, rows)


@pytest.mark.parametrize("kind", ["numbers", "text", "booleans"])
@pytest.mark.parametrize("response", ["auto", "predict_proba", "decision_function"])
def test_labels_by_a_threshold(response: str, kind: str) -> None:
    target = classes_of(NARROW, kind)
    inner = logistic()
    for positive in np.unique(target):
        fixed = FixedThresholdClassifier(
            inner, threshold=0.3, response_method=response, pos_label=positive
        )
        assert_served_as_predicted(fixed.fit(NARROW, target), NARROW)
    tuned = TunedThresholdClassifierCV(inner, cv=2, response_method=response)
    assert_served_as_predicted(tuned.fit(NARROW, target), NARROW)
    held = CalibratedClassifierCV(FrozenEstimator(tuned))
    assert_served_as_predicted(held.fit(NARROW, target), NARROW)
    voted = VotingClassifier([("tuned", tuned), ("tree", tree())])
    assert_served_as_predicted(voted.fit(NARROW, target), NARROW)
