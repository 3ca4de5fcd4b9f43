"""Calibrated probabilities: sklearn.calibration."""

from typing import Any

from tabserve.lower import answers, functions
from tabserve.lower.graph import CannotLower, Matrix
from tabserve.lower.interpolation import interpolated
from tabserve.lower.lowering import Lowering, Scores, check_is_double
from tabserve.lowered import Link


def calibrated_classifier(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    each = [_calibrated(one, matrix, lowering) for one in model.calibrated_classifiers_]
    proba = graph.node("Div", graph.sum(each), graph.constant(float(len(each))))
    return [Scores(proba, Link(proba="itself"))]


def _calibrated(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Shape (n_rows, n_classes)."""
    graph, n_classes = lowering.graph, len(model.classes)
    if len(model.estimator.classes_) != n_classes:
        raise CannotLower("a calibrated classifier that has not seen every class")
    if model.method == "temperature":
        proba = _softened(model, matrix, lowering)
    else:
        response = _response(model.estimator, matrix, lowering)
        calibrate = _sigmoid if model.method == "sigmoid" else _isotonic
        each = calibrate(model.calibrators, response, lowering)
        if n_classes == 2:
            proba = graph.node("Concat", graph.minus_from(1.0, each), each, axis=1)
        else:
            proba = graph.shares(each, n_classes, of_zero=1 / n_classes)
    # What rounding puts above 1.
    return graph.node("Min", proba, graph.constant(1.0))


def _response(estimator: Any, matrix: Matrix, lowering: Lowering) -> str:
    """By class, or of the second one of two."""
    if len(estimator.classes_) == 2:
        return answers.binary_score(estimator, matrix, lowering)
    if hasattr(estimator, "decision_function"):
        return answers.decision_function(estimator, matrix, lowering)
    return answers.predict_proba(estimator, matrix, lowering)


def _sigmoid(calibrators: list[Any], response: str, lowering: Lowering) -> str:
    graph = lowering.graph
    slopes = graph.constant([[calibrator.a_ for calibrator in calibrators]])
    offsets = graph.constant([[calibrator.b_ for calibrator in calibrators]])
    line = graph.node("Add", graph.node("Mul", slopes, response), offsets)
    return functions.logistic(graph, graph.node("Neg", line))


def _isotonic(calibrators: list[Any], response: str, lowering: Lowering) -> str:
    each = [
        _steadily_rising(calibrator, lowering.graph.column(response, place), lowering)
        for place, calibrator in enumerate(calibrators)
    ]
    return lowering.graph.node("Concat", *each, axis=1)


def _steadily_rising(calibrator: Any, response: str, lowering: Lowering) -> str:
    graph = lowering.graph
    x, y = calibrator.X_thresholds_, calibrator.y_thresholds_
    check_is_double(calibrator, x)
    clipped = graph.node(
        "Clip", response, graph.constant(calibrator.X_min_), graph.constant(calibrator.X_max_)
    )
    return interpolated(clipped, x, y, lowering)


def _softened(model: Any, matrix: Matrix, lowering: Lowering) -> str:
    """Softmax at another temperature."""
    graph, estimator = lowering.graph, model.estimator
    if not hasattr(estimator, "decision_function"):
        proba = answers.predict_proba(estimator, matrix, lowering)
        smallest = graph.constant(1e-12)
        logits = functions.log(graph, graph.node("Add", proba, smallest))
    else:
        logits = answers.decision_function(estimator, matrix, lowering)
        if len(model.classes) == 2:
            logits = graph.node("Concat", graph.node("Neg", logits), logits, axis=1)
    (calibrator,) = model.calibrators
    scaled = graph.node("Mul", graph.constant(float(calibrator.beta_)), logits)
    return functions.softmax(graph, scaled, len(model.classes))
