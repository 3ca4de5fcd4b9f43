"""A lowered forest as tables, for so many rows that making them pays: the same leaves, added in the
same order, and so the same bits.

The thresholds of all trees cut each feature into intervals, which are gathered into a few spans. In
a box, one span of each feature, most decisions of a tree are settled: which leaf a row reaches
rests on few thresholds. So for each box every tree becomes a small table over the intervals of what
is left. A row of a box then costs a look-up a tree, in place of ten decisions that the processor
cannot foresee.
"""

from dataclasses import dataclass

import numpy as np

from tabserve.scoring.forest import EQ, Forest
from tabserve.types import Array

# Boxes that the spans of all features may make. With more, each has fewer rows, and a call of numpy
# for few rows costs as much as for many. Measured on the churn example in chunks of 262,144 rows.
_MAX_BOXES = 8192
# Of all trees in one box, for places of 16 bits; a box that needs more is left to the engine.
_MAX_CELLS = 2**16
# Of all tables of a process; past it, the boxes that there are not yet are left to the engine.
_MAX_BYTES = 96 * 2**20
# Rows of a box after which its tables are made, which takes some 5 ms: as long as the engine takes
# for 400 rows. With so many rows to come that most boxes will have more, there is no need to wait.
_ROWS_WORTH_A_BOX = 400
_ROWS_AT_ONCE = 16
_MANY_ROWS = 2_000_000
# Rows of each new box.
_COMPARED = 8
# Rows for which the look-ups of all trees stay in the cache.
_BLOCK = 512


class _Axis:
    """One feature's intervals, (edges[i-1], edges[i]], and one more for a missing value, and the
    spans that they are gathered into.
    """

    def __init__(self, forest: Forest, feature: int) -> None:
        of_feature = forest.feature == feature
        splits = forest.threshold[of_feature]
        equal = forest.threshold[of_feature & (forest.mode == EQ)]
        # An interval of its own for what a node asks to be equal to.
        self.edges = np.unique(np.concatenate([splits, np.nextafter(equal, -np.inf)]))
        self.weight = len(splits)
        self.n_spans = 1

    def divide(self) -> None:
        """Into spans of about as many intervals each, and that of the missing value."""
        n = len(self.edges) + 1
        self.starts = np.append(np.unique(np.linspace(0, n, self.n_spans + 1).astype(int)[:-1]), n)
        self.span_of = np.searchsorted(self.starts, np.arange(n + 1), side="right") - 1
        self.start_of = self.starts[self.span_of]

    def intervals(self, values: Array) -> Array:
        found = np.searchsorted(self.edges, values)
        missing = np.isnan(values)
        if missing.any():
            found[missing] = len(self.edges) + 1
        return found

    def bounds(self, span: int) -> tuple[int, int]:
        """Its first interval and the one after its last."""
        end = self.starts[span + 1] if span + 1 < len(self.starts) else self.starts[span] + 1
        return int(self.starts[span]), int(end)


@dataclass(frozen=True)
class _Box:
    """offsets: by feature on which something rests, of each interval the row of a table, and that
    table: what to add to each tree's place in `weights`, shape (n_rows, n_trees).
    """

    offsets: list[tuple[int, Array, Array]]
    weights: Array

    @property
    def n_bytes(self) -> int:
        tables = sum(rows.nbytes + offsets.nbytes for _, rows, offsets in self.offsets)
        return self.weights.nbytes + tables


