"""Trees laid out for onnxruntime decide as they did, to the last bit."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from tabserve.lower.cuts import cuts
from tabserve.lower.graph import INPUT, Graph
from tabserve.lower.layout import laid_out
from tabserve.lower.nodes import attributes_of
from tabserve.lower.tree import EQ, LEQ, MEMBER, Tree

THRESHOLDS = (-np.inf, -1.5, -0.0, 0.0, 5e-324, 2.0, np.finfo(float).max, np.inf)
WIDTH = 3


def random_tree(random: np.random.Generator, n_inner: int = 15) -> Tree:
    """Complete; its last column holds codes, which are compared by EQ, its others numbers."""
    n = 2 * n_inner + 1
    inner = np.arange(n) < n_inner
    mode = np.where(random.random(n) < 0.3, EQ, LEQ).astype(np.uint8)
    return Tree(
        left=np.where(inner, 2 * np.arange(n) + 1, -1),
        right=np.where(inner, 2 * np.arange(n) + 2, -1),
        feature=np.where(mode == EQ, WIDTH - 1, random.integers(0, WIDTH - 1, n)),
        threshold=np.where(mode == EQ, random.integers(-2, 3, n), random.choice(THRESHOLDS, n)),
        missing_left=random.integers(0, 2, n),
        weight=random.normal(size=n),
        mode=mode,
        cover=random.integers(1, 100, n),
    )


def rows() -> Any:
    with np.errstate(over="ignore"):
        near = [np.nextafter(t, to) for t in THRESHOLDS for to in (-np.inf, np.inf)]
    values = np.array([*THRESHOLDS, *near, np.nan])
    random = np.random.default_rng(1)
    numbers = random.choice(values, size=(2000, WIDTH - 1))
    return np.column_stack([numbers, random.integers(-2, 3, 2000)])


def sums(trees: Any, is_laid_out: bool) -> Any:
    graph = Graph()
    value = INPUT
    if is_laid_out:
        value, trees = laid_out(graph, value, WIDTH, trees)
    total = graph.tree_ensemble(value, 1, attributes_of(trees))
    session = onnxruntime.InferenceSession(graph.model(WIDTH, {"total": total}))
    return session.run(None, {INPUT: rows()})[0]


@pytest.mark.parametrize("seed", range(5))
def test_trees_laid_out_decide_alike_on_every_kind_of_number(seed: int) -> None:
    random = np.random.default_rng(seed)
    trees = [random_tree(random) for _ in range(20)]
    assert np.array_equal(sums(trees, is_laid_out=True), sums(trees, is_laid_out=False))


def test_what_most_rows_did_is_the_no_and_all_nodes_ask_alike() -> None:
    tree = random_tree(np.random.default_rng(0))
    _, (laid,) = laid_out(Graph(), INPUT, WIDTH, [tree])
    inner = np.flatnonzero(laid.decides & (laid.threshold != np.inf))
    assert (laid.cover[laid.right[inner]] >= laid.cover[laid.left[inner]]).all()
    assert set(laid.modes[laid.decides].tolist()) == {LEQ}


def test_trees_that_decide_on_sets_of_categories_stay_as_they_are() -> None:
    tree = random_tree(np.random.default_rng(0))
    with_set = Tree(**{**vars(tree), "members": {0: np.array([1.0, 2.0])}})
    value, trees = laid_out(Graph(), INPUT, WIDTH, [with_set])
    assert value == INPUT and trees[0] is with_set
    assert with_set.modes[0] == MEMBER


def test_inputs_are_cut_where_most_rows_are_asked() -> None:
    tree = Tree(
        left=np.array([1, -1, 3, -1, -1]),
        right=np.array([2, -1, 4, -1, -1]),
        feature=np.array([1, 0, 0, 0, 0]),
        threshold=np.array([5.0, 0.0, 7.0, 0.0, 0.0]),
        missing_left=np.zeros(5),
        weight=np.zeros(5),
        cover=np.array([10, 4, 6, 3, 3]),
    )
    found = cuts([tree], n_features=2)
    assert [(cut.feature, cut.edges) for cut in found] == [(1, (5.0,)), (0, (7.0,))]
