"""LightGBM's trees, out of its own text format: compared and summed in double."""

import json
from typing import Any

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import CannotLower, Column, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree
from tabserve.lowered import Link
from tabserve.types import Array

# Of a node's decision_type, as LightGBM's include/LightGBM/tree.h numbers them.
_CATEGORICAL = 1
_DEFAULT_LEFT = 2
_MISSING_IS_ZERO = 1
# Numbers up to this one count as zero where zero means missing: kZeroThreshold.
_ZERO = float(np.float32(1e-35))

_IDENTITY = frozenset({"regression", "regression_l1", "huber", "fair", "quantile", "mape"})
_EXP = frozenset({"poisson", "gamma", "tweedie"})


def classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    booster = _Booster(model)
    raw = booster.raw(matrix, lowering)
    if booster.objective == "multiclass":
        return [Scores(raw, Link(proba="softmax"))]
    if booster.objective in ("binary", "multiclassova", "cross_entropy"):
        raw = _scaled(raw, float(booster.parameters.get("sigmoid", 1.0)), lowering)
        one_each = booster.n_scores > 1
        return [Scores(raw, Link(proba="logistic_each" if one_each else "logistic"))]
    raise CannotLower(f"a classifier of LightGBM with the objective {booster.objective}")


def regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    booster = _Booster(model)
    raw = booster.raw(matrix, lowering)
    if booster.objective in _EXP:
        return [Scores(raw, Link(value="exp"))]
    if booster.objective == "cross_entropy":
        return [Scores(raw, Link(value="logistic"))]
    if booster.objective not in _IDENTITY:
        raise CannotLower(f"a regressor of LightGBM with the objective {booster.objective}")
    if "sqrt" in booster.parameters:
        raw = lowering.graph.node("Mul", lowering.graph.node("Abs", raw), raw)
    return [Scores(raw, Link())]


def _scaled(raw: str, sigmoid: float, lowering: Lowering) -> str:
    if sigmoid == 1.0:
        return raw
    return lowering.graph.node("Mul", raw, lowering.graph.constant(sigmoid))


