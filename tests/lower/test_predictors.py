"""Lowered estimators, but linear ones and those that hold others, give scikit-learn's numbers."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tabserve.lower import CannotLower
from tests.lower.families import KINDS, NARROW, SHAPES, classes_of, value_of, values_of
from tests.lower.predicting import assert_served_as_predicted, decided, served

by_shape = pytest.mark.parametrize("shape", SHAPES)
by_kind = pytest.mark.parametrize("kind", KINDS)


def tree() -> Any:
    return DecisionTreeClassifier(max_depth=3)


@by_shape
@by_kind
@pytest.mark.parametrize("model", [
    AdaBoostClassifier(GaussianNB(), n_estimators=3),
    BaggingClassifier(n_estimators=9),
    BaggingClassifier(tree(), n_estimators=5, max_features=0.7, bootstrap_features=True),
    BaggingClassifier(make_pipeline(StandardScaler(), tree()), n_estimators=3),
    BaggingClassifier(LogisticRegression(), n_estimators=3, max_features=2),
    BaggingClassifier(RidgeClassifier(), n_estimators=3),
    GaussianNB(),
    DummyClassifier(strategy="prior"),
    DummyClassifier(strategy="most_frequent"),
], ids=repr)  # fmt: skip
def test_classes(model: Any, kind: str, shape: str) -> None:
    rows = SHAPES[shape]
    assert_served_as_predicted(model.fit(rows, classes_of(rows, kind)), rows)


@by_shape
@pytest.mark.parametrize("model", [
    AdaBoostRegressor(n_estimators=7),
    AdaBoostRegressor(LinearRegression(), n_estimators=4),
    BaggingRegressor(n_estimators=9),
    BaggingRegressor(n_estimators=5, max_features=0.7, bootstrap_features=True),
    BaggingRegressor(Ridge(), n_estimators=3, max_features=2),
    DummyRegressor(strategy="median"),
    GradientBoostingRegressor(n_estimators=5, loss="absolute_error"),
    GradientBoostingRegressor(n_estimators=5, init=DecisionTreeRegressor(max_depth=2)),
], ids=repr)  # fmt: skip
def test_values(model: Any, shape: str) -> None:
    rows = SHAPES[shape]
    assert_served_as_predicted(model.fit(rows, value_of(rows)), rows)


@pytest.mark.parametrize("model", [
    BaggingRegressor(n_estimators=4), BaggingRegressor(Ridge(), n_estimators=4),
    DummyRegressor(), MLPRegressor(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=5, tol=1e9),
], ids=repr)  # fmt: skip
def test_several_values(model: Any) -> None:
    assert_served_as_predicted(model.fit(NARROW, values_of(NARROW)), NARROW)


@by_shape
@by_kind
@pytest.mark.parametrize("model", [
    AdaBoostClassifier(n_estimators=9), AdaBoostClassifier(tree(), n_estimators=9),
    GradientBoostingClassifier(n_estimators=9), HistGradientBoostingClassifier(max_iter=9),
    GradientBoostingClassifier(n_estimators=9, init="zero"),
    GradientBoostingClassifier(n_estimators=9, init=tree()),
    GradientBoostingClassifier(n_estimators=9, loss="exponential"),
    GradientBoostingClassifier(n_estimators=9, loss="exponential", init=tree()),
], ids=repr)  # fmt: skip
def test_raw_scores_of_boosted_trees_are_equal(model: Any, kind: str, shape: str) -> None:
    if kind == "three" and model.get_params().get("loss") == "exponential":
        pytest.skip("of two classes only")
    rows = SHAPES[shape]
    model.fit(rows, classes_of(rows, kind))
    np.testing.assert_array_equal(decided(model, rows), model.decision_function(rows))
    assert_served_as_predicted(model, rows)


@by_kind
@pytest.mark.parametrize("loss", ["log_loss", "exponential"])
def test_gradient_boosting_may_start_from_any_classifier(loss: str, kind: str) -> None:
    if kind == "three" and loss == "exponential":
        pytest.skip("of two classes only")
    model = GradientBoostingClassifier(n_estimators=9, loss=loss, init=RandomForestClassifier(3))
    assert_served_as_predicted(model.fit(NARROW, classes_of(NARROW, kind)), NARROW)


def test_what_starts_from_a_weighted_sum_in_float32_is_not_lowered() -> None:
    model = GradientBoostingRegressor(init=LinearRegression(), n_estimators=3)
    model.fit(NARROW, value_of(NARROW))
    with pytest.raises(CannotLower, match="a LinearRegression fitted on float32"):
        served(model, NARROW)


@by_shape
@by_kind
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_classes_of_a_network(activation: str, kind: str, shape: str) -> None:
    rows = SHAPES[shape]
    network = MLPClassifier((7, 4), activation=activation, solver="lbfgs", max_iter=20, tol=1e9)
    model = make_pipeline(StandardScaler(), network).fit(rows, classes_of(rows, kind))
    assert_served_as_predicted(model, rows)


@by_kind
@pytest.mark.parametrize("n_trees", [2, 70])
def test_forests_of_few_and_of_many_trees(n_trees: int, kind: str) -> None:
    for model in (ExtraTreesClassifier(n_trees), BaggingClassifier(n_estimators=n_trees)):
        assert_served_as_predicted(model.fit(NARROW, classes_of(NARROW, kind)), NARROW)


def test_a_forest_of_several_targets() -> None:
    several = np.stack([classes_of(NARROW, "text"), classes_of(NARROW, "three")], axis=1)
    assert_served_as_predicted(RandomForestClassifier(70).fit(NARROW, several), NARROW)
    assert_served_as_predicted(RandomForestRegressor(70).fit(NARROW, values_of(NARROW)), NARROW)


@by_shape
@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_values_of_a_network(loss: str, shape: str) -> None:
    rows = SHAPES[shape]
    network = MLPRegressor(hidden_layer_sizes=(5,), loss=loss, solver="lbfgs", max_iter=20, tol=1e9)
    model = make_pipeline(StandardScaler(), network).fit(rows, value_of(rows))
    assert_served_as_predicted(model, rows)


@by_shape
@pytest.mark.parametrize("model", [
    IsolationForest(n_estimators=9), IsolationForest(n_estimators=9, contamination=0.2),
    IsolationForest(n_estimators=9, max_features=2, max_samples=30),
    KMeans(4, n_init=1), MiniBatchKMeans(3, n_init=1),
    make_pipeline(StandardScaler(), KMeans(3, n_init=1)),
], ids=repr)  # fmt: skip
def test_groups(model: Any, shape: str) -> None:
    assert_served_as_predicted(model.fit(SHAPES[shape]), SHAPES[shape])


@by_shape
@pytest.mark.parametrize("model", [
    StandardScaler(), make_pipeline(StandardScaler(), PCA(2)),
    make_column_transformer((PolynomialFeatures(), [0, 2]), remainder="passthrough"),
], ids=repr)  # fmt: skip
def test_columns_that_a_transformer_makes(model: Any, shape: str) -> None:
    assert_served_as_predicted(model.fit(SHAPES[shape]), SHAPES[shape])


def test_missing_values_reach_bags_of_trees_and_isolation_forests() -> None:
    rows = NARROW.mask(np.random.default_rng(3).random(NARROW.shape) < 0.1)
    for model in (BaggingClassifier(n_estimators=5), IsolationForest(n_estimators=5)):
        assert_served_as_predicted(model.fit(rows, classes_of(NARROW, "three")), rows)


def test_missing_values_of_a_sparse_matrix_go_right_in_isolation_forests() -> None:
    rows = NARROW.mask(np.random.default_rng(3).random(NARROW.shape) < 0.1)
    rows["text"] = classes_of(NARROW, "three")
    columns = make_column_transformer(
        (OneHotEncoder(), ["text"]), remainder="passthrough", sparse_threshold=1
    )
    model = make_pipeline(columns, IsolationForest(n_estimators=9)).fit(rows)
    assert_served_as_predicted(model, rows)


@pytest.mark.parametrize("encoder", [
    OrdinalEncoder(), OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
], ids=repr)  # fmt: skip
def test_missing_categories_go_where_each_node_of_a_tree_sends_them(encoder: Any) -> None:
    random, n = np.random.default_rng(0), 400
    one = pd.Series(random.choice(["a", "b", "c", "d", None], n), dtype=object)
    two = pd.Series(random.choice(["u", "v", "?"], n), dtype=object)
    rows = pd.DataFrame({"one": one, "two": two.where(two != "?", np.nan)})
    rows["x"] = random.normal(size=n)
    target = (rows["one"] == "a") | (rows["one"].isna() & (rows["x"] > 0))
    columns = make_column_transformer((encoder, ["one", "two"]), remainder="passthrough")
    model = make_pipeline(columns, RandomForestClassifier(8, random_state=0))
    assert_served_as_predicted(model.fit(rows, target), rows)


def test_a_constant_is_answered_for_every_row() -> None:
    target = classes_of(NARROW, "three")
    model = DummyClassifier(strategy="constant", constant="mid").fit(NARROW, target)
    assert_served_as_predicted(model, NARROW)


@pytest.mark.parametrize("strategy", ["uniform", "stratified"])
def test_what_answers_at_random_is_not_lowered(strategy: str) -> None:
    model = DummyClassifier(strategy=strategy).fit(NARROW, classes_of(NARROW, "text"))
    with pytest.raises(CannotLower, match="a DummyClassifier that answers at random"):
        served(model, NARROW)
