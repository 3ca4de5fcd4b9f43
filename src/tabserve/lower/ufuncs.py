"""numpy's functions of single numbers: sklearn.preprocessing's FunctionTransformer."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tabserve.lower import functions
from tabserve.lower.graph import CannotLower, Column, Graph, Matrix
from tabserve.lower.lowering import Lowering

# Those that are one operator, the same to the last bit.
_OPERATORS = {
    "abs": "Abs", "absolute": "Abs", "ceil": "Ceil", "fabs": "Abs", "floor": "Floor",
    "negative": "Neg", "rint": "Round", "sqrt": "Sqrt",
}  # fmt: skip
# Of these, and of sign, what rises or falls with its number all along.
_MONOTONE = frozenset({"ceil", "floor", "negative", "rint"})


def function_transformer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    if step.validate:
        lowering.as_double(matrix)
    if step.func is None:
        return matrix
    name = getattr(step.func, "__name__", "")
    if step.func is not getattr(np, name, None) or name not in _NODES:
        raise CannotLower(f"a FunctionTransformer of {name or 'an object'}, which is not known")
    if step.kw_args:
        raise CannotLower(f"a FunctionTransformer of {name} with arguments")
    value = _NODES[name](lowering.graph, matrix.numbers())
    if name in _MONOTONE:
        return matrix.turned_into(value)
    return Matrix(value, (Column(),) * matrix.width)


def _operator(name: str) -> Callable[[Graph, str], str]:
    return lambda graph, value: graph.node(_OPERATORS[name], value)


def _square(graph: Graph, value: str) -> str:
    return graph.node("Mul", value, value)


def _reciprocal(graph: Graph, value: str) -> str:
    return graph.node("Div", graph.constant(1.0), value)


def _sign(graph: Graph, value: str) -> str:
    """onnxruntime's own takes NaN for 0."""
    zero = graph.constant(0.0)
    sign = graph.node(
        "Sub",
        graph.as_double(graph.node("Greater", value, zero)),
        graph.as_double(graph.node("Less", value, zero)),
    )
    return graph.node("Where", graph.node("IsNaN", value), value, sign)


def _cbrt(graph: Graph, value: str) -> str:
    size = functions.power(graph, graph.node("Abs", value), np.array(1 / 3))
    return graph.node("Mul", _sign(graph, value), size)


_NODES: dict[str, Callable[[Graph, str], str]] = {
    **{name: _operator(name) for name in _OPERATORS},
    "cbrt": _cbrt,
    "exp": functions.exp,
    "expm1": functions.expm1,
    "log": functions.log,
    "log10": functions.log10,
    "log1p": functions.log1p,
    "log2": functions.log2,
    "reciprocal": _reciprocal,
    "sign": _sign,
    "square": _square,
    "tanh": functions.tanh,
}
