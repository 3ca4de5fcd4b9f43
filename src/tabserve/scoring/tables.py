"""A lowered forest as tables, for so many rows that making them pays: the same leaves, added in the
same order, and so the same bits.

The thresholds of all trees cut each feature into intervals, which are gathered into a few spans. In
a box, one span of each feature, most decisions of a tree are settled: which leaf a row reaches
rests on few thresholds. So for each box every tree becomes a small table over the intervals of what
is left. A row of a box then costs a look-up a tree, in place of ten decisions that the processor
cannot foresee.
"""

import numpy as np

from tabserve.scoring.axes import Axis
from tabserve.scoring.forest import Forest
from tabserve.scoring.making import Box, Making, place_type
from tabserve.scoring.shelf import Shelf
from tabserve.types import Array

# Boxes that the spans of all features may make. With more, each has fewer rows, and a call of numpy
# for few rows costs as much as for many. Measured on the churn example in chunks of 131,072 rows.
_MAX_BOXES = 2**12
# The same with those of missing values. Not every feature of a wide model has a span for them: such
# rows are left to the engine.
_MAX_WITH_MISSING = 2**15
# A feature with so few edges, such as a category, has a span for each interval: its decisions would
# double the tables of most trees.
_FEW_EDGES = 8
_MAX_FEW = 2**6  # of such features, together
# Of the tables that all processes share; past it, the boxes that there are not yet are left to the
# engine.
_MAX_BYTES = 64 * 2**20
# That a box has to expect: to make it takes as long as the engine takes for so many.
_ROWS_WORTH_A_BOX = 250
_MADE_AT_ONCE = 8
# Boxes after which it shows whether there can be any: trees over many features need too many cells.
_TRIED = 64
# Rows of each new box.
_COMPARED = 8
# Rows for which the look-ups of all trees stay in the cache.
_BLOCK = 256


