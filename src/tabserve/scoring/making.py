"""The tables of boxes: which leaf of each tree a row reaches, by where it lies in the box."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tabserve.scoring.axes import Axis
from tabserve.scoring.forest import EQ, Forest
from tabserve.types import Array

# Of all trees in one box; one that needs more is left to the engine.
_MAX_CELLS = 2**19


def place_type(n_cells: int) -> type[np.unsignedinteger[Any]]:
    """In which the places of so many are held."""
    return np.uint16 if n_cells <= 2**16 else np.uint32


@dataclass(frozen=True)
class Box:
    """offsets: by feature on which something rests, of each interval the row of a table, and that
    table: what to add to each tree's place in `weights`, shape (n_rows, n_trees).
    """

    offsets: list[tuple[int, Array, Array]]
    weights: Array


@dataclass(frozen=True)
class _Open:
    """Nodes on which rows of a box decide differently, of each box's every tree: what all rows
    decide alike is left out. tree: the box's number x the number of trees + the tree's.

    true, false, entry (by tree): the next such node, or -1 - the leaf.
    """

    tree: Array
    feature: Array
    at: Array
    equal: Array
    true: Array
    false: Array
    entry: Array


# By feature: trees and intervals after which something changes, in order.
_Cuts = dict[int, tuple[Array, Array]]


class Making:
    """Several boxes at a time, since most of what numpy does for one is the calls."""

    def __init__(self, forest: Forest, axes: Mapping[int, Axis]) -> None:
        self._forest = forest
        self._n_trees = len(forest.roots)
        self._axes = axes
        width = max(axes) + 1
        self._last = np.zeros(width, dtype=np.int64)  # of a feature's intervals of numbers
        # Of each node the interval up to which, or at which, it is true.
        self._at = np.zeros(forest.n_nodes, dtype=np.int64)
        for feature, axis in axes.items():
            self._last[feature] = len(axis.edges)
            of_feature = forest.feature == feature
            self._at[of_feature] = np.searchsorted(axis.edges, forest.threshold[of_feature])
        self._equal = forest.mode == EQ

    def boxes(self, first: Array, end: Array) -> list[Box | None]:
        """first, end: shape (n_boxes, width), each box's first intervals and those after its last.

        None where a box would need too many cells.
        """
        found = self._open(first, end)
        cuts = self._cuts(found, first, end)
        sizes = {
            f: 1 + np.bincount(trees, minlength=len(found.entry)) for f, (trees, _) in cuts.items()
        }
        n_cells = np.ones(len(found.entry))
        with np.errstate(over="ignore"):  # of trees over many features
            for size in sizes.values():
                n_cells *= size
        of_box = n_cells.reshape(len(first), -1).sum(axis=1)
        fits = of_box < _MAX_CELLS
        if not fits.all():
            made = iter(self.boxes(first[fits], end[fits]) if fits.any() else [])
            return [next(made) if fit else None for fit in fits.tolist()]
        if of_box.sum() >= _MAX_CELLS:  # of one box alone there are less: it bounds the memory
            half = len(first) // 2
            return self.boxes(first[:half], end[:half]) + self.boxes(first[half:], end[half:])
        cells = n_cells.astype(np.int64)
        weights = self._weights(found, cuts, sizes, cells, first)
        ends = np.cumsum(of_box.astype(np.int64))
        return [
            Box(offsets, weights[end - n : end])
            for offsets, end, n in zip(
                self._offsets(cuts, sizes, cells, first, end),
                ends.tolist(),
                of_box.astype(int).tolist(),
                strict=True,
            )
        ]

    def _open(self, first: Array, end: Array) -> _Open:
        forest = self._forest
        trees = np.arange(len(first) * self._n_trees)
        nodes = self._settled(trees, np.tile(forest.roots, len(first)), first, end)
        n_before, levels = 0, []
        entry = self._named(nodes, n_before)
        while True:
            inner = nodes < forest.n_nodes
            trees, nodes = trees[inner], nodes[inner]
            if not len(nodes):
                break
            n_before += len(nodes)
            below = self._settled(
                np.concatenate([trees, trees]),
                np.concatenate([forest.true[nodes], forest.false[nodes]]),
                first,
                end,
            )
            levels.append((trees, nodes, *np.split(self._named(below, n_before), 2)))
            trees, nodes = np.concatenate([trees, trees]), below
        if not levels:
            nothing = np.zeros(0, dtype=np.int64)
            levels.append((nothing, nothing, nothing, nothing))
        tree, node, true, false = (np.concatenate(parts) for parts in zip(*levels, strict=True))
        return _Open(
            tree, forest.feature[node], self._at[node], self._equal[node], true, false, entry
        )

    def _settled(self, trees: Array, nodes: Array, first: Array, end: Array) -> Array:
        """The first nodes at or below these on which rows of their box decide differently, or the
        leaves that all of them reach.
        """
        forest, nodes = self._forest, nodes.copy()
        here = np.flatnonzero(nodes < forest.n_nodes)
        while len(here):
            at_node = nodes[here]
            feature, at, equal = forest.feature[at_node], self._at[at_node], self._equal[at_node]
            box = trees[here] // self._n_trees
            low, high = first[box, feature], end[box, feature] - 1
            beyond = np.where(equal, at > high, at >= high)
            same = (low == high) | (at < low) | beyond
            here, at_node, low, at, equal = (x[same] for x in (here, at_node, low, at, equal))
            true = np.where(equal, low == at, low <= at)
            missing = low > self._last[forest.feature[at_node]]
            true = np.where(missing, forest.missing[at_node], true)
            nodes[here] = np.where(true, forest.true[at_node], forest.false[at_node])
            here = here[nodes[here] < forest.n_nodes]
        return nodes

    def _named(self, nodes: Array, n_before: int) -> Array:
        """By the order in which the inner ones are found; leaves below 0."""
        inner = nodes < self._forest.n_nodes
        return np.where(inner, n_before - 1 + np.cumsum(inner), self._forest.n_nodes - 1 - nodes)

    def _cuts(self, found: _Open, first: Array, end: Array) -> _Cuts:
        cuts = {}
        for feature in self._axes:
            of_feature = np.flatnonzero(found.feature == feature)
            if not len(of_feature):
                continue
            trees, at = found.tree[of_feature], found.at[of_feature]
            equal = found.equal[of_feature]
            stride = int(self._last[feature]) + 2
            keys = np.concatenate([trees, trees[equal]]) * stride
            keys = np.unique(keys + np.concatenate([at, at[equal] - 1]) + 1)
            tree, cut = np.divmod(keys, stride)
            cut -= 1
            box = tree // self._n_trees
            inside = (cut >= first[box, feature]) & (cut < end[box, feature] - 1)
            cuts[feature] = tree[inside], cut[inside]
        return cuts

    def _weights(
        self,
        found: _Open,
        cuts: _Cuts,
        sizes: dict[int, Array],
        n_cells: Array,
        first: Array,
    ) -> Array:
        """The leaf of each tree's every cell: reached by an interval of the cell."""
        tree = np.repeat(np.arange(len(n_cells)), n_cells)
        rest = np.arange(len(tree)) - np.repeat(np.cumsum(n_cells) - n_cells, n_cells)
        intervals = np.zeros((first.shape[1], len(tree)), dtype=np.int32)
        for feature, (of_tree, cut) in cuts.items():
            rest, place = np.divmod(rest, sizes[feature][tree])
            starts = np.searchsorted(of_tree, np.arange(len(n_cells)))
            lowest = np.repeat(first[:, feature], self._n_trees)
            # Before each tree's cuts, where its first interval begins.
            begins = np.insert(cut + 1, starts, lowest)
            intervals[feature] = begins[starts[tree] + tree + place]
        nodes = found.entry[tree]
        cells = np.flatnonzero(nodes >= 0)
        while len(cells):
            here = nodes[cells]
            interval, at = intervals[found.feature[here], cells], found.at[here]
            true = np.where(found.equal[here], interval == at, interval <= at)
            here = np.where(true, found.true[here], found.false[here])
            nodes[cells] = here
            cells = cells[here >= 0]
        weights: Array = self._forest.weight[-1 - nodes]
        return weights

    def _offsets(
        self,
        cuts: _Cuts,
        sizes: dict[int, Array],
        n_cells: Array,
        first: Array,
        end: Array,
    ) -> Iterator[list[tuple[int, Array, Array]]]:
        """Of each box."""
        for box in range(len(first)):
            trees = slice(box * self._n_trees, (box + 1) * self._n_trees)
            base = np.cumsum(n_cells[trees]) - n_cells[trees]
            stride = np.ones(self._n_trees, dtype=np.int64)
            offsets = []
            for feature, (of_tree, cut) in cuts.items():
                own = slice(*np.searchsorted(of_tree, [trees.start, trees.stop]))
                if own.start == own.stop:
                    continue
                tree = of_tree[own] - trees.start
                places, back = np.unique(cut[own], return_inverse=True)
                steps = np.zeros((len(places) + 1, self._n_trees), dtype=np.int64)
                steps[back + 1, tree] = stride[tree]
                steps[0] += base
                base = np.zeros_like(base)
                rows = np.searchsorted(places, np.arange(first[box, feature], end[box, feature]))
                table = np.cumsum(steps, axis=0).astype(place_type(int(n_cells[trees].sum())))
                offsets.append((feature, rows.astype(np.uint16), table))
                stride = stride * sizes[feature][trees]
            yield offsets
