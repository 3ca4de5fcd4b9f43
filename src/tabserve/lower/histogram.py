"""Histogram gradient boosting: sklearn.ensemble._hist_gradient_boosting.

The baseline is the first tree, of one leaf: scikit-learn adds it first.
"""

from typing import Any

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import Column, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree, one_leaf
from tabserve.lowered import Link
from tabserve.types import Array


def hist_gradient_boosting_classifier(
    model: Any, matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    raw = _raw(model, matrix, lowering)
    if len(model.classes_) == 2:
        return [Scores(raw, Link(proba="logistic", label="positive"))]
    return [Scores(raw, Link(proba="softmax", label="largest_score"))]


def hist_gradient_boosting_regressor(
    model: Any, matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    has_log_link = type(model._loss.link).__name__ == "LogLink"
    return [Scores(_raw(model, matrix, lowering), Link(value="exp" if has_log_link else "itself"))]


def _raw(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    baseline = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    trees = [one_leaf(value, target) for target, value in enumerate(baseline)]
    n_categories: list[int] = []
    if model._preprocessor is not None:
        matrix, n_categories = _encoded(model._preprocessor, matrix, lowering)
    for stage in model._predictors:
        trees += [_tree(predictor, target, n_categories) for target, predictor in enumerate(stage)]
    matrix.numbers()
    return sum_of_leaves(lowering, matrix, trees, len(baseline))


def _encoded(preprocessor: Any, matrix: Matrix, lowering: Lowering) -> tuple[Matrix, list[int]]:
    """Categories first, as the model's own encoder places them; and how many each column has."""
    graph = lowering.graph
    encoder = preprocessor.named_transformers_["encoder"]
    places = preprocessor._transformer_to_input_indices
    known = [
        [value for value in categories if value is not None and value == value]
        for categories in encoder.categories_
    ]
    categories = _numbered(graph.select(matrix, list(map(int, places["encoder"]))), known, graph)
    rest = graph.select(matrix, list(map(int, places["numerical"])))
    return graph.concat([categories, rest]), [len(values) for values in known]


def _numbered(matrix: Matrix, known: list[list[Any]], graph: Graph) -> Matrix:
    """Column by column, a category's place from 1; whatever is missing or unknown has the number
    after the last.

    onnxruntime compares a number of 1 to 64 with a set at once, any other with each member.
    """
    pairs = [(i, value) for i, values in enumerate(known) for value in values]
    after_last = np.array([len(values) + 1.0 for values in known])
    numbers = np.zeros((len(pairs), len(known)))
    for row, (i, value) in enumerate(pairs):
        numbers[row, i] = known[i].index(value) + 1 - after_last[i]
    codes = [matrix.columns[i].code(value) for i, value in pairs]
    columns = graph.select(matrix, [i for i, _ in pairs])
    equal = graph.as_double(graph.node("Equal", columns.value, graph.constant([codes])))
    number = graph.node("MatMul", equal, graph.constant(numbers))
    value = graph.node("Add", number, graph.constant([after_last]))
    return Matrix(value, (Column(),) * len(known))


def _tree(predictor: Any, target: int, n_categories: list[int]) -> Tree:
    nodes = predictor.nodes
    leaf = nodes["is_leaf"].astype(bool)
    decides_on_category = np.flatnonzero(~leaf & (nodes["is_categorical"] != 0))
    return Tree(
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"],
        missing_left=nodes["missing_go_to_left"],
        weight=nodes["value"],
        target=target,
        cover=nodes["count"],
        members={
            int(node): _members(
                predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]],
                n_categories[nodes["feature_idx"][node]],
                bool(nodes["missing_go_to_left"][node]),
            )
            for node in decides_on_category
        },
    )


def _members(bits: Array, n_categories: int, missing_left: bool) -> Array:
    """The numbers that go left. bits: shape (8,), 32 categories each."""
    places = np.arange(n_categories)
    left = (bits[places // 32] >> (places % 32).astype(np.uint32)) & 1
    return np.append(np.flatnonzero(left) + 1.0, [n_categories + 1.0] * missing_left)