class Tables:
    """Scores of a forest for large chunks; made box by box as rows come, by whichever process comes
    first of those that were forked since.

    n_rows: that are about to come, to all processes.
    """

    def __init__(self, forest: Forest, n_rows: int) -> None:
        self._divisor = forest.divisor
        self._n_trees = len(forest.roots)
        self._n_rows = n_rows
        self._axes = {int(f): Axis(forest, f) for f in np.unique(forest.feature)}
        self._choose_spans()
        self._making = Making(forest, self._axes)
        n_boxes = int(np.prod([len(axis.starts) for axis in self._axes.values()]))
        self._shelf = Shelf(n_boxes + 1, _MAX_BYTES)
        self._nowhere = n_boxes  # the box of rows that have none
        self._shelf.put(self._nowhere, None)
        self._boxes: dict[int, Box] = {}
        self._n_refused = 0
        self._seen = np.zeros(n_boxes + 1, dtype=np.int64)
        self._places = np.empty((2, _BLOCK * self._n_trees), dtype=np.uint32)
        self._weights = np.empty(_BLOCK * self._n_trees)

    @property
    def is_of_use(self) -> bool:
        return bool(self._boxes) or self._n_refused < _TRIED

    def _choose_spans(self) -> None:
        """The feature with the most decisions left is halved until there are enough boxes."""
        axes = sorted(self._axes.values(), key=lambda axis: len(axis.edges))
        n_boxes = 1
        for axis in axes:
            n_intervals = len(axis.edges) + 1
            if n_intervals <= _FEW_EDGES and n_boxes * n_intervals <= _MAX_FEW:
                axis.n_spans = n_intervals
                n_boxes *= n_intervals
        while n_boxes * 2 <= _MAX_BOXES:
            axis = max(axes, key=lambda axis: axis.weight / axis.n_spans)
            if axis.n_spans > len(axis.edges):
                break
            axis.n_spans *= 2
            n_boxes *= 2
        for axis in sorted(axes, key=lambda axis: -axis.weight):
            more = n_boxes // axis.n_spans * (axis.n_spans + 1)
            axis.divide(has_missing=more <= _MAX_WITH_MISSING)
            if axis.has_missing:
                n_boxes = more

    def scores(self, matrix: Array) -> tuple[Array, Array, Array]:
        """matrix: shape (n_rows, n_features). Gives back the scores, of which rows there are none,
        and some rows of each box that there was not before.
        """
        numbers, local = self._placed(matrix)
        short = np.uint16 if numbers.max() < 2**16 else np.int64  # numpy sorts it by its digits
        order = np.argsort(numbers.astype(short), kind="stable")
        numbers = numbers[order]
        local = {feature: found[order] for feature, found in local.items()}
        starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
        ends = np.append(starts[1:], len(numbers))
        self._make(numbers[starts], ends - starts)

        scores = np.empty(len(matrix))
        left, fresh = [order[:0]], [order[:0]]
        to_do = list(zip(numbers[starts].tolist(), starts.tolist(), ends.tolist(), strict=True))
        for _ in range(2):  # what another process is making may be there by then
            waiting = []
            for number, start, end in to_do:
                box = self._boxes.get(number)
                if box is None:
                    box = self._shelf.get(number)
                    if box is None:
                        waiting.append((number, start, end))
                        continue
                    self._boxes[number] = box
                    fresh.append(order[start : min(start + _COMPARED, end)])
                for at in range(start, end, _BLOCK):
                    some = slice(at, min(at + _BLOCK, end))
                    scores[order[some]] = self._in_box(box, local, some)
            to_do = waiting
        left += [order[start:end] for _, start, end in to_do]
        return scores, np.concatenate(left), np.concatenate(fresh)

    def _placed(self, matrix: Array) -> tuple[Array, dict[int, Array]]:
        """In which box a row is, and by feature in which interval of the box."""
        numbers = np.zeros(len(matrix), dtype=np.int64)
        nowhere = np.zeros(len(matrix), dtype=np.bool_)
        local = {}
        for feature, axis in self._axes.items():
            intervals = axis.intervals(matrix[:, feature])
            numbers *= len(axis.starts)
            numbers += axis.span_of.take(intervals)
            local[feature] = intervals - axis.start_of.take(intervals)
            if not axis.has_missing:
                nowhere |= intervals == axis.missing
        numbers[nowhere] = self._nowhere
        return numbers, local

    def _make(self, numbers: Array, n_rows: Array) -> None:
        """What is worth it and nobody else makes, first what has the most rows."""
        self._seen[numbers] += n_rows
        n_seen = self._seen.sum()
        expected = self._seen[numbers] * (max(self._n_rows, n_seen) / n_seen)
        by_rows = np.argsort(-n_rows, kind="stable")
        wanted = numbers[by_rows[expected[by_rows] >= _ROWS_WORTH_A_BOX]]
        while len(mine := self._shelf.claim(wanted, _MADE_AT_ONCE)):
            for number, box in zip(mine.tolist(), self._made(mine), strict=True):
                self._shelf.put(number, box)
                self._n_refused += box is None
            if self._n_refused >= _TRIED and not self._boxes:
                break

    def _made(self, numbers: Array) -> list[Box | None]:
        first = np.zeros((len(numbers), max(self._axes) + 1), dtype=np.int64)
        end = first.copy()
        for feature in reversed(self._axes):
            axis = self._axes[feature]
            numbers, spans = np.divmod(numbers, len(axis.starts))
            bounds = [axis.bounds(span) for span in spans.tolist()]
            first[:, feature], end[:, feature] = np.array(bounds).T
        return self._making.boxes(first, end)

    def _in_box(self, box: Box, local: dict[int, Array], some: slice) -> Array:
        n_rows = some.stop - some.start
        size = n_rows * self._n_trees
        kind = place_type(len(box.weights))
        places, more = (buffer.view(kind)[:size].reshape(n_rows, -1) for buffer in self._places)
        if not box.offsets:
            places[:] = np.arange(self._n_trees)
        for i, (feature, rows, table) in enumerate(box.offsets):
            found = places if i == 0 else more
            table.take(rows.take(local[feature][some]), axis=0, out=found, mode="clip")
            if i:
                places += more
        weights = self._weights[:size].reshape(-1, n_rows)
        box.weights.take(places.T, out=weights, mode="clip")
        return _added(weights) / self._divisor


def _added(weights: Array) -> Array:
    """weights: shape (n_trees, n_rows). One tree after another, as the engine.

    So does numpy, but for what lies one behind the other in memory, which it adds by pairs.
    """
    if weights.shape[1] == 1:
        weights = np.add.accumulate(weights, axis=0)[-1:]
    totals: Array = weights.sum(axis=0)
    return totals
