"""The arrays of the operator TreeEnsemble (ai.onnx.ml 5), made of trees."""

from collections.abc import Sequence

import numpy as np

from tabserve.lower.tree import Tree
from tabserve.types import Array


def attributes_of(trees: Sequence[Tree]) -> dict[str, Array]:
    nodes = _Nodes()
    for tree in trees:
        nodes.add(tree)
    return nodes.attributes()


class _Nodes:
    """The operator's arrays: nodes that decide and leaves are numbered apart."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Array]] = {}
        self._roots: list[int] = []
        self._n_nodes = 0
        self._n_leaves = 0

    def add(self, tree: Tree) -> None:
        if not tree.decides[0]:
            tree = _with_a_decision(tree)
        is_leaf = ~tree.decides
        inner = np.flatnonzero(~is_leaf)
        leaves = np.flatnonzero(is_leaf)
        number = np.empty(len(is_leaf), dtype=np.int64)
        number[inner] = self._n_nodes + np.arange(len(inner))
        number[leaves] = self._n_leaves + np.arange(len(leaves))
        left, right = tree.left[inner], tree.right[inner]
        self._roots.append(self._n_nodes)
        self._n_nodes += len(inner)
        self._n_leaves += len(leaves)
        for node in inner.tolist():
            if node in tree.members:
                # Sets stand one after another, each ended by a NaN.
                self._extend(membership_values=np.append(tree.members[node], np.nan))
        self._extend(
            nodes_featureids=tree.feature[inner],
            nodes_splits=tree.threshold[inner],
            nodes_modes=tree.modes[inner],
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
        if not joined["nodes_missing_value_tracks_true"].any():
            # Without this array the operator asks of no value whether it is missing.
            del joined["nodes_missing_value_tracks_true"]
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
