"""Trees and what is made of them: sklearn.tree, sklearn.ensemble.

Weights are not divided beforehand: scikit-learn divides the sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tabserve.lower.ensemble import means_of_leaves
from tabserve.lower.graph import Matrix
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
    rounded = lowering.as_float32(matrix)
    scores = []
    for output, n_classes in enumerate(np.atleast_1d(model.n_classes_).tolist()):
        labels = range(n_classes) if lowering.only_class is None else [lowering.only_class]
        values = [estimator.tree_.value[:, output, list(labels)] for estimator in estimators]
        scores.append(Scores(_mean(estimators, values, rounded, lowering), Link(proba="itself")))
    return scores


def _regressor(
    model: Any, estimators: Sequence[Any], matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    rounded = lowering.as_float32(matrix)
    values = [estimator.tree_.value[:, :, 0] for estimator in estimators]
    mean = _mean(estimators, values, rounded, lowering)
    return lowering.by_target(mean, model.n_outputs_, Link())


def _mean(
    estimators: Sequence[Any], values: Sequence[Array], matrix: Matrix, lowering: Lowering
) -> str:
    trees = [tree_of(estimator.tree_) for estimator in estimators]
    return means_of_leaves(lowering, matrix, trees, values)


def is_tree(estimator: Any) -> bool:
    kind = type(estimator)
    return kind.__name__ in _TREES and kind.__module__.startswith("sklearn.tree.")


def tree_of(tree: Any, weight: Array | None = None, target: int = 0) -> Tree:
    """weight: of each node; left out where it is given later."""
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.__getstate__()["nodes"]["missing_go_to_left"],
        weight=np.zeros(tree.node_count) if weight is None else weight,
        target=target,
        cover=tree.n_node_samples,
    )
