"""Trees and what is made of them: sklearn.tree, sklearn.ensemble.

Weights are not divided beforehand: scikit-learn divides the sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import CannotLower, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree, one_leaf
from tabserve.lowered import Link
from tabserve.types import Array


def decision_tree_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _classifier(model, [model], matrix, lowering)


def decision_tree_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _regressor(model, [model], matrix, lowering)


def forest_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _classifier(model, model.estimators_, matrix, lowering)


def forest_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _regressor(model, model.estimators_, matrix, lowering)


def gradient_boosting_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = _boosted(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(proba="logistic", label="not_negative"))]
    return [Scores(raw, Link(proba="softmax", label="largest_score"))]


def gradient_boosting_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return [Scores(_boosted(model, matrix, lowering), Link())]


def hist_gradient_boosting_classifier(
    model: Any, matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    raw = _hist_boosted(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(proba="logistic", label="positive"))]
    return [Scores(raw, Link(proba="softmax", label="largest_score"))]


def hist_gradient_boosting_regressor(
    model: Any, matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    if model._loss.link.__class__.__name__ != "IdentityLink":
        return [Scores(_hist_boosted(model, matrix, lowering), Link(value="exp"))]
    return [Scores(_hist_boosted(model, matrix, lowering), Link())]


def _classifier(
    model: Any, estimators: Sequence[Any], matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    graph = lowering.graph
    rounded = lowering.as_float32(matrix)
    n_classes = np.atleast_1d(model.n_classes_).tolist()
    scores = []
    for output, n in enumerate(n_classes):
        labels = range(n) if lowering.only_class is None else [lowering.only_class]
        trees = [
            _tree(estimator.tree_, estimator.tree_.value[:, output, label], place)
            for place, label in enumerate(labels)
            for estimator in estimators
        ]
        total = sum_of_leaves(lowering, rounded, trees, len(labels))
        scores.append(Scores(_divided(graph, total, len(estimators)), Link(proba="itself")))
    return scores


def _regressor(
    model: Any, estimators: Sequence[Any], matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    graph = lowering.graph
    rounded = lowering.as_float32(matrix)
    scores = []
    for output in range(model.n_outputs_):
        trees = [
            _tree(estimator.tree_, estimator.tree_.value[:, output, 0]) for estimator in estimators
        ]
        total = sum_of_leaves(lowering, rounded, trees, 1)
        scores.append(Scores(_divided(graph, total, len(estimators)), Link()))
    return scores


def _divided(graph: Graph, total: str, n: int) -> str:
    return total if n == 1 else graph.node("Div", total, graph.constant(float(n)))


def _boosted(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    init = _initial(model)
    trees = [one_leaf(value, target) for target, value in enumerate(init)]
    for stage in model.estimators_:
        for target, estimator in enumerate(stage):
            weight = model.learning_rate * estimator.tree_.value[:, 0, 0]
            trees.append(_tree(estimator.tree_, weight, target))
    rounded = lowering.as_float32(matrix)
    return sum_of_leaves(lowering, rounded, trees, len(init))


def _initial(model: Any) -> Array:
    """Shape (n_targets,). Raises CannotLower where it depends on the row."""
    if model.init_ != "zero" and type(model.init_).__name__ not in (
        "DummyClassifier",
        "DummyRegressor",
    ):
        raise CannotLower(f"a gradient boosting that starts from {type(model.init_).__name__}")
    raw = model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))
    return np.asarray(raw[0], dtype=np.float64)


def _hist_boosted(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    if model.is_categorical_ is not None and model.is_categorical_.any():
        raise CannotLower("a histogram gradient boosting with categories of its own")
    baseline = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    trees = [one_leaf(value, target) for target, value in enumerate(baseline)]
    for stage in model._predictors:
        for target, predictor in enumerate(stage):
            nodes = predictor.nodes
            leaf = nodes["is_leaf"].astype(bool)
            trees.append(
                Tree(
                    left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                    right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                    feature=nodes["feature_idx"].astype(np.int64),
                    threshold=nodes["num_threshold"],
                    missing_left=nodes["missing_go_to_left"],
                    weight=nodes["value"],
                    target=target,
                )
            )
    return sum_of_leaves(lowering, matrix, trees, len(baseline))


def _tree(tree: Any, weight: Array, target: int = 0) -> Tree:
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.__getstate__()["nodes"]["missing_go_to_left"],
        weight=weight,
        target=target,
    )
