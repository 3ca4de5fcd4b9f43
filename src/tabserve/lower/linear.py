"""Weighted sums: sklearn.linear_model and sklearn.svm's linear ones."""

from typing import Any

import numpy as np

from tabserve.lower.graph import Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lowered import Link


def logistic_regression(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = _weighted_sum(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(proba="logistic", label="positive"))]
    return [Scores(raw, Link(proba="softmax", label="largest_score"))]


def linear_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = _weighted_sum(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(label="positive"))]
    return [Scores(raw, Link(label="largest_score"))]


def linear_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = _weighted_sum(model, matrix, lowering)
    n_targets = np.atleast_2d(model.coef_).shape[0]
    return lowering.by_target(raw, n_targets, Link())


def _weighted_sum(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_scores)."""
    graph = lowering.graph
    coefficients = np.atleast_2d(model.coef_).T
    product = graph.node("MatMul", lowering.as_double(matrix), graph.constant(coefficients))
    return graph.node("Add", product, graph.constant(np.atleast_1d(model.intercept_)))
