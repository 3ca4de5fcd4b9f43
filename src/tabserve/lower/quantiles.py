"""Numbers to their shares below: sklearn.preprocessing's QuantileTransformer."""

from typing import Any

import numpy as np

from tabserve.lower import functions
from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Column, Graph, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.lower.search import search_tree
from tabserve.types import Array

# scikit-learn's own.
_BOUNDS_THRESHOLD = 1e-7


def quantile_transformer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph, value = lowering.graph, lowering.as_double_or_missing(matrix)
    quantiles, references = step.quantiles_, step.references_
    rising, falling = _interpolated_both_ways(lowering, matrix, quantiles, references)
    share = graph.node("Mul", graph.constant(0.5), graph.node("Sub", rising, falling))
    is_normal = step.output_distribution == "normal"
    low, high = (graph.constant([quantiles[place]]) for place in (0, -1))
    if is_normal:
        margin = graph.constant(_BOUNDS_THRESHOLD)
        is_low = graph.node("Less", graph.node("Sub", value, margin), low)
        is_high = graph.node("Greater", graph.node("Add", value, margin), high)
    else:
        is_low, is_high = graph.node("Equal", value, low), graph.node("Equal", value, high)
    share = graph.node("Where", is_high, graph.constant(1.0), share)
    share = graph.node("Where", is_low, graph.constant(0.0), share)
    if is_normal:
        share = _normal_quantile(graph, share)
    return Matrix(share, (Column(),) * matrix.width)


def _interpolated_both_ways(
    lowering: Lowering, matrix: Matrix, quantiles: Array, references: Array
) -> tuple[str, str]:
    """numpy's interp(x, quantiles, references) and interp(-x, -quantiles, -references), the latter
    turned round so that it ascends.
    """
    graph, width = lowering.graph, matrix.width
    lines = [_lines(column, references) for column in quantiles.T]
    lines += [_lines(-column[::-1], -references[::-1]) for column in quantiles.T]
    n = len(references) + 1  # lines of one column
    trees = [
        search_tree(i, column, "right", np.arange(n) + n * float(i), i)
        for i, column in enumerate(quantiles.T)
    ]
    # As many of the negated quantiles are not larger than -x as quantiles are not smaller than x.
    trees += [
        search_tree(i, column, "left", np.arange(n)[::-1] + n * float(width + i), width + i)
        for i, column in enumerate(quantiles.T)
    ]
    place = graph.as_integer(sum_of_leaves(lowering, matrix, trees, 2 * width))
    both = graph.node("Concat", matrix.value, graph.node("Neg", matrix.value), axis=1)
    slope, start, height = (
        graph.node("Gather", graph.constant(table), place)
        for table in np.concatenate(lines, axis=1)
    )
    run = graph.node("Sub", both, start)
    line = graph.node("Add", graph.node("Mul", slope, run), height)
    halves = Matrix(line, (Column(),) * (2 * width))
    first, second = list(range(width)), list(range(width, 2 * width))
    return graph.select(halves, first).value, graph.select(halves, second).value


def _lines(x: Array, y: Array) -> Array:
    """Slope, start and height of what interp follows before x[0], from each x[i] on, and at the
    last: shape (3, n + 1).
    """
    with np.errstate(all="ignore"):
        slope = np.diff(y) / np.diff(x)
    # Between equal ones there is nothing.
    slope = np.where(np.diff(x) > 0, slope, 0.0)
    return np.array([
        np.concatenate([[0.0], slope, [0.0]]), np.append(x[0], x), np.append(y[0], y)
    ])  # fmt: skip


# Of the standard normal distribution's quantiles (Moshier, Cephes, ndtri), as scipy has them. Near
# the middle a quotient of polynomials; else one of 1 / sqrt(-2 log(share)).
_MIDDLE = (
    (-59.96335010141079, 98.00107541859997, -56.67628574690703, 13.931260938727968,
     -1.2391658386738125),
    (1.0, 1.9544885833814176, 4.676279128988815, 86.36024213908905, -225.46268785411937,
     200.26021238006066, -82.03722561683334, 15.90562251262117, -1.1833162112133),
)  # fmt: skip
_TAIL = (
    (4.0554489230596245, 31.525109459989388, 57.16281922464213, 44.08050738932008,
     14.684956192885803, 2.1866330685079025, -0.1402560791713545, -0.03504246268278482,
     -0.0008574567851546854),
    (1.0, 15.779988325646675, 45.39076351288792, 41.3172038254672, 15.04253856929075,
     2.504649462083094, -0.14218292285478779, -0.03808064076915783, -0.0009332594808954574),
)  # fmt: skip
_TAIL_SHARE = np.exp(-2.0)


def _normal_quantile(graph: Graph, share: str) -> str:
    """As scipy's norm.ppf, bounded as scikit-learn does."""
    least = _BOUNDS_THRESHOLD - np.spacing(1)
    low, high = graph.constant(least), graph.constant(1 - least)
    bounded = graph.node("Where", graph.node("Less", share, low), low, share)
    bounded = graph.node("Where", graph.node("Greater", bounded, high), high, bounded)
    one = graph.constant(1.0)
    is_right = graph.node("Greater", bounded, graph.constant(1 - _TAIL_SHARE))
    folded = graph.node("Where", is_right, graph.node("Sub", one, bounded), bounded)
    tail = _tail(graph, folded)
    tail = graph.node("Where", is_right, tail, graph.node("Neg", tail))
    is_middle = graph.node("Greater", folded, graph.constant(_TAIL_SHARE))
    return graph.node("Where", is_middle, _middle(graph, bounded), tail)


def _middle(graph: Graph, share: str) -> str:
    offset = graph.node("Sub", share, graph.constant(0.5))
    square = graph.node("Mul", offset, offset)
    quotient = graph.node("Mul", square, _quotient(graph, square, _MIDDLE))
    distance = graph.node("Add", offset, graph.node("Mul", offset, quotient))
    return graph.node("Mul", distance, graph.constant(np.sqrt(2 * np.pi)))


def _tail(graph: Graph, share: str) -> str:
    """Of shares above 1e-14."""
    doubled = graph.node("Mul", graph.constant(-2.0), functions.log(graph, share))
    distance = graph.node("Sqrt", doubled)
    first = graph.node("Div", functions.log(graph, distance), distance)
    inverse = graph.node("Div", graph.constant(1.0), distance)
    second = graph.node("Mul", inverse, _quotient(graph, inverse, _TAIL))
    return graph.node("Sub", graph.node("Sub", distance, first), second)


def _quotient(graph: Graph, value: str, polynomials: tuple[tuple[float, ...], ...]) -> str:
    """Coefficients from the highest power on."""
    over, under = (
        functions.polynomial(graph, value, coefficients[::-1]) for coefficients in polynomials
    )
    return graph.node("Div", over, under)
