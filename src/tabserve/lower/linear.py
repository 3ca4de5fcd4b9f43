"""Weighted sums: sklearn.linear_model, sklearn.svm's linear ones, linear discriminants."""

from typing import Any

import numpy as np

from tabserve.lower import functions
from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores, check_is_double
from tabserve.lowered import Link


def logistic_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = weighted_sum(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(proba="logistic", label="positive"))]
    return [Scores(raw, Link(proba="softmax", label="largest_score"))]


def linear_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = weighted_sum(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(label="positive"))]
    return [Scores(raw, Link(label="largest_score"))]


def sgd_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    """Probabilities are each class's against all others, made to add up to one."""
    graph = lowering.graph
    if model.loss not in ("log_loss", "modified_huber"):
        return linear_classifier(model, matrix, lowering)
    n_classes = len(model.classes_)
    if model.loss == "log_loss" and n_classes == 2:
        return logistic_classifier(model, matrix, lowering)
    raw = weighted_sum(model, matrix, lowering)
    link = functions.logistic if model.loss == "log_loss" else _linear_ramp
    each = link(graph, raw)
    if n_classes == 2:
        proba = graph.node("Concat", graph.minus_from(1.0, each), each, axis=1)
        place = graph.as_double(graph.node("Greater", raw, graph.constant(0.0)))
    else:
        proba = graph.shares(each, n_classes, of_zero=1 / n_classes)
        place = graph.as_double(graph.node("ArgMax", raw, axis=1, keepdims=1))
    value = graph.node("Concat", proba, place, axis=1)
    return [Scores(value, Link(proba="itself", label="place"), decision=raw)]


def linear_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = weighted_sum(model, matrix, lowering)
    return lowering.by_target(raw, np.atleast_2d(model.coef_).shape[0], Link())


def generalized_linear_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    has_log_link = type(model._base_loss.link).__name__ == "LogLink"
    raw = weighted_sum(model, matrix, lowering)
    return [Scores(raw, Link(value="exp" if has_log_link else "itself"))]


def weighted_sum(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_scores)."""
    check_is_double(model, model.coef_)
    graph = lowering.graph
    coefficients = np.atleast_2d(model.coef_).T
    product = graph.node("MatMul", lowering.as_double(matrix), graph.constant(coefficients))
    return graph.node("Add", product, graph.constant(np.atleast_1d(model.intercept_)))


def _linear_ramp(graph: Graph, raw: str) -> str:
    clipped = graph.node("Clip", raw, graph.constant(-1.0), graph.constant(1.0))
    shifted = graph.node("Add", clipped, graph.constant(1.0))
    return graph.node("Div", shifted, graph.constant(2.0))
