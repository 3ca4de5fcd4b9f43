"""Around one estimator: searches, thresholds, transformed targets."""

from typing import Any

from tabserve.lower import answers
from tabserve.lower.graph import CannotLower, Graph, Matrix
from tabserve.lower.lowering import Lowering, Scores
from tabserve.lowered import Link


def search(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return lowering.predict(model.best_estimator_, matrix)


def ransac(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return lowering.predict(model.estimator_, matrix)


def frozen(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    return lowering.predict(model.estimator, matrix)


def fixed_threshold(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    by_proba = _is_of_probabilities(model)
    threshold = model.threshold
    if threshold == "auto":
        threshold = 0.5 if by_proba else 0.0
    return _thresholded(model, threshold, model.pos_label, matrix, lowering)


def tuned_threshold(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    positive = model._curve_scorer._get_pos_label()
    return _thresholded(model, model.best_threshold_, positive, matrix, lowering)


def transformed_target(model: Any, matrix: Matrix, lowering: Lowering) -> list[Scores]:
    graph = lowering.graph
    transformer = model.transformer_
    kind = type(transformer).__name__
    values = answers.predicted_values(model.regressor_, matrix, lowering)
    if kind == "FunctionTransformer":
        link = Link(value=_link_value(transformer.inverse_func))
        return [Scores(value, link) for value in values]
    if kind not in _INVERSES:
        raise CannotLower(f"a target transformed by {kind}")
    joined = values[0] if len(values) == 1 else graph.node("Concat", *values, axis=1)
    inverse = _INVERSES[kind](transformer, joined, graph)
    return lowering.by_target(inverse, len(values), Link())


def _thresholded(
    model: Any, threshold: float, positive: Any, matrix: Matrix, lowering: Lowering
) -> list[Scores]:
    graph = lowering.graph
    estimator = getattr(model, "estimator_", model.estimator)
    place = 1 if positive is None else model.classes_.tolist().index(positive)
    scores = answers.scores_of(estimator, matrix, lowering)
    value = answers.without_place(estimator, scores, graph)
    decision = scores.decision or scores.value
    if _is_of_probabilities(model):
        how = {"label": "threshold", "threshold": float(threshold), "positive": place}
        return [Scores(value, scores.link.model_copy(update=how), decision)]
    score = decision if place == 1 else graph.node("Neg", decision)
    found = answers.at_least(score, float(threshold), place, graph)
    value = graph.node("Concat", value, found, axis=1)
    return [Scores(value, scores.link.model_copy(update={"label": "place"}), decision)]


def _is_of_probabilities(model: Any) -> bool:
    if model.response_method == "auto":
        return hasattr(getattr(model, "estimator_", model.estimator), "predict_proba")
    return bool(model.response_method == "predict_proba")


def _link_value(function: Any) -> Any:
    """Raises CannotLower where it is no function that a link knows."""
    if function is None:
        return "itself"
    name = getattr(function, "__name__", "")
    if name not in ("exp", "expm1", "log", "log1p") or type(function).__name__ != "ufunc":
        raise CannotLower(f"a target transformed back by {name or repr(function)}")
    return name


def _times_scale(transformer: Any, value: str, graph: Graph, shift: Any) -> str:
    if transformer.scale_ is not None:
        value = graph.node("Mul", value, graph.constant([transformer.scale_]))
    return value if shift is None else graph.node("Add", value, graph.constant([shift]))


def _standard(transformer: Any, value: str, graph: Graph) -> str:
    shift = transformer.mean_ if transformer.with_mean else None
    return _times_scale(transformer, value, graph, shift)


def _robust(transformer: Any, value: str, graph: Graph) -> str:
    return _times_scale(transformer, value, graph, transformer.center_)


def _max_abs(transformer: Any, value: str, graph: Graph) -> str:
    return _times_scale(transformer, value, graph, None)


def _min_max(transformer: Any, value: str, graph: Graph) -> str:
    shifted = graph.node("Sub", value, graph.constant([transformer.min_]))
    return graph.node("Div", shifted, graph.constant([transformer.scale_]))


_INVERSES = {
    "MaxAbsScaler": _max_abs,
    "MinMaxScaler": _min_max,
    "RobustScaler": _robust,
    "StandardScaler": _standard,
}