class Tables:
    """Scores of a forest for large chunks; made box by box as rows come.

    n_rows: that are about to come.
    """

    def __init__(self, forest: Forest, n_rows: int) -> None:
        self._forest = forest
        self._worth = _ROWS_AT_ONCE if n_rows >= _MANY_ROWS else _ROWS_WORTH_A_BOX
        self._axes = {int(f): _Axis(forest, f) for f in np.unique(forest.feature)}
        self._choose_spans()
        self._making = _Making(forest, self._axes)
        self._boxes: dict[int, _Box | None] = {}
        self._seen: dict[int, int] = {}
        self._n_bytes = 0

    def _choose_spans(self) -> None:
        """The feature with the most decisions left is halved until there are enough boxes."""
        axes = list(self._axes.values())
        while True:
            axis = max(axes, key=lambda axis: axis.weight / axis.n_spans)
            n_boxes = np.prod([float(other.n_spans) for other in axes]) * 2
            if n_boxes > _MAX_BOXES or axis.n_spans > len(axis.edges):
                break
            axis.n_spans *= 2
        for axis in axes:
            axis.divide()

    def scores(self, matrix: Array) -> tuple[Array, Array, Array]:
        """matrix: shape (n_rows, n_features). Gives back the scores, of which rows there are none,
        and some rows of each box that there was not before.
        """
        intervals = {f: axis.intervals(matrix[:, f]) for f, axis in self._axes.items()}
        code = np.zeros(len(matrix), dtype=np.int64)
        for feature, axis in self._axes.items():
            code *= len(axis.starts)
            code += axis.span_of[intervals[feature]]
        short = np.uint16 if code.max() < 2**16 else np.int64  # which numpy sorts by its digits
        order = np.argsort(code.astype(short), kind="stable")
        codes = code[order]
        starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
        ends = np.append(starts[1:], len(codes))
        # In few bytes: of a large chunk these are most of the memory.
        local = {
            f: (found - self._axes[f].start_of[found]).astype(np.int32)[order]
            for f, found in intervals.items()
        }
        scores = np.empty(len(matrix))
        left, fresh = [order[:0]], [order[:0]]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            code_of_box = int(codes[start])
            is_known = code_of_box in self._boxes
            box = self._box(code_of_box, end - start)
            if box is None:
                left.append(order[start:end])
                continue
            if not is_known:
                fresh.append(order[start : min(start + _COMPARED, end)])
            for at in range(start, end, _BLOCK):
                some = slice(at, min(at + _BLOCK, end))
                scores[order[some]] = self._in_box(box, local, some)
        return scores, np.concatenate(left), np.concatenate(fresh)

    def _in_box(self, box: _Box, local: dict[int, Array], some: slice) -> Array:
        if not box.offsets:
            return np.full(some.stop - some.start, self._added(box.weights[np.newaxis].copy())[0])
        (feature, rows, offsets), *others = box.offsets
        places = offsets.take(rows.take(local[feature][some]), axis=0)
        for feature, rows, offsets in others:
            places += offsets.take(rows.take(local[feature][some]), axis=0)
        return self._added(box.weights.take(places))

    def _added(self, weights: Array) -> Array:
        """One after another, as the engine: a sum of numpy's own would go by pairs."""
        totals: Array = np.add.accumulate(weights, axis=1, out=weights)[:, -1]
        return totals / self._forest.divisor

    def _box(self, code: int, n_rows: int) -> _Box | None:
        if code not in self._boxes:
            self._seen[code] = self._seen.get(code, 0) + n_rows
            if self._seen[code] < self._worth or self._n_bytes > _MAX_BYTES:
                return None
            box = self._made(code)
            self._boxes[code] = box
            self._n_bytes += 0 if box is None else box.n_bytes
        return self._boxes[code]

    def _made(self, code: int) -> _Box | None:
        spans = {}
        for feature in reversed(self._axes):
            code, spans[feature] = divmod(code, len(self._axes[feature].starts))
        bounds = {f: self._axes[f].bounds(span) for f, span in spans.items()}
        return self._making.box(bounds)


