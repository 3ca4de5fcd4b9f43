"""CatBoost's trees, out of its JSON: features as float32, leaves summed in double."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tabserve.lower.ensemble import sum_of_leaves
from tabserve.lower.graph import CannotLower, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree
from tabserve.lowered import Link

_IDENTITY = frozenset(
    {
        "RMSE", "MAE", "Quantile", "MAPE", "Huber", "Lq", "Expectile", "MultiRMSE",
        "RMSEWithMissingValues", "MultiQuantile",
    }
)  # fmt: skip
_EXP = frozenset({"Poisson", "Tweedie"})


def classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    content = _content(model)
    loss = _loss(content)
    raw = _raw(content, matrix, lowering)
    if loss == "MultiClass":
        return [Scores(raw, Link(proba="softmax", label="largest_score"))]
    if loss == "MultiClassOneVsAll":
        return [Scores(raw, Link(proba="logistic_each", label="largest_score"))]
    if loss in ("Logloss", "CrossEntropy") and model.get_probability_threshold() == 0.5:
        return [Scores(raw, Link(proba="logistic", label="positive"))]
    raise CannotLower(f"a classifier of CatBoost with the loss {loss}, or a threshold of its own")


def regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    content = _content(model)
    loss = _loss(content)
    if loss not in _IDENTITY | _EXP:
        raise CannotLower(f"a regressor of CatBoost with the loss {loss}")
    raw = _raw(content, matrix, lowering)
    link = Link(value="exp" if loss in _EXP else "itself")
    return lowering.by_target(raw, len(content["scale_and_bias"][1]), link)


def _content(model: Any) -> dict[str, Any]:
    """Raises CannotLower for what decides on more than numbers; texts have no JSON at all."""
    texts = model.get_cat_feature_indices() or model.get_text_feature_indices()
    if texts or model.get_embedding_feature_indices():
        raise CannotLower("CatBoost with categories, text or embeddings of its own")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.json")
        model.save_model(str(path), format="json")
        content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _loss(content: dict[str, Any]) -> str:
    loss: str = content["model_info"]["params"]["loss_function"]["type"]
    return loss


def _raw(content: dict[str, Any], matrix: Matrix, lowering: Lowering) -> str:
    graph = lowering.graph
    scale, bias = content["scale_and_bias"]
    n_scores = len(bias)
    read = _oblivious if "oblivious_trees" in content else _branching
    features = content["features_info"]["float_features"]
    trees = [
        read(tree, features, target, n_scores)
        for target in range(n_scores)
        for tree in content.get("oblivious_trees") or content["trees"]
    ]
    total = sum_of_leaves(lowering, graph.float32(matrix), trees, n_scores)
    if scale != 1:
        total = graph.node("Mul", total, graph.constant(float(scale)))
    return graph.node("Add", total, graph.constant([bias]))


def _oblivious(tree: Any, features: list[Any], target: int, n_scores: int) -> Tree:
    """The same split in all nodes of a level; the first split is the lowest bit of the leaf's
    place, and so the last level.
    """
    levels = list(reversed(tree["splits"]))
    splits = [split for level, split in enumerate(levels) for _ in range(2**level)]
    n_inner, n_leaves = len(splits), 2 ** len(levels)
    first = 2 * np.arange(n_inner) + 1
    leaf = np.full(n_leaves, -1)
    return Tree(
        left=np.append(first, leaf),
        right=np.append(first + 1, leaf),
        weight=np.append(np.zeros(n_inner), tree["leaf_values"][target::n_scores]),
        target=target,
        **_decisions([*splits, *[None] * n_leaves], features),
    )


def _branching(tree: Any, features: list[Any], target: int, n_scores: int) -> Tree:
    nodes = [tree]
    left, right = [], []
    for node in nodes:  # which grows
        is_leaf = "split" not in node
        left.append(-1 if is_leaf else len(nodes))
        right.append(-1 if is_leaf else len(nodes) + 1)
        if not is_leaf:
            nodes += [node["left"], node["right"]]
    values = [np.atleast_1d(node.get("value", np.zeros(n_scores)))[target] for node in nodes]
    return Tree(
        left=np.array(left),
        right=np.array(right),
        weight=np.array(values),
        target=target,
        **_decisions([node.get("split") for node in nodes], features),
    )


def _decisions(splits: list[Any], features: list[Any]) -> dict[str, Any]:
    """A row goes right where its feature > border. splits: of each node; None in a leaf."""
    leaf = {"flat_feature_index": -1, "nan_value_treatment": "AsIs"}
    of = [features[split["float_feature_index"]] if split else leaf for split in splits]
    return {
        "feature": np.array([feature["flat_feature_index"] for feature in of]),
        "threshold": np.array([split["border"] if split else 0.0 for split in splits]),
        "missing_left": np.array([feature["nan_value_treatment"] != "AsTrue" for feature in of]),
    }
