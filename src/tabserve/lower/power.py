"""Powers of single numbers: sklearn.preprocessing's PowerTransformer."""

from typing import Any

import numpy as np

from tabserve.lower import functions
from tabserve.lower.graph import Column, Graph, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.types import Array

# Factors below it are none: the power is then a logarithm.
_EPS = np.finfo(np.float64).eps


def power_transformer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph, value = lowering.graph, lowering.as_double_or_missing(matrix)
    lambdas = np.asarray(step.lambdas_, dtype=np.float64)
    if step.method == "box-cox":
        lowering.refuse(graph.node("LessOrEqual", value, graph.constant(0.0)))
        logarithm = functions.log(graph, value)
        value = _power(graph, logarithm, graph.constant([lambdas]), bool((lambdas == 0).any()))
    else:
        value = _yeo_johnson(graph, value, lambdas)
    transformed = Matrix(value, (Column(),) * matrix.width)
    if not step.standardize:
        return transformed
    lowering.as_double_or_missing(transformed)
    return lowering.transform(step._scaler, transformed)


def _yeo_johnson(graph: Graph, value: str, lambdas: Array) -> str:
    is_positive = graph.node("GreaterOrEqual", value, graph.constant(0.0))
    both = np.array([lambdas, 2 - lambdas])
    factors = graph.node("Where", is_positive, *(graph.constant([each]) for each in both))
    logarithm = functions.log1p(graph, graph.node("Abs", value))
    size = _power(graph, logarithm, factors, bool((np.abs(both) <= _EPS).any()))
    return graph.node("Where", is_positive, size, graph.node("Neg", size))


def _power(graph: Graph, logarithm: str, factors: str, has_zeros: bool) -> str:
    """(x ** factor - 1) / factor, of log(x); at factor 0 that is log(x)."""
    exponential = functions.expm1(graph, graph.node("Mul", factors, logarithm))
    power = graph.node("Div", exponential, factors)
    if not has_zeros:
        return power
    is_zero = graph.node("LessOrEqual", graph.node("Abs", factors), graph.constant(_EPS))
    return graph.node("Where", is_zero, logarithm, power)
