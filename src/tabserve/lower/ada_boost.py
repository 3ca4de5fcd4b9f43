"""Votes of estimators by weight: sklearn.ensemble's AdaBoost."""

from typing import Any

import numpy as np

from tabserve.lower import answers
from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.trees import is_tree, tree_of
from tabserve.lowered import Link
from tabserve.types import Array


def ada_boost_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    lowering.as_double(matrix)
    if all(map(is_tree, model.estimators_)):
        votes = _votes_of_trees(model, matrix, lowering)
    else:
        votes = _votes(model, matrix, lowering)
    weight = graph.constant(model.estimator_weights_.sum())
    votes = graph.node("Div", votes, weight)
    n_classes = model.n_classes_
    if n_classes == 2:
        # Less the first class's votes, which are the second's with another sign.
        decision = graph.node("Add", votes, votes)
        return [Scores(decision, Link(proba="logistic", label="positive"))]
    place = graph.as_double(graph.node("ArgMax", votes, axis=1, keepdims=1))
    scores = graph.node("Div", votes, graph.constant(n_classes - 1.0))
    value = graph.node("Concat", scores, place, axis=1)
    return [Scores(value, Link(proba="softmax", label="place"), decision=votes)]


def ada_boost_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    """The median by weight of what the estimators predict."""
    graph = lowering.graph
    lowering.as_double(matrix)
    if all(map(is_tree, model.estimators_)):
        trees = [
            tree_of(estimator.tree_, estimator.tree_.value[:, 0, 0], place)
            for place, estimator in enumerate(model.estimators_)
        ]
        values = sum_of_leaves(lowering, lowering.as_float32(matrix), trees, len(trees))
    else:
        each = [answers.predicted_value(one, matrix, lowering) for one in model.estimators_]
        values = graph.node("Concat", *each, axis=1)
    weights = model.estimator_weights_[: len(model.estimators_)]
    return [Scores(_weighted_median(values, weights, graph), Link())]


def _votes_of_trees(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    places = [1] if model.n_classes_ == 2 else list(range(model.n_classes_))
    trees = [
        tree_of(estimator.tree_, np.where(_labels(estimator) == model.classes_[place], *ballot), i)
        for i, place in enumerate(places)
        for estimator, ballot in zip(model.estimators_, _ballots(model), strict=True)
    ]
    return sum_of_leaves(lowering, lowering.as_float32(matrix), trees, len(places))


def _labels(tree: Any) -> Array:
    """Of each node."""
    labels: Array = tree.classes_.take(tree.tree_.value[:, 0, :].argmax(axis=1))
    return labels


def _votes(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    graph = lowering.graph
    classes = model.classes_.tolist()
    classes = classes[1:] if len(classes) == 2 else classes
    votes = []
    for estimator, ballot in zip(model.estimators_, _ballots(model), strict=True):
        chosen = answers.one_hot_labels(estimator, classes, matrix, lowering)
        votes.append(graph.node("Where", chosen, *map(graph.constant, ballot)))
    return graph.sum(votes)


def _ballots(model: Any) -> list[tuple[float, float]]:
    """Of each estimator, what it gives to the class that it predicts, and to each other one."""
    weights = model.estimator_weights_[: len(model.estimators_)]
    return [(weight, -1 / (model.n_classes_ - 1) * weight) for weight in weights]


def _weighted_median(values: str, weights: Array, graph: Graph) -> str:
    """The smallest value at which half of the weight is reached. values: (n_rows, n_values)."""
    n = graph.constant([len(weights)], np.int64)
    ordered, order = graph.nodes("TopK", 2, values, n, axis=1, largest=0, sorted=1)
    weight = graph.node("Gather", graph.constant(weights), order)
    reached = graph.node("CumSum", weight, graph.constant(1, np.int64))
    half = graph.node("Mul", graph.constant(0.5), graph.column(reached, -1))
    enough = graph.as_integer(graph.node("GreaterOrEqual", reached, half))
    first = graph.node("ArgMax", enough, axis=1, keepdims=1)
    return graph.node("GatherElements", ordered, first, axis=1)
