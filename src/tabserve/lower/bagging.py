"""Estimators on samples of rows and columns: sklearn.ensemble's Bagging and IsolationForest.

Trees are one TreeEnsemble, which adds them in scikit-learn's order; others are added one by one.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from tabserve.lower import answers
from tabserve.lower.ensemble import sum_of_leaves, sums_of_leaves
from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree
from tabserve.lower.trees import is_tree, tree_of
from tabserve.lowered import Link
from tabserve.types import Array


def bagging_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    if all(map(is_tree, model.estimators_)):
        total = _sum_of_trees(model, matrix, lowering)
    else:
        votes = (
            _votes(estimator, model.n_classes_, graph.select(matrix, features.tolist()), lowering)
            for estimator, features in _parts(model)
        )
        total = graph.sum(votes)
    return [Scores(_mean(total, model, graph), Link(proba="itself"))]


def bagging_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    if all(is_tree(estimator) and estimator.n_outputs_ == 1 for estimator in model.estimators_):
        trees = [
            _seen(tree_of(estimator.tree_, estimator.tree_.value[:, 0, 0]), features)
            for estimator, features in _parts(model)
        ]
        totals = [sum_of_leaves(lowering, lowering.as_float32(matrix), trees, 1)]
    else:
        values = (
            answers.predicted_values(estimator, graph.select(matrix, features.tolist()), lowering)
            for estimator, features in _parts(model)
        )
        totals = [graph.sum(of_target) for of_target in zip(*values, strict=True)]
    return [Scores(_mean(total, model, graph), Link()) for total in totals]


def isolation_forest(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    lengths = zip(model._decision_path_lengths, model._average_path_length_per_tree, strict=True)
    trees = [
        _seen(tree_of(estimator.tree_, path + rest - 1.0), features)
        for (estimator, features), (path, rest) in zip(_parts(model), lengths, strict=True)
    ]
    if matrix.is_sparse:  # of which a missing number is just one that is not at most the threshold
        trees = [replace(tree, missing_left=np.zeros(len(tree.left))) for tree in trees]
    # What a float32 cannot hold is refused by other trees, not by these.
    depths = sum_of_leaves(lowering, graph.float32(matrix), trees, 1)
    is_inlier = graph.node("GreaterOrEqual", depths, graph.constant(_least_inlier_depth(model)))
    both = graph.node("Concat", depths, graph.as_double(is_inlier), axis=1)
    score = (_sum_of_average_depths(model), float(model.offset_))
    return [Scores(both, Link(label="place", score=score))]


def _sum_of_trees(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """By class. A tree's own classes are the places of those that it saw among the model's."""
    only = lowering.only_class
    labels = list(range(model.n_classes_)) if only is None else [only]
    trees = [_seen(tree_of(estimator.tree_), features) for estimator, features in _parts(model)]
    values = [
        estimator.tree_.value[:, 0, :] @ np.equal.outer(estimator.classes_, labels)
        for estimator in model.estimators_
    ]
    return sums_of_leaves(lowering, lowering.as_float32(matrix), trees, values)


def _votes(estimator: Any, n_classes: int, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_classes): probabilities, or one vote where the estimator has none."""
    graph = lowering.graph
    if not hasattr(estimator, "predict_proba"):
        classes = list(range(n_classes))
        return graph.as_double(answers.one_hot_labels(estimator, classes, matrix, lowering))
    proba = answers.predict_proba(estimator, matrix, lowering)
    if len(estimator.classes_) == n_classes:
        return proba
    seen = np.equal.outer(estimator.classes_, np.arange(n_classes))
    return graph.node("MatMul", proba, graph.constant(seen))


def _parts(model: Any) -> Iterable[tuple[Any, Array]]:
    return zip(model.estimators_, model.estimators_features_, strict=True)


def _seen(tree: Tree, features: Array) -> Tree:
    """The tree, on all columns instead of its own."""
    return replace(tree, feature=features[np.maximum(tree.feature, 0)])


def _mean(total: str, model: Any, graph: Graph) -> str:
    return graph.node("Div", total, graph.constant(float(model.n_estimators)))


def _least_inlier_depth(model: Any) -> float:
    """The least sum of depths for which scikit-learn's formula says inlier: its score falls with
    the depth, so halving finds it, and no power is left in the graph.
    """
    denominator = _sum_of_average_depths(model)

    def is_inlier(bits: int) -> bool:
        depth = np.array([bits], dtype=np.int64).view(np.float64)
        share = depth / denominator if denominator else np.ones(1)
        return not (-(2 ** (-share)) - model.offset_ < 0)[0]

    # Positive doubles are in the order of their bits.
    low, high = -1, int(np.array(np.inf).view(np.int64))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_inlier(middle) else (middle, high)
    return float(np.array(high).view(np.float64))


def _sum_of_average_depths(model: Any) -> float:
    n = model._max_samples
    average = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n if n > 2 else n - 1.0
    return float(len(model.estimators_) * average)
