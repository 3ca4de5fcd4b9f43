"""One decision tree, as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from tabserve.types import Array

# How a node decides, as TreeEnsemble of ai.onnx.ml 5 numbers it.
LEQ, EQ, MEMBER = 0, 4, 6


@dataclass(frozen=True)
class Tree:
    """Arrays of shape (n_nodes,); node 0 is the root. In a leaf `left` is negative.

    A row goes left where its feature <= threshold (mode LEQ) or equals it (mode EQ), and where it
    is missing and missing_left. mode: None where all are LEQ.
    members: by node that decides on a category instead, those that go left.
    cover: how many rows of the training came to each node, where the library says so.
    """

    left: Array
    right: Array
    feature: Array
    threshold: Array
    missing_left: Array
    weight: Array
    target: int = 0
    mode: Array | None = None
    members: Mapping[int, Array] = field(default_factory=dict)
    cover: Array | None = None

    @property
    def decides(self) -> Array:
        """Which nodes are no leaves."""
        inner: Array = self.left >= 0
        return inner

    @property
    def compares(self) -> Array:
        """Which nodes decide by a threshold."""
        compares = self.decides.copy()
        compares[list(self.members)] = False
        return compares

    @property
    def modes(self) -> Array:
        modes = np.full(len(self.left), LEQ, np.uint8) if self.mode is None else self.mode.copy()
        modes[list(self.members)] = MEMBER
        return modes

    def with_swapped(self, nodes: Array) -> "Tree":
        """What went left at these nodes goes right, and the other way round."""
        return replace(
            self,
            left=np.where(nodes, self.right, self.left),
            right=np.where(nodes, self.left, self.right),
            missing_left=(self.missing_left != 0) ^ nodes,
        )


def one_leaf(value: float, target: int) -> Tree:
    none = np.array([-1])
    return Tree(none, none, none, np.zeros(1), np.zeros(1), np.array([value]), target)
