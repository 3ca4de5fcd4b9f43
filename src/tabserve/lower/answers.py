"""The answers of an estimator that another one holds, as values of the graph.

What is a link outside the graph for the outermost estimator is nodes in it here.
"""

from typing import Any

from tabserve.lower import functions
from tabserve.lower.graph import CannotLower, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lowered import Link

_FUNCTIONS = {
    "exp": functions.exp,
    "expm1": functions.expm1,
    "log": functions.log,
    "log1p": functions.log1p,
    "logistic": functions.logistic,
}


def predict_proba(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_classes)."""
    return probabilities(estimator, scores_of(estimator, matrix, lowering), lowering.graph)


def decision_function(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_classes), or (n_rows, 1) of two classes."""
    scores = scores_of(estimator, matrix, lowering)
    return scores.decision or scores.value


def predicted_places(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Of the labels among the estimator's classes; shape (n_rows, 1), double."""
    scores, graph = scores_of(estimator, matrix, lowering), lowering.graph
    zero = graph.constant(0.0)
    match scores.link.label:
        case "place":
            return graph.column(scores.value, -1)
        case "positive":
            return graph.as_double(graph.node("Greater", scores.value, zero))
        case "not_negative":
            return graph.as_double(graph.node("GreaterOrEqual", scores.value, zero))
        case "largest_score":
            return graph.as_double(graph.node("ArgMax", scores.value, axis=1, keepdims=1))
    proba = probabilities(estimator, scores, graph)
    if scores.link.label == "largest_proba":
        return graph.as_double(graph.node("ArgMax", proba, axis=1, keepdims=1))
    positive = scores.link.positive
    return at_least(graph.column(proba, positive), scores.link.threshold, positive, graph)


def at_least(score: str, threshold: float, positive: int, graph: Graph) -> str:
    """The place of the positive one of two classes where its score is at least the threshold."""
    is_positive = graph.node("GreaterOrEqual", score, graph.constant(threshold))
    positive_place, other = graph.constant(float(positive)), graph.constant(1.0 - positive)
    return graph.node("Where", is_positive, positive_place, other)


def predicted_values(estimator: Any, matrix: Matrix, lowering: Lowering) -> list[str]:
    """By target, each of shape (n_rows, 1)."""
    values = []
    for scores in lowering.of_all_classes().predict(estimator, matrix):
        _check_is_double(estimator, scores.link)
        function = _FUNCTIONS.get(scores.link.value)
        values.append(function(lowering.graph, scores.value) if function else scores.value)
    return values


def predicted_value(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, 1)."""
    values = predicted_values(estimator, matrix, lowering)
    if len(values) != 1:
        raise CannotLower(f"a {type(estimator).__name__} of several targets inside another")
    return values[0]


def one_hot_labels(estimator: Any, classes: list[Any], matrix: Matrix, lowering: Lowering) -> str:
    """Boolean, of shape (n_rows, len(classes)): which of these classes is predicted. The estimator
    may know some of them only.
    """
    graph = lowering.graph
    own = estimator.classes_.tolist()
    places = [float(own.index(label)) if label in own else -1.0 for label in classes]
    predicted = predicted_places(estimator, matrix, lowering)
    return graph.node("Equal", predicted, graph.constant([places]))


def binary_score(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Of the second class, shape (n_rows, 1): its decision or else its probability."""
    if hasattr(estimator, "decision_function"):
        return decision_function(estimator, matrix, lowering)
    return lowering.graph.column(predict_proba(estimator, matrix, lowering), 1)


def probabilities(estimator: Any, scores: Scores, graph: Graph) -> str:
    value, link = without_place(estimator, scores, graph), scores.link
    _check_is_double(estimator, link)
    if link.proba == "itself":
        return value
    if link.proba == "logistic":
        positive = functions.logistic(graph, value)
        return graph.node("Concat", graph.minus_from(1.0, positive), positive, axis=1)
    if link.proba == "logistic_each":
        return functions.logistic(graph, value)
    if link.proba == "softmax":
        return functions.softmax(graph, value, _n_classes(estimator))
    raise CannotLower(f"the probabilities of {type(estimator).__name__} inside another estimator")


def without_place(estimator: Any, scores: Scores, graph: Graph) -> str:
    if scores.link.label != "place":
        return scores.value
    is_one_score = scores.link.proba == "logistic"
    return graph.columns(scores.value, list(range(1 if is_one_score else _n_classes(estimator))))


def _n_classes(estimator: Any) -> int:
    return len(getattr(estimator, "classes_", (0, 1)))  # what always answers the same has none


def scores_of(estimator: Any, matrix: Matrix, lowering: Lowering) -> Scores:
    scores = lowering.of_all_classes().predict(estimator, matrix)
    if len(scores) != 1:
        raise CannotLower(f"a {type(estimator).__name__} of several targets inside another")
    return scores[0]


def _check_is_double(estimator: Any, link: Link) -> None:
    if link.precision == "single":
        raise CannotLower(f"a {type(estimator).__name__} of float32 inside another estimator")
