"""Where inputs are cut, so that rows of the same pieces mostly go the same ways through trees."""

from collections.abc import Sequence

import numpy as np

from tabserve.lower.tree import Tree
from tabserve.lowered import MOST_PIECES, Cut
from tabserve.types import Array

# With four of eight pieces each there are 4,096: more than a large batch has rows.
_MOST_FEATURES = 4


def cuts(trees: Sequence[Tree], n_features: int) -> tuple[Cut, ...]:
    """Of those features that most rows are asked about, that one first.

    trees: of which those nodes count that decide on one of the first n_features columns.
    """
    columns, thresholds, weights = (np.concatenate(parts) for parts in _asked(trees, n_features))
    total = np.bincount(columns, weights, minlength=n_features)
    first = np.argsort(-total, kind="stable")[:_MOST_FEATURES]
    return tuple(
        Cut(feature=int(feature), edges=_edges(thresholds[chosen], weights[chosen]))
        for feature in first
        if (chosen := columns == feature).any()
    )


def _asked(trees: Sequence[Tree], n_features: int) -> tuple[list[Array], list[Array], list[Array]]:
    """By tree, of each node: its feature, its threshold, how many rows came to it."""
    columns, thresholds, weights = [np.zeros(0, dtype=int)], [np.zeros(0)], [np.zeros(0)]
    for tree in trees:
        nodes = np.flatnonzero(tree.compares & (tree.feature < n_features))
        columns.append(tree.feature[nodes])
        thresholds.append(tree.threshold[nodes])
        weights.append(np.ones(len(nodes)) if tree.cover is None else tree.cover[nodes])
    return columns, thresholds, weights


def _edges(thresholds: Array, weights: Array) -> tuple[float, ...]:
    """Those that part what is asked into pieces of the same weight."""
    order = np.argsort(thresholds, kind="stable")
    summed = np.cumsum(weights[order])
    shares = np.arange(1, MOST_PIECES) / MOST_PIECES * summed[-1]
    places = np.minimum(np.searchsorted(summed, shares), len(order) - 1)
    found = np.unique(thresholds[order][places])
    return tuple(found[np.isfinite(found)].tolist())
