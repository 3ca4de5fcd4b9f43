"""Several estimators of one target: sklearn.ensemble's Voting and Stacking."""

from typing import Any

import numpy as np

from tabserve.lower import answers
from tabserve.lower.graph import CannotLower, Column, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lowered import Link


def voting_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    classes = list(range(len(model.classes_)))
    if model.voting == "soft":
        probas = [answers.predict_proba(one, matrix, lowering) for one in model.estimators_]
        return [Scores(_average(model, probas, graph), Link(proba="itself"))]
    votes = [
        graph.as_double(answers.one_hot_labels(one, classes, matrix, lowering))
        for one in model.estimators_
    ]
    return [Scores(graph.sum(_weighted(model, votes, graph)), Link(label="largest_score"))]


def voting_regressor(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    values = [answers.predicted_value(one, matrix, lowering) for one in model.estimators_]
    return [Scores(_average(model, values, lowering.graph), Link())]


def stacking(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    """The final estimator takes what the others answer, and with passthrough their input too."""
    graph = lowering.graph
    taken = [
        _taken(model, estimator, method, matrix, lowering)
        for estimator, method in zip(model.estimators_, model.stack_method_, strict=True)
    ]
    if model.passthrough:
        taken.append(matrix)
    return lowering.predict(model.final_estimator_, graph.concat(taken))


def _average(model: Any, values: list[str], graph: Graph) -> str:
    weights = model._weights_not_none
    total = float(len(values)) if weights is None else np.sum(weights, dtype=np.float64)
    return graph.node("Div", graph.sum(_weighted(model, values, graph)), graph.constant(total))


def _weighted(model: Any, values: list[str], graph: Graph) -> list[str]:
    if model._weights_not_none is None:
        return values
    return [
        graph.node("Mul", value, graph.constant(float(weight)))
        for value, weight in zip(values, model._weights_not_none, strict=True)
    ]


def _taken(model: Any, estimator: Any, method: str, matrix: Matrix, lowering: Lowering) -> Matrix:
    """What the final estimator takes of one of the others."""
    if not hasattr(estimator, "classes_"):
        return _numbers(answers.predicted_value(estimator, matrix, lowering), 1)
    if isinstance(estimator.classes_, list):
        raise CannotLower("a StackingClassifier of several targets")
    n_classes = len(estimator.classes_)
    if method == "predict":
        return _numbers(_predicted_numbers(estimator, matrix, lowering), 1)
    if method == "decision_function":
        decision = answers.decision_function(estimator, matrix, lowering)
        return _numbers(decision, 1 if n_classes == 2 else n_classes)
    proba = answers.predict_proba(estimator, matrix, lowering)
    if len(model.classes_) == 2:
        return _numbers(lowering.graph.column(proba, 1), 1)
    return _numbers(proba, n_classes)


def _predicted_numbers(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """The predicted labels, which are numbers as a rule: those that stand for the classes."""
    if estimator.classes_.dtype.kind not in "iuf":
        raise CannotLower("a StackingClassifier of labels that are no numbers")
    graph = lowering.graph
    place = answers.predicted_places(estimator, matrix, lowering)
    return graph.node("Gather", graph.constant(estimator.classes_), graph.as_integer(place))


def _numbers(value: str, width: int) -> Matrix:
    return Matrix(value, (Column(),) * width)
