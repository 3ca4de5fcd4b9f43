"""Where a number stands among ascending ones: binary search, as a tree for each column."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Matrix
from tabserve.lower.lowering import Lowering
from tabserve.lower.tree import Tree, one_leaf
from tabserve.types import Array

Side = Literal["left", "right"]


def search_tree(column: int, edges: Array, side: Side, places: Array, target: int) -> Tree:
    """Gives places[i] of x where numpy's searchsorted(edges, x, side) is i; some place of NaN.

    places: shape (n_edges + 1,).
    """
    distinct = np.unique(np.asarray(edges, dtype=np.float64))
    if not len(distinct):
        return one_leaf(float(places[0]), target)
    # To the left of an edge is what is smaller, or what is not larger.
    last = np.nextafter(distinct, -np.inf) if side == "right" else distinct
    number = np.append(0, np.searchsorted(edges, distinct, side="right"))
    left, right, order = _balanced(len(distinct))
    leaf = left < 0
    return Tree(
        left=left,
        right=right,
        feature=np.where(leaf, -1, column),
        threshold=np.where(leaf, 0.0, last[np.where(leaf, 0, order)]),
        missing_left=np.zeros(len(left)),
        weight=np.where(leaf, places[number[np.where(leaf, order, 0)]], 0.0),
        target=target,
    )


def places_among(lowering: Lowering, matrix: Matrix, edges: Sequence[Array]) -> str:
    """By column, how many of its edges are not larger; of shape (n_rows, width)."""
    trees = [
        search_tree(column, each, "right", np.arange(len(each) + 1.0), column)
        for column, each in enumerate(edges)
    ]
    return sum_of_leaves(lowering, matrix, trees, matrix.width)


def _balanced(n: int) -> tuple[Array, Array, Array]:
    """A tree over n thresholds: the nodes on the left and right, -1 of leaves, and of each node the
    place of its threshold, or of its leaf from the left.
    """
    left, right, order = [], [], []
    # Thresholds from the first to before the second are still to be placed below the node.
    waiting = [(0, n)]
    for first, end in waiting:
        if first == end:
            left.append(-1)
            right.append(-1)
            order.append(first)
            continue
        middle = (first + end) // 2
        left.append(len(waiting))
        right.append(len(waiting) + 1)
        order.append(middle)
        waiting += [(first, middle), (middle + 1, end)]
    return np.array(left), np.array(right), np.array(order)
