"""Numbers to their products: sklearn.preprocessing's PolynomialFeatures."""

from typing import Any

from tabserve.lower.graph import Column, Matrix
from tabserve.lower.lowering import Lowering


def polynomial_features(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph, value = lowering.graph, lowering.as_double(matrix)
    parts = []
    if step.include_bias:
        first = graph.select(matrix, [0]).value
        parts.append(Matrix(graph.as_double(graph.node("Equal", first, first)), (Column(),)))
    if step._min_degree <= 1 <= step._max_degree:
        parts.append(matrix)
    # Of one degree, the products, and where those begin that start with each feature.
    products, starts = matrix, list(range(matrix.width + 1))
    for degree in range(2, step._max_degree + 1):
        pairs, starts = _multiplied(starts, step.interaction_only)
        if not pairs:
            break
        lower = graph.select(products, [place for place, _ in pairs]).value
        factors = graph.select(Matrix(value, matrix.columns), [feature for _, feature in pairs])
        product = graph.node("Mul", lower, factors.value)
        products = Matrix(product, (Column(),) * len(pairs))
        if degree >= step._min_degree:
            parts.append(products)
    return graph.concat(parts)


def _multiplied(
    starts: list[int], interaction_only: bool
) -> tuple[list[tuple[int, int]], list[int]]:
    """Of the next degree, of which product and which feature each is the product, in the library's
    order; and where those begin that start with each feature.
    """
    pairs: list[tuple[int, int]] = []
    next_starts = []
    for feature in range(len(starts) - 1):
        next_starts.append(len(pairs))
        first = starts[feature + 1] if interaction_only else starts[feature]
        pairs += [(place, feature) for place in range(first, starts[-1])]
    return pairs, [*next_starts, len(pairs)]
