"""Class densities: sklearn.naive_bayes."""

from typing import Any

import numpy as np

from tabserve.lower.graph import Matrix
from tabserve.lower.lowering import Lowering, Scores, check_is_double
from tabserve.lowered import Link


def gaussian_naive_bayes(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    check_is_double(model, model.theta_)
    n_features = model.theta_.shape[1]
    value = lowering.as_double(matrix)
    # (n_rows, 1, n_features) less (n_classes, n_features): one row for each class.
    rows = graph.node("Unsqueeze", value, graph.constant([1], np.int64))
    distance = graph.node("Sub", rows, graph.constant(model.theta_))
    squared = graph.node("Mul", distance, distance)
    scaled = graph.node("Div", squared, graph.constant(model.var_))
    total = graph.node("MatMul", scaled, graph.constant(np.ones((n_features, 1))))
    total = graph.node("Squeeze", total, graph.constant([2], np.int64))
    halved = graph.node("Mul", graph.constant(0.5), total)
    normaliser = [-0.5 * np.sum(np.log(2.0 * np.pi * variance)) for variance in model.var_]
    density = graph.node("Sub", graph.constant([normaliser]), halved)
    joint = graph.node("Add", graph.constant([np.log(model.class_prior_)]), density)
    return [Scores(joint, Link(proba="softmax", label="largest_score"))]
