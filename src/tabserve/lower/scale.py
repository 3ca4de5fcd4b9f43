"""Numbers to numbers, column by column: sklearn.preprocessing's scalers.

Each keeps scikit-learn's own order of operations, so that each rounds as it does.
"""

from typing import Any

from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering


def standard_scaler(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    return _shifted_and_divided(
        matrix,
        lowering.graph,
        step.mean_ if step.with_mean else None,
        step.scale_ if step.with_std else None,
    )


def robust_scaler(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    return _shifted_and_divided(
        matrix,
        lowering.graph,
        step.center_ if step.with_centering else None,
        step.scale_ if step.with_scaling else None,
    )


def max_abs_scaler(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    scaled = _shifted_and_divided(matrix, lowering.graph, None, step.scale_)
    return _clipped(scaled, lowering.graph, -1.0, 1.0) if step.clip else scaled


def min_max_scaler(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    value = graph.node("Mul", matrix.numbers(), graph.constant([step.scale_]))
    scaled = matrix.turned_into(graph.node("Add", value, graph.constant([step.min_])))
    return _clipped(scaled, graph, *step.feature_range) if step.clip else scaled


def binarizer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    above = graph.node("Greater", matrix.numbers(), graph.constant(step.threshold))
    return matrix.turned_into(graph.as_double(above))


def _shifted_and_divided(matrix: Matrix, graph: Graph, shift: Any, scale: Any) -> Matrix:
    value = matrix.numbers()
    if shift is not None:
        value = graph.node("Sub", value, graph.constant([shift]))
    if scale is not None:
        value = graph.node("Div", value, graph.constant([scale]))
    return matrix.turned_into(value)


def _clipped(matrix: Matrix, graph: Graph, low: float, high: float) -> Matrix:
    value = graph.node("Clip", matrix.value, graph.constant(low), graph.constant(high))
    return matrix.turned_into(value)
