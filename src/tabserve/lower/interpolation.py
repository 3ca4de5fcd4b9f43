"""Straight lines between points, as numpy.interp computes them."""

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Column, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.lower.tree import Tree
from tabserve.types import Array


def interpolated(value: str, x: Array, y: Array, lowering: Lowering) -> str:
    """value: of shape (n_rows, 1), within x. x: ascending.

    A tree finds the point at or below the value, and says for it what the line needs.
    """
    graph = lowering.graph
    slopes = np.append(np.diff(y) / np.diff(x), 0.0)
    trees = [_steps(x, weights, target) for target, weights in enumerate((slopes, x, y))]
    found = sum_of_leaves(lowering, Matrix(value, (Column(),)), trees, len(trees))
    slope, start, height = (graph.column(found, place) for place in range(3))
    run = graph.node("Sub", value, start)
    return graph.node("Add", graph.node("Mul", slope, run), height)


def _steps(x: Array, weights: Array, target: int) -> Tree:
    """weights[i] from x[i] on; as deep as the logarithm of their number."""
    nodes: list[tuple[int, int, float, float]] = []

    def add(first: int, last: int) -> int:
        node = len(nodes)
        nodes.append((-1, -1, 0.0, weights[first]))
        if first < last:
            middle = (first + last + 1) // 2
            below = np.nextafter(x[middle], -np.inf)  # a tree compares with <=
            left, right = add(first, middle - 1), add(middle, last)
            nodes[node] = (left, right, below, 0.0)
        return node

    add(0, len(x) - 1)
    left, right, threshold, weight = map(np.array, zip(*nodes, strict=True))
    nothing = np.zeros(len(nodes), dtype=np.int64)
    return Tree(left, right, nothing, threshold, nothing, weight, target)
