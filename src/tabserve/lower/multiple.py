"""One estimator for each class, pair of classes or target: sklearn.multiclass, multioutput."""

from itertools import combinations
from typing import Any

import numpy as np

from tabserve.lower import answers
from tabserve.lower.graph import CannotLower, Column, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lowered import Link


def one_vs_rest(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    if model.multilabel_:
        raise CannotLower("a OneVsRestClassifier of several labels at once")
    graph = lowering.graph
    scores = [answers.binary_score(one, matrix, lowering) for one in model.estimators_]
    score = scores[0] if len(scores) == 1 else graph.node("Concat", *scores, axis=1)
    place = _place(model, score, graph)
    if not hasattr(model, "predict_proba"):
        return [Scores(place, Link(label="place"), decision=score)]
    each = _probabilities(model, matrix, lowering)
    proba = graph.shares(each, max(len(scores), 2), of_zero=0.0)
    value = graph.node("Concat", proba, place, axis=1)
    return [Scores(value, Link(proba="itself", label="place"), decision=score)]


def one_vs_one(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    """Votes of the pairs, and between classes of as many votes their confidence."""
    if model.pairwise_indices_ is not None:
        raise CannotLower("a OneVsOneClassifier of pairwise kernels")
    graph, n_classes = lowering.graph, len(model.classes_)
    lowering.as_double(matrix)
    votes: list[list[str]] = [[] for _ in range(n_classes)]
    confidence = [graph.same_for_all([0.0])] * n_classes
    pairs = combinations(range(n_classes), 2)
    for (i, j), estimator in zip(pairs, model.estimators_, strict=True):
        place = answers.predicted_places(estimator, matrix, lowering)
        score = answers.binary_score(estimator, matrix, lowering)
        votes[i].append(graph.minus_from(1.0, place))
        votes[j].append(place)
        confidence[i] = graph.node("Sub", confidence[i], score)
        confidence[j] = graph.node("Add", confidence[j], score)
    total = graph.node("Concat", *map(graph.sum, votes), axis=1)
    decision = graph.node("Add", total, _bounded(confidence, graph))
    if n_classes > 2:
        return [Scores(decision, Link(label="largest_score"))]
    second = graph.column(decision, 1)
    return [Scores(_place(model, second, graph), Link(label="place"), decision=second)]


def multi_output(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return [
        scores for estimator in model.estimators_ for scores in lowering.predict(estimator, matrix)
    ]


def regressor_chain(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    """Each takes the predictions of those before it as columns more."""
    lowering.as_double(matrix)
    values: list[str] = []
    for estimator in model.estimators_:
        before = [Matrix(value, (Column(),)) for value in values]
        augmented = lowering.graph.concat([matrix, *before])
        values.append(answers.predicted_value(estimator, augmented, lowering))
    return [Scores(values[place], Link()) for place in np.argsort(model.order_)]


def _probabilities(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    graph = lowering.graph
    each = [
        graph.column(answers.predict_proba(one, matrix, lowering), 1) for one in model.estimators_
    ]
    if len(each) == 1:
        each = [graph.minus_from(1.0, each[0]), each[0]]
    return graph.node("Concat", *each, axis=1)


def _place(model: Any, score: str, graph: Graph) -> str:
    """Of the class with the largest score; of two, the second where its score is above what its
    estimator takes for the middle.
    """
    if len(model.classes_) > 2:
        return graph.as_double(graph.node("ArgMax", score, axis=1, keepdims=1))
    middle = 0.0 if hasattr(model.estimators_[0], "decision_function") else 0.5
    return graph.as_double(graph.node("Greater", score, graph.constant(middle)))


def _bounded(confidence: list[str], graph: Graph) -> str:
    """Into -1/3 to 1/3, so that no confidence outweighs a vote."""
    joined = graph.node("Concat", *confidence, axis=1)
    one, three = graph.constant(1.0), graph.constant(3.0)
    divisor = graph.node("Mul", three, graph.node("Add", graph.node("Abs", joined), one))
    return graph.node("Div", joined, divisor)
