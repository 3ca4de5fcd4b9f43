"""Trees and what is made of them: sklearn.tree, sklearn.ensemble.

One TreeEnsemble in double (ai.onnx.ml 5), which adds the leaves tree by tree in the order of the
trees, as scikit-learn does. Weights are not divided beforehand: scikit-learn divides the sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tabserve.lower.graph import Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores, Splits
from tabserve.lowered import Link
from tabserve.types import Array

# Modes of nodes, as the operator's specification numbers them.
_LEQ = 0
_MEMBER = 6


_TREES = frozenset(
    {"DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"}
)


@dataclass(frozen=True)
class Tree:
    """Arrays of shape (n_nodes,); node 0 is the root. In a leaf `left` is negative.

    A row goes left where its feature <= threshold, and where it is missing and missing_left.
    members: by node that decides on a category, those that go left.
    """

    left: Array
    right: Array
    feature: Array
    threshold: Array
    missing_left: Array
    weight: Array
    target: int = 0
    members: Mapping[int, Array] = field(default_factory=dict)


def decision_tree_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _classifier(model, [model], matrix, lowering)


def decision_tree_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _regressor(model, [model], matrix, lowering)


def forest_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _classifier(model, model.estimators_, matrix, lowering)


def forest_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return _regressor(model, model.estimators_, matrix, lowering)


def _classifier(
    model: Any, estimators: Sequence[Any], matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    graph = lowering.graph
    rounded = lowering.as_float32(matrix)
    n_classes = np.atleast_1d(model.n_classes_).tolist()
    scores = []
    for output, n in enumerate(n_classes):
        labels = range(n) if lowering.only_class is None else [lowering.only_class]
        trees = [
            tree_of(estimator.tree_, estimator.tree_.value[:, output, label], place)
            for place, label in enumerate(labels)
            for estimator in estimators
        ]
        total = ensemble(lowering, rounded, trees, len(labels))
        scores.append(Scores(_divided(graph, total, len(estimators)), Link(proba="itself")))
    return scores


def _regressor(
    model: Any, estimators: Sequence[Any], matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    graph = lowering.graph
    rounded = lowering.as_float32(matrix)
    scores = []
    for output in range(model.n_outputs_):
        trees = [tree_of(one.tree_, one.tree_.value[:, output, 0]) for one in estimators]
        total = ensemble(lowering, rounded, trees, 1)
        scores.append(Scores(_divided(graph, total, len(estimators)), Link()))
    return scores


def _divided(graph: Graph, total: str, n: int) -> str:
    return total if n == 1 else graph.node("Div", total, graph.constant(float(n)))


def is_tree(estimator: Any) -> bool:
    kind = type(estimator)
    return kind.__name__ in _TREES and kind.__module__.startswith("sklearn.tree.")


def tree_of(tree: Any, weight: Array, target: int = 0) -> Tree:
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=tree.__getstate__()["nodes"]["missing_go_to_left"],
        weight=weight,
        target=target,
    )


def one_leaf(value: float, target: int) -> Tree:
    none = np.array([-1])
    return Tree(none, none, none, np.zeros(1), np.zeros(1), np.array([value]), target)


def ensemble(lowering: Lowering, value: str, trees: Sequence[Tree], n_targets: int) -> str:
    """The sum of the trees' leaves by target, of shape (n_rows, n_targets)."""
    attributes = _attributes(trees)
    lowering.splits.append((value, _splits(attributes)))
    return lowering.graph.tree_ensemble(value, n_targets, attributes)


def ensemble_in_float32(
    lowering: Lowering, value: str, trees: Sequence[Tree], n_targets: int
) -> str:
    """As `ensemble`, of values, thresholds and sums in float32. The trees' arrays hold float32s."""
    graph = lowering.graph
    attributes = _attributes(trees)
    lowering.splits.append((graph.as_double(value), _splits(attributes)))
    for name in {"nodes_splits", "leaf_weights", "membership_values"} & attributes.keys():
        attributes[name] = attributes[name].astype(np.float32)
    return graph.as_double(graph.tree_ensemble(value, n_targets, attributes))


def _attributes(trees: Sequence[Tree]) -> dict[str, Array]:
    nodes = _Nodes()
    for tree in trees:
        nodes.add(tree)
    return nodes.attributes()


def _splits(attributes: dict[str, Array]) -> Splits:
    compares = attributes["nodes_modes"] == _LEQ
    columns, thresholds = attributes["nodes_featureids"], attributes["nodes_splits"]
    columns, thresholds = columns[compares], thresholds[compares]
    return {int(column): np.unique(thresholds[columns == column]) for column in np.unique(columns)}


class _Nodes:
    """The operator's arrays: nodes that decide and leaves are numbered apart."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Array]] = {}
        self._roots: list[int] = []
        self._n_nodes = 0
        self._n_leaves = 0

    def add(self, tree: Tree) -> None:
        is_leaf = tree.left < 0
        if is_leaf[0]:
            tree = _with_a_decision(tree)
            is_leaf = tree.left < 0
        inner = np.flatnonzero(~is_leaf)
        leaves = np.flatnonzero(is_leaf)
        number = np.empty(len(is_leaf), dtype=np.int64)
        number[inner] = self._n_nodes + np.arange(len(inner))
        number[leaves] = self._n_leaves + np.arange(len(leaves))
        left, right = tree.left[inner], tree.right[inner]
        self._roots.append(self._n_nodes)
        self._n_nodes += len(inner)
        self._n_leaves += len(leaves)
        modes = np.full(len(inner), _LEQ, dtype=np.uint8)
        for place in np.flatnonzero([node in tree.members for node in inner.tolist()]):
            modes[place] = _MEMBER
            # Sets stand one after another, each ended by a NaN.
            self._extend(membership_values=np.append(tree.members[int(inner[place])], np.nan))
        self._extend(
            nodes_featureids=tree.feature[inner],
            nodes_splits=tree.threshold[inner],
            nodes_modes=modes,
            nodes_truenodeids=number[left],
            nodes_trueleafs=is_leaf[left],
            nodes_falsenodeids=number[right],
            nodes_falseleafs=is_leaf[right],
            nodes_missing_value_tracks_true=tree.missing_left[inner] != 0,
            leaf_weights=tree.weight[leaves],
            leaf_targetids=np.full(len(leaves), tree.target),
        )

    def attributes(self) -> dict[str, Array]:
        joined = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return joined | {"tree_roots": np.array(self._roots)}

    def _extend(self, **arrays: Array) -> None:
        for name, array in arrays.items():
            self._parts.setdefault(name, []).append(array)


def _with_a_decision(tree: Tree) -> Tree:
    """The operator has no tree that is only a leaf: both ways lead to the same one."""
    return Tree(
        left=np.array([1, -1, -1]),
        right=np.array([2, -1, -1]),
        feature=np.array([0, -1, -1]),
        threshold=np.zeros(3),
        missing_left=np.zeros(3),
        weight=np.repeat(tree.weight[:1], 3),
        target=tree.target,
    )
