"""Perceptrons of several layers: sklearn.neural_network."""

from typing import Any

from tabserve.lower import functions
from tabserve.lower.graph import CannotLower, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores, check_is_double
from tabserve.lowered import Link


def mlp_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    raw = _layers(model, matrix, lowering)
    if model.out_activation_ == "softmax":
        return [Scores(raw, Link(proba="softmax"))]
    if model.n_outputs_ > 1:
        raise CannotLower("an MLPClassifier of several labels at once")
    return [Scores(raw, Link(proba="logistic"))]


def mlp_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    link = Link(value="exp" if model.out_activation_ == "exp" else "itself")
    return lowering.by_target(_layers(model, matrix, lowering), model.n_outputs_, link)


def _layers(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """What reaches the function of the last layer."""
    graph = lowering.graph
    value = lowering.as_double(matrix)
    for layer, (weights, intercepts) in enumerate(
        zip(model.coefs_, model.intercepts_, strict=True)
    ):
        check_is_double(model, weights)
        if layer:
            value = _activated(model.activation, value, graph)
        product = graph.node("MatMul", value, graph.constant(weights))
        value = graph.node("Add", product, graph.constant([intercepts]))
    return value


def _activated(activation: str, value: str, graph: Graph) -> str:
    if activation == "relu":
        return graph.node("Max", value, graph.constant(0.0))
    if activation == "tanh":
        return functions.tanh(graph, value)
    if activation == "logistic":
        return functions.logistic(graph, value)
    return value
