"""XGBoost's trees: compared and summed in float32, as its predictor does."""

import ctypes.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tabserve.boosters.ubj import listed_categories
from tabserve.lower.ensemble import sum_of_leaves_in_float32
from tabserve.lower.graph import CannotLower, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lower.tree import Tree, one_leaf
from tabserve.lowered import MISSING, UNKNOWN, Link
from tabserve.types import Array


@dataclass(frozen=True)
class _Objective:
    """margin: of the base score. proba, value: see Link."""

    margin: Callable[[Array], Array]
    proba: Literal["logistic", "softmax"] | None = None
    value: Literal["itself", "exp", "logistic"] = "itself"


def _as_it_is(base_score: Array) -> Array:
    return base_score


def _logit(base_score: Array) -> Array:
    """-logf(1 / p - 1), each step in float32."""
    odds = np.float32(1.0) / base_score - np.float32(1.0)
    return -_log(odds)


def _log(values: Array) -> Array:
    """By the C library's logf, as XGBoost has it: a logarithm in double, rounded, differs from it
    for one number in 150. Where there is none the model may come out unequal, and is not used.
    """
    try:
        logf = ctypes.CDLL(ctypes.util.find_library("m")).logf
    except (OSError, AttributeError, TypeError):  # no such library on Windows
        return np.log(values.astype(np.float64)).astype(np.float32)
    logf.argtypes, logf.restype = [ctypes.c_float], ctypes.c_float
    return np.array([logf(value) for value in values], dtype=np.float32)


_OBJECTIVES = {
    "binary:logistic": _Objective(_logit, proba="logistic", value="logistic"),
    "count:poisson": _Objective(_log, value="exp"),
    "multi:softprob": _Objective(_as_it_is, proba="softmax"),
    "reg:absoluteerror": _Objective(_as_it_is),
    "reg:gamma": _Objective(_log, value="exp"),
    "reg:logistic": _Objective(_logit, proba="logistic", value="logistic"),
    "reg:pseudohubererror": _Objective(_as_it_is),
    "reg:quantileerror": _Objective(_as_it_is),
    "reg:squarederror": _Objective(_as_it_is),
    "reg:squaredlogerror": _Objective(_as_it_is),
    "reg:tweedie": _Objective(_log, value="exp"),
}


def classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    learner = _learner(model)
    proba = _objective(learner).proba
    if proba is None or (proba == "logistic" and _n_scores(learner) > 1):
        raise CannotLower(f"a classifier of XGBoost with {_described(learner)}")
    return [Scores(_raw(model, learner, matrix, lowering), Link(proba=proba, precision="single"))]


def regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    learner = _learner(model)
    objective = _objective(learner)
    if objective.proba == "softmax":
        raise CannotLower(f"a regressor of XGBoost with {_described(learner)}")
    raw = _raw(model, learner, matrix, lowering)
    link = Link(value=objective.value, precision="single")
    return lowering.by_target(raw, _n_scores(learner), link)


def _learner(model: Any) -> dict[str, Any]:
    content = bytes(model.get_booster().save_raw("json"))
    learner: dict[str, Any] = json.loads(content)["learner"]
    return learner


def _objective(learner: dict[str, Any]) -> _Objective:
    known = _OBJECTIVES.get(learner["objective"]["name"])
    if known is None:
        raise CannotLower(f"XGBoost with {_described(learner)}")
    return known


def _described(learner: dict[str, Any]) -> str:
    return f"the objective {learner['objective']['name']}"


def _n_scores(learner: dict[str, Any]) -> int:
    parameters = learner["learner_model_param"]
    return max(int(parameters["num_class"]), int(parameters["num_target"]), 1)


