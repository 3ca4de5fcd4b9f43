"""Trees as one TreeEnsemble in double (ai.onnx.ml 5), which adds the leaves tree by tree in the
order of the trees, as scikit-learn does.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tabserve.lower.fold import folded, thresholds_by_column
from tabserve.lower.graph import Aggregate, Matrix
from tabserve.lower.layout import laid_out
from tabserve.lower.lowering import Lowering
from tabserve.lower.nodes import attributes_of
from tabserve.lower.tree import Tree
from tabserve.types import Array

# Each tree that need not be walked again spares 0.1 µs of a row; four nodes more take 6.
_WALKS_SPARED = 60


def sum_of_leaves(
    lowering: Lowering,
    matrix: Matrix,
    trees: Sequence[Tree],
    n_targets: int,
    aggregate: Aggregate = "SUM",
) -> str:
    """By target, of shape (n_rows, n_targets)."""
    lowering.splits.append((matrix.value, thresholds_by_column(trees)))
    inputs, moved = folded(lowering.graph, lowering.inputs, matrix, trees)
    lowering.trees.extend(moved)
    value, laid = laid_out(lowering.graph, inputs.value, inputs.width, moved)
    return lowering.graph.tree_ensemble(value, n_targets, attributes_of(laid), aggregate)


def means_of_leaves(
    lowering: Lowering, matrix: Matrix, trees: Sequence[Tree], values: Sequence[Array]
) -> str:
    """As sums_of_leaves, divided by the number of trees."""
    if values[0].shape[1] == 1:
        weighted = [
            replace(tree, weight=weight[:, 0]) for tree, weight in zip(trees, values, strict=True)
        ]
        return sum_of_leaves(lowering, matrix, weighted, 1, "AVERAGE")
    sums = sums_of_leaves(lowering, matrix, trees, values)
    if len(trees) == 1:
        return sums
    return lowering.graph.node("Div", sums, lowering.graph.constant(float(len(trees))))


def sums_of_leaves(
    lowering: Lowering, matrix: Matrix, trees: Sequence[Tree], values: Sequence[Array]
) -> str:
    """Shape (n_rows, n_values). values: by tree, of each node, shape (n_nodes, n_values)."""
    n_values = values[0].shape[1]
    if len(trees) * (n_values - 1) < _WALKS_SPARED:
        by_value = [
            replace(tree, weight=weights[:, target], target=target)
            for target in range(n_values)
            for tree, weights in zip(trees, values, strict=True)
        ]
        return sum_of_leaves(lowering, matrix, by_value, n_values)
    return _sums_at_places(lowering, matrix, trees, values)


def _sums_at_places(
    lowering: Lowering, matrix: Matrix, trees: Sequence[Tree], values: Sequence[Array]
) -> str:
    """The trees give the place of each one's leaf in a table, whose rows are added in their order:
    for 100 trees and two classes in two thirds of the time that it takes to walk each tree twice.
    """
    graph = lowering.graph
    starts = np.cumsum([0, *map(len, values)])
    placed = [
        replace(tree, weight=start + np.arange(len(tree.left), dtype=np.float64), target=target)
        for target, (tree, start) in enumerate(zip(trees, starts[:-1], strict=True))
    ]
    places = graph.as_integer(sum_of_leaves(lowering, matrix, placed, len(placed)))
    leaves = graph.node("Gather", graph.constant(np.concatenate(values)), places)
    sums = graph.node("CumSum", leaves, graph.constant(1, np.int64))
    return graph.node("Gather", sums, graph.constant(-1, np.int64), axis=1)


def sum_of_leaves_in_float32(
    lowering: Lowering, matrix: Matrix, value: str, trees: Sequence[Tree], n_targets: int
) -> str:
    """Likewise, of thresholds and sums in float32, which the trees' arrays hold.

    value: made of the matrix in float32, column by column.
    """
    graph = lowering.graph
    lowering.splits.append((graph.as_double(value), thresholds_by_column(trees)))
    if matrix.value == lowering.inputs.value:
        lowering.trees.extend(trees)
    value, laid = laid_out(graph, value, matrix.width, trees)
    attributes = attributes_of(laid)
    for name in {"nodes_splits", "leaf_weights", "membership_values"} & attributes.keys():
        attributes[name] = attributes[name].astype(np.float32)
    return graph.as_double(graph.tree_ensemble(value, n_targets, attributes))