class _Making:
    """Tables of one box at a time."""

    def __init__(self, forest: Forest, axes: dict[int, _Axis]) -> None:
        self._forest = forest
        self._n_trees = len(forest.roots)
        width = max(axes) + 1
        self._last = np.zeros(width, dtype=np.int64)  # of a feature's intervals of numbers
        # Of each node the interval up to which, or at which, it is true.
        self._at = np.zeros(forest.n_nodes, dtype=np.int64)
        for feature, axis in axes.items():
            self._last[feature] = len(axis.edges)
            of_feature = forest.feature == feature
            self._at[of_feature] = np.searchsorted(axis.edges, forest.threshold[of_feature])
        self._equal = forest.mode == EQ

    def box(self, bounds: dict[int, tuple[int, int]]) -> _Box | None:
        """bounds: by feature the first interval, and the one after the last.

        None where a tree would need too many cells.
        """
        first, end = np.zeros((2, len(self._last)), dtype=np.int64)
        for feature, (low, high) in bounds.items():
            first[feature], end[feature] = low, high
        trees, nodes = self._open(first, end)
        features = self._forest.feature[nodes]
        cuts = {
            int(f): self._cuts(trees[features == f], nodes[features == f], *bounds[int(f)])
            for f in np.unique(features)
        }
        sizes = np.ones((len(cuts), self._n_trees), dtype=np.int64)
        for i, (of_tree, _) in enumerate(cuts.values()):
            sizes[i] += np.bincount(of_tree, minlength=self._n_trees)
        n_cells = sizes.astype(float).prod(axis=0)
        if n_cells.sum() >= _MAX_CELLS:
            return None
        bases = np.cumsum(n_cells.astype(np.int64)) - n_cells.astype(np.int64)
        weights = self._weights(first, cuts, sizes, n_cells.astype(np.int64), bases)
        offsets, stride = [], np.ones(self._n_trees, dtype=np.int64)
        for i, (feature, (of_tree, cut)) in enumerate(cuts.items()):
            places, back = np.unique(cut, return_inverse=True)
            steps = np.zeros((len(places) + 1, self._n_trees), dtype=np.int64)
            steps[back + 1, of_tree] = stride[of_tree]
            if i == 0:
                steps[0] = bases
            low, high = bounds[feature]
            rows = np.searchsorted(places, np.arange(low, high)).astype(np.uint16)
            offsets.append((feature, rows, np.cumsum(steps, axis=0).astype(np.uint16)))
            stride = stride * sizes[i]
        return _Box(offsets, weights)

    def _decided(self, nodes: Array, intervals: Array) -> Array:
        at = self._at[nodes]
        true = np.where(self._equal[nodes], intervals == at, intervals <= at)
        missing = intervals > self._last[self._forest.feature[nodes]]
        return np.where(missing, self._forest.missing[nodes], true)

    def _open(self, first: Array, end: Array) -> tuple[Array, Array]:
        """Trees and nodes, of those that rows of the box reach and decide on differently."""
        forest = self._forest
        trees, nodes = np.arange(self._n_trees), forest.roots
        found = []
        while len(nodes):
            feature, at, equal = forest.feature[nodes], self._at[nodes], self._equal[nodes]
            low, high = first[feature], end[feature] - 1
            same = (low == high) | np.where(
                equal, (at < low) | (at > high), (at < low) | (at >= high)
            )
            true = self._decided(nodes, low)
            found.append((trees[~same], nodes[~same]))
            goes_true, goes_false = ~same | true, ~same | ~true
            trees = np.concatenate([trees[goes_true], trees[goes_false]])
            nodes = np.concatenate([forest.true[nodes[goes_true]], forest.false[nodes[goes_false]]])
            inner = nodes < forest.n_nodes
            trees, nodes = trees[inner], nodes[inner]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]

    def _cuts(self, trees: Array, nodes: Array, low: int, high: int) -> tuple[Array, Array]:
        """By tree and in order, the intervals after which something changes."""
        at, equal = self._at[nodes], self._equal[nodes]
        keys = np.concatenate([trees, trees[equal]]) * high
        keys = np.unique(keys + np.concatenate([at, at[equal] - 1]))
        of_tree, cut = np.divmod(keys, high)
        inside = (cut >= low) & (cut < high - 1)
        return of_tree[inside], cut[inside]

    def _weights(
        self,
        first: Array,
        cuts: dict[int, tuple[Array, Array]],
        sizes: Array,
        n_cells: Array,
        bases: Array,
    ) -> Array:
        """The leaf of each tree's every cell: reached by an interval of the cell."""
        tree = np.repeat(np.arange(self._n_trees), n_cells)
        rest = np.arange(len(tree)) - bases[tree]
        intervals = np.repeat(first[:, np.newaxis], len(tree), axis=1)
        for i, (feature, (of_tree, cut)) in enumerate(cuts.items()):
            rest, place = np.divmod(rest, sizes[i][tree])
            starts = np.searchsorted(of_tree, np.arange(self._n_trees))
            beyond = place > 0
            intervals[feature, beyond] = cut[starts[tree[beyond]] + place[beyond] - 1] + 1
        nodes = self._forest.roots[tree]
        cells = np.arange(len(tree))
        while len(cells):
            here = nodes[cells]
            true = self._decided(here, intervals[self._forest.feature[here], cells])
            nodes[cells] = np.where(true, self._forest.true[here], self._forest.false[here])
            cells = cells[nodes[cells] < self._forest.n_nodes]
        weights: Array = self._forest.weight[nodes - self._forest.n_nodes]
        return weights
