"""The nearest centre: sklearn.cluster."""

from typing import Any

import numpy as np

from tabserve.lower.graph import Matrix
from tabserve.lower.lowering import Lowering, Scores, check_is_double
from tabserve.lowered import Link


def k_means(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    """As scikit-learn finds it: by |centre|² - 2 row * centre, here with the other sign."""
    graph = lowering.graph
    centres = model.cluster_centers_
    check_is_double(model, centres)
    product = graph.node("MatMul", lowering.as_double(matrix), graph.constant(2.0 * centres.T))
    norms = np.einsum("ij,ij->i", centres, centres)
    return [
        Scores(graph.node("Sub", product, graph.constant([norms])), Link(label="largest_score"))
    ]
