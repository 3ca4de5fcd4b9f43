"""Trees that decide on the model's inputs themselves, not on what preprocessing makes of them.

Scalers, imputers and casts only rise or fall with a number, and a category has few values. So each
threshold behind them is one before them: the last double that goes the same way, found by halving
on the graph of the preprocessing itself. It decides alike on every double there is, and the graph
needs no preprocessing any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tabserve import runtime
from tabserve.lower.graph import Column, Graph, Matrix
from tabserve.lower.tree import EQ, LEQ, Tree
from tabserve.lowered import MISSING, UNKNOWN
from tabserve.types import Array

_LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class _Split:
    """Where the thresholds of one column lie on the input that it rests on.

    value, mode, swapped: of each threshold, shape (n_thresholds,); swapped where what goes left now
    went right. seen_missing: what becomes of a missing number.
    """

    thresholds: Array
    value: Array
    mode: Array
    swapped: Array
    seen_missing: float


def folded(
    graph: Graph, inputs: Matrix, seen: Matrix, trees: Sequence[Tree]
) -> tuple[Matrix, list[Tree]]:
    """What to decide on and trees that do, for trees that decide on `seen`.

    Columns of `seen` that rest on several inputs, or on a category by more than one comparison,
    stand behind the inputs as they are.
    """
    if seen.value == inputs.value:
        return inputs, list(trees)
    thresholds = thresholds_by_column(trees)
    preprocessing = _Preprocessing(graph, inputs, seen)
    splits = preprocessing.splits(thresholds)
    splits |= dict.fromkeys(_by_category(trees))
    kept = [column for column, split in splits.items() if split is None]
    place = {column: inputs.width + i for i, column in enumerate(kept)}
    place |= {
        column: seen.columns[column].origin or 0
        for column, split in splits.items()
        if split is not None
    }
    matrix = graph.concat([inputs, graph.select(seen, kept)]) if kept else inputs
    return matrix, [_moved(tree, place, splits) for tree in trees]


def thresholds_by_column(trees: Sequence[Tree]) -> dict[int, Array]:
    columns = np.concatenate([tree.feature[tree.compares] for tree in trees])
    thresholds = np.concatenate([tree.threshold[tree.compares] for tree in trees])
    return {int(column): np.unique(thresholds[columns == column]) for column in np.unique(columns)}


def _by_category(trees: Sequence[Tree]) -> set[int]:
    """Columns on whose categories trees decide."""
    return {int(tree.feature[node]) for tree in trees for node in tree.members}


def _moved(tree: Tree, place: dict[int, int], splits: dict[int, _Split | None]) -> Tree:
    feature, threshold, mode = tree.feature.copy(), tree.threshold.copy(), tree.modes
    missing_left, swapped = tree.missing_left != 0, np.zeros(len(tree.left), dtype=bool)
    for column in np.unique(tree.feature[tree.decides]).tolist():
        nodes, split = np.flatnonzero(tree.decides & (tree.feature == column)), splits[column]
        feature[nodes] = place[column]
        if split is None:
            continue
        at = np.searchsorted(split.thresholds, tree.threshold[nodes])
        if not np.isnan(split.seen_missing):
            missing_left[nodes] = split.seen_missing <= tree.threshold[nodes]
        threshold[nodes] = split.value[at]
        mode[nodes] = split.mode[at]
        swapped[nodes] = split.swapped[at]
    moved = replace(
        tree, feature=feature, threshold=threshold, missing_left=missing_left, mode=mode
    )
    return moved.with_swapped(swapped)


class _Preprocessing:
    """What the trees see of each input. A column rests on one input alone, so that those of all
    inputs are looked at together.
    """

    def __init__(self, graph: Graph, inputs: Matrix, seen: Matrix) -> None:
        model = graph.model(inputs.width, {"seen": seen.value})
        self._session = runtime.session(model, "a part of the graph")
        self._inputs = inputs
        self._seen = seen

    def splits(self, thresholds: Mapping[int, Array]) -> dict[int, _Split | None]:
        """By column; None where it cannot be moved to one input."""
        found: dict[int, _Split | None] = dict.fromkeys(thresholds)
        numbers = []
        for column, wanted in thresholds.items():
            origin = self._seen.columns[column].origin
            if origin is None:
                continue
            coded = self._inputs.columns[origin]
            if coded.vocabulary is None:
                numbers.append(column)
            else:
                found[column] = self._split_of_codes(column, coded, wanted)
        return found | self._splits_of_numbers(numbers, thresholds)

    def _splits_of_numbers(
        self, columns: Sequence[int], thresholds: Mapping[int, Array]
    ) -> dict[int, _Split]:
        origins = {column: self._seen.columns[column].origin or 0 for column in columns}
        ends = np.zeros((3, self._inputs.width))
        ends[:, list(origins.values())] = np.array([[np.nan], [-_LARGEST], [_LARGEST]])
        missing, lowest, highest = self._all_seen(ends)
        columns = [c for c in columns if not (np.isnan(lowest[c]) or np.isnan(highest[c]))]
        if not columns:
            return {}
        counts = [len(thresholds[column]) for column in columns]
        column = np.repeat(columns, counts)
        origin = np.repeat([origins[one] for one in columns], counts)
        wanted = np.concatenate([thresholds[one] for one in columns])
        rising = highest[column] >= lowest[column]
        rows = _row_of_each(origin)

        def is_before(keys: Array) -> Array:
            matrix = np.zeros((int(rows.max()) + 1, self._inputs.width))
            matrix[rows, origin] = _double(keys)
            before: Array = (self._all_seen(matrix)[rows, column] <= wanted) == rising
            return before

        last = np.split(_last(is_before, len(wanted)), np.cumsum(counts)[:-1])
        return {
            one: _Split(
                thresholds[one], value, np.full(len(value), LEQ),
                np.full(len(value), highest[one] < lowest[one]), float(missing[one]),
            )
            for one, value in zip(columns, last, strict=True)
        }  # fmt: skip

    def _split_of_codes(self, column: int, coded: Column, thresholds: Array) -> _Split | None:
        assert coded.vocabulary is not None
        codes = np.array([MISSING, UNKNOWN, *range(len(coded.vocabulary.values))])
        seen = self._of(column, codes)
        if np.isnan(seen).any():  # a category goes where each node sends what is missing
            return None
        found = [_comparison(codes, seen <= threshold) for threshold in thresholds]
        if None in found:
            return None
        value, mode, swapped = (np.array(part) for part in zip(*found, strict=True))
        # No code is NaN.
        return _Split(thresholds, value, mode, swapped, 0.0)

    def _of(self, column: int, values: Array) -> Array:
        origin = self._seen.columns[column].origin
        rows = np.zeros((len(values), self._inputs.width))
        rows[:, origin] = values
        found: Array = self._all_seen(rows)[:, column]
        return found

    def _all_seen(self, rows: Array) -> Array:
        (seen,) = self._session.run(None, {self._inputs.value: rows})
        found: Array = seen
        return found


def _row_of_each(origins: Array) -> Array:
    """Rows in which the values of all inputs stand beside each other, and no input has two."""
    order = np.argsort(origins, kind="stable")
    sorted_origins = origins[order]
    rows = np.empty(len(origins), dtype=int)
    rows[order] = np.arange(len(origins)) - np.searchsorted(sorted_origins, sorted_origins)
    return rows


def _comparison(codes: Array, left: Array) -> tuple[float, int, bool] | None:
    """Value, mode and whether swapped, of one comparison that parts the codes like that."""
    for swapped in (False, True):
        chosen = codes[left != swapped]
        if len(chosen) == 1:
            return float(chosen[0]), EQ, swapped
        if len(chosen) == 0 or np.array_equal(chosen, codes[: len(chosen)]):
            return float(chosen[-1]) if len(chosen) else -np.inf, LEQ, swapped
    return None


def _last(is_before: Any, n: int) -> Array:
    """By halving, the last double of n each that is before; -inf where none is."""
    low = np.full(n, _key(-_LARGEST) - 1)
    high = np.full(n, _key(_LARGEST))
    while (low < high).any():
        # Their mean, rounded up, without a sum that overflows.
        middle = (low >> 1) + (high >> 1) + (((low & 1) + (high & 1) + 1) >> 1)
        before = is_before(middle)
        low, high = np.where(before, middle, low), np.where(before, high, middle - 1)
    return _double(low)


def _key(value: float) -> Any:
    """Integers in the order of the doubles: -0.0 is one before 0.0."""
    bits = np.float64(value).view(np.int64)
    return bits if bits >= 0 else np.int64(-(2**63)) - bits - 1


def _double(keys: Array) -> Array:
    bits = np.where(keys >= 0, keys, np.int64(-(2**63)) - keys - 1)
    return bits.view(np.float64)