class _Booster:
    """parameters: of the objective; one that is a mere word has itself as its value."""

    def __init__(self, model: Any) -> None:
        # Up to the best iteration, where training stopped early.
        text = model.booster_.model_to_string()
        head, *trees = text.split("\nTree=")
        header = _pairs(head)
        self.objective, *words = header.get("objective", "none").split()
        self.parameters = {word.partition(":")[0]: word.partition(":")[2] or word for word in words}
        self.n_scores = int(header["num_tree_per_iteration"])
        # By categorical column of the DataFrame, in their order; the last line of the text.
        listed = text.rpartition("\npandas_categorical:")[2]
        self._categories: list[list[Any]] | None = json.loads(listed)
        self._averages = "average_output" in head.splitlines()
        self._trees = [_pairs(tree.partition("\nend of trees")[0]) for tree in trees]

    def _input(self, matrix: Matrix, lowering: Lowering) -> str:
        """A category stands in it as its place among those of the training, as LightGBM has it."""
        coded = [i for i, column in enumerate(matrix.columns) if column.vocabulary is not None]
        known = self._categories or []
        if not coded or len(coded) != len(known):
            return self._with_whole_categories(matrix, lowering)
        if not matrix.is_coded_by(dict(zip(coded, known, strict=True))):
            raise CannotLower("LightGBM with categories that another step codes in its own way")
        return matrix.value

    def _with_whole_categories(self, matrix: Matrix, lowering: Lowering) -> str:
        """Categories that came as numbers: LightGBM looks at their whole part."""
        value, graph = matrix.numbers(), lowering.graph
        categorical = np.zeros(matrix.width, dtype=bool)
        for tree in self._trees:
            decides = _array(tree, "decision_type") & _CATEGORICAL != 0
            categorical[_array(tree, "split_feature")[decides]] = True
        if not categorical.any():
            return value
        whole = graph.as_double(graph.as_integer(value))
        return graph.node("Where", graph.constant([categorical], np.bool_), whole, value)

    def raw(self, matrix: Matrix, lowering: Lowering) -> str:
        graph = lowering.graph
        trees = [_tree(tree, i % self.n_scores) for i, tree in enumerate(self._trees)]
        value = self._input(matrix, lowering)
        zeros = _columns_missing_at_zero(self._trees, matrix.width)
        if zeros.any():
            near = graph.node("LessOrEqual", graph.node("Abs", value), graph.constant(_ZERO))
            gone = graph.node("And", near, graph.constant([zeros], np.bool_))
            value = graph.node("Where", gone, graph.constant(np.nan), value)
        seen = matrix if value == matrix.value else Matrix(value, (Column(),) * matrix.width)
        total = sum_of_leaves(lowering, seen, trees, self.n_scores)
        if not self._averages:
            return total
        return graph.node("Div", total, graph.constant(float(len(trees) // self.n_scores)))


def _pairs(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _array(tree: dict[str, str], name: str, dtype: Any = np.int64) -> Array:
    return np.array(tree.get(name, "").split(), dtype=dtype)


def _missing(tree: dict[str, str]) -> Array:
    """What each node takes for a missing value."""
    return _array(tree, "decision_type") >> 2 & 3


def _tree(tree: dict[str, str], target: int) -> Tree:
    """Nodes that decide come first, and then the leaves."""
    decision = _array(tree, "decision_type")
    if tree.get("is_linear", "0") != "0":
        raise CannotLower("LightGBM with linear trees")
    leaves = _array(tree, "leaf_value", np.float64)
    threshold = _array(tree, "threshold", np.float64)
    members = _members(tree, np.flatnonzero(decision & _CATEGORICAL), threshold)
    # Where nothing counts as missing, NaN is taken for 0.
    missing_left = np.where(_missing(tree) == 0, threshold >= 0.0, decision & _DEFAULT_LEFT != 0)
    n_inner, none = len(decision), np.full(len(leaves), -1)

    def children(name: str) -> Array:
        """Of leaves LightGBM numbers -1, -2, ..."""
        child = _array(tree, name)[:n_inner]
        return np.append(np.where(child < 0, n_inner - 1 - child, child), none)

    return Tree(
        left=children("left_child"),
        right=children("right_child"),
        feature=np.append(_array(tree, "split_feature"), none),
        threshold=np.append(threshold, np.zeros(len(leaves))),
        missing_left=np.append(missing_left, np.zeros(len(leaves))),
        weight=np.append(np.zeros(n_inner), leaves),
        target=target,
        members=members,
        cover=np.append(_array(tree, "internal_count"), _array(tree, "leaf_count")),
    )


def _members(tree: dict[str, str], nodes: Array, threshold: Array) -> dict[int, Array]:
    """The categories that go left, by node. Its threshold is the place of a set of bits."""
    ends, words = _array(tree, "cat_boundaries"), _array(tree, "cat_threshold", np.uint32)
    sets = {}
    for node in nodes.tolist():
        place = int(threshold[node])
        bits = np.unpackbits(
            words[ends[place] : ends[place + 1]].astype("<u4").view(np.uint8), bitorder="little"
        )
        sets[node] = np.flatnonzero(bits).astype(np.float64)
    return sets


def _columns_missing_at_zero(trees: list[dict[str, str]], width: int) -> Array:
    """Shape (width,), boolean."""
    found = np.zeros((width, 4), dtype=bool)
    for tree in trees:
        found[_array(tree, "split_feature"), _missing(tree)] = True
    zeros = found[:, _MISSING_IS_ZERO]
    if (zeros & (found.sum(axis=1) > 1)).any():
        raise CannotLower("LightGBM with a feature whose zeros are missing in some trees only")
    return zeros