def _raw(model: Any, learner: dict[str, Any], matrix: Matrix, lowering: Lowering) -> str:
    margins = _base_margins(learner)
    trees = [one_leaf(value, place) for place, value in enumerate(margins)]
    graph = lowering.graph
    value = graph.as_float(_input(learner, matrix))
    # Besides NaN: the wrapper's own number, and what a sparse matrix leaves out.
    also_missing = [model.missing] if model.missing == model.missing else []
    for number in also_missing + [0.0] * matrix.is_sparse:
        is_missing = graph.node("Equal", value, graph.constant(number, np.float32))
        value = graph.node("Where", is_missing, graph.constant(np.nan, np.float32), value)
    return sum_of_leaves_in_float32(
        lowering, matrix, value, trees + _trees(learner, margins), _n_scores(learner)
    )


def _input(learner: dict[str, Any], matrix: Matrix) -> str:
    """A category stands in it as its place among those of the training, as XGBoost has it."""
    places = [i for i, column in enumerate(matrix.columns) if column.vocabulary is not None]
    known = listed_categories(_model(learner))
    if not places or not any(known):
        return matrix.numbers()
    if not matrix.is_coded_by({i: values for i, values in enumerate(known) if values}):
        raise CannotLower("XGBoost with categories that another step codes in its own way")
    return matrix.value


def _model(learner: dict[str, Any]) -> dict[str, Any]:
    booster = learner["gradient_booster"]
    if booster["name"] not in ("gbtree", "dart"):
        raise CannotLower(f"XGBoost's {booster['name']}")
    model: dict[str, Any] = booster.get("gbtree", booster)["model"]
    return model


def _base_margins(learner: dict[str, Any]) -> Array:
    """Shape (n_scores,). One number stands for all, and since version 3.1 there may be several."""
    text = learner["learner_model_param"]["base_score"].strip("[]")
    base_score = np.array(text.split(","), dtype=np.float32)
    return _objective(learner).margin(np.broadcast_to(base_score, _n_scores(learner)))


def _trees(learner: dict[str, Any], margins: Array) -> list[Tree]:
    booster = learner["gradient_booster"]
    weights = booster.get("weight_drop")  # of dart
    model = _model(learner)
    n_categories = [len(values) for values in listed_categories(model)]
    trees = [
        _tree(tree, target, n_categories)
        for tree, target in zip(model["trees"], model["tree_info"], strict=True)
    ]
    if weights is not None:
        trees = [
            _weighted(tree, np.float32(weight), margins[tree.target])
            for tree, weight in zip(trees, weights, strict=True)
        ]
    best = learner["attributes"].get("best_iteration")
    return trees if best is None else trees[: model["iteration_indptr"][int(best) + 1]]


def _tree(tree: dict[str, Any], target: int, n_categories: list[int]) -> Tree:
    if any(tree["split_type"]) and not any(n_categories):
        raise CannotLower("XGBoost with categories that its file does not list")
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise CannotLower("XGBoost with trees of several outputs each")
    conditions = np.array(tree["split_conditions"], dtype=np.float32)
    return Tree(
        left=np.array(tree["left_children"]),
        right=np.array(tree["right_children"]),
        feature=np.array(tree["split_indices"]),
        # It goes left where its feature < the condition.
        threshold=np.nextafter(conditions, np.float32(-np.inf)),
        missing_left=np.array(tree["default_left"]),
        weight=conditions,
        target=target,
        members=_members(tree, n_categories),
        cover=np.array(tree["sum_hessian"]),
    )


def _members(tree: dict[str, Any], n_categories: list[int]) -> dict[int, Array]:
    """The categories that go left, by node: XGBoost lists those that go right. What is missing or
    unknown goes as the node says.
    """
    segments = zip(
        tree["categories_nodes"],
        tree["categories_segments"],
        tree["categories_sizes"],
        strict=True,
    )
    sets = {}
    for node, start, size in segments:
        places = np.arange(n_categories[tree["split_indices"][node]])
        left = np.setdiff1d(places, tree["categories"][start : start + size])
        absent = [MISSING, UNKNOWN] if tree["default_left"][node] else []
        sets[node] = np.append(left, absent).astype(np.float64)
    return sets


def _weighted(tree: Tree, weight: np.float32, margin: np.float32) -> Tree:
    """As dart sums: each tree's answer comes with the base margin, which is taken off again."""
    return replace(tree, weight=(margin + tree.weight - margin) * weight)
