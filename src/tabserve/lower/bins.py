"""Numbers to bins: sklearn.preprocessing's KBinsDiscretizer."""

from typing import Any

import numpy as np

from tabserve.lower.graph import Column, Matrix
from tabserve.lower.lowering import Lowering
from tabserve.lower.search import places_among


def k_bins_discretizer(step: Any, matrix: Matrix, lowering: Lowering) -> Matrix:
    graph = lowering.graph
    lowering.as_double(matrix)
    numbers = lowering.as_float32(matrix) if step.dtype == np.float32 else matrix
    edges = [each[1:-1] for each in step.bin_edges_]
    bins = matrix.turned_into(places_among(lowering, numbers, edges))
    if step.encode == "ordinal":
        return bins
    pairs = [(column, i) for column, n in enumerate(step.n_bins_) for i in range(n)]
    columns = graph.select(bins, [column for column, _ in pairs])
    hot = graph.node("Equal", columns.value, graph.constant([[float(i) for _, i in pairs]]))
    return Matrix(graph.as_double(hot), (Column(),) * len(pairs), step.encode == "onehot")
