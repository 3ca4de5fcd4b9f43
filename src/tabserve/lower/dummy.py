"""The same answer for every row: sklearn.dummy, and what stands for a class that is always there
or never.
"""

from typing import Any

import numpy as np

from tabserve.lower.graph import CannotLower, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lowered import Link
from tabserve.types import Array


def dummy_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    return [
        Scores(graph.same_for_all(proba), Link(proba="itself")) for proba in _probabilities(model)
    ]


def dummy_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    values = np.asarray(model.constant_, dtype=np.float64).reshape(-1)
    return [Scores(lowering.graph.same_for_all([value]), Link()) for value in values]


def constant_predictor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    (answer,) = model.y_
    proba = lowering.graph.same_for_all([1.0 - answer, float(answer)])
    decision = lowering.graph.same_for_all([float(answer)])
    return [Scores(proba, Link(proba="itself"), decision)]


def _probabilities(model: Any) -> list[Array]:
    one = model.n_outputs_ == 1
    priors = [model.class_prior_] if one else model.class_prior_
    classes = [model.classes_] if one else model.classes_
    if model._strategy == "prior":
        return [np.asarray(prior) for prior in priors]
    if model._strategy == "most_frequent":
        return [np.eye(len(prior))[np.argmax(prior)] for prior in priors]
    if model._strategy == "constant":
        constants = np.ravel(model.constant)
        return [
            np.asarray(known == constant, dtype=np.float64)
            for known, constant in zip(classes, constants, strict=True)
        ]
    raise CannotLower("a DummyClassifier that answers at random")
