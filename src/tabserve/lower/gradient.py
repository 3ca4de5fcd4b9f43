"""Gradient boosting: sklearn.ensemble._gb.

What it starts from is the first tree, where it can be one: scikit-learn adds it first.
"""

from typing import Any

import numpy as np

from tabserve.lower import answers, functions
from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree, one_leaf
from tabserve.lower.trees import is_tree, tree_of
from tabserve.lowered import Link

# Probabilities of the estimator that it starts from are kept this far from 0 and 1.
_EPSILON = np.finfo(np.float64).eps


def gradient_boosting_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = _raw(model, matrix, lowering)
    if len(model.classes_) > 2:
        return [Scores(raw, Link(proba="softmax", label="largest_score"))]
    link = Link(proba="logistic", label="not_negative")
    if model.loss == "exponential":  # whose link is half the logarithm of the odds
        return [Scores(lowering.graph.node("Add", raw, raw), link, decision=raw)]
    return [Scores(raw, link)]


def gradient_boosting_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return [Scores(_raw(model, matrix, lowering), Link())]


def _raw(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    n_targets = model.n_trees_per_iteration_
    rounded = lowering.as_float32(matrix)
    first = _first_trees(model)
    trees = [*first]
    for stage in model.estimators_:
        for target, estimator in enumerate(stage):
            weight = model.learning_rate * estimator.tree_.value[:, 0, 0]
            trees.append(tree_of(estimator.tree_, weight, target))
    total = sum_of_leaves(lowering, rounded, trees, n_targets)
    if first:
        return total
    start = _start(model, rounded, lowering)
    return lowering.graph.node("Add", start, total)


def _first_trees(model: Any) -> list[Tree]:
    """One for each target; none where the start is no tree."""
    if model.init_ == "zero" or type(model.init_).__name__.startswith("Dummy"):
        raw = model._raw_predict_init(np.zeros((1, model.n_features_in_), dtype=np.float32))
        return [one_leaf(value, target) for target, value in enumerate(raw[0].astype(float))]
    if not is_tree(model.init_):
        return []
    tree = model.init_.tree_
    leaves = tree.value[:, 0, :]
    if hasattr(model, "classes_"):
        clipped = np.clip(leaves, _EPSILON, 1 - _EPSILON)
        leaves = model._loss.link.link(clipped if model._loss.is_multiclass else clipped[:, 1])
    by_target = leaves.reshape(len(leaves), -1).T
    return [tree_of(tree, weight, target) for target, weight in enumerate(by_target)]


def _start(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """The estimator's own answer, as a raw score: of shape (n_rows, n_targets)."""
    graph = lowering.graph
    if not hasattr(model, "classes_"):
        return answers.predicted_value(model.init_, matrix, lowering)
    proba = answers.predict_proba(model.init_, matrix, lowering)
    proba = graph.node("Clip", proba, graph.constant(_EPSILON), graph.constant(1 - _EPSILON))
    if model._loss.is_multiclass:
        return _centred_logarithms(proba, len(model.classes_), graph)
    second = graph.column(proba, 1)
    odds = graph.node("Div", second, graph.minus_from(1.0, second))
    raw = functions.log(graph, odds)
    if model.loss == "exponential":
        return graph.node("Mul", graph.constant(0.5), raw)
    return raw


def _centred_logarithms(proba: str, n_classes: int, graph: Graph) -> str:
    logarithms = functions.log(graph, proba)
    total = graph.node("MatMul", logarithms, graph.constant(np.ones((n_classes, 1))))
    return graph.node("Sub", logarithms, graph.node("Div", total, graph.constant(float(n_classes))))
