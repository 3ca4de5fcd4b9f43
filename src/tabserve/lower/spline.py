"""Numbers to B-splines: sklearn.preprocessing's SplineTransformer.

Between two knots each spline is a polynomial of the distance from the first; beyond the last ones
it is what the extrapolation says.
"""

from math import factorial
from typing import Any

import numpy as np

from tabserve.lower.graph import CannotLower, Column, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.lower.search import places_among
from tabserve.types import Array


def spline_transformer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    if step.degree == 0 or (step.degree == 1 and step.extrapolation == "linear"):
        raise CannotLower(f"a SplineTransformer of degree {step.degree}")
    graph = lowering.graph
    skips_missing = step.handle_missing == "zeros"
    value = matrix.numbers() if skips_missing else lowering.as_double(matrix)
    ends = np.array([(spline.t[spline.k], spline.t[-spline.k - 1]) for spline in step.bsplines_])
    inside = matrix
    if step.extrapolation == "periodic":
        inside = Matrix(_wrapped(lowering, value, ends), (Column(),) * matrix.width)
    elif step.extrapolation == "error":
        for operator, bounds in zip(("Less", "Greater"), ends.T, strict=True):
            lowering.refuse(graph.node(operator, value, graph.constant([bounds])))
    splines = _evaluated(step, inside, lowering)
    if skips_missing:
        missing = graph.node("IsNaN", value)
        missing = graph.node("Unsqueeze", missing, graph.constant([-1], np.int64))
        splines = graph.node("Where", missing, graph.constant(0.0), splines)
    n = step.bsplines_[0].c.shape[1]
    flat = graph.node("Reshape", splines, graph.constant([0, matrix.width * n], np.int64))
    kept = [i for i in range(matrix.width * n) if step.include_bias or (i + 1) % n]
    every = Matrix(flat, (Column(),) * (matrix.width * n), bool(step.sparse_output))
    return graph.select(every, kept)


def _wrapped(lowering: Lowering, value: str, ends: Array) -> str:
    """As numpy's remainder, which has the sign of the period."""
    graph = lowering.graph
    start, period = ends[:, 0], ends[:, 1] - ends[:, 0]
    if not (period > 0).all():
        raise CannotLower("a periodic SplineTransformer of a column with one value")
    offset = graph.node("Sub", value, graph.constant([start]))
    rest = graph.node("Mod", offset, graph.constant([period]), fmod=1)
    is_negative = graph.node("Less", rest, graph.constant(0.0))
    more = graph.node("Add", rest, graph.constant([period]))
    rest = graph.node("Where", is_negative, more, rest)
    return graph.node("Add", rest, graph.constant([start]))


def _evaluated(step: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_features, n_splines)."""
    graph = lowering.graph
    edges = [_edges(spline) for spline in step.bsplines_]
    sizes = [len(each) + 1 for each in edges]
    firsts = np.cumsum([0.0, *sizes[:-1]])
    place = graph.node("Add", places_among(lowering, matrix, edges), graph.constant([firsts]))
    place = graph.as_integer(place)
    pieces = [_pieces(spline, step.extrapolation) for spline in step.bsplines_]
    starts = np.concatenate([starts for starts, _ in pieces])
    tables = np.concatenate([coefficients for _, coefficients in pieces], axis=1)
    start = graph.node("Gather", graph.constant(starts), place)
    distance = graph.node("Sub", matrix.value, start)
    distance = graph.node("Unsqueeze", distance, graph.constant([-1], np.int64))
    *others, result = (graph.node("Gather", graph.constant(each), place, axis=0) for each in tables)
    for coefficient in reversed(others):
        result = graph.node("Add", graph.node("Mul", result, distance), coefficient)
    return result


def _edges(spline: Any) -> Array:
    """Where another piece begins, from the first on; the last one holds its end as well."""
    knots = spline.t[spline.k : len(spline.t) - spline.k]
    edges: Array = np.append(knots[:-1], np.nextafter(knots[-1], np.inf))
    return edges


def _pieces(spline: Any, extrapolation: str) -> tuple[Array, Array]:
    """Where each piece starts, the one before all knots and the one behind them included, shape
    (n_pieces,); its coefficients by power, shape (degree + 1, n_pieces, n_splines).
    """
    knots = spline.t[spline.k : len(spline.t) - spline.k]
    # Before the first knot it is another polynomial than from it on, where that is there twice.
    before = knots[0] - np.diff(np.unique(knots)).min(initial=1.0)
    starts = np.array([before, *knots[:-1], knots[-1]])
    coefficients = np.array(
        [spline(starts, nu=power) / factorial(power) for power in range(spline.k + 1)]
    )
    if extrapolation in ("constant", "linear"):
        starts[0] = knots[0]
        coefficients[:, [0, -1]] = 0.0
        for power in range(1 if extrapolation == "constant" else 2):
            at_first, at_last = spline(knots[[0, -1]], nu=power)
            coefficients[power, 0, : spline.k] = at_first[: spline.k]
            coefficients[power, -1, -spline.k :] = at_last[-spline.k :]
    return starts, coefficients
