"""Trees and what is made of them: sklearn.tree, sklearn.ensemble.

Weights are not divided beforehand: scikit-learn divides the sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree
from tabserve.lowered import Link
from tabserve.types import Array

_TREES = frozenset(
    {"DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"}
)


def decision_tree_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _classifier(model, [model], matrix, lowering)


def decision_tree_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _regressor(model, [model], matrix, lowering)


def forest_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _classifier(model, model.estimators_, matrix, lowering)


def forest_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _regressor(model, model.estimators_, matrix, lowering)


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
            tree_of(estimator.tree_, estimator.tree_.value[:, output, label], place)
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
            tree_of(estimator.tree_, estimator.tree_.value[:, output, 0])
            for estimator in estimators
        ]
        total = sum_of_leaves(lowering, rounded, trees, 1)
        scores.append(Scores(_divided(graph, total, len(estimators)), Link()))
    return scores


def _divided(graph: Graph, total: str, n: int) -> str:
    return total if n == 1 else graph.node("Div", total, graph.constant(float(n)))


def is_tree(estimator: Any) -> bool:
    kind = type(estimator)
    return kind.__name__ in _TREES and kind.__module__.startswith("sklearn.tree.")


def tree_of(tree: Any, weight: Array, target: int = 0) -> Tree:
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.__getstate__()["nodes"]["missing_go_to_left"],
        weight=weight,
        target=target,
    )
